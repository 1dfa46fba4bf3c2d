"""What the machine has left."""

from __future__ import annotations

from pathlib import Path

MEMORY = Path("/proc/meminfo")


def available_memory() -> int | None:
    """Bytes that can be had without swapping, as the kernel reckons; None where it does not say."""
    try:
        lines = MEMORY.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None
