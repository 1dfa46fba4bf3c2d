"""The forward pass of triangle multiplication on the CPU, by groups of hidden channels and blocks of rows.

The contraction over k is independent for every hidden channel, so a and b exist for a group of channels
only, channels first, as matrix products want them. The products x need all rows of a and b, so they are
the one thing that is held whole. What follows, and the gate, needs z at the same pair only: it runs block of
rows by block of rows and may overwrite z or, where x lies in the memory of the result, x itself.

The scale and shift of a norm are folded into the linear layers behind it, so a norm is a difference and a
product. Buffers are allocated once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch

from foldase_kernels.scratch import scaled
from foldase_kernels.triangle_multiplication.parameters import (
    EPSILON,
    TriangleMultiplicationParameters,
    sum_dtype,
)

GROUP_SHARE = 4
"""The scratch of a group of channels is at most this part of ``[N, N, C]`` ..."""

SMALL = 4 * 2**20
"""... or this many bytes, below which smaller groups only cost time."""

PAIRS = 1024
"""Pairs in a block of rows; a row longer than that is a block of its own."""

FORWARD_BLOCKS = 4
"""Block buffers of the forward pass, each ``[pairs, max(c_z, C)]``."""


class Folded(NamedTuple):
    """Linear layers in the dtype of sums, the norm before each folded in."""

    pair: torch.Tensor
    """``[4, C, c_z]``: a_p, a_g, b_p, b_g."""
    pair_shift: torch.Tensor
    """``[4, C]``"""
    gate: torch.Tensor
    gate_shift: torch.Tensor
    out: torch.Tensor
    out_shift: torch.Tensor


def _folded(
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    norm_weight: torch.Tensor,
    norm_bias: torch.Tensor | None,
    wide: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor]:
    weight = weight.to(wide)
    shift = weight.new_zeros(weight.shape[0]) if bias is None else bias.to(wide)
    if norm_bias is not None:
        shift = shift + weight @ norm_bias.to(wide)
    return weight * norm_weight.to(wide), shift


def fold(p: TriangleMultiplicationParameters, wide: torch.dtype) -> Folded:
    """Fold ``LayerNorm`` into what follows: ``W (x * s + t) + b = (W * s) x + (W t + b)``."""
    layers = (
        (p.a_p_weight, p.a_p_bias),
        (p.a_g_weight, p.a_g_bias),
        (p.b_p_weight, p.b_p_bias),
        (p.b_g_weight, p.b_g_bias),
    )
    pair = [_folded(weight, bias, p.norm_in_weight, p.norm_in_bias, wide) for weight, bias in layers]
    gate = _folded(p.g_weight, p.g_bias, p.norm_in_weight, p.norm_in_bias, wide)
    out = _folded(p.z_weight, p.z_bias, p.norm_out_weight, p.norm_out_bias, wide)
    weights, shifts = torch.stack([w for w, _ in pair]), torch.stack([s for _, s in pair])
    return Folded(weights, shifts, *gate, *out)


def spans(size: int, step: int) -> Iterator[slice]:
    """Consecutive slices of at most ``step`` that cover ``size``."""
    return (slice(start, min(start + step, size)) for start in range(0, size, step))


def held_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of x: that of z, but for float16, which a sum over N products may overflow."""
    return torch.float32 if dtype == torch.float16 else dtype


