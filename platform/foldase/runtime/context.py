"""The step context that operators get: progress, metrics, log, cancel flag and folders."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from foldase.runtime.plans import HELD, checked_plan
from foldase.runtime.workplace import CheckpointFolder, Workplace
from foldase.scheduler.executor import Progressed, Task
from foldase.store.artifacts import safe_name
from foldase.store.logs import Kind, LineWriter
from foldase_workflows.contracts.artifacts import Artifact
from foldase_workflows.contracts.context import StepContext
from foldase_workflows.contracts.errors import Cancelled
from foldase_workflows.contracts.failures import Cause

MAX_LOG_BYTES = 64 << 20
"""An attempt that writes more than this to one of its files is cut off with a last line that says so."""

MAX_PROGRESS_MESSAGE = 300
LEVELS = frozenset({"debug", "info", "warning", "error"})


class CancelFlag:
    """Asks an attempt to stop, and keeps why: cancelled by a person, or out of time."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.cause = Cause.CANCELLED
        self.abandoned = False
        """Nobody waits for the attempt any more: what it has started must end by itself."""

    def set(self, cause: Cause) -> None:
        """Ask; only the first cause counts."""
        if not self._event.is_set():
            self.cause = cause
            self._event.set()

    @property
    def is_set(self) -> bool:
        """Whether someone asked."""
        return self._event.is_set()


class AttemptFile:
    """The log or the metrics of an attempt: opened at the first line, safe to write from any thread."""

    def __init__(self, workplace: Workplace, task: Task, kind: Kind) -> None:
        self._open = partial(workplace.logs.writer, task.run, task.step, task.attempt, kind)
        self._writer: LineWriter | None = None
        self._lock = threading.Lock()
        self._start = 0
        self._closed = False
        self.offset = 0

    def write(self, entry: dict[str, object]) -> None:
        """Append a line. A disk that is full loses the line, not the attempt."""
        with self._lock:
            if self._closed:
                return
            try:
                if self._writer is None:
                    self._writer = self._open()
                    self._start = self._writer.offset
                if self._writer.offset - self._start > MAX_LOG_BYTES:
                    self._closed = True
                    entry = {**entry, "level": "error", "message": f"more than {MAX_LOG_BYTES:,} bytes: cut"}
                self.offset = self._writer.write(entry)
            except OSError:
                return

    def close(self) -> None:
        """Write nothing more."""
        with self._lock:
            self._closed = True
            if self._writer is not None:
                self._writer.close()


