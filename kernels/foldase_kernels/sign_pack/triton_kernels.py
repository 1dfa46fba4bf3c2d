"""Triton kernels of packing and unpacking: a program holds a block in registers, read and written once.

Coordinates are ``[groups, 8]``: a group is a byte of the packed vectors. Offsets are 64 bits wide. Masks are
None where all coordinates travel.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _groups(BLOCK: tl.constexpr) -> tl.tensor:
    """The bytes of this program's block."""
    return tl.program_id(0).to(tl.int64) * (BLOCK // 8) + tl.arange(0, BLOCK // 8)


@triton.jit
def _coordinates(groups: tl.tensor) -> tl.tensor:
    """``[groups, 8]``: where the coordinates of bytes are."""
    return groups[:, None] * 8 + tl.arange(0, 8)[None, :]


@triton.jit
def _flags(packed: tl.tensor, groups: tl.tensor, count: tl.tensor) -> tl.tensor:
    """``[groups, 8]``: the bits of bytes."""
    own = tl.load(packed + groups, mask=groups < count, other=0).to(tl.int32)
    return ((own[:, None] >> tl.arange(0, 8)[None, :]) & 1) != 0


@triton.jit
def _store_flags(packed: tl.tensor, flags: tl.tensor, groups: tl.tensor, count: tl.tensor) -> None:
    own = tl.sum(flags.to(tl.int32) << tl.arange(0, 8)[None, :], 1)
    tl.store(packed + groups, own.to(tl.uint8), mask=groups < count)


@triton.jit
def encode(
    values: tl.tensor,
    error: tl.tensor,
    bits: tl.tensor,
    scales: tl.tensor,
    mask: tl.tensor,
    count: tl.tensor,
    alpha: tl.tensor,
    BLOCK: tl.constexpr,
) -> None:
    """One program: signs, scale and errors of one block of ``count`` groups in all."""
    groups = _groups(BLOCK)
    at = _coordinates(groups)
    inside = (groups < count)[:, None]
    given = tl.load(values + at, mask=inside, other=0.0)
    z = tl.fma(given, alpha, tl.load(error + at, mask=inside, other=0.0))
    travels = tl.broadcast_to(inside, (BLOCK // 8, 8))
    if mask is not None:
        travels = _flags(mask, groups, count)
    z = tl.where(travels, z, 0.0)
    total = tl.sum(tl.sum(tl.abs(z).to(tl.float64), 1), 0)
    shown = tl.sum(tl.sum(travels.to(tl.int32), 1), 0)
    scale = (total / tl.maximum(shown, 1).to(tl.float64)).to(tl.float32)
    positive = z >= 0.0
    z -= tl.where(positive, scale, -scale)
    tl.store(error + at, tl.where(travels, z, 0.0), mask=inside)
    tl.store(scales + tl.program_id(0), scale)
    _store_flags(bits, positive, groups, count)


@triton.jit
def decode(
    bits: tl.tensor,
    scales: tl.tensor,
    out: tl.tensor,
    mask: tl.tensor,
    count: tl.tensor,
    weight: tl.tensor,
    ADD: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """One program: one block of ``count`` groups in all."""
    groups = _groups(BLOCK)
    at = _coordinates(groups)
    inside = (groups < count)[:, None]
    scale = tl.load(scales + tl.program_id(0)) * weight
    decoded = tl.where(_flags(bits, groups, count), scale, -scale)
    if mask is not None:
        decoded = tl.where(_flags(mask, groups, count), decoded, 0.0)
    if ADD:
        decoded += tl.load(out + at, mask=inside, other=0.0)
    tl.store(out + at, decoded, mask=inside)


@triton.jit
def pack_mask(source: tl.tensor, mask: tl.tensor, count: tl.tensor, BLOCK: tl.constexpr) -> None:
    """One program: which of some coordinates are not 0."""
    groups = _groups(BLOCK)
    given = tl.load(source + _coordinates(groups), mask=(groups < count)[:, None], other=0.0)
    _store_flags(mask, given != 0.0, groups, count)
