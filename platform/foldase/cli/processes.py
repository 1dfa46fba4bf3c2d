"""Processes by pid and start time: a pid alone may have been given to somebody else."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

_POLL_SECONDS = 0.05


def mark_of(pid: int) -> str:
    """``pid-start`` of a running process; empty where there is none."""
    start = _start_of(pid)
    return f"{pid}-{start}" if start else ""


def pid_of(mark: str) -> int:
    """The pid in a mark."""
    return int(mark.partition("-")[0])


def alive(mark: str) -> bool:
    """Whether that very process still runs."""
    pid, _, start = mark.partition("-")
    return pid.isdigit() and start != "" and _start_of(int(pid)) == start


def end_groups(marks: list[str], *, grace_seconds: float) -> None:
    """End processes that lead their groups, and all that is in these groups: asked first, then killed."""
    led = [mark for mark in marks if alive(mark)]
    for mark in led:
        signal_group(pid_of(mark), signal.SIGTERM)
    until = time.monotonic() + grace_seconds
    while any(alive(mark) for mark in led) and time.monotonic() < until:
        time.sleep(_POLL_SECONDS)
    for mark in led:
        signal_group(pid_of(mark), signal.SIGKILL)


def signal_group(group: int, number: signal.Signals) -> None:
    """Send a signal to all processes of a group; nothing where there is none."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _start_of(pid: int) -> str:
    """Ticks after boot at which a process began; empty where there is none, or only its zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    # The name stands in parentheses and may hold anything; state is the 3rd field, the start the 22nd.
    fields = text.rpartition(")")[2].split()
    return "" if fields[0] in "ZX" else fields[19]
