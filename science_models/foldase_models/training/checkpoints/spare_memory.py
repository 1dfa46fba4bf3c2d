"""How much main memory may still be taken, as Linux says. Importable without torch."""

from __future__ import annotations

from pathlib import Path

_GROUP = Path("/sys/fs/cgroup")


def spare_bytes(meminfo: Path = Path("/proc/meminfo"), group: Path = _GROUP) -> int:
    """Bytes that this machine, or the control group that holds this process, can still give.

    Pages that only keep files count as free, as they do when memory runs short. 0 where nothing is known.
    """
    known = [_named(meminfo, "MemAvailable:") * 1024]
    limit, used = _number(group / "memory.max"), _number(group / "memory.current")
    if limit is not None and used is not None:
        known.append(limit - used + _named(group / "memory.stat", "inactive_file"))
    return max(0, min(known))


def _named(path: Path, name: str) -> int:
    """The number behind a name."""
    try:
        lines = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return 0
    return next((int(words[1]) for words in lines if words[:1] == [name]), 0)


def _number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
