"""What an attempt takes: processor time and peak memory; and how many threads it may start."""

from __future__ import annotations

import os
import re
import resource
import sys
import time
from typing import Protocol

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_KIB = 1024
_STATUS_BYTES = 4096
_PEAK = re.compile(rb"VmHWM:\s*(\d+)")
_NOW = re.compile(rb"VmRSS:\s*(\d+)")


class Meter(Protocol):
    """Measures one attempt at a time."""

    def start(self) -> None:
        """The attempt begins."""

    def held(self) -> int:
        """Memory in bytes now (0: not known)."""

    def read(self) -> tuple[int, float]:
        """Peak memory in bytes (0: not known) and processor seconds since ``start``."""


class ProcessMeter:
    """Measures the whole process: right where one process runs one attempt at a time."""

    def __init__(self) -> None:
        self._cpu = 0.0
        self._children = 0
        # Kept open: a tiny step would spend most of its time on opening them.
        self._status = os.open("/proc/self/status", os.O_RDONLY | os.O_CLOEXEC)
        self._reset = os.open("/proc/self/clear_refs", os.O_WRONLY | os.O_CLOEXEC)

    def start(self) -> None:
        """Note the processor time so far and set the kernel's high-water mark of memory back."""
        self._cpu, self._children = _cpu_seconds(), _children_peak()
        os.write(self._reset, b"5")

    def held(self) -> int:
        """Resident memory of the process."""
        return self._memory(_NOW)

    def read(self) -> tuple[int, float]:
        """Peak resident memory of the process, or of its largest new child, and processor seconds of all."""
        children = _children_peak()
        peak = max(self._memory(_PEAK), children if children > self._children else 0)
        return peak, _cpu_seconds() - self._cpu

    def _memory(self, kind: re.Pattern[bytes]) -> int:
        found = kind.search(os.pread(self._status, _STATUS_BYTES, 0))
        return int(found.group(1)) * _KIB if found else 0


class ThreadMeter:
    """Measures the calling thread: for attempts that share a process. Memory cannot be told apart."""

    def __init__(self) -> None:
        self._cpu = 0.0

    def start(self) -> None:
        """Note the processor time so far."""
        self._cpu = time.thread_time()

    def held(self) -> int:
        """Not known."""
        return 0

    def read(self) -> tuple[int, float]:
        """Processor seconds of this thread."""
        return 0, time.thread_time() - self._cpu


def limit_threads(cpus: float) -> None:
    """Have numeric libraries of this process use as many threads as the step has cores.

    Libraries that are not loaded yet read the environment; torch, once loaded, has to be told. The number
    belongs to the calling thread, so call it where the operator will run.
    """
    number = max(1, int(cpus))
    if os.environ.get(_THREAD_VARIABLES[0]) != str(number):
        os.environ.update(dict.fromkeys(_THREAD_VARIABLES, str(number)))
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != number:
        torch.set_num_threads(number)


def _cpu_seconds() -> float:
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def _children_peak() -> int:
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * _KIB
