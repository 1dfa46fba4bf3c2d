"""Buffers in main memory that the device and the disk copy from and to: a fixed number, used in turn.

They are page-aligned anonymous memory maps of exactly their size. torch's own allocator of pinned memory
rounds sizes up to a power of two and keeps what was freed; 33 MiB would cost 64.
"""

from __future__ import annotations

import ctypes
import mmap
import threading
import time
import weakref
from contextlib import suppress
from types import TracebackType
from typing import Any

import torch

from foldase_models.errors import ModelError
from foldase_models.training.ledger import Ledger

BLOCK = 4096
"""Bytes: a page, and what direct transfers to disks are multiples of."""
DEADLINE_SECONDS = 120.0
"""How long one transfer may take, and how long a buffer may be missing."""

_MMAP_THRESHOLD = -3
"""The number of that option in malloc.h."""
_LARGE_BYTES = 2**20


def return_freed_memory() -> None:
    """Have the C library give large vectors back to the system when they are freed; for the whole process.

    glibc learns from the first ones to keep later ones of up to 32 MiB in its heap, where those that come and
    go with every layer leave gaps: hundreds of megabytes that nobody counts. Other libraries are left alone.
    """
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, _LARGE_BYTES)


def padded(size: int) -> int:
    """Bytes rounded up to whole blocks."""
    return -(-size // BLOCK) * BLOCK


def aligned(size: int) -> torch.Tensor:
    """Zeros, uint8 [padded(size)], that begin at a multiple of :data:`BLOCK`.

    Raises:
        ModelError: ``out_of_memory``.
    """
    try:
        # Private: a shared map, which is the default, would count as page cache.
        memory = mmap.mmap(-1, max(padded(size), BLOCK), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise _no_room(size, str(error)) from error
    return torch.frombuffer(memory, dtype=torch.uint8)


class PinnedPool:
    """A fixed number of buffers of one size; who wants one more waits until one is given back."""

    def __init__(
        self,
        count: int,
        size: int,
        ledger: Ledger,
        owner: str,
        *,
        deadline_seconds: float = DEADLINE_SECONDS,
    ) -> None:
        """Make the buffers, pinned where the ledger's device is a GPU, and count them there.

        Args:
            count: of buffers.
            size: bytes of each, rounded up to whole blocks.
            ledger: which counts them in the tier ``pinned``.
            owner: what for.
            deadline_seconds: how long to wait for one.

        Raises:
            ModelError: ``out_of_memory``.
        """
        self.count, self.size = count, padded(size)
        self._ledger, self._owner, self._deadline = ledger, owner, deadline_seconds
        self._free = [aligned(self.size) for _ in range(count)]
        # The finalizer holds the buffers, so that they are unpinned while they still exist.
        self._unpin = weakref.finalize(self, _unpin, _pin(self._free) if ledger.device.type == "cuda" else [])
        self._given: set[int] = set()
        self._changed = threading.Condition()
        for buffer in self._free:
            ledger.adopt("pinned", owner, buffer)

    def take(self) -> torch.Tensor:
        """A buffer, uint8 [size], with whatever was in it last; waits for one.

        Raises:
            ModelError: ``offload_stalled``: none was given back within the deadline.
        """
        until = time.monotonic() + self._deadline
        with self._changed:
            while not self._free:
                if not self._changed.wait(max(0.0, until - time.monotonic())) and not self._free:
                    raise ModelError(
                        f"none of the {self.count} buffers of {self._owner} came back within "
                        f"{self._deadline:g} s",
                        code="offload_stalled",
                        location="offload",
                        hint="the copies or the disk behind them no longer answer: look at the system's log",
                    )
            buffer = self._free.pop()
            self._given.add(buffer.data_ptr())
            return buffer

    def give(self, buffer: torch.Tensor) -> None:
        """Give a buffer back."""
        with self._changed:
            self._given.remove(buffer.data_ptr())
            self._free.append(buffer)
            self._changed.notify()

    def lent(self) -> Lent:
        """A buffer for the time of a ``with``."""
        return Lent(self)

    def close(self) -> None:
        """Let the memory go; no buffer may be in use any more."""
        with self._changed:
            for buffer in self._free:
                self._ledger.release(buffer)
            self._free.clear()
        self._unpin()
        self.count = 0


class Lent:
    """A buffer of a pool for the time of a ``with``."""

    def __init__(self, pool: PinnedPool) -> None:
        self._pool = pool
        self._buffer: torch.Tensor | None = None

    def __enter__(self) -> torch.Tensor:
        self._buffer = self._pool.take()
        return self._buffer

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._buffer is not None:
            self._pool.give(self._buffer)
            self._buffer = None


def _pin(buffers: list[torch.Tensor]) -> list[torch.Tensor]:
    pinned: list[torch.Tensor] = []
    for buffer in buffers:
        code = int(_runtime().cudaHostRegister(buffer.data_ptr(), buffer.numel(), 0))
        if code != 0:
            _unpin(pinned)
            raise _no_room(buffer.numel(), f"cudaHostRegister gave error {code}")
        pinned.append(buffer)
    return pinned


def _unpin(buffers: list[torch.Tensor]) -> None:
    for buffer in buffers:
        _runtime().cudaHostUnregister(buffer.data_ptr())


def _runtime() -> Any:
    return torch.cuda.cudart()  # type: ignore[no-untyped-call]


def _no_room(size: int, said: str) -> ModelError:
    return ModelError(
        f"no room for a buffer of {size:,} bytes in main memory: {said}",
        code="out_of_memory",
        location="offload",
        hint="lower limits.bucket_bytes, or give the rank more memory",
    )
