"""Ranks as actors of Ray: where they are placed, how they start, and that none outlives its gang.

The worker that leads a gang reserves nothing in Ray; its ranks lie in a placement group, one bundle each, on
the nodes that the fleet has chosen. They are not detached: when their leader's process dies, Ray ends them,
those on its machine are found by their environment, and each looks for its leader by itself.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

import ray
import ray.util
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from foldase.runtime.gang_life import NoRoom
from foldase.runtime.losses import LOW_MEMORY, how_it_ended
from foldase.runtime.processes import kill_all, kill_tree, with_environment
from foldase.runtime.rank_work import Raised, RankHello, RankJob, RankWork, Returned
from foldase.runtime.settings import GANG_VARIABLE, SECRET_VARIABLES, WORKER_VARIABLE
from foldase_workflows.contracts.failures import Cause

_NODE_LABEL = "ray.io/node-id"
_NODE_LOST = re.compile(r"node [^\n]*(died|dead|terminated|removed)", re.IGNORECASE)
_END_SECONDS = 10.0


@ray.remote(concurrency_groups={"control": 2, "work": 1})  # type: ignore[call-overload]
class RankActor:
    """One rank: a process for one job."""

    def __init__(self) -> None:
        for variable in SECRET_VARIABLES:
            os.environ.pop(variable, None)
        address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        self._work = RankWork(address)

    @ray.method(concurrency_group="control")
    def hello(self) -> RankHello:
        """Say who this is."""
        return self._work.hello()

    @ray.method(concurrency_group="control")
    def choose_port(self) -> int:
        """A free port of this machine."""
        return self._work.choose_port()

    @ray.method(concurrency_group="control")
    def cancel(self) -> None:
        """Someone asks to stop."""
        self._work.cancel()

    @ray.method(concurrency_group="work")
    def run(self, job: RankJob) -> Returned | Raised:
        """Do the work."""
        return self._work.run(job)


class RayRank:
    """The handle of one rank."""

    def __init__(self, actor: Any, node: str) -> None:
        self.actor = actor
        self.node = node
        self._hello = actor.hello.remote()
        self._running: Any = None

    def hello(self) -> Future[RankHello]:
        """Who it is."""
        return self._future(self._hello)

    def choose_port(self) -> Future[int]:
        """A free port."""
        return self._future(self.actor.choose_port.remote())

    def run(self, job: RankJob) -> Future[Returned | Raised]:
        """Do the work; the name is what a person finds in the Ray dashboard."""
        name = f"rank {job.rank} of {job.size}: {job.function}"
        self._running = self.actor.run.options(name=name).remote(job)
        return self._future(self._running)

    def cancel(self) -> None:
        """Someone asks to stop."""
        self.actor.cancel.remote()

    def end(self) -> None:
        """Kill it; on this machine with all that it started."""
        if ray.wait([self._hello], timeout=0)[0]:
            with suppress(ray.exceptions.RayError):
                hello: RankHello = ray.get(self._hello)
                if hello.host == socket.gethostname():
                    kill_tree(hello.process)
        ray.kill(self.actor, no_restart=True)

    def wait_gone(self, within_seconds: float) -> None:
        """Wait until Ray knows that the process is gone; a call that is under way fails then."""
        ray.wait([self._running if self._running is not None else self._hello], timeout=within_seconds)

    @staticmethod
    def _future(reference: Any) -> Future[Any]:
        future: Future[Any] = reference.future()
        return future


class RayHosts:
    """Places for the ranks of one gang.

    Args:
        name: of the worker that leads the gang.
        cpu: cores of each rank.
        gpu: devices of each rank.
        places: the node of each rank.
    """

    def __init__(self, name: str, cpu: float, gpu: float, places: Sequence[str]) -> None:
        self._name = name
        self._cpu, self._gpu = cpu, gpu
        self._places = tuple(places)
        self._group: PlacementGroup | None = None
        self._taken: tuple[str, ...] = ()
        self._ranks: list[RayRank] = []

    def start(self, size: int, *, within_seconds: float) -> Sequence[RayRank]:
        """Start actors in a placement group, in that of the life before where its nodes live.

        Raises:
            NoRoom: nodes are gone, or Ray cannot reserve the places in time.
        """
        living = _living_nodes()
        places = tuple(node for node in self._places if node in living)[:size]
        if len(places) < size:
            raise NoRoom(len(places))
        if places != self._taken:
            self._reserve(places, within_seconds)
        self._ranks = [self._actor(rank, node) for rank, node in enumerate(places)]
        return self._ranks

    def why(self, error: BaseException) -> tuple[Cause, str]:
        """What Ray says of the end of a process."""
        text = str(error)
        how = how_it_ended(text).rstrip(".")
        if LOW_MEMORY.search(how):
            return Cause.OOM_HOST, how
        return (Cause.NODE_LOST if _NODE_LOST.search(how) else Cause.WORKER_LOST), how

    def end(self) -> None:
        """End all ranks; none of this machine runs any more when this returns."""
        ranks, self._ranks = self._ranks, []
        for rank in ranks:
            rank.end()
        deadline = time.monotonic() + _END_SECONDS
        for rank in ranks:
            rank.wait_gone(max(0.0, deadline - time.monotonic()))
        if ranks:
            # One that was still starting has never said who it is.
            kill_all(with_environment(GANG_VARIABLE, self._name))

    def close(self) -> None:
        """Give the places back."""
        group, self._group, self._taken = self._group, None, ()
        if group is not None:
            remove_placement_group(group)

    def _reserve(self, places: tuple[str, ...], within_seconds: float) -> None:
        self.close()
        bundle = {"CPU": self._cpu, **({"GPU": self._gpu} if self._gpu else {})}
        self._group = placement_group(
            [dict(bundle) for _ in places],
            strategy="STRICT_PACK" if len(set(places)) == 1 else "PACK",
            name=self._name,
            bundle_label_selector=[{_NODE_LABEL: node} for node in places],
        )
        if not self._group.wait(within_seconds):
            self.close()
            raise NoRoom(len(places) - 1)
        self._taken = places

    def _actor(self, rank: int, node: str) -> RayRank:
        assert self._group is not None
        options = RankActor.options(  # type: ignore[attr-defined]
            num_cpus=self._cpu,
            num_gpus=self._gpu,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy=PlacementGroupSchedulingStrategy(
                placement_group=self._group, placement_group_bundle_index=rank
            ),
            runtime_env={"env_vars": {GANG_VARIABLE: self._name, WORKER_VARIABLE: self._name}},
        )
        return RayRank(options.remote(), node)


def _living_nodes() -> set[str]:
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return {node["NodeID"] for node in nodes if node["Alive"]}
