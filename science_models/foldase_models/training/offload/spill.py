"""Where saved activations lie until the backward pass: buffers of main memory, or a file that grows.

Bytes leave the device and come back beside the computation; on a GPU by streams of their own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path

import torch

from foldase_models.errors import ModelError
from foldase_models.training.clock import Clock
from foldase_models.training.collectives import Waitable
from foldase_models.training.ledger import Ledger
from foldase_models.training.offload.disk import DiskFile
from foldase_models.training.offload.lanes import Intake, Outlet, recorded, stream_on
from foldase_models.training.offload.pinned import DEADLINE_SECONDS, PinnedPool, padded

OWNER = "offloaded activations"
STEPS_A_DOUBLING = 8
"""Sizes of buffers between two powers of two: of each at most an eighth is not used."""
STAGING_BYTES, STAGING_BUFFERS = 4 * 2**20, 4
SEGMENT_BYTES = 64 * 2**20
"""The least by which the space on a disk grows."""


class Spilled(ABC):
    """Bytes that left the device."""

    @abstractmethod
    def fetch(self) -> None:
        """Begin to bring them back; nothing where that began before."""

    @abstractmethod
    def bytes(self) -> torch.Tensor:
        """The bytes on the device, uint8 [n]; those of the first call again until :meth:`forget`."""

    @abstractmethod
    def forget(self) -> None:
        """They are not wanted any more; from any thread."""


class Spill(ABC):
    """A place for them."""

    @abstractmethod
    def keep(self, source: torch.Tensor) -> Spilled:
        """Begin to copy bytes, uint8 [n], that are on the device and do not change."""

    def sweep(self) -> None:  # noqa: B027  # only some have something to sweep
        """A pass begins: what was not used since the last one did may be given back."""

    @abstractmethod
    def close(self) -> None:
        """Give everything back."""


class HostSpill(Spill):
    """Buffers of main memory, pinned where there is a GPU, used again for whatever fits into them."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self.ledger, self.clock = ledger, clock
        self.out, self.back = stream_on(ledger.device), stream_on(ledger.device)
        self._idle: dict[int, list[_Buffer]] = {}
        self._busy: dict[int, int] = {}
        self._most: dict[int, int] = {}
        # Filled wherever a graph is freed, which may be in the middle of anything.
        self._returned: deque[_Buffer] = deque()

    def keep(self, source: torch.Tensor) -> Spilled:
        """Into a buffer of its own."""
        return _InHost(self, source)

    def take(self, size: int) -> _Buffer:
        """A buffer of at least so many bytes."""
        self._drain()
        rounded = rounded_up(size)
        self._busy[rounded] = self._busy.get(rounded, 0) + 1
        self._most[rounded] = max(self._most.get(rounded, 0), self._busy[rounded])
        idle = self._idle.setdefault(rounded, [])
        return idle.pop() if idle else _Buffer(PinnedPool(1, rounded, self.ledger, OWNER))

    def give(self, buffer: _Buffer) -> None:
        """Take it back; from any thread."""
        self._returned.append(buffer)

    def sweep(self) -> None:
        """Of every size as many buffers stay as were in use at once since the last time."""
        self._drain()
        for size, idle in self._idle.items():
            while idle and len(idle) + self._busy[size] > self._most[size]:
                idle.pop().close()
        self._most = dict(self._busy)

    def close(self) -> None:
        """Buffers in use go with whatever uses them."""
        self._drain()
        for idle in self._idle.values():
            while idle:
                idle.pop().close()

    def _drain(self) -> None:
        while self._returned:
            buffer = self._returned.popleft()
            self._busy[buffer.size] -= 1
            self._idle[buffer.size].append(buffer)


class _Buffer:
    """The one buffer of a pool."""

    def __init__(self, pool: PinnedPool) -> None:
        self._pool, self.size = pool, pool.size
        self.memory = pool.take()

    def close(self) -> None:
        """Let it go."""
        self._pool.give(self.memory)
        del self.memory
        self._pool.close()


