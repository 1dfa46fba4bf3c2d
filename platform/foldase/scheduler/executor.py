"""What the scheduler asks of whoever runs attempts: Ray in the product, threads in this process in tests.

The scheduler decides and remembers; an executor only carries out. Reports come back at least once and in
any order: the scheduler drops those whose fence is no longer current.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from foldase_workflows.contracts.failures import Cause
from foldase_workflows.contracts.operator import Hardware, Resources


@dataclass(frozen=True, slots=True)
class Task:
    """One attempt of one step, complete: whoever holds a task can run it without the database.

    ``inputs`` are plain values with artifacts as references, defaults filled in. ``fence`` rises with every
    claim of a step; only the report that carries the current one is committed. ``identity`` is the cache
    key of the step and names its checkpoint folder, so that a later attempt or a resumed run finds it.
    ``corrections`` are measured over predicted peaks of the operator so far, by the key in their plans; under
    the empty key that of all.
    """

    run: str
    step: str
    attempt: int
    fence: int
    operator: str
    family: str
    identity: str
    inputs: dict[str, Any]
    resources: Resources
    timeout_seconds: float | None = None
    corrections: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Started:
    """The attempt has begun on a worker."""

    run: str
    step: str
    fence: int
    worker: str
    node: str
    pid: int


@dataclass(frozen=True, slots=True)
class Progressed:
    """Progress, plan, new log bytes or new metric bytes of a running attempt; thinned out by the worker.

    ``log_offset`` and ``metrics_offset`` are the sizes of the attempt's files so far, in bytes.
    """

    run: str
    step: str
    fence: int
    fraction: float | None = None
    message: str | None = None
    log_offset: int | None = None
    metrics_offset: int | None = None
    plan: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Succeeded:
    """The attempt is over and its artifacts already lie in the blob store.

    ``outputs`` are plain values with artifacts as references; ``peak_memory_bytes`` and ``cpu_seconds`` are
    what the attempt really took, where the worker could tell. ``plan`` is what it said of it before.
    """

    run: str
    step: str
    fence: int
    outputs: dict[str, Any]
    peak_memory_bytes: int = 0
    cpu_seconds: float = 0.0
    log_offset: int = 0
    metrics_offset: int = 0
    plan: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """The attempt is over without a result. ``error`` has code, message, location and hint.

    ``exit`` says how the worker process ended, where it did (``signal 9``).
    """

    run: str
    step: str
    fence: int
    cause: Cause
    error: dict[str, Any] = field(default_factory=dict)
    peak_memory_bytes: int = 0
    cpu_seconds: float = 0.0
    log_offset: int = 0
    metrics_offset: int = 0
    plan: dict[str, Any] | None = None
    exit: str | None = None


Report = Started | Progressed | Succeeded | Failed


@dataclass(frozen=True, slots=True)
class TaskId:
    """Names one claim of a step."""

    run: str
    step: str
    fence: int


class Executor(Protocol):
    """Runs tasks. No method blocks for longer than a moment."""

    def total(self) -> Resources:
        """What all nodes together offer now; zero while the cluster is starting."""

    def largest_node(self) -> Hardware | None:
        """The node a single step must fit on; None while the cluster is starting."""

    def queue_depth(self, operator: str) -> int:
        """How many tasks of this operator one slot may hold at a time; 1 unless its steps are tiny.

        For steps known to be so short that the way to a worker takes longer than the work, the scheduler
        claims up to this many times what the resources allow, so that workers never wait for it.
        """

    def submit(self, tasks: Sequence[Task]) -> None:
        """Start these tasks, in order, as soon as their resources allow."""

    def cancel(self, tasks: Iterable[TaskId], *, grace_seconds: float) -> None:
        """Ask tasks to stop; after the grace their worker is killed. Each ends in a ``Failed`` report."""

    def poll(self, timeout_seconds: float) -> list[Report]:
        """What happened since the last call; waits up to the timeout when there is nothing yet.

        Calling it again says that what the last call returned is committed: only then may a worker forget
        a result. Reports that were handed out but not followed by another call come again after a restart.
        """

    def running(self) -> frozenset[TaskId]:
        """Tasks that were accepted and are not over: queued here, or held by a worker that still answers.

        It is right from the first call on, so that a restarted scheduler can adopt what lives. A running
        step that is missing here for longer than its lease is taken to be lost.
        """
