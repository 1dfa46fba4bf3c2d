"""What a worker process does, apart from how it is reached: runs tasks, reports, shows signs of life.

A result is repeated until whoever decides has committed it; only then is it forgotten. Progress and signs of
life are sent once and may get lost.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from foldase.runtime.attempt import Attempt
from foldase.runtime.capture import Capture
from foldase.runtime.failures import first_line
from foldase.runtime.gang_life import GangUsage
from foldase.runtime.gangs import GangMaker
from foldase.runtime.processes import ProcessId, status_of, this_process
from foldase.runtime.usage import ProcessMeter, limit_threads
from foldase.runtime.workplace import Workplace
from foldase.scheduler.executor import Failed, Progressed, Report, Started, Succeeded, Task, TaskId
from foldase.store.jsontext import dumps, loads
from foldase_workflows.contracts.failures import Cause
from foldase_workflows.contracts.registry import Registry

PULSE_SECONDS = 0.5
"""How often progress and printed lines are looked for; so no step reports more than twice a second."""

LINGER_SECONDS = 0.01
"""While more tasks are at hand, results wait this long for company."""

BEGIN_SECONDS = 0.05
"""That a step has begun is told after this long, or together with its end."""

RETRY_SECONDS = (0.1, 2.0)

PLAN_SUFFIX = ".plan"
"""Of the file beside a worker's note."""


