"""Packing and unpacking in torch's own operations on any device, some blocks at a time.

Choosing between two numbers and reducing eight bytes are slow on a processor, so signs and masks come from
tables with a row for each byte, and eight bytes are packed by one product of 64-bit integers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch

from foldase_kernels.sign_pack.problem import LANES, Backend, Decoding, Encoding

ELEMENTS_AT_ONCE = {"cpu": 2**19}
ELEMENTS_AT_ONCE_ELSEWHERE = 2**22
"""Coordinates of one chunk, in whole blocks; more where starting a kernel costs more."""

SCRATCH_BYTES = 16
"""Of a coordinate of a chunk, at most: a float64, a flag, half an index, and whether it travels."""

GATHER = 0x0102040810204080
"""The least bits of eight bytes times this stand in the highest byte in their order, without carries."""
HIGHEST_BYTE = 56


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Where the coordinates, bytes and scales of some blocks of one width are."""

    coordinates: slice
    groups: slice
    blocks: slice
    width: int


@torch.no_grad()
def _encode(problem: Encoding) -> None:
    scratch = _Scratch(problem.values, problem.block)
    for chunk in _chunks(problem.values, problem.block):
        z, bits = problem.error[chunk.coordinates], problem.bits[chunk.groups]
        z.add_(problem.values[chunk.coordinates], alpha=problem.alpha)
        shown = None if problem.mask is None else scratch.shown(problem.mask[chunk.groups])
        if shown is not None:
            _keep(z, shown)
        scratch.pack(z, bits)
        scales = problem.scales[chunk.blocks]
        scales.copy_(_means(scratch.magnitudes(z).view(-1, chunk.width), shown))
        z.view(-1, chunk.width).sub_(scratch.signs(bits).view(-1, chunk.width).mul_(scales[:, None]))
        if shown is not None:
            _keep(z, shown)


@torch.no_grad()
def _decode(problem: Decoding) -> None:
    scratch = _Scratch(problem.out, problem.block)
    scales = problem.scales * problem.weight
    for chunk in _chunks(problem.out, problem.block):
        out = problem.out[chunk.coordinates]
        decoded = scratch.signs(problem.bits[chunk.groups], out=None if problem.add else out)
        decoded.view(-1, chunk.width).mul_(scales[chunk.blocks, None])
        if problem.mask is not None:
            _keep(decoded, scratch.shown(problem.mask[chunk.groups]))
        if problem.add:
            out.add_(decoded)


@torch.no_grad()
def _pack_mask(source: torch.Tensor, mask: torch.Tensor) -> None:
    scratch = _Scratch(source, LANES)
    for chunk in _chunks(source, LANES):
        scratch.pack_present(source[chunk.coordinates], mask[chunk.groups])


def _step(device: torch.device, block: int) -> int:
    at_once = ELEMENTS_AT_ONCE.get(device.type, ELEMENTS_AT_ONCE_ELSEWHERE)
    return max(1, at_once // block) * block


def _chunks(vector: torch.Tensor, block: int) -> Iterator[_Chunk]:
    """Whole blocks, some at a time, then the shorter one that may be left."""
    step, whole = _step(vector.device, block), vector.numel() // block * block
    parts = [(first, min(whole, first + step), block) for first in range(0, whole, step)]
    if whole < vector.numel():
        parts.append((whole, vector.numel(), vector.numel() - whole))
    for first, end, width in parts:
        number = first // block
        blocks = slice(number, number + (end - first) // width)
        yield _Chunk(slice(first, end), slice(first // LANES, end // LANES), blocks, width)


def _means(magnitudes: torch.Tensor, shown: torch.Tensor | None) -> torch.Tensor:
    """Of the coordinates that travel, all others being 0; float64, one a row."""
    totals = magnitudes.sum(1)
    if shown is None:
        return totals.div_(magnitudes.shape[1])
    # All bits of an integer are those of -1.
    counts = shown.view(magnitudes.shape).sum(1, dtype=torch.int32).neg_()
    return totals.div_(counts.clamp_(min=1))


def _keep(vector: torch.Tensor, shown: torch.Tensor) -> None:
    """0 where nothing travels, whatever stands there, even what is not a number."""
    vector.view(torch.int32).bitwise_and_(shown)


class _Scratch:
    """Room for one chunk, made once, since new memory has to be cleared each time; and what bytes mean."""

    def __init__(self, vector: torch.Tensor, block: int) -> None:
        self._device = vector.device
        self._count = min(vector.numel(), _step(vector.device, block))
        lanes = torch.arange(LANES, device=self._device)
        self._bits = torch.arange(256, device=self._device)[:, None] >> lanes & 1
        self._index = self._room(torch.int32, self._count // LANES)

    def magnitudes(self, vector: torch.Tensor) -> torch.Tensor:
        """Float64; they stand where signs will."""
        return self._wide[: vector.numel()].copy_(vector).abs_()

    def signs(self, packed: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
        """1 or -1 for each coordinate, float32, in ``out`` or in scratch."""
        room = self._wide.view(torch.float32)[: LANES * packed.numel()] if out is None else out
        return self._look_up(self._signs, packed, room)

    def shown(self, packed: torch.Tensor) -> torch.Tensor:
        """All bits of an int32 set for each coordinate that travels, none elsewhere."""
        return self._look_up(self._all_or_none, packed, self._shown[: LANES * packed.numel()])

    def pack(self, vector: torch.Tensor, out: torch.Tensor) -> None:
        """Set the bits of what is 0 or more."""
        _gather(torch.ge(vector, 0, out=self._flags[: vector.numel()]), out)

    def pack_present(self, vector: torch.Tensor, out: torch.Tensor) -> None:
        """Set the bits of what is not 0."""
        _gather(torch.ne(vector, 0, out=self._flags[: vector.numel()]), out)

    def _look_up(self, table: torch.Tensor, packed: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        index = self._index[: packed.numel()].copy_(packed)
        torch.index_select(table, 0, index, out=out.view(-1, LANES))
        return out

    def _room(self, dtype: torch.dtype, count: int) -> torch.Tensor:
        return torch.empty(count, dtype=dtype, device=self._device)

    @cached_property
    def _signs(self) -> torch.Tensor:
        return (2 * self._bits - 1).float()

    @cached_property
    def _all_or_none(self) -> torch.Tensor:
        return -self._bits.int()

    @cached_property
    def _wide(self) -> torch.Tensor:
        return self._room(torch.float64, self._count)

    @cached_property
    def _shown(self) -> torch.Tensor:
        return self._room(torch.int32, self._count)

    @cached_property
    def _flags(self) -> torch.Tensor:
        return self._room(torch.bool, self._count)


def _gather(flags: torch.Tensor, out: torch.Tensor) -> None:
    """Booleans, which are gone then, to bits; the lowest byte comes first wherever torch runs."""
    out.copy_(flags.view(torch.int64).mul_(GATHER).bitwise_right_shift_(HIGHEST_BYTE))


TORCH = Backend(_encode, _decode, _pack_mask)
