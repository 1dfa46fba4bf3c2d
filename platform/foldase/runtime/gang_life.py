"""One life of a gang: fresh processes, their common work, and what the end of it means.

When one rank fails, others fail in turn, because it is gone; they must not be mistaken for the reason. A
process that died counts before errors that were raised, an error that explains itself ends the life at once,
and any other is held back for a moment, in which what caused it may become known.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Protocol, TypeVar

from foldase.runtime.context import RunningStep
from foldase.runtime.failures import explain
from foldase.runtime.machine import OomCounter, this_machine
from foldase.runtime.processes import ProcessId, alive, status_of, this_process
from foldase.runtime.rank_files import RankFiles
from foldase.runtime.rank_work import Raised, RankHello, RankJob, Returned, explains_itself
from foldase.runtime.workplace import remove_folder
from foldase_workflows.contracts.failures import OUT_OF_MEMORY, Cause

SYMPTOMS = frozenset({"collective_failed", "bad_ranks"})
"""Codes of errors that say that another rank is gone or silent, not what is wrong with this one."""

_CONNECTION = re.compile(r"closed by peer|connection reset|broken pipe|ncclRemoteError", re.IGNORECASE)
"""In what torch says of a connection between ranks that broke."""

_LOOK_SECONDS = 0.2
_SECOND_THOUGHTS_SECONDS = 1.0
"""How long what an error follows from may take to become known; longer where there must be something."""
_SYMPTOM_SECONDS = 5.0
_FINISH_SECONDS = 60.0
"""How long other ranks may go on when rank 0 has given its result."""
_BUSY_CPU_SECONDS = 0.5
_LARGE_SHARE = 0.1
T = TypeVar("T")
_NOWHERE = (0.0, float("-inf"))


class RankProcess(Protocol):
    """A process that can be a rank. Futures fail when it is gone."""

    def hello(self) -> Future[RankHello]:
        """Who it is, once it can work."""

    def choose_port(self) -> Future[int]:
        """A free port on its machine."""

    def run(self, job: RankJob) -> Future[Returned | Raised]:
        """Do the work."""

    def cancel(self) -> None:
        """Someone asks to stop."""


class NoRoom(Exception):
    """The processes asked for cannot be had in time; ``room`` is for how many there may be room."""

    def __init__(self, room: int) -> None:
        super().__init__(f"there is room for {room}")
        self.room = room


class Hosts(Protocol):
    """Where the processes of one gang live."""

    def start(self, size: int, *, within_seconds: float) -> Sequence[RankProcess]:
        """Reserve what so many ranks need and start their processes.

        Raises:
            NoRoom: it cannot be reserved in time.
        """

    def why(self, error: BaseException) -> tuple[Cause, str]:
        """What the error of a future says about the end of its process."""

    def end(self) -> None:
        """End all processes, with all that they have started; returns when they are gone."""

    def close(self) -> None:
        """Give back what was reserved."""


@dataclass(frozen=True, slots=True)
class GangLimits:
    """How patient a gang is.

    Args:
        start_seconds: until the places are had, and again until all processes can work.
        restart_seconds: how long later lives wait for their places before they do with fewer.
        silence_seconds: a rank that shows no sign of life for so long is taken for frozen.
        heartbeat_seconds: how often a rank shows one.
    """

    start_seconds: float = 120.0
    restart_seconds: float = 20.0
    silence_seconds: float = 30.0
    heartbeat_seconds: float = 2.0


@dataclass(frozen=True, slots=True)
class Lost:
    """A rank is gone, and so is its gang; ``how`` it ended names the rank."""

    cause: Cause
    how: str


@dataclass(slots=True)
class GangUsage:
    """What the processes of a gang take; written by one thread, read by others.

    ``peak_bytes`` is that of the largest rank, as what a step reserves is for each rank; ``memory_bytes`` is
    that of all of them now. ``processes`` are those on this machine.
    """

    peak_bytes: int = 0
    memory_bytes: int = 0
    cpu_seconds: float = 0.0
    processes: tuple[ProcessId, ...] = ()


@dataclass(slots=True)
class _Rank:
    number: int
    process: RankProcess
    files: RankFiles
    hello: RankHello | None = None
    outcome: Returned | Raised | Lost | None = None
    heard_at: float = field(default_factory=time.monotonic)
    memory_bytes: int = 0
    cpu_seconds: float = 0.0

    @property
    def local(self) -> ProcessId | None:
        """The process, where it can be looked at."""
        here = self.hello is not None and self.hello.host == socket.gethostname()
        return self.hello.process if self.hello is not None and here else None


class Life:
    """The processes of one life, and what is known of each."""

    def __init__(
        self,
        step: RunningStep,
        processes: Sequence[RankProcess],
        hosts: Hosts,
        limits: GangLimits,
        usage: GangUsage,
        number: int,
    ) -> None:
        self._step, self._hosts, self._limits, self._usage = step, hosts, limits, usage
        self._folder = step.scratch / "ranks" / str(number)
        self._ranks = [
            _Rank(rank, process, RankFiles(self._folder / str(rank)))
            for rank, process in enumerate(processes)
        ]
        self._events: SimpleQueue[tuple[_Rank, Future[Returned | Raised]]] = SimpleQueue()
        self._asked = False
        self._oom = OomCounter()
        self._cpu_before = usage.cpu_seconds
        # Of the first outcome that ends something, be it rank 0's result.
        self._looked_at = self._first_trouble_at = time.monotonic()
        self.furthest = _NOWHERE
        """The largest share of the work and the largest position of a metric that rank 0 has told."""

    def run(self, function: str, arguments: Mapping[str, Any]) -> Returned | Raised | Lost:
        """Introduce the ranks to each other, let them work, and see how it ends."""
        deadline = time.monotonic() + self._limits.start_seconds
        coming = [rank.process.hello() for rank in self._ranks]
        for rank, future in zip(self._ranks, coming, strict=True):
            rank.hello = found = self._in_time(rank, future, deadline)
            if found is None:
                assert isinstance(rank.outcome, Lost)
                return rank.outcome
        first = self._ranks[0]
        port = self._in_time(first, first.process.choose_port(), deadline)
        if port is None:
            assert isinstance(first.outcome, Lost)
            return first.outcome
        self._usage.processes = tuple(rank.local for rank in self._ranks if rank.local is not None)
        assert first.hello is not None
        jobs = list(self._jobs(function, arguments, (first.hello.address, port)))
        for rank, job in zip(self._ranks, jobs, strict=True):
            rank.heard_at = time.monotonic()
            rank.process.run(job).add_done_callback(partial(self._happened, rank))
        return self._watch()

    def close(self) -> None:
        """Take in what the ranks have told last; their folders go."""
        self._read(whole=True)
        remove_folder(self._folder)
        self._usage.processes, self._usage.memory_bytes = (), 0

    def _in_time(self, rank: _Rank, future: Future[T], deadline: float) -> T | None:
        """The answer of a process that is starting; without one the rank is lost."""
        while True:
            self._step.check_cancelled()
            try:
                return future.result(timeout=_LOOK_SECONDS)
            except FutureTimeout:
                if time.monotonic() > deadline:
                    seconds = f"{self._limits.start_seconds:g} s"
                    rank.outcome = Lost(
                        Cause.WORKER_LOST, f"rank {rank.number} could not work within {seconds}"
                    )
                    return None
            except Exception as error:  # noqa: BLE001  # however it is told, the process is gone
                rank.outcome = self._lost(rank, error)
                return None

    def _jobs(
        self, function: str, arguments: Mapping[str, Any], master: tuple[str, int]
    ) -> Iterator[RankJob]:
        beside: dict[str, int] = {}
        for rank in self._ranks:
            assert rank.hello is not None
            local_rank = beside.get(rank.hello.host, 0)
            beside[rank.hello.host] = local_rank + 1
            yield RankJob(
                function=function,
                arguments=dict(arguments),
                rank=rank.number,
                size=len(self._ranks),
                local_rank=local_rank,
                master=master,
                cpus=self._step.cpus,
                memory_bytes=self._step.memory_bytes,
                folder=rank.files.folder,
                checkpoints=self._step.checkpoints,
                heartbeat_seconds=self._limits.heartbeat_seconds,
                leader=this_process(),
                host=socket.gethostname(),
            )

    def _happened(self, rank: _Rank, future: Future[Returned | Raised]) -> None:
        self._events.put((rank, future))

    def _watch(self) -> Returned | Raised | Lost:
        while True:
            self._take_events()
            self._read()
            now = time.monotonic()
            if now - self._looked_at > self._limits.silence_seconds / 2:
                # It was this process that stood still; the ranks cannot be blamed for silence.
                for rank in self._ranks:
                    rank.heard_at = now
            self._looked_at = now
            if self._step.cancelled and not self._asked:
                self._asked = True
                for rank in self._ranks:
                    rank.process.cancel()
            for rank in self._ranks:
                if rank.outcome is None and now - rank.heard_at > self._limits.silence_seconds:
                    self._silent(rank, now)
            end = self._verdict(now)
            if end is not None:
                return end
            # Whoever gave this step up cannot end the thread that computes; it leaves by itself.
            self._step.check_abandoned()

    def _take_events(self) -> None:
        try:
            rank, future = self._events.get(timeout=_LOOK_SECONDS)
            while True:
                if all(isinstance(one.outcome, Returned | None) for one in self._ranks):
                    self._first_trouble_at = time.monotonic()
                error = future.exception()
                rank.outcome = future.result() if error is None else self._lost(rank, error)
                rank, future = self._events.get_nowait()
        except Empty:
            return

    def _lost(self, rank: _Rank, error: BaseException) -> Lost:
        cause, how = self._hosts.why(error)
        large = rank.memory_bytes > _LARGE_SHARE * this_machine().memory_bytes
        if self._oom.risen() and large:
            cause = Cause.OOM_HOST
        return Lost(cause, f"rank {rank.number} is lost: {how}")

    def _silent(self, rank: _Rank, now: float) -> None:
        status = status_of(rank.local.pid) if rank.local is not None else None
        computes = (
            status is not None
            and status.id == rank.local
            and status.state != "T"
            and status.cpu_seconds > rank.cpu_seconds + _BUSY_CPU_SECONDS
        )
        if computes and status is not None:
            # C code that keeps the interpreter locked: silent, but not frozen.
            rank.heard_at, rank.cpu_seconds = now, status.cpu_seconds
            return
        how = f"rank {rank.number} is lost: no sign of life for {self._limits.silence_seconds:g} s"
        rank.outcome = Lost(Cause.WORKER_LOST, how)

    def _verdict(self, now: float) -> Returned | Raised | Lost | None:
        """How this life ends, once that is clear."""
        outcomes = [rank.outcome for rank in self._ranks]
        over = all(outcome is not None for outcome in outcomes)
        raised = sorted((one for one in outcomes if isinstance(one, Raised)), key=lambda one: one.at)
        if self._step.cancelled and raised and not over:
            # Asked to stop, ranks may still be writing their checkpoint; whoever asked sees to the time.
            return None
        certain = [one for one in raised if _certain(one.error)]
        if certain:
            return certain[0]
        lost = [one for one in outcomes if isinstance(one, Lost)]
        if lost:
            return lost[0]
        if raised:
            return self._suspected(raised, over=over, now=now)
        if isinstance(outcomes[0], Returned) and (over or now - self._first_trouble_at > _FINISH_SECONDS):
            return outcomes[0]
        return None

    def _suspected(self, raised: Sequence[Raised], *, over: bool, now: float) -> Raised | Lost | None:
        """What to make of errors that may follow from something that is not known yet."""
        reasons = [one for one in raised if not _is_symptom(one.error)]
        patience = _SECOND_THOUGHTS_SECONDS if reasons else _SYMPTOM_SECONDS
        if now - self._first_trouble_at < patience and not over:
            return None
        for rank in self._ranks:
            if rank.outcome is None and rank.local is not None and not alive(rank.local):
                return Lost(Cause.WORKER_LOST, f"rank {rank.number} is lost: its process is gone")
        if reasons:
            return reasons[0]
        if over and all(isinstance(one.error, ConnectionError) for one in raised):
            # Nobody is gone or silent: what broke is a connection of the function's own.
            return raised[0]
        rank = next(rank for rank in self._ranks if rank.outcome is raised[0])
        return Lost(Cause.WORKER_LOST, f"rank {rank.number}: {raised[0].error}")

    def _read(self, *, whole: bool = False) -> None:
        """Hand on what the ranks have told and printed."""
        for rank in self._ranks:
            whose = f"rank {rank.number}: " if rank.number else ""
            for kind, said in rank.files.messages():
                rank.heard_at = time.monotonic()
                if kind == "log":
                    self._step.log(whose + said[0], level=said[1])
                elif kind == "pulse":
                    self._pulse(rank, *said)
                elif rank.number == 0:
                    self._report(kind, said)
            for text, level in rank.files.printed(whole=whole):
                self._step.log(whose + text, level=level)

    def _report(self, kind: str, said: Sequence[Any]) -> None:
        fraction, at = self.furthest
        if kind == "progress":
            self._step.progress(said[0], said[1])
            self.furthest = max(fraction, said[0]), at
        elif kind == "metrics":
            self._step.metrics(said[0], at=said[1])
            self.furthest = fraction, max(at, at if said[1] is None else said[1])

    def _pulse(self, rank: _Rank, memory_bytes: int, peak_bytes: int, cpu_seconds: float) -> None:
        rank.memory_bytes, rank.cpu_seconds = memory_bytes, cpu_seconds
        self._usage.peak_bytes = max(self._usage.peak_bytes, peak_bytes)
        self._usage.memory_bytes = sum(one.memory_bytes for one in self._ranks)
        self._usage.cpu_seconds = self._cpu_before + sum(one.cpu_seconds for one in self._ranks)


def _is_symptom(error: BaseException) -> bool:
    """Whether the error says that another rank is gone or silent, rather than what is wrong with its own."""
    if getattr(error, "code", None) in SYMPTOMS or isinstance(error, ConnectionError):
        return True
    return isinstance(error, RuntimeError) and _CONNECTION.search(str(error)) is not None


def _certain(error: BaseException) -> bool:
    """Whether the error says by itself what is wrong, so that nothing else can be behind it."""
    return not _is_symptom(error) and (explains_itself(error) or explain(error)[0] in OUT_OF_MEMORY)