class _InHost(Spilled):
    def __init__(self, spill: HostSpill, source: torch.Tensor) -> None:
        self._spill, self._size, self._device = spill, source.numel(), source.device
        self._buffer: _Buffer | None = spill.take(self._size)
        self._kept = self._buffer.memory[: self._size]
        self._event: torch.cuda.Event | None = None
        self._back: torch.Tensor | None = None
        if spill.out is None:
            with spill.clock.busy("transfer"), spill.clock.waiting("transfer"):
                self._kept.copy_(source)
            return
        spill.out.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(spill.out):
            self._kept.copy_(source, non_blocking=True)
            self._event = recorded(spill.out)
        source.record_stream(spill.out)

    def fetch(self) -> None:
        if self._back is not None:
            return
        self._back = torch.empty(self._size, dtype=torch.uint8, device=self._device)
        if self._spill.back is None:
            with self._spill.clock.busy("transfer"), self._spill.clock.waiting("transfer"):
                self._back.copy_(self._kept)
            return
        assert self._event is not None
        self._spill.back.wait_event(self._event)
        self._spill.back.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._spill.back):
            self._back.copy_(self._kept, non_blocking=True)
            self._event = recorded(self._spill.back)
        self._back.record_stream(self._spill.back)

    def bytes(self) -> torch.Tensor:
        self.fetch()
        assert self._back is not None
        if self._event is not None:
            torch.cuda.current_stream().wait_event(self._event)
        return self._back

    def forget(self) -> None:
        buffer, self._buffer = self._buffer, None
        if buffer is not None:
            if self._event is not None:
                self._event.synchronize()
            self._spill.give(buffer)


class DiskSpill(Spill):
    """Places in a file, which the bytes reach and leave through a few small buffers."""

    def __init__(
        self, folder: Path, ledger: Ledger, clock: Clock, *, segment_bytes: int = SEGMENT_BYTES
    ) -> None:
        """Take the first segment of the disk.

        Raises:
            ModelError: ``bad_disk``: the folder is missing, read-only or too full.
        """
        self.space = Space(folder, ledger, clock, segment_bytes)
        self.staging = PinnedPool(STAGING_BUFFERS, STAGING_BYTES, ledger, OWNER)
        self.intake = Intake(ledger.device, self.staging, clock, "disk")
        self.outlet = Outlet(ledger.device, self.staging, clock, "disk")
        self.ledger, self.clock = ledger, clock

    def keep(self, source: torch.Tensor) -> Spilled:
        """To a place of its own."""
        return _OnDisk(self, source)

    def close(self) -> None:
        """What is on its way arrives first."""
        self.intake.close()
        self.outlet.close()
        self.space.close()
        self.staging.close()