@dataclass(frozen=True, slots=True)
class Beat:
    """A sign of life: what a worker does now. ``elapsed_seconds`` is how long it has been at ``current``."""

    worker: str
    process: ProcessId
    memory_bytes: int
    cpu_seconds: float
    current: TaskId | None = None
    elapsed_seconds: float = 0.0
    progress: Progressed | None = None
    ranks: tuple[ProcessId, ...] = ()
    """Of the gang that the worker leads, those on its machine; ``memory_bytes`` counts all."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """Reports, repeated until acknowledged; ``pace`` is (steps, seconds) by operator since the last."""

    worker: str
    process: ProcessId
    reports: tuple[Report, ...]
    pace: dict[str, tuple[int, float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Held:
    """A task that a worker knows: waiting (None), running for so many seconds, or over and unacknowledged."""

    task: Task
    running_seconds: float | None
    over: bool = False


class Line(Protocol):
    """The way from a worker to the scheduler."""

    def deliver(self, delivery: Delivery) -> None:
        """Hand over reports; returns once they are committed and raises when that is not certain."""

    def beat(self, beat: Beat) -> None:
        """Show a sign of life; never blocks, never raises."""


@dataclass(slots=True)
class _Entry:
    """A task on the bench."""

    task: Task
    attempt: Attempt | None = None
    began: float = 0.0
    cancel: Cause | None = None
    report: Succeeded | Failed | None = None


class Workbench:
    """Runs tasks one after the other; ``perform`` is called in the thread that computes.

    Args:
        name: of the worker.
        node: id of its node.
        workplace: where files go.
        registry: where operators come from.
        line: the way to the scheduler.
        capture: where the output of operators goes.
        tidy: ends what a step left running.
        epoch: names the scheduler that this worker obeys, until another adopts it.
        heartbeat_seconds: the longest silence.
        gangs: runs steps of several processes.
    """

    def __init__(
        self,
        name: str,
        node: str,
        workplace: Workplace,
        registry: Registry,
        line: Line,
        *,
        capture: Capture,
        tidy: Callable[[], object],
        epoch: str,
        heartbeat_seconds: float = 2.0,
        gangs: GangMaker | None = None,
    ) -> None:
        self.name = name
        self.process = this_process()
        self._node = node
        self._workplace = workplace
        self._registry = registry
        self._line = line
        self._heartbeat_seconds = heartbeat_seconds
        self._entries: OrderedDict[TaskId, _Entry] = OrderedDict()
        # Tasks taken back before they arrived, and the last batch that may still bring them.
        self._refused: dict[TaskId, int] = {}
        self._epoch = epoch
        self._current: _Entry | None = None
        self._outbox: list[Report] = []
        self._pace: dict[str, tuple[int, float]] = {}
        self._more_at_hand = False
        self._closed = False
        self._changed = threading.Condition()
        self._note = Note(note_path(workplace.home, name))
        self._capture = capture
        self._tidy = tidy
        self._gangs = gangs
        self._meter = ProcessMeter()
        self._threads = [
            threading.Thread(target=self._deliver, name="foldase-deliver", daemon=True),
            threading.Thread(target=self._pulse, name="foldase-pulse", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def perform(self, epoch: str, batch: int, tasks: Sequence[Task]) -> None:
        """Run tasks in order; each ends in a report, except those that were recalled.

        What another scheduler than that of the present ``epoch`` has sent is left alone. ``batch`` rises
        with every call; calls arrive in order, or never.
        """
        with self._changed:
            if epoch != self._epoch:
                return
            self._refused = {key: last for key, last in self._refused.items() if last >= batch}
            for task in tasks:
                if task_id(task) not in self._refused:
                    self._entries[task_id(task)] = _Entry(task)
        for index, task in enumerate(tasks):
            self._more_at_hand = index + 1 < len(tasks)
            self._perform_one(task)

    def _perform_one(self, task: Task) -> None:
        with self._changed:
            entry = self._entries.get(task_id(task))
            if entry is None:
                return
            attempt = entry.attempt = Attempt(task, self._workplace, self._registry, self._gangs)
            attempt.step.note_plan = partial(self._note.write_plan, task_id(task))
            if entry.cancel is not None:
                attempt.cancel.set(entry.cancel)
            entry.began = time.monotonic()
            self._current = entry
            self._outbox.append(
                Started(task.run, task.step, task.fence, self.name, self._node, self.process.pid)
            )
            self._changed.notify_all()
        self._note.write(task_id(task))
        try:
            limit_threads(task.resources.cpu)
            report = attempt.run(self._capture, self._meter)
            self._tidy()
        except Exception as error:  # noqa: BLE001  # a fault of ours must end the step, not hang it
            report = broken(task, error)
        self._note.write(None)
        seconds = time.monotonic() - entry.began
        with self._changed:
            entry.report = report
            self._current = None
            steps, total = self._pace.get(task.operator, (0, 0.0))
            self._pace[task.operator] = (steps + 1, total + seconds)
            self._outbox.append(report)
            self._changed.notify_all()

    def cancel(self, tasks: Iterable[TaskId], cause: Cause) -> None:
        """Ask tasks to stop; those that have not begun will end as soon as their turn comes."""
        with self._changed:
            for wanted in tasks:
                entry = self._entries.get(wanted)
                if entry is not None and entry.report is None:
                    entry.cancel = cause
                    if entry.attempt is not None:
                        entry.attempt.cancel.set(cause)

    def recall(self, tasks: Iterable[TaskId], last_batch: int) -> list[TaskId]:
        """Take tasks back that have not begun; returns which.

        They will not run here, unless they are sent again in a batch after ``last_batch``.
        """
        taken = []
        with self._changed:
            for wanted in tasks:
                entry = self._entries.get(wanted)
                if entry is None:
                    self._refused[wanted] = last_batch
                elif entry.attempt is None:
                    del self._entries[wanted]
                else:
                    continue
                taken.append(wanted)
        return taken

    def adopt(self, epoch: str) -> list[Held]:
        """A new scheduler takes over: begin nothing of earlier ones, and tell what is on the bench."""
        now = time.monotonic()
        with self._changed:
            self._epoch = epoch
            self._refused.clear()
            for waiting in [key for key, entry in self._entries.items() if entry.attempt is None]:
                del self._entries[waiting]
            return [
                Held(entry.task, None if entry.report else now - entry.began, entry.report is not None)
                for entry in self._entries.values()
            ]

    def close(self) -> None:
        """Send nothing more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _deliver(self) -> None:
        pause = RETRY_SECONDS[0]
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._outbox or self._closed)
                # A beginning alone may be followed by its end at once: one message and one commit for both.
                self._changed.wait_for(self._has_ends, timeout=BEGIN_SECONDS)
                if self._closed:
                    return
            if self._more_at_hand:
                time.sleep(LINGER_SECONDS)
            with self._changed:
                reports, pace = tuple(self._outbox), self._pace
                self._pace = {}
            try:
                self._line.deliver(Delivery(self.name, self.process, reports, pace))
            except Exception:  # noqa: BLE001  # whatever went wrong: it was not acknowledged, so say it again
                time.sleep(pause)
                pause = min(2 * pause, RETRY_SECONDS[1])
                continue
            pause = RETRY_SECONDS[0]
            self._acknowledged(reports)

    def _has_ends(self) -> bool:
        return self._closed or any(isinstance(report, Succeeded | Failed) for report in self._outbox)

    def _acknowledged(self, reports: tuple[Report, ...]) -> None:
        over = []
        with self._changed:
            del self._outbox[: len(reports)]
            for report in reports:
                if isinstance(report, Succeeded | Failed):
                    entry = self._entries.pop(TaskId(report.run, report.step, report.fence), None)
                    if entry is not None and entry.attempt and isinstance(report, Succeeded):
                        over.append(entry.attempt)
        for attempt in over:
            with suppress(OSError):
                attempt.forget()

    def _pulse(self) -> None:
        last = 0.0
        while not self._closed:
            # A full disk must not look like a dead worker.
            with suppress(OSError):
                self._capture.pump()
            with self._changed:
                current = self._current
            progress = current.attempt.step.take_progress() if current and current.attempt else None
            now = time.monotonic()
            if progress is not None or now - last >= self._heartbeat_seconds:
                last = now
                self._line.beat(self._beat(current, progress))
            time.sleep(PULSE_SECONDS)

    def _beat(self, current: _Entry | None, progress: Progressed | None) -> Beat:
        status = status_of(self.process.pid)
        gang = current.attempt.usage if current and current.attempt else GangUsage()
        return Beat(
            worker=self.name,
            process=self.process,
            memory_bytes=(status.memory_bytes if status else 0) + gang.memory_bytes,
            cpu_seconds=status.cpu_seconds if status else 0.0,
            current=task_id(current.task) if current else None,
            elapsed_seconds=time.monotonic() - current.began if current else 0.0,
            progress=progress,
            ranks=gang.processes,
        )