class RunningStep(StepContext):
    """The context of one attempt. Folders come into being when they are first asked for."""

    def __init__(self, task: Task, workplace: Workplace, cancel: CancelFlag) -> None:
        self.run = task.run
        self.step = task.step
        self.attempt = task.attempt
        self.cpus = task.resources.cpu
        self.memory_bytes = task.resources.memory_bytes
        self.ranks = task.resources.ranks
        self._task = task
        self._workplace = workplace
        self._cancel = cancel
        self._lock = threading.Lock()
        self._log = AttemptFile(workplace, task, "log")
        self._metrics = AttemptFile(workplace, task, "metrics")
        self._fraction: float | None = None
        self._message: str | None = None
        self._reported: tuple[object, ...] = (None, None, 0, 0, None)
        self._points = 0
        self._outputs = 0
        self._plan: dict[str, Any] | None = None
        self.correction = task.corrections.get("", 1.0)
        self.corrections = {key: factor for key, factor in task.corrections.items() if key}
        self.held_bytes: Callable[[], int] = lambda: 0
        self.note_plan: Callable[[dict[str, Any]], object] = lambda _: None
        self.lead: Callable[[str, Mapping[str, Any]], Any] = _no_gangs
        self.scratch_folder: Path | None = None
        self.checkpoint_folder: CheckpointFolder | None = None

    @property
    def scratch(self) -> Path:  # type: ignore[override]  # made when first asked for
        """An empty folder of this attempt, removed afterwards."""
        with self._lock:
            if self.scratch_folder is None:
                self.scratch_folder = self._workplace.new_scratch()
            return self.scratch_folder

    @property
    def checkpoints(self) -> Path:  # type: ignore[override]
        """The folder that later attempts with the same identity find again."""
        with self._lock:
            if self.checkpoint_folder is None:
                identity = self._task.identity or f"{self.run}/{self.step}"
                self.checkpoint_folder = CheckpointFolder(self._workplace.checkpoints, identity)
            return self.checkpoint_folder.path

    @property
    def inputs_folder(self) -> Path:
        """Where the materialised inputs lie."""
        return self.scratch / "inputs"

    def progress(self, fraction: float, message: str = "") -> None:
        """Note the share of work done; the newest is reported at most twice a second."""
        with self._lock:
            if math.isfinite(fraction):
                self._fraction = min(1.0, max(0.0, float(fraction)))
            if message:
                self._message = message[:MAX_PROGRESS_MESSAGE]

    def metrics(self, values: Mapping[str, float], *, at: float | None = None) -> None:
        """Append a point to the curves of the step; numbers that are not finite are kept as null."""
        with self._lock:
            self._points += 1
            position = self._points if at is None else at
        plain = {str(name): _finite(value) for name, value in values.items()}
        self._metrics.write({"at": _finite(position), "time": now_text(), "values": plain})

    def log(self, message: str, *, level: str = "info") -> None:
        """Append a line to the log of the attempt."""
        level = level if level in LEVELS else "info"
        self._log.write({"time": now_text(), "level": level, "message": str(message)})

    def plan(self, values: Mapping[str, Any]) -> None:
        """Add to the plan of the attempt; what is known of it is kept also should this process be killed."""
        given = checked_plan(values)
        with self._lock:
            held = self.held_bytes() if self._plan is None else self._plan.get(HELD, 0)
            known = {**(self._plan or {}), **given}
            self._plan = checked_plan({**known, HELD: held} if held else known)
            self.note_plan(self._plan)

    @property
    def planned(self) -> dict[str, Any] | None:
        """The plan so far."""
        with self._lock:
            return self._plan

    @property
    def cancelled(self) -> bool:
        """Whether someone asked the step to stop."""
        return self._cancel.is_set

    def check_cancelled(self) -> None:
        """Raise ``Cancelled`` when someone asked the step to stop."""
        if self._cancel.is_set:
            raise Cancelled(f"step {self.step} was asked to stop")

    def check_abandoned(self) -> None:
        """Raise ``Cancelled`` when nobody waits for this attempt any more."""
        if self._cancel.abandoned:
            raise Cancelled(f"step {self.step} did not stop in time and was given up")

    def gang(self, function: str, arguments: Mapping[str, Any]) -> Any:
        """Run a rank function: in this process where there is one rank, else as a gang."""
        if self.ranks == 1:
            return super().gang(function, arguments)
        return self.lead(function, arguments)

    def new_file(self, name: str) -> Path:
        """A fresh path in a folder of its own, so that two outputs may bear one name."""
        return self._new_output() / safe_name(name)

    def new_tree(self, name: str) -> Path:
        """A fresh, empty folder."""
        folder = self._new_output() / safe_name(name)
        folder.mkdir()
        return folder

    def artifact(self, port: str) -> Artifact:
        """What is known of the artifact at an input port; raises ``KeyError`` where there is none."""
        value = self._task.inputs.get(port)
        if not Artifact.is_json(value):
            raise KeyError(f"input {port!r} holds no artifact")
        assert isinstance(value, dict)
        return Artifact.from_json(value)

    @property
    def log_offset(self) -> int:
        """Bytes of log so far."""
        return self._log.offset

    @property
    def metrics_offset(self) -> int:
        """Bytes of metrics so far."""
        return self._metrics.offset

    def take_progress(self) -> Progressed | None:
        """What is new since the last call; the caller decides how often that is."""
        with self._lock:
            plan = self._plan
            state = (self._fraction, self._message, self.log_offset, self.metrics_offset, plan)
            if state == self._reported:
                return None
            told = self._reported[-1] == plan
            self._reported = state
            return Progressed(
                run=self.run,
                step=self.step,
                fence=self._task.fence,
                fraction=self._fraction,
                message=self._message,
                log_offset=self.log_offset,
                metrics_offset=self.metrics_offset,
                plan=None if told else plan,
            )

    def close(self) -> None:
        """End the attempt: nothing more is written, and its checkpoints are free for others."""
        self._log.close()
        self._metrics.close()
        if self.checkpoint_folder is not None:
            self.checkpoint_folder.release()

    def _new_output(self) -> Path:
        with self._lock:
            self._outputs += 1
            number = self._outputs
        folder = self.scratch / "outputs" / str(number)
        folder.mkdir(parents=True)
        return folder


def _no_gangs(function: str, arguments: Mapping[str, Any]) -> Any:
    raise NotImplementedError(f"nobody leads gangs here, so {function} cannot run as one")


def now_text() -> str:
    """The present as the API writes it: RFC 3339, UTC, milliseconds."""
    return datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _finite(value: float) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None
