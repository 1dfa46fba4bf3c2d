"""What one process of a gang does, however it was started: takes a job, runs its function, tells of it.

What it tells while it runs (log, metrics, progress, signs of life) goes into a file beside its output, which
whoever leads the gang reads: nothing of that is lost when the process is killed.
"""

from __future__ import annotations

import json
import os
import pickle
import socket
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from foldase.runtime.processes import (
    ProcessId,
    alive,
    become_subreaper,
    end_children,
    prefer_to_die,
    this_process,
)
from foldase.runtime.usage import ProcessMeter, limit_threads
from foldase_workflows.contracts.errors import FoldaseError, UserError
from foldase_workflows.contracts.gangs import RankContext, rank_function

EVENTS, OUTPUT, ERRORS = "events", "1", "2"
"""Files in the folder of a job."""


@dataclass(frozen=True, slots=True)
class RankJob:
    """One rank's share of a gang, complete.

    ``folder`` is the rank's own, ``master`` where the ranks meet; ``cpus`` and ``memory_bytes`` are for it.
    ``leader`` is the process, on the machine ``host``, without which a rank has no reason to live.
    """

    function: str
    arguments: Mapping[str, Any]
    rank: int
    size: int
    local_rank: int
    master: tuple[str, int]
    cpus: float
    memory_bytes: int
    folder: Path
    checkpoints: Path
    heartbeat_seconds: float
    leader: ProcessId
    host: str


@dataclass(frozen=True, slots=True)
class Returned:
    """The function came to its end; only rank 0's value is sent."""

    value: Any = None


@dataclass(frozen=True, slots=True)
class Raised:
    """The function raised this; ``at`` is the moment by the clock of its machine."""

    error: BaseException
    at: float = field(default_factory=time.time)


@dataclass(frozen=True, slots=True)
class RankHello:
    """A rank process introduces itself; ``address`` is where others reach it."""

    process: ProcessId
    host: str
    address: str


class RankWork:
    """The work of this process, which runs one job and then is of no more use."""

    def __init__(self, address: str = "127.0.0.1") -> None:
        become_subreaper()
        prefer_to_die()
        self._hello = RankHello(this_process(), socket.gethostname(), address)
        self._held: socket.socket | None = None
        self._cancelled = threading.Event()

    def hello(self) -> RankHello:
        """Say who this is."""
        return self._hello

    def choose_port(self) -> int:
        """A free port where the others can meet this rank; nobody else gets it before the function runs."""
        self._held = socket.socket()
        self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._held.bind((self._hello.address, 0))
        return int(self._held.getsockname()[1])

    def cancel(self) -> None:
        """Someone asks to stop."""
        self._cancelled.set()

    def run(self, job: RankJob) -> Returned | Raised:
        """Call the function; whatever it raises is returned in a form that can be sent."""
        job.folder.mkdir(parents=True, exist_ok=True)
        for number, name in ((1, OUTPUT), (2, ERRORS)):
            _redirect(number, job.folder / name)
        context = _Context(job, self._cancelled)
        pulse = threading.Thread(target=context.keep_telling, daemon=True, name="foldase-pulse")
        pulse.start()
        try:
            os.environ.update(_environment(job))
            os.chdir(context.scratch)
            limit_threads(job.cpus)
            function = rank_function(job.function)
            if self._held is not None:
                self._held.close()
            value = function(context, **job.arguments)
            return _sendable(value) if job.rank == 0 else Returned()
        except BaseException as error:  # noqa: BLE001  # the leader of the gang decides what follows
            if not explains_itself(error):
                context.log("".join(traceback.format_exception(error)), level="error")
            return Raised(_portable(error))
        finally:
            for stream in (sys.stdout, sys.stderr):
                with suppress(OSError, ValueError):
                    stream.flush()
            context.close()
            end_children()


class _Context(RankContext):
    """What the function sees; every line of the events file is one message, written at once."""

    def __init__(self, job: RankJob, cancelled: threading.Event) -> None:
        self.rank, self.size = job.rank, job.size
        self.cpus, self.memory_bytes = job.cpus, job.memory_bytes
        self.checkpoints = job.checkpoints
        self.scratch = job.folder / "scratch"
        self.scratch.mkdir()
        self._heartbeat_seconds = job.heartbeat_seconds
        self._leader = job.leader if job.host == socket.gethostname() else None
        self._cancelled = cancelled
        self._closed = threading.Event()
        self._meter = ProcessMeter()
        self._meter.start()
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._file = os.open(job.folder / EVENTS, flags, 0o600)

    def progress(self, fraction: float, message: str = "") -> None:
        """Tell the leader."""
        self._tell("progress", [float(fraction), str(message)])

    def metrics(self, values: Mapping[str, float], *, at: float | None = None) -> None:
        """Tell the leader; of rank 0 alone."""
        if self.rank == 0:
            plain = {str(name): float(value) for name, value in values.items()}
            self._tell("metrics", [plain, None if at is None else float(at)])

    def log(self, message: str, *, level: str = "info") -> None:
        """Tell the leader."""
        self._tell("log", [str(message), str(level)])

    @property
    def cancelled(self) -> bool:
        """Whether someone asked to stop."""
        return self._cancelled.is_set()

    def keep_telling(self) -> None:
        """Show signs of life, with what the process takes, until the function ends."""
        while True:
            self._pulse()
            if self._leader is not None and not alive(self._leader):
                end_children()
                os._exit(1)
            if self._closed.wait(self._heartbeat_seconds):
                return

    def close(self) -> None:
        """One last sign of life."""
        self._closed.set()
        self._pulse()

    def _pulse(self) -> None:
        peak, cpu = self._meter.read()
        self._tell("pulse", [self._meter.held(), peak, cpu])

    def _tell(self, kind: str, said: list[Any]) -> None:
        # A full disk loses the line, not the work.
        with suppress(OSError):
            os.write(self._file, json.dumps([kind, *said]).encode() + b"\n")


def _environment(job: RankJob) -> dict[str, str]:
    return {
        "RANK": str(job.rank),
        "WORLD_SIZE": str(job.size),
        "LOCAL_RANK": str(job.local_rank),
        "MASTER_ADDR": job.master[0],
        "MASTER_PORT": str(job.master[1]),
    }


def _redirect(number: int, path: Path) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    os.dup2(file, number)
    os.close(file)


def _sendable(value: Any) -> Returned:
    try:
        pickle.dumps(value)
    except Exception as error:
        hint = "return plain values: numbers, texts, lists, mappings, paths"
        raise UserError(
            f"the result of the rank function cannot be sent: {error}", code="bad_rank_result", hint=hint
        ) from error
    return Returned(value)


def explains_itself(error: BaseException) -> bool:
    """Whether an error carries the four fields of ours, so that nobody needs its traceback."""
    return isinstance(error, FoldaseError) or (isinstance(error, ValueError) and hasattr(error, "code"))


def _portable(error: BaseException) -> BaseException:
    """The error itself, or one that says the same where it cannot be sent to another process."""
    # Whether the way there and back works can only be tried; anything may go wrong in an unknown class.
    with suppress(Exception):
        if type(pickle.loads(pickle.dumps(error))) is type(error):  # noqa: S301
            return error
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return UserError(said, code="exception", hint="the log of the step has the traceback")
