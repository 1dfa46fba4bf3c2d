"""What this machine offers: cores, memory and accelerators, within the limits of its container."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from foldase_workflows.contracts.operator import Gpu, Hardware

_CGROUP = Path("/sys/fs/cgroup")
_MIB = 1 << 20
_QUERY = ("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits")
_QUERY_SECONDS = 10


def this_machine() -> Hardware:
    """Cores that this process may use, memory that it may have, and NVIDIA devices."""
    return Hardware(cpus=_cpus(), memory_bytes=_memory(), gpus=_gpus())


def memory_used() -> int:
    """Bytes of memory in use on the machine, without what the kernel would give back at once."""
    return _memory() - memory_free()


def memory_free() -> int:
    """Bytes that can still be had, on the machine and within the limit of the container."""
    free = _figures(_read(Path("/proc/meminfo")), 1024).get("MemAvailable", 0)
    limit = _read(_CGROUP / "memory.max").strip()
    if limit.isdigit():
        current = int(_read(_CGROUP / "memory.current") or 0)
        # Cached files count as used there, and yet they give way.
        cached = _figures(_read(_CGROUP / "memory.stat"), 1).get("inactive_file", 0)
        free = min(free, int(limit) - current + cached)
    return max(0, free)


class OomCounter:
    """Notices that the kernel has killed something for want of memory."""

    def __init__(self) -> None:
        self._seen = _kernel_kills()

    def risen(self) -> bool:
        """Whether it has since the last call."""
        now = _kernel_kills()
        risen, self._seen = now > self._seen, now
        return risen


def _cpus() -> float:
    cores = float(len(os.sched_getaffinity(0)))
    quota = _read(_CGROUP / "cpu.max").split()
    if len(quota) == 2 and quota[0].isdigit():
        return min(cores, max(1.0, int(quota[0]) / int(quota[1])))
    return cores


def _memory() -> int:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = _read(_CGROUP / "memory.max").strip()
    return min(total, int(limit)) if limit.isdigit() else total


def _figures(text: str, unit: int) -> dict[str, int]:
    """Lines of ``name: number`` or ``name number``, in bytes."""
    rows = (line.replace(":", " ").split() for line in text.splitlines())
    return {row[0]: int(row[1]) * unit for row in rows if len(row) > 1 and row[1].isdigit()}


def _gpus() -> tuple[Gpu, ...]:
    try:
        answer = subprocess.run(
            _QUERY, capture_output=True, text=True, timeout=_QUERY_SECONDS, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    rows = [line.rsplit(",", 1) for line in answer.splitlines() if "," in line]
    return tuple(Gpu(name.strip(), int(size) * _MIB) for name, size in rows if size.strip().isdigit())


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except OSError:
        return ""


def _kernel_kills() -> int:
    try:
        lines = Path("/proc/vmstat").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
