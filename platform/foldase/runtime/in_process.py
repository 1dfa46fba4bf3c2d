"""Runs attempts in threads of this process: for tests, and for ``--no-ray`` on one machine.

The same contract as the Ray executor, with one limit: a thread cannot be killed. An attempt that does not
heed its cancel flag is given up after the grace, and whatever it reports later is dropped.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from foldase.runtime.attempt import Attempt, timeout_error
from foldase.runtime.capture import ThreadCapture
from foldase.runtime.context import RunningStep
from foldase.runtime.gang_life import GangLimits, GangUsage
from foldase.runtime.gangs import Gang
from foldase.runtime.local_ranks import LocalHosts
from foldase.runtime.machine import this_machine
from foldase.runtime.pace import Pace
from foldase.runtime.usage import ThreadMeter
from foldase.runtime.workbench import PULSE_SECONDS, broken, task_id
from foldase.runtime.workplace import Workplace
from foldase.scheduler.executor import Failed, Report, Started, Succeeded, Task, TaskId
from foldase_workflows.contracts.errors import Cancelled
from foldase_workflows.contracts.failures import Cause
from foldase_workflows.contracts.operator import Hardware, Resources
from foldase_workflows.contracts.registry import Registry, default_registry

TIMEOUT_GRACE_SECONDS = 5.0


@dataclass(slots=True)
class _Running:
    attempt: Attempt
    thread: threading.Thread
    began: float = field(default_factory=time.monotonic)
    give_up_at: float | None = None


class InProcessExecutor:
    """An executor whose workers are threads.

    Args:
        home: the state folder.
        registry: where operators come from; those that are installed where nothing is given.
        hardware: what the steps may use; this machine where nothing is given.
    """

    def __init__(
        self, home: Path, *, registry: Registry | None = None, hardware: Hardware | None = None
    ) -> None:
        self._workplace = Workplace(Path(home).resolve())
        self._workplace.remove_litter()
        self._registry = registry or default_registry()
        self._hardware = hardware or this_machine()
        self._capture = ThreadCapture()
        self._pace = Pace()
        self._waiting: deque[Task] = deque()
        self._running: dict[TaskId, _Running] = {}
        self._inbox: list[Report] = []
        self._handed_out: list[Attempt] = []
        self._finished: dict[TaskId, Attempt] = {}
        self._pulse_at = 0.0
        self._closed = False
        self._changed = threading.Condition()

    def total(self) -> Resources:
        """All that this machine offers."""
        return Resources(self._hardware.cpus, self._hardware.memory_bytes, float(len(self._hardware.gpus)))

    def largest_node(self) -> Hardware | None:
        """This machine."""
        return self._hardware

    def queue_depth(self, operator: str) -> int:
        """More than 1 for operators whose steps have been tiny so far."""
        return self._pace.depth(operator)

    def submit(self, tasks: Sequence[Task]) -> None:
        """Start the tasks in order as soon as cores, memory and devices are free."""
        with self._changed:
            self._waiting.extend(tasks)
            self._start_what_fits()

    def cancel(self, tasks: Iterable[TaskId], *, grace_seconds: float) -> None:
        """Set the flags; an attempt that is still running after the grace is given up."""
        with self._changed:
            for wanted in tasks:
                running = self._running.get(wanted)
                if running is not None:
                    self._stop(running, Cause.CANCELLED, grace_seconds)
                    continue
                waiting = next((task for task in self._waiting if task_id(task) == wanted), None)
                if waiting is not None:
                    self._waiting.remove(waiting)
                    self._inbox.append(_given_up(waiting, Cause.CANCELLED))
            self._changed.notify_all()

    def poll(self, timeout_seconds: float) -> list[Report]:
        """What happened since the last call."""
        deadline = time.monotonic() + timeout_seconds
        committed, self._handed_out = self._handed_out, []
        for attempt in committed:
            attempt.forget()
        with self._changed:
            while True:
                self._look_after_running()
                if self._inbox or time.monotonic() >= deadline or self._closed:
                    break
                self._changed.wait(min(PULSE_SECONDS / 2, max(0.0, deadline - time.monotonic())))
            reports, self._inbox = self._inbox, []
            for report in reports:
                if isinstance(report, Succeeded | Failed):
                    finished = self._finished.pop(TaskId(report.run, report.step, report.fence), None)
                    if finished is not None and isinstance(report, Succeeded):
                        self._handed_out.append(finished)
        return reports

    def running(self) -> frozenset[TaskId]:
        """Tasks that are waiting or running here, or whose end was not handed out yet."""
        with self._changed:
            waiting = {task_id(task) for task in self._waiting}
            return frozenset(waiting | self._running.keys() | self._finished.keys())

    def cpus_used(self) -> float:
        """Cores that running steps have reserved."""
        with self._changed:
            return sum(one.attempt.task.resources.total.cpu for one in self._running.values())

    def close(self, *, within_seconds: float = 5.0) -> None:
        """Ask everything to stop, wait a moment, and give the output streams back."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            threads = [running.thread for running in self._running.values()]
            for running in self._running.values():
                running.attempt.cancel.set(Cause.CANCELLED)
            self._changed.notify_all()
        deadline = time.monotonic() + within_seconds
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        for running in list(self._running.values()):
            running.attempt.cancel.abandoned = True
        self._capture.close()

    def _start_what_fits(self) -> None:
        for task in list(self._waiting):
            if self._fits(task.resources):
                self._waiting.remove(task)
                attempt = Attempt(task, self._workplace, self._registry, lead_here)
                thread = threading.Thread(
                    target=self._run, args=(attempt,), name=f"{task.run}/{task.step}", daemon=True
                )
                self._running[task_id(task)] = _Running(attempt, thread)
                thread.start()

    def _fits(self, wanted: Resources) -> bool:
        wanted = wanted.total
        used = [running.attempt.task.resources.total for running in self._running.values()]
        total = self.total()
        return (
            sum(one.cpu for one in used) + wanted.cpu <= total.cpu + 1e-9
            and sum(one.memory_bytes for one in used) + wanted.memory_bytes <= total.memory_bytes
            and sum(one.gpu for one in used) + wanted.gpu <= total.gpu + 1e-9
        )

    def _run(self, attempt: Attempt) -> None:
        task = attempt.task
        node = socket.gethostname()
        began = time.monotonic()
        with self._changed:
            worker = threading.current_thread().name
            self._inbox.append(Started(task.run, task.step, task.fence, worker, node, os.getpid()))
            self._changed.notify_all()
        try:
            report: Succeeded | Failed = attempt.run(self._capture, ThreadMeter())
        except Exception as error:  # noqa: BLE001  # a fault of ours must end the step, not hang it
            report = broken(task, error)
        self._pace.note(task.operator, 1, time.monotonic() - began)
        with self._changed:
            if self._running.pop(task_id(task), None) is not None:
                self._finished[task_id(task)] = attempt
                self._inbox.append(report)
            if not self._closed:
                self._start_what_fits()
            self._changed.notify_all()

    def _look_after_running(self) -> None:
        now = time.monotonic()
        pulse = now - self._pulse_at >= PULSE_SECONDS
        if pulse:
            self._pulse_at = now
        for key, running in list(self._running.items()):
            task = running.attempt.task
            limit = task.timeout_seconds
            if limit is not None and now - running.began > limit and not running.attempt.cancel.is_set:
                self._stop(running, Cause.TIMEOUT, TIMEOUT_GRACE_SECONDS)
            if running.give_up_at is not None and now >= running.give_up_at:
                del self._running[key]
                attempt = running.attempt
                attempt.cancel.abandoned = True
                self._inbox.append(_given_up(task, attempt.cancel.cause, attempt.step.planned))
                self._start_what_fits()
            elif pulse and (progress := running.attempt.step.take_progress()) is not None:
                self._inbox.append(progress)

    def _stop(self, running: _Running, cause: Cause, grace_seconds: float) -> None:
        running.attempt.cancel.set(cause)
        running.give_up_at = time.monotonic() + grace_seconds


def lead_here(step: RunningStep, usage: GangUsage, function: str, arguments: Mapping[str, Any]) -> Any:
    """Run a gang whose ranks are processes of this machine."""
    return Gang(step, LocalHosts(), GangLimits(), usage).run(function, arguments)


def _given_up(task: Task, cause: Cause, plan: dict[str, Any] | None = None) -> Failed:
    if cause is Cause.TIMEOUT:
        return Failed(task.run, task.step, task.fence, cause, timeout_error(task), plan=plan)
    described = Cancelled(f"step {task.step} was cancelled").to_json()
    return Failed(task.run, task.step, task.fence, cause, described, plan=plan)
