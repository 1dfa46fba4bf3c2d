"""Which process wrote something, and whether it still lives: pid and start time, since pids are reused."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path


def process_mark() -> str:
    """``pid-start`` of this process."""
    # Keyed by pid: a forked child must not inherit the mark of its parent.
    return _mark_of(os.getpid())


@lru_cache(maxsize=4)
def _mark_of(pid: int) -> str:
    return f"{pid}-{_start_of(pid)}"


def alive(mark: str) -> bool:
    """Whether the process with this mark runs on this machine now."""
    pid, _, start = mark.partition("-")
    return pid.isdigit() and start != "" and _start_of(int(pid)) == start


def _start_of(pid: int) -> str:
    """Ticks after boot at which a process began; empty when there is none (or it is a zombie)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    # The name is in parentheses and may hold anything; state is the 3rd field and the start the 22nd.
    fields = text.rpartition(")")[2].split()
    return "" if fields[0] in "ZX" else fields[19]
