"""The state machine of runs and steps: pure decisions over the store; no Ray, no HTTP.

``Scheduler(store, registry, executor).tick(timeout_seconds)`` is all there is to call; ``shut_down()`` at
the end. What runs attempts implements :class:`~foldase.scheduler.executor.Executor`.
"""

from foldase.scheduler.executor import (
    Executor,
    Failed,
    Progressed,
    Report,
    Started,
    Succeeded,
    Task,
    TaskId,
)
from foldase.scheduler.scheduler import Scheduler

__all__ = [
    "Executor",
    "Failed",
    "Progressed",
    "Report",
    "Scheduler",
    "Started",
    "Succeeded",
    "Task",
    "TaskId",
]
