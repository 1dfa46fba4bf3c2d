"""The outer product mean in tiles of pairs, contracted straight to the pair channels.

A tile of rows and columns is one matrix product ``[rows C, S] x [S, columns C]``, whose outer products are
laid side by side and projected by a second one. Backward, the gradient of a tile takes the same way back and
meets the factors as they lie. Sequences are taken in pieces where many would make a tile of a factor large.
Scratch is allocated once a call; gradients are summed over tiles in their order.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import torch

from foldase_kernels.scratch import scaled

TILE = 2 * 2**20
"""Bytes that one scratch tile may take; several of them are alive at once."""

Grads = tuple[torch.Tensor | None, ...]


def leading_indices(a: torch.Tensor) -> Iterator[tuple[int, ...]]:
    """Indices of all dimensions ahead of sequences, residues and channels."""
    return itertools.product(*(range(size) for size in a.shape[:-3]))


def spans(size: int, step: int) -> Iterator[slice]:
    """Slices of at most ``step`` that cover ``size``."""
    return (slice(start, min(start + step, size)) for start in range(0, size, step))


def length(span: slice) -> int:
    """Of one of :func:`spans`."""
    return int(span.stop - span.start)


def _lies_ready(factor: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether any ``[s, columns, C]`` of it can be read as a matrix ``[s, columns C]`` without a copy."""
    return factor.dtype == dtype and factor.stride(-1) == 1 and factor.stride(-2) == factor.shape[-1]


class _Factor:
    """One factor ``[S, N, C]`` of a leading index, times the root of its weights, read in pieces."""

    def __init__(
        self, factor: torch.Tensor, weights: torch.Tensor | None, scratch: torch.Tensor | None
    ) -> None:
        self.factor, self.weights, self.scratch = factor, weights, scratch

    def piece(self, sequences: slice, columns: slice) -> torch.Tensor:
        """``[s, columns C]``, a view where nothing is to be done to it."""
        part = self.factor[sequences, columns]
        if self.scratch is None:
            return part.flatten(1)
        copied = self.scratch[: part.numel()].view(part.shape).copy_(part)
        if self.weights is not None:
            copied *= self.root(sequences, columns).unsqueeze(-1)
        return copied.flatten(1)

    def root(self, sequences: slice, columns: slice) -> torch.Tensor:
        """Roots of the weights, ``[s, columns]``."""
        assert self.weights is not None
        assert self.scratch is not None
        return self.weights[sequences, columns].to(self.scratch.dtype).sqrt()


