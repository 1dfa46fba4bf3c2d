"""What the machine has left."""

from __future__ import annotations

from pathlib import Path

MEMORY = Path("/proc/meminfo")
PROCESS = Path("/proc/self/status")
BYTES_PER_CELL = {"mean_field": 40, "pseudolikelihood": 44}
"""Memory of a fit over the square of columns times letters, all copies and the search's history counted."""


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


def check_coupling_memory(columns: int, letters: int, method: str = "mean_field") -> None:
    """Say before a fit of couplings begins that it cannot end.

    Raises:
        MemoryError: it needs more than is free.
    """
    needed, free = BYTES_PER_CELL[method] * (columns * letters) ** 2, available_memory()
    if free is not None and needed > free:
        raise MemoryError(
            f"couplings of {columns} columns and {letters} letters need about {needed / 2**30:.1f} GiB, "
            f"{free / 2**30:.1f} GiB are free"
        )
