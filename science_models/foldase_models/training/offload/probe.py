"""How fast a disk is, measured in a moment before a run that will depend on it."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from foldase_models.training.offload.disk import DiskFile, Transfer
from foldase_models.training.offload.pinned import BLOCK, aligned, padded

PROBE_BYTES = 64 * 2**20
PHASE_SECONDS = 0.3
_DEPTH = 2


@dataclass(frozen=True, slots=True)
class Probe:
    """What a disk can do.

    Attributes:
        folder: where it was measured.
        read: bytes a second when nothing is written.
        write: bytes a second when nothing is read.
        mixed: bytes a second, of both together, when as much is read as written.
        free_bytes: that a user may take.
        alignment: bytes that transfers are multiples of; 1 where they go through the page cache.
        notes: what is not as it should be.
    """

    folder: Path
    read: float
    write: float
    mixed: float
    free_bytes: int
    alignment: int
    notes: tuple[str, ...]

    def explain(self) -> str:
        """One line for people."""
        speeds = ", ".join(
            f"{name} {speed / 1e6:,.0f} MB/s"
            for name, speed in (("read", self.read), ("write", self.write), ("mixed", self.mixed))
        )
        return "; ".join([f"{self.folder}: {speeds}; {self.free_bytes / 1e9:,.1f} GB free", *self.notes])


def probe(folder: Path, *, size: int = PROBE_BYTES, seconds: float = PHASE_SECONDS) -> Probe:
    """Measure a disk with transfers like those of a training, in a file that is gone afterwards.

    Args:
        folder: on the disk.
        size: bytes of the file; a sixteenth of it is moved at once.
        seconds: of each of the three measurements.

    Raises:
        ModelError: ``bad_disk``: the folder is missing, read-only or too full.
    """
    chunk = padded(max(BLOCK, size // 16))
    places = range(0, 16 * chunk, chunk)
    file = DiskFile(folder, 16 * chunk, owner="probe")
    try:
        buffers = [aligned(chunk) for _ in range(2 * _DEPTH)]
        # What was never written is neither read nor overwritten as fast as what was.
        _rate([(file.write, places)], buffers, 0.0, laps=1)
        found = os.fstatvfs(file.fileno())
        return Probe(
            folder,
            read=_rate([(file.read, places)], buffers, seconds),
            write=_rate([(file.write, places)], buffers, seconds),
            mixed=_rate([(file.read, places[:8]), (file.write, places[8:])], buffers, seconds),
            free_bytes=found.f_bavail * found.f_frsize,
            alignment=BLOCK if file.direct else 1,
            notes=file.notes,
        )
    finally:
        file.close()


def _rate(
    lanes: Sequence[tuple[Callable[[int, torch.Tensor], Transfer], range]],
    buffers: Sequence[torch.Tensor],
    seconds: float,
    laps: int = 0,
) -> float:
    """Bytes a second of transfers that follow each other in every lane, at least so many laps of them."""
    under_way: deque[Transfer] = deque()
    began, turn, moved = time.monotonic(), 0, 0
    least = max(1, laps * len(lanes[0][1]))
    while turn < least or time.monotonic() - began < seconds:
        for number, (start, places) in enumerate(lanes):
            if len(under_way) == _DEPTH * len(lanes):
                under_way.popleft().wait()
            buffer = buffers[(turn * len(lanes) + number) % (_DEPTH * len(lanes))]
            under_way.append(start(places[turn % len(places)], buffer))
            moved += buffer.numel()
        turn += 1
    for transfer in under_way:
        transfer.wait()
    return moved / (time.monotonic() - began)