def block_pairs(size: int) -> int:
    """How many pairs the largest block of whole rows has; no more than there are."""
    return size * min(size, max(1, scaled(PAIRS) // size))


def group_size(size: int, hidden: int, wide: torch.dtype, buffers: int) -> int:
    """How many channels a group has where it needs ``buffers`` buffers ``[channels, N, N]``."""
    channel = size * size * wide.itemsize
    budget = max(scaled(hidden * channel // GROUP_SHARE), scaled(SMALL))
    return min(hidden, max(1, budget // (buffers * channel)))


def scratch_bound(size: int, width: int, hidden: int, dtype: torch.dtype, *, backward: bool = False) -> int:
    """Bytes of scratch that one pass over ``z`` ``[N, N, width]`` stays below, whatever the mask.

    Counted are the groups of channels, two statistics for each pair, the block buffers and the folded
    parameters; not the results, x, and what ``api`` names beside them.
    """
    item = sum_dtype(dtype).itemsize
    channel = size * size * item
    group = max(scaled(hidden * channel // GROUP_SHARE), scaled(SMALL), (5 if backward else 3) * channel)
    blocks = (12 if backward else 9) * block_pairs(size) * max(width, hidden)
    parameters = (4 if backward else 2) * (5 * hidden + width + 8) * (width + 8)
    return group + 2 * channel + item * (blocks + parameters)


class Scratch:
    """Buffers for one leading index after another: groups of channels, blocks of rows, statistics."""

    def __init__(self, z: torch.Tensor, hidden: int, groups: int, blocks: int) -> None:
        size, width = z.shape[-2:]
        wide = sum_dtype(z.dtype)
        pairs = block_pairs(size)
        self.rows = pairs // size
        self.channels = group_size(size, hidden, wide, groups)

        def buffer(*shape: int) -> torch.Tensor:
            return torch.empty(shape, dtype=wide, device=z.device)

        self.mean, self.rstd = buffer(size, size), buffer(size, size)
        self.logits = buffer(4 * self.channels * pairs)
        self.groups = tuple(buffer(self.channels, size, size) for _ in range(groups))
        self._blocks = tuple(buffer(pairs * max(width, hidden)) for _ in range(blocks))

    def block(self, number: int, *shape: int) -> torch.Tensor:
        """One of the block buffers, seen in a shape."""
        return self._blocks[number][: math.prod(shape)].view(shape)


class Pairs:
    """One leading index: z ``[N, N, c_z]``, its mask, direction and statistics."""

    def __init__(
        self,
        z: torch.Tensor,
        mask: torch.Tensor | None,
        outgoing: bool,
        weights: Folded,
        scratch: Scratch,
    ) -> None:
        self.z, self.mask, self.outgoing, self.weights, self.scratch = z, mask, outgoing, weights, scratch
        self.size, self.width = z.shape[-2:]
        self.hidden = weights.pair.shape[1]
        self.factor: torch.Tensor | None = None
        """On the update, expanded to the shape of z."""

    def measure(self) -> None:
        """Compute the statistics of the first norm."""
        scratch = self.scratch
        for rows in spans(self.size, scratch.rows):
            part = scratch.block(0, *self.z[rows].shape).copy_(self.z[rows])
            squares = scratch.block(1, *part.shape)
            mean, rstd = scratch.mean[rows], scratch.rstd[rows]
            torch.mean(part, -1, out=mean)
            part.sub_(mean.unsqueeze(-1))
            torch.mean(torch.mul(part, part, out=squares), -1, out=rstd)
            rstd.add_(EPSILON).rsqrt_()

    def blocks(self) -> Iterator[slice]:
        """The blocks of rows."""
        return spans(self.size, self.scratch.rows)

    def groups(self) -> Iterator[slice]:
        """The groups of channels."""
        return spans(self.hidden, self.scratch.channels)

    def normed(self, rows: slice, buffer: int) -> torch.Tensor:
        """Rows of z less their mean, over their deviation, ``[pairs, c_z]`` in a block buffer."""
        part = self.z[rows]
        out = self.scratch.block(buffer, *part.shape)
        torch.sub(part, self.scratch.mean[rows].unsqueeze(-1), out=out)
        out.mul_(self.scratch.rstd[rows].unsqueeze(-1))
        return out.view(-1, self.width)

    def projections(self, normed: torch.Tensor, channels: slice) -> torch.Tensor:
        """``[4, channels, pairs]``: a_p, sigmoid(a_g), b_p, sigmoid(b_g) of normed pairs."""
        count = channels.stop - channels.start
        logits = self.scratch.logits[: 4 * count * normed.shape[0]].view(4 * count, -1)
        weight = self.weights.pair[:, channels].reshape(-1, self.width)
        shift = self.weights.pair_shift[:, channels].reshape(-1, 1)
        torch.addmm(shift, weight, normed.T, out=logits)
        parts = logits.view(4, count, -1)
        parts[1].sigmoid_()
        parts[3].sigmoid_()
        return parts

    def hide(self, values: torch.Tensor, rows: slice) -> None:
        """Set ``values`` ``[channels, rows, N]`` to 0 where the mask is False."""
        if self.mask is not None:
            values.masked_fill_(~self.mask[rows], 0.0)

    def operands(self, channels: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """Both operands of some channels, each ``[channels, N, N]``, in the first two group buffers."""
        count = channels.stop - channels.start
        a, b = self.scratch.groups[0][:count], self.scratch.groups[1][:count]
        for rows in self.blocks():
            parts = self.projections(self.normed(rows, 0), channels)
            for target, value, gate in ((a, parts[0], parts[1]), (b, parts[2], parts[3])):
                own = target[:, rows]
                torch.mul(value.view(own.shape), gate.view(own.shape), out=own)
                self.hide(own, rows)
        return a, b

    def multiply(self, held: torch.Tensor) -> None:
        """Write x into ``held`` ``[C, N, N]``, of any strides and floating dtype."""
        for channels in self.groups():
            a, b = self.operands(channels)
            target = held[channels]
            direct = target.is_contiguous() and target.dtype == a.dtype
            x = target if direct else self.scratch.groups[2][: a.shape[0]]
            if self.outgoing:
                torch.bmm(a, b.mT, out=x)
            else:
                torch.bmm(a.mT, b, out=x)
            if not direct:
                target.copy_(x)

    def normed_products(self, held: torch.Tensor, rows: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows of x less their mean, over their deviation, ``[C, pairs]`` in block 1, and 1 / deviation.

        Block 2 is used between.
        """
        part = held[:, rows]
        x = self.scratch.block(1, *part.shape).copy_(part).view(self.hidden, -1)
        x.sub_(x.mean(0))
        squares = torch.mul(x, x, out=self.scratch.block(2, *x.shape))
        rstd = squares.mean(0).add_(EPSILON).rsqrt_()
        return x.mul_(rstd), rstd

    def outputs(self, normed: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """``linear_z`` and the open gate, each ``[pairs, c_z]``, in blocks 2 and 3."""
        out = self.scratch.block(2, *normed.shape)
        torch.addmm(self.weights.out_shift, x.T, self.weights.out.T, out=out)
        gate = self.scratch.block(3, *normed.shape)
        torch.addmm(self.weights.gate_shift, normed, self.weights.gate.T, out=gate)
        return out, gate.sigmoid_()

    def finish(self, held: torch.Tensor, result: torch.Tensor, residual: bool) -> None:
        """Write the result, which may be z itself, or hold x in the first channels of every pair."""
        for rows in self.blocks():
            x, _ = self.normed_products(held, rows)
            out, gate = self.outputs(self.normed(rows, 0), x)
            update = out.mul_(gate).view(result[rows].shape)
            if self.factor is not None:
                update.mul_(self.factor[rows])
            if residual:
                update.add_(self.z[rows])
            result[rows].copy_(update)
