"""Processes of this machine: who descends from whom, and ending all of them for certain.

A pid alone names nobody, since pids are reused; a process is named by its pid and its start time. Linux
only, as Ray's own worker handling is.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_OOM_SCORE = 800
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class ProcessId:
    """One process for ever: pid, and its start in clock ticks after boot."""

    pid: int
    started: int

    @property
    def mark(self) -> str:
        """``pid-start``, the form in files and in the database."""
        return f"{self.pid}-{self.started}"

    @classmethod
    def parse(cls, mark: str) -> ProcessId:
        """The inverse of :attr:`mark`."""
        pid, _, started = mark.partition("-")
        return cls(int(pid), int(started))


@dataclass(frozen=True, slots=True)
class Status:
    """A process at one moment; ``state`` is the letter of ``ps``, times are in seconds."""

    id: ProcessId
    parent: int
    state: str
    cpu_seconds: float
    memory_bytes: int

    @property
    def gone(self) -> bool:
        """Dead, and only waiting for its parent to notice."""
        return self.state in "ZX"


def status_of(pid: int) -> Status | None:
    """What the kernel knows of a process; None when there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The name stands in parentheses and may hold anything, so count from its end: state is field 3 of 52.
    fields = text.rpartition(")")[2].split()
    return Status(
        id=ProcessId(pid, int(fields[19])),
        parent=int(fields[1]),
        state=fields[0],
        cpu_seconds=(int(fields[11]) + int(fields[12])) / _TICKS,
        memory_bytes=int(fields[21]) * _PAGE,
    )


def this_process() -> ProcessId:
    """The process that asks."""
    status = status_of(os.getpid())
    assert status is not None
    return status.id


def alive(process: ProcessId) -> bool:
    """Whether this very process still runs (or is stopped)."""
    status = status_of(process.pid)
    return status is not None and status.id == process and not status.gone


def all_processes() -> dict[int, Status]:
    """Every process of the machine by pid."""
    found = (status_of(int(entry.name)) for entry in os.scandir("/proc") if entry.name.isdigit())
    return {status.id.pid: status for status in found if status is not None}


def descendants(pid: int) -> list[ProcessId]:
    """Children, grandchildren and so on that still run; nearest first."""
    children: dict[int, list[Status]] = {}
    for status in all_processes().values():
        children.setdefault(status.parent, []).append(status)
    found: list[ProcessId] = []
    pending = [pid]
    while pending:
        for child in children.get(pending.pop(0), ()):
            pending.append(child.id.pid)
            if not child.gone:
                found.append(child.id)
    return found


def with_environment(variable: str, value: str) -> list[ProcessId]:
    """Processes started with ``variable=value``; those that overwrite their environment are not found."""
    wanted = f"{variable}={value}".encode()
    found = []
    for status in all_processes().values():
        with suppress(OSError):
            if wanted in Path(f"/proc/{status.id.pid}/environ").read_bytes().split(b"\0") and not status.gone:
                found.append(status.id)
    return found


def send(process: ProcessId, signal_number: int) -> bool:
    """Signal this very process; False when it is gone or not ours."""
    if not alive(process):
        return False
    try:
        os.kill(process.pid, signal_number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def kill_tree(root: ProcessId, *, within_seconds: float = 5.0) -> bool:
    """End a process and everything below it, however it was started; True when all are gone.

    The root is stopped first so that it starts nothing new and, being a subreaper, catches what its children
    leave behind; it dies last.
    """
    send(root, signal.SIGSTOP)
    deadline = time.monotonic() + within_seconds
    while alive(root) and (below := descendants(root.pid)) and time.monotonic() < deadline:
        for process in below:
            send(process, signal.SIGKILL)
        time.sleep(0.01)
    send(root, signal.SIGKILL)
    return wait_gone([root], within_seconds=max(0.5, deadline - time.monotonic()))


def kill_all(processes: Iterable[ProcessId], *, within_seconds: float = 5.0) -> bool:
    """End these processes at once; True when all are gone."""
    listed = list(processes)
    for process in listed:
        send(process, signal.SIGKILL)
    return wait_gone(listed, within_seconds=within_seconds)


def wait_gone(processes: Iterable[ProcessId], *, within_seconds: float) -> bool:
    """Wait until none of these processes runs any more."""
    left = list(processes)
    deadline = time.monotonic() + within_seconds
    while left := [process for process in left if alive(process)]:
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.01)
    return True


def become_subreaper() -> None:
    """Let orphaned descendants become children of this process instead of leaving its tree."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def prefer_to_die() -> None:
    """When the kernel runs out of memory, let it end this process rather than one that others need."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(_OOM_SCORE), encoding="ascii")


def die_with_parent(signal_number: int = signal.SIGKILL) -> None:
    """Have the kernel signal this process as soon as the thread that started it ends."""
    _prctl(_PR_SET_PDEATHSIG, signal_number)


def end_children() -> int:
    """Kill and reap what this process has started and not waited for; returns how many were left.

    Call it only while nobody in this process waits for a child.
    """
    if not _has_children():
        return 0
    left = descendants(os.getpid())
    deadline = time.monotonic() + 2.0
    while (below := descendants(os.getpid())) and time.monotonic() < deadline:
        for process in below:
            send(process, signal.SIGKILL)
        time.sleep(0.005)
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    return len(left)


def _has_children() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _prctl(option: int, value: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
