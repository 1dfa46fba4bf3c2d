"""What to say of a worker that is gone: the cause, in words, and the last that it printed."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from foldase.runtime.context import now_text
from foldase.runtime.fleet import Worker
from foldase.runtime.machine import memory_free
from foldase.runtime.processes import ProcessId, descendants, status_of
from foldase.runtime.workplace import Workplace
from foldase.scheduler.executor import Failed, Task
from foldase_workflows.contracts.failures import Cause

logger = logging.getLogger(__name__)

_LEAST_FREE, _MOST_FREE = 128 << 20, 1 << 30
_RELEASE_SECONDS = 2.0
"""How long the kernel may take to give back the memory of a dead process."""

_COMPLAINT_SECONDS = 60.0
_TAIL_BYTES = 8 * 1024
_DETAIL = re.compile(r"Worker exit detail:\s*(.*?)(?:\. |$)", re.DOTALL)
LOW_MEMORY = re.compile(r"low on memory|out of memory|OutOfMemory", re.IGNORECASE)
_LARGE_SHARE = 0.1


class MemoryGuard:
    """Chooses whom to end before the node runs out of memory.

    Ray has such a guard, but it ends several processes at once and takes the scheduler for one of them.
    """

    def __init__(self, total: int, limit: int | None = None) -> None:
        """``total`` is what the node has, ``limit`` what a single worker may have of it."""
        self._floor = max(_LEAST_FREE, min(_MOST_FREE, total // 20))
        self.limit = limit
        self._again_at = self._complain_at = 0.0

    def beyond_limit(self, workers: Iterable[Worker]) -> Worker | None:
        """A worker that holds more than it may."""
        for worker in workers if self.limit is not None else ():
            if worker.process and worker.here and worker.tasks:
                # What a step reserves is for each rank, and so is the limit.
                size = max(_sizes_of(worker))
                if self.limit is not None and size > self.limit:
                    worker.memory_bytes = size
                    return worker
        return None

    def victim(self, workers: Iterable[Worker], now: float) -> Worker | None:
        """The worker furthest above what its step has reserved, when memory is short and it matters."""
        if now < self._again_at or memory_free() >= self._floor:
            return None
        sizes = {
            worker.name: (worker, _memory_of(worker)) for worker in workers if worker.process and worker.here
        }
        large = [pair for pair in sizes.values() if pair[1] >= self._floor]
        if not large:
            if now >= self._complain_at:
                logger.warning("memory is short, and no worker of ours is the reason")
                self._complain_at = now + _COMPLAINT_SECONDS
            return None
        self._again_at = now + _RELEASE_SECONDS
        worker, size = max(large, key=lambda pair: pair[1] - _reserved(pair[0]))
        worker.memory_bytes = size
        return worker


def cause_of(worker: Worker, error: str, *, kernel_killed: bool, node_memory: int) -> Cause:
    """Why a worker that ran a task is gone, from Ray's words and the kernel's counter."""
    large = node_memory > 0 and worker.memory_bytes > _LARGE_SHARE * node_memory
    if LOW_MEMORY.search(_first(error)) or (kernel_killed and large):
        return Cause.OOM_HOST
    return Cause.WORKER_LOST


def lost(task: Task, cause: Cause, how: str, memory_bytes: int, plan: dict[str, Any] | None) -> Failed:
    """The report of a task whose worker is gone; ``memory_bytes`` is what it was last seen to use."""
    if cause is Cause.OOM_HOST:
        error = {
            "code": "oom_host",
            "message": f"the worker was killed because the node ran out of memory ({how})",
            "hint": "ask for more memory, or make the step smaller",
        }
    else:
        error = {
            "code": "worker_lost",
            "message": f"the worker process ended while it ran the step ({how})",
            "hint": "the log of the step has the last words of the worker",
        }
    return Failed(
        task.run, task.step, task.fence, cause, error, peak_memory_bytes=memory_bytes, plan=plan, exit=how
    )


def how_it_ended(error: str) -> str:
    """Ray's account of the end of a process, in a few words."""
    found = _DETAIL.search(error)
    text = found.group(1).strip() if found else _first(error).strip().partition("\n")[0]
    if "connection error code 2" in text:
        # All that Ray knows of a process that ended without a word.
        return "it was killed or it crashed"
    return text[:200] or "no reason is known"


def last_words(workplace: Workplace, worker: str, task: Task) -> None:
    """Append to the log of an attempt what its worker printed last: a crash in C code says why there."""
    text = _tail(workplace.home / "workers" / f"{worker}.2")
    if not text:
        return
    entry: dict[str, Any] = {"time": now_text(), "level": "error", "message": f"last words:\n{text}"}
    try:
        with workplace.logs.writer(task.run, task.step, task.attempt, "log") as log:
            log.write(entry)
    except OSError:
        return


def _memory_of(worker: Worker) -> int:
    return sum(_sizes_of(worker))


def _sizes_of(worker: Worker) -> list[int]:
    """What the worker holds with all that it started, and each rank of its gang that runs here."""
    assert worker.process is not None
    return [_size_of(root) for root in (worker.process, *worker.ranks)]


def _size_of(root: ProcessId) -> int:
    found = (status_of(process.pid) for process in (root, *descendants(root.pid)))
    return sum(status.memory_bytes for status in found if status is not None)


def _reserved(worker: Worker) -> int:
    begun = [one.task for one in worker.tasks.values() if one.began_at is not None]
    return max((task.resources.total.memory_bytes for task in begun), default=0)


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL_BYTES))
            return file.read().decode(errors="replace").strip()
    except OSError:
        return ""


def _first(error: str) -> str:
    # Ray lists "some common causes" after its finding; those are no findings.
    return error.partition("Some common causes")[0]
