"""The slots in their file: vectors of groups, whole or in part, by name."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from foldase_models.training.offload.disk import DiskFile, Transfer
from foldase_models.training.offload.pinned import BLOCK, PinnedPool, padded
from foldase_models.training.offload.slots import Group, Slots, runs


class StateFile:
    """What lies in a file, arranged as slots."""

    def __init__(self, file: DiskFile, slots: Slots, pool: PinnedPool) -> None:
        """``pool`` has buffers that hold any one vector of a group, for parts of vectors on their way."""
        self.file, self.slots, self._pool = file, slots, pool

    def read(self, group: Group, buffer: torch.Tensor, names: Sequence[tuple[str, str]]) -> list[Transfer]:
        """Begin to read vectors, by their names in the file and in the buffer."""
        return [
            self.file.read(place, buffer[inside : inside + size])
            for place, inside, size in runs(group, names)
        ]

    def write(self, group: Group, buffer: torch.Tensor, names: Sequence[tuple[str, str]]) -> list[Transfer]:
        """Begin to write vectors, by their names in the file and in the buffer."""
        return [
            self.file.write(place, buffer[inside : inside + size])
            for place, inside, size in runs(group, names)
        ]

    def read_alone(self, group: Group, name: str, buffer: torch.Tensor) -> torch.Tensor:
        """One vector of a group, now, at the beginning of a buffer."""
        self.file.read(group.places[name], buffer[: group.sizes[name]]).wait()
        dtype = group.dtype_of(name)
        return buffer[: group.length * dtype.itemsize].view(dtype)

    def get(self, bucket: int, name: str, start: int, length: int) -> torch.Tensor:
        """Elements of a bucket's vector, float32 [length], now."""
        found = torch.empty(length, dtype=torch.float32)
        for group, first, last in self._parts(bucket, start, length):
            with self._pool.lent() as buffer:
                part = self._blocks(group, name, first, last, buffer)[2]
                begin = group.start + first - start
                found[begin : begin + last - first] = part
        return found

    @torch.no_grad()
    def put(self, bucket: int, names: Sequence[str], start: int, values: torch.Tensor) -> None:
        """Change elements of one or more of a bucket's vectors to the same values, [length], now."""
        for group, first, last in self._parts(bucket, start, values.numel()):
            for name in names:
                with self._pool.lent() as buffer:
                    place, blocks, part = self._blocks(group, name, first, last, buffer)
                    begin = group.start + first - start
                    part.copy_(values[begin : begin + last - first])
                    self.file.write(place, blocks).wait()

    def _parts(self, bucket: int, start: int, length: int) -> list[tuple[Group, int, int]]:
        """Groups that elements lie in, and which elements of each."""
        found = []
        for group in self.slots.of(bucket):
            first = max(0, start - group.start)
            last = min(group.length, start + length - group.start)
            if first < last:
                found.append((group, first, last))
        return found

    def _blocks(
        self, group: Group, name: str, first: int, last: int, buffer: torch.Tensor
    ) -> tuple[int, torch.Tensor, torch.Tensor]:
        """Read the blocks that elements lie in: their place, the blocks, and the elements among them."""
        dtype = group.dtype_of(name)
        begin = first * dtype.itemsize // BLOCK * BLOCK
        size = padded(last * dtype.itemsize) - begin
        place = group.places[name] + begin
        self.file.read(place, buffer[:size]).wait()
        part = buffer[first * dtype.itemsize - begin : last * dtype.itemsize - begin].view(dtype)
        return place, buffer[:size], part


def finish(transfers: list[Transfer]) -> None:
    """Wait for all of them, and forget them."""
    while transfers:
        transfers.pop().wait()