class _OnDisk(Spilled):
    def __init__(self, spill: DiskSpill, source: torch.Tensor) -> None:
        self._spill, self._size, self._device = spill, source.numel(), source.device
        self._place: Place | None = spill.space.take(self._size)
        self._written: list[Future[None]] = []
        self._back: torch.Tensor | None = None
        self._coming: Waitable | None = None
        pieces = []
        for start, length in _pieces(self._size, spill.staging.size):
            self._written.append(Future())
            piece = source[start : start + length]
            pieces.append((piece, partial(self._land, start, self._written[-1], piece)))
        spill.intake.bring(pieces)

    def fetch(self) -> None:
        if self._back is not None:
            return
        assert self._place is not None
        self._back = torch.empty(self._size, dtype=torch.uint8, device=self._device)
        pieces = [
            (self._back[start : start + length], partial(self._fill, self._place, number, start, length))
            for number, (start, length) in enumerate(_pieces(self._size, self._spill.staging.size))
        ]
        self._coming = self._spill.outlet.send(pieces)

    def bytes(self) -> torch.Tensor:
        self.fetch()
        assert self._back is not None
        coming, self._coming = self._coming, None
        if coming is not None:
            coming.wait()
        return self._back

    def forget(self) -> None:
        place, self._place = self._place, None
        if place is None:
            return
        coming, self._coming = self._coming, None
        if coming is not None:
            # Fetched ahead, and then not wanted: nothing will ask what became of it.
            with suppress(ModelError):
                coming.wait()
        # A place may be written again only when what is under way has arrived; pieces arrive in order.
        self._written[-1].add_done_callback(lambda _: self._spill.space.give(place))

    def _land(
        self,
        start: int,
        written: Future[None],
        _piece: torch.Tensor,
        buffer: torch.Tensor,
        staged: torch.Tensor,
    ) -> None:
        """Write what arrived; holding on to the piece keeps its memory from being used again before."""
        try:
            place = self._place
            if place is not None:
                place.file.write(place.start + start, buffer[: padded(staged.numel())]).wait()
        except BaseException as error:
            written.set_exception(error)
            raise
        written.set_result(None)

    def _fill(self, place: Place, number: int, start: int, length: int, buffer: torch.Tensor) -> torch.Tensor:
        self._written[number].result(DEADLINE_SECONDS)
        place.file.read(place.start + start, buffer[: padded(length)]).wait()
        return buffer[:length]


class Place:
    """Bytes of a file of a :class:`Space`, from ``start`` to ``stop``."""

    def __init__(self, file: DiskFile, start: int, stop: int) -> None:
        self.file, self.start, self.stop = file, start, stop


class Space:
    """Space on a disk that grows by files, each half as large as all before it."""

    def __init__(self, folder: Path, ledger: Ledger, clock: Clock, segment_bytes: int) -> None:
        self._folder, self._ledger, self._clock = folder, ledger, clock
        self._files: list[DiskFile] = []
        self._free: list[Place] = []
        # Filled wherever a graph is freed, which may be in the middle of anything.
        self._returned: deque[Place] = deque()
        self._segment = segment_bytes
        self._grow(segment_bytes)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self._files)

    @property
    def free(self) -> int:
        """Bytes that no one has."""
        self._drain()
        return sum(place.stop - place.start for place in self._free)

    def take(self, size: int) -> Place:
        """A place for so many bytes, in whole blocks.

        Raises:
            ModelError: ``bad_disk``: the disk is full.
        """
        self._drain()
        size = padded(size)
        found = next((place for place in self._free if place.stop - place.start >= size), None)
        if found is None:
            found = self._grow(max(size, self._segment, padded(self.size // 2)))
        taken = Place(found.file, found.start, found.start + size)
        found.start += size
        if found.start == found.stop:
            self._free.remove(found)
        return taken

    def give(self, place: Place) -> None:
        """Take a place back; from any thread."""
        self._returned.append(place)

    def close(self) -> None:
        """Close the files, which gives their space back to the disk."""
        for file in self._files:
            file.close()

    def _drain(self) -> None:
        """Places that came back join those before and behind them."""
        while self._returned:
            place = self._returned.popleft()
            for other in [each for each in self._free if each.file is place.file]:
                if other.stop == place.start or other.start == place.stop:
                    self._free.remove(other)
                    place = Place(place.file, min(place.start, other.start), max(place.stop, other.stop))
            self._free.append(place)

    def _grow(self, size: int) -> Place:
        file = DiskFile(self._folder, size, clock=self._clock, ledger=self._ledger, owner=OWNER)
        self._files.append(file)
        self._free.append(Place(file, 0, file.size))
        return self._free[-1]


def rounded_up(size: int) -> int:
    """The next of :data:`STEPS_A_DOUBLING` sizes between powers of two, in whole blocks."""
    step = max(1, (1 << max(size - 1, 1).bit_length()) // (2 * STEPS_A_DOUBLING))
    return padded(-(-size // step) * step)


def _pieces(size: int, largest: int) -> Iterator[tuple[int, int]]:
    for start in range(0, size, largest):
        yield start, min(largest, size - start)
