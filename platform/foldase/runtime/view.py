"""The cluster at one moment, as the API shows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from foldase.store.records import WorkerRecord
from foldase_workflows.contracts.operator import Hardware

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class View:
    """Nodes as JSON objects of the API, the largest node, and all workers."""

    nodes: tuple[Json, ...] = ()
    hardware: Hardware | None = None
    workers: tuple[WorkerRecord, ...] = ()


def hardware_json(hardware: Hardware) -> Json:
    """Hardware as the store keeps it."""
    return {
        "cpus": hardware.cpus,
        "memory_bytes": hardware.memory_bytes,
        "gpus": [{"name": gpu.name, "memory_bytes": gpu.memory_bytes} for gpu in hardware.gpus],
    }


def largest(nodes: list[Hardware]) -> Hardware | None:
    """The node with the most devices, then cores, then memory."""
    return max(nodes, key=lambda one: (len(one.gpus), one.cpus, one.memory_bytes), default=None)
