"""What the runtime is told once, at its edge."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

NAMESPACE = "foldase"
SCHEDULER = "foldase-scheduler"
WORKER_PREFIX = "worker:"
"""Names of actors; the prefix tells our workers from other actors of the namespace."""

CLUSTER_VARIABLE = "FOLDASE_CLUSTER"
WORKER_VARIABLE = "FOLDASE_WORKER"
"""Environment variables that mark our processes and what they start, so that all of them can be found."""

GANG_VARIABLE = "FOLDASE_GANG"
"""Marks the ranks of a gang by the worker that leads it."""

WORKER_MEMORY_VARIABLE = "FOLDASE_WORKER_MEMORY"

LEASE_SECONDS = 30.0
HEARTBEAT_SECONDS = 2.0

SECRET_VARIABLES = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE", "FOLDASE_TOKEN")
"""Taken out of a worker's environment before any operator runs."""


@dataclass(frozen=True, slots=True)
class RuntimeSettings:
    """How workers are run.

    Args:
        home: the state folder.
        lease_seconds: a worker that shows no sign of life for so long is taken for frozen and killed.
        heartbeat_seconds: how often a worker shows one.
        timeout_grace_seconds: between a step's timeout and the end of its worker.
        idle_seconds: a worker that has nothing to do for so long is ended.
        start_seconds: a worker that is not ready after so long counts as failed.
        view_seconds: how often the view of the cluster is written, where it changed.
        worker_memory_bytes: a worker that holds more with all that it started is ended, as if the node had
            no more; None for all that the node has.
    """

    home: Path
    lease_seconds: float = LEASE_SECONDS
    heartbeat_seconds: float = HEARTBEAT_SECONDS
    timeout_grace_seconds: float = 5.0
    idle_seconds: float = 900.0
    start_seconds: float = 120.0
    view_seconds: float = 2.0
    worker_memory_bytes: int | None = None
