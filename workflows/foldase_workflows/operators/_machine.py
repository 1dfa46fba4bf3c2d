"""What the machine has left."""

from __future__ import annotations

from pathlib import Path

MEMORY = Path("/proc/meminfo")
PROCESS = Path("/proc/self/status")


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


def resident_memory(*, peak: bool = False) -> int:
    """Bytes that this process holds, or held at its peak; 0 where the kernel does not say."""
    name = "VmHWM:" if peak else "VmRSS:"
    try:
        lines = PROCESS.read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name)), 0)