class Note:
    """Small files that say which task a worker is at and what it planned, for whoever finds it dead."""

    IDLE = "-" * 64
    """What it says between two tasks."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        self._plan_path = path.with_suffix(PLAN_SUFFIX)

    def write(self, task: TaskId | None) -> None:
        """Put the task in the place of the one before."""
        with suppress(OSError):
            os.pwrite(self._file, (self.IDLE if task is None else self.name_of(task)).encode("ascii"), 0)

    def write_plan(self, task: TaskId, plan: dict[str, Any]) -> None:
        """Put the plan of a task in the place of the one before."""
        with suppress(OSError):
            fresh = self._plan_path.with_suffix(".plan-new")
            fresh.write_text(dumps([self.name_of(task), plan]), encoding="utf-8")
            fresh.replace(self._plan_path)

    @staticmethod
    def read_plan(path: Path, task: TaskId) -> dict[str, Any] | None:
        """The plan that a worker made for a task, from beside its note at ``path``."""
        try:
            name, plan = loads(path.with_suffix(PLAN_SUFFIX).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return plan if name == Note.name_of(task) else None

    @staticmethod
    def name_of(task: TaskId) -> str:
        """A task in 64 characters, however long its names are."""
        return hashlib.sha256(f"{task.run}\n{task.fence}\n{task.step}".encode(errors="replace")).hexdigest()

    @staticmethod
    def read(path: Path) -> str | None:
        """What was noted last, see :meth:`name_of`; None when nothing is known."""
        try:
            return path.read_text(encoding="ascii") or None
        except (OSError, ValueError):
            return None


def note_path(home: Path, worker: str) -> Path:
    """Where a worker notes what it is at."""
    return home / "workers" / f"{worker}.now"


def identity_path(home: Path, worker: str) -> Path:
    """Where a worker writes which process it is, for whoever finds it frozen."""
    return home / "workers" / f"{worker}.process"


def task_id(task: Task) -> TaskId:
    """The claim that a task carries out."""
    return TaskId(task.run, task.step, task.fence)


def broken(task: Task, error: Exception) -> Failed:
    """The end of a task that our own code could not carry out."""
    described = {"code": "runtime_fault", "message": first_line(error), "hint": "this is a fault of foldase"}
    return Failed(task.run, task.step, task.fence, Cause.INFRASTRUCTURE, described)
