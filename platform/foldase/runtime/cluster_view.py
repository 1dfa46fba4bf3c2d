"""The nodes of the cluster as Ray sees them, and the view of it all for the API."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import ray

from foldase.runtime.fleet import Worker
from foldase.runtime.machine import memory_used, this_machine
from foldase.runtime.view import Json, View, hardware_json, largest
from foldase.store.records import WorkerRecord
from foldase_workflows.contracts.operator import Gpu, Hardware


@dataclass(frozen=True, slots=True)
class ClusterNode:
    """One machine and what it offers to steps."""

    id: str
    name: str
    alive: bool
    hardware: Hardware
    labels: dict[str, str] = field(default_factory=dict)


def short_id(node: str) -> str:
    """A node's id as people see it."""
    return node[:12]


def cluster_nodes() -> tuple[ClusterNode, ...]:
    """All nodes that Ray knows, dead ones too; may block while the head does not answer."""
    return tuple(
        ClusterNode(
            id=node["NodeID"],
            name=node["NodeManagerHostname"],
            alive=bool(node["Alive"]),
            hardware=_hardware(node["NodeManagerHostname"], node.get("Resources", {})),
            labels={
                str(key): str(value)
                for key, value in node.get("Labels", {}).items()
                if not str(key).startswith("ray.io/")  # Ray's own, of no use to people
            },
        )
        for node in ray.nodes()  # type: ignore[no-untyped-call]
    )


def _hardware(host: str, resources: dict[str, float]) -> Hardware:
    count = int(resources.get("GPU", 0))
    known = _local_gpus() if host == socket.gethostname() else ()
    unnamed = Gpu(name="GPU", memory_bytes=0)
    return Hardware(
        cpus=float(resources.get("CPU", 0.0)),
        memory_bytes=int(resources.get("memory", 0)),
        gpus=tuple(known[index] if index < len(known) else unnamed for index in range(count)),
    )


@lru_cache(maxsize=1)
def _local_gpus() -> tuple[Gpu, ...]:
    return this_machine().gpus


class Viewer:
    """Makes views; remembers since when each worker has been as it is."""

    def __init__(self) -> None:
        self._since: dict[str, tuple[tuple[object, ...], int]] = {}

    def view(self, nodes: Sequence[ClusterNode], workers: Sequence[Worker]) -> View:
        """The cluster now."""
        self._since = {worker.name: self._since.get(worker.name, ((), 0)) for worker in workers}
        busy = [worker for worker in workers if worker.state == "ready" and worker.tasks]
        return View(
            nodes=tuple(
                _node_json(node, sum(worker.kind.cpu * worker.ranks_on(node.id) for worker in busy))
                for node in nodes
            ),
            hardware=largest([node.hardware for node in nodes if node.alive]),
            workers=tuple(self._record(worker) for worker in workers),
        )

    def _record(self, worker: Worker) -> WorkerRecord:
        current = worker.current or next(iter(worker.tasks), None)
        state = worker.state if worker.state != "ready" else "busy" if worker.tasks else "idle"
        shown = (state, current)
        if self._since[worker.name][0] != shown:
            self._since[worker.name] = (shown, int(time.time() * 1000))
        return WorkerRecord(
            id=worker.name,
            name=worker.name,
            state=state,
            node=short_id(worker.node),
            pid=worker.process.pid if worker.process else None,
            run=current.run if current else None,
            step=current.step if current else None,
            since=self._since[worker.name][1],
        )


def _node_json(node: ClusterNode, cpus_used: float) -> Json:
    described = hardware_json(node.hardware)
    return {
        "id": short_id(node.id),
        "name": node.name,
        "alive": node.alive,
        "cpus": described["cpus"],
        "cpus_used": cpus_used,
        "memory_bytes": described["memory_bytes"],
        "memory_used": memory_used() if node.name == socket.gethostname() else None,
        "gpus": described["gpus"],
        "labels": node.labels,
    }