class _Tile:
    """Scratch for one tile of pairs, and what all tiles share."""

    def __init__(
        self,
        a: torch.Tensor,
        b: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        weights: torch.Tensor | None,
        epsilon: float,
    ) -> None:
        self.dtype = torch.promote_types(a.dtype, torch.float32)
        self.weight = weight.to(self.dtype)
        self.bias = None if bias is None else bias.to(self.dtype)
        self.epsilon = epsilon
        self.device = a.device
        self.factors, self.weights = (a, b), weights
        *_, self.sequences, self.residues, self.hidden = a.shape
        self.channels = weight.shape[0]
        numbers = scaled(TILE) // self.dtype.itemsize
        most = max(1, numbers // max(self.hidden**2, self.channels))
        self.rows = min(self.residues, math.isqrt(most))
        self.columns = min(self.residues, max(1, most // self.rows))
        self.step = min(self.sequences, max(1, numbers // (self.columns * self.hidden)))
        size = self.rows * self.columns
        self.product, self.pairs = (self._buffer(size * self.hidden**2) for _ in range(2))
        self.projected = self._buffer(size * self.channels)
        self.count = None if weights is None else self._buffer(size)
        piece = self.step * self.hidden
        self.copies = tuple(
            None if weights is None and _lies_ready(factor, self.dtype) else self._buffer(piece * width)
            for factor, width in ((a, self.rows), (b, self.columns))
        )

    def _buffer(self, numbers: int) -> torch.Tensor:
        return torch.empty(numbers, dtype=self.dtype, device=self.device)

    def at(self, index: tuple[int, ...]) -> tuple[_Factor, _Factor]:
        """The factors of one leading index."""
        weights = None if self.weights is None else self.weights[index]
        left, right = (
            _Factor(factor[index], weights, copy)
            for factor, copy in zip(self.factors, self.copies, strict=True)
        )
        return left, right

    def tiles(self) -> Iterator[tuple[slice, slice]]:
        """Rows and columns of all tiles, rows slowest."""
        for rows in spans(self.residues, self.rows):
            for columns in spans(self.residues, self.columns):
                yield rows, columns

    def pieces(self) -> Iterator[slice]:
        """Sequences in pieces."""
        return spans(self.sequences, self.step)

    def outer(self, left: _Factor, right: _Factor, rows: slice, columns: slice) -> torch.Tensor:
        """Sums of outer products of a tile, ``[pairs, C * C]``, in :attr:`pairs`; also counts."""
        height, width, hidden = length(rows), length(columns), self.hidden
        size = height * width
        product = self.product[: size * hidden**2].view(height * hidden, width * hidden)
        for piece in self.pieces():
            fresh = piece.start == 0
            lefts, rights = left.piece(piece, rows), right.piece(piece, columns)
            torch.addmm(product, lefts.mT, rights, beta=0 if fresh else 1, out=product)
            if self.count is not None:
                count = self.count[:size].view(height, width)
                roots = left.root(piece, rows).mT, right.root(piece, columns)
                torch.addmm(count, *roots, beta=0 if fresh else 1, out=count)
        pairs = self.pairs[: size * hidden**2]
        apart = product.view(height, hidden, width, hidden).transpose(1, 2)
        pairs.view(height, width, hidden, hidden).copy_(apart)
        return pairs.view(size, hidden**2)

    def mean(self, sums: torch.Tensor) -> torch.Tensor:
        """Divide ``[pairs, c_z]`` by the count of the last :meth:`outer`, in place."""
        if self.count is None:
            return sums.div_(self.sequences + self.epsilon)
        return sums.div_(self.count[: sums.shape[0]].add_(self.epsilon).unsqueeze(-1))

    def project(self, pairs: torch.Tensor) -> torch.Tensor:
        """``[pairs, c_z]``, in :attr:`projected`."""
        out = self.projected[: pairs.shape[0] * self.channels].view(-1, self.channels)
        if self.bias is None:
            return torch.mm(pairs, self.weight.mT, out=out)
        return torch.addmm(self.bias, pairs, self.weight.mT, out=out)


def tiled_forward(
    a: torch.Tensor,
    b: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    weights: torch.Tensor | None,
    epsilon: float,
    out: torch.Tensor,
    *,
    add: bool,
) -> None:
    """Write the update into ``out`` ``[..., N, N, c_z]``, or add it; ``weights`` are ``[..., S, N]``."""
    tile = _Tile(a, b, weight, bias, weights, epsilon)
    for index in leading_indices(a):
        left, right = tile.at(index)
        for rows, columns in tile.tiles():
            target = out[index][rows, columns]
            update = tile.mean(tile.project(tile.outer(left, right, rows, columns))).view(target.shape)
            if add:
                target += update
            else:
                target.copy_(update)


def tiled_backward(
    a: torch.Tensor,
    b: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    weights: torch.Tensor | None,
    epsilon: float,
    grad_out: torch.Tensor,
    wanted: Sequence[bool],
) -> Grads:
    """Gradients of a, b, weight and bias, None where not wanted."""
    tile = _Tile(a, b, weight, bias, weights, epsilon)
    inputs = (a, b, weight, bias)
    sums = [
        torch.zeros(own.shape, dtype=tile.dtype, device=own.device) if need and own is not None else None
        for own, need in zip(inputs, wanted, strict=True)
    ]
    of_a, of_b, of_weight, of_bias = sums
    for index in leading_indices(a):
        left, right = tile.at(index)
        own_a, own_b = (None if total is None else total[index] for total in (of_a, of_b))
        for rows, columns in tile.tiles():
            pairs = tile.outer(left, right, rows, columns)
            part = grad_out[index][rows, columns]
            grad = tile.projected[: part.numel()].view(-1, tile.channels)
            grad.view(part.shape).copy_(part)
            tile.mean(grad)
            if of_bias is not None:
                of_bias += grad.sum(0)
            if of_weight is not None:
                of_weight.addmm_(grad.mT, pairs)
            if own_a is not None or own_b is not None:
                torch.mm(grad, tile.weight, out=pairs)
                _add_to_factors(tile, (left, right), (own_a, own_b), rows, columns)
        for factor, own in ((left, own_a), (right, own_b)):
            if factor.weights is not None and own is not None:
                for piece in tile.pieces():
                    own[piece] *= factor.root(piece, slice(None)).unsqueeze(-1)
    return tuple(
        None if total is None or own is None else total.to(own.dtype)
        for total, own in zip(sums, inputs, strict=True)
    )


def _add_to_factors(
    tile: _Tile,
    factors: tuple[_Factor, _Factor],
    sums: tuple[torch.Tensor | None, torch.Tensor | None],
    rows: slice,
    columns: slice,
) -> None:
    """Add the share of a tile, whose gradients lie in ``tile.pairs``, to those of the weighted factors."""
    height, width, hidden = length(rows), length(columns), tile.hidden
    size = height * width * hidden**2
    product = tile.product[:size].view(height * hidden, width * hidden)
    apart = product.view(height, hidden, width, hidden).transpose(1, 2)
    apart.copy_(tile.pairs[:size].view(height, width, hidden, hidden))
    for piece in tile.pieces():
        if sums[0] is not None:
            sums[0][piece, rows].flatten(1).addmm_(factors[1].piece(piece, columns), product.mT)
        if sums[1] is not None:
            sums[1][piece, columns].flatten(1).addmm_(factors[0].piece(piece, rows), product)
