"""The outer product mean of few sequences: the weight meets one factor first, and no outer product is formed.

``out[i, j] = b_j . (W a_i)``, with the sequences and the channels of b as one inner dimension: a pair costs
``S * C * c_z`` products rather than ``C * C * (S + c_z)``, which is less for fewer than about ``C * c_z /
(c_z - C)`` sequences. Tiles of rows and columns; scratch is allocated once a call; gradients are summed over
tiles in their order.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from foldase_kernels.outer_product_mean import cpu_tiles
from foldase_kernels.outer_product_mean.cpu_tiles import Grads, leading_indices, length, spans
from foldase_kernels.scratch import scaled


def is_cheaper(a: torch.Tensor, channels: int, *, backward: bool) -> bool:
    """Whether this order takes fewer products than outer products would, and its tiles hold a row."""
    *_, sequences, residues, hidden = a.shape
    itemsize = torch.promote_types(a.dtype, torch.float32).itemsize
    if sequences * hidden * max(channels, hidden) * itemsize > scaled(cpu_tiles.TILE):
        return False
    factor = sequences * hidden * channels
    if backward:
        return 2 * factor + 3 * factor * hidden / residues < hidden**2 * (3 * sequences + 2 * channels)
    return factor + factor * hidden / residues < hidden**2 * (sequences + channels)


class _Tile:
    """Scratch for some rows, already projected, and some columns."""

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
        self.device = a.device
        self.epsilon = epsilon
        *_, self.sequences, self.residues, self.hidden = a.shape
        self.channels = weight.shape[0]
        self.inner = self.sequences * self.hidden
        self.bias = None if bias is None else bias.to(self.dtype)
        # [channels of a, channels of b * c_z], so that the projected factor is ready to meet b.
        apart = weight.view(self.channels, self.hidden, self.hidden).permute(1, 2, 0)
        self.weight = apart.to(self.dtype).reshape(self.hidden, -1)
        numbers = scaled(cpu_tiles.TILE) // self.dtype.itemsize
        self.rows = max(1, min(self.residues, numbers // (self.inner * self.channels)))
        widest = max(self.inner, self.rows * self.channels)
        self.columns = max(1, min(self.residues, numbers // widest))
        self.left, self.right = self._buffer(self.rows * self.inner), self._buffer(self.columns * self.inner)
        self.factor = self._buffer(self.rows * self.inner * self.channels)
        self.out = self._buffer(self.rows * self.columns * self.channels)
        self.weights = weights

    def _buffer(self, numbers: int) -> torch.Tensor:
        return torch.empty(numbers, dtype=self.dtype, device=self.device)

    def root(self, index: tuple[int, ...], span: slice) -> torch.Tensor | None:
        """Roots of the weights of some columns, ``[S, columns]``."""
        return None if self.weights is None else self.weights[index][:, span].to(self.dtype).sqrt()

    def load(self, factor: torch.Tensor, root: torch.Tensor | None, buffer: torch.Tensor) -> torch.Tensor:
        """Some columns ``[S, columns, C]`` of a factor, weighted, as ``[columns, S, C]``."""
        copied = buffer[: factor.numel()].view(factor.shape[1], self.sequences, self.hidden)
        copied.copy_(factor.transpose(0, 1))
        return copied if root is None else copied.mul_(root.mT.unsqueeze(-1))

    def project(self, left: torch.Tensor) -> torch.Tensor:
        """Rows times the weight, ``[rows, S C, c_z]``, in :attr:`factor`."""
        out = self.factor[: left.numel() * self.channels]
        torch.mm(left.view(-1, self.hidden), self.weight, out=out.view(-1, self.weight.shape[1]))
        return out.view(left.shape[0], self.inner, self.channels)

    def divide(
        self, sums: torch.Tensor, left: torch.Tensor | None, right: torch.Tensor | None
    ) -> torch.Tensor:
        """Divide ``[rows, columns, c_z]`` by the counts that the roots give, in place."""
        if left is None or right is None:
            return sums.div_(self.sequences + self.epsilon)
        return sums.div_((left.mT @ right).add_(self.epsilon).unsqueeze(-1))


def few_forward(
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
    """As :func:`foldase_kernels.outer_product_mean.cpu_tiles.tiled_forward`."""
    tile = _Tile(a, b, weight, bias, weights, epsilon)
    for index in leading_indices(a):
        for rows in spans(tile.residues, tile.rows):
            root = tile.root(index, rows)
            factor = tile.project(tile.load(a[index][:, rows], root, tile.left))
            for columns in spans(tile.residues, tile.columns):
                other = tile.root(index, columns)
                right = tile.load(b[index][:, columns], other, tile.right).view(-1, tile.inner)
                target = out[index][rows, columns]
                update = tile.out[: target.numel()].view(target.shape)
                for row in range(length(rows)):
                    torch.mm(right, factor[row], out=update[row])
                if tile.bias is not None:
                    update += tile.bias
                tile.divide(update, root, other)
                if add:
                    target += update
                else:
                    target.copy_(update)


def few_backward(
    a: torch.Tensor,
    b: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    weights: torch.Tensor | None,
    epsilon: float,
    grad_out: torch.Tensor,
    wanted: Sequence[bool],
) -> Grads:
    """As :func:`foldase_kernels.outer_product_mean.cpu_tiles.tiled_backward`."""
    tile = _Tile(a, b, weight, bias, weights, epsilon)
    grad_factor, grad_right = torch.empty_like(tile.factor), torch.empty_like(tile.right)
    of_a, of_b = (
        torch.zeros(own.shape, dtype=tile.dtype, device=own.device) if need else None
        for own, need in zip((a, b), wanted, strict=False)
    )
    of_weight, of_bias = torch.zeros_like(tile.weight), tile.weight.new_zeros(tile.channels)
    for index in leading_indices(a):
        for rows in spans(tile.residues, tile.rows):
            root = tile.root(index, rows)
            left = tile.load(a[index][:, rows], root, tile.left)
            factor = tile.project(left)
            of_factor = grad_factor[: factor.numel()].view(factor.shape).zero_()
            for columns in spans(tile.residues, tile.columns):
                other = tile.root(index, columns)
                right = tile.load(b[index][:, columns], other, tile.right).view(-1, tile.inner)
                part = grad_out[index][rows, columns]
                grad = tile.out[: part.numel()].view(part.shape).copy_(part)
                tile.divide(grad, root, other)
                of_bias += grad.sum((0, 1))
                of_right = grad_right[: right.numel()].view(right.shape).zero_()
                for row in range(length(rows)):
                    of_factor[row].addmm_(right.mT, grad[row])
                    of_right.addmm_(grad[row], factor[row].mT)
                if of_b is not None:
                    _add(of_b[index][:, columns], of_right, other)
            flat = of_factor.view(-1, tile.weight.shape[1])
            of_weight.addmm_(left.view(-1, tile.hidden).mT, flat)
            if of_a is not None:
                of_left = torch.mm(flat, tile.weight.mT, out=left.view(-1, tile.hidden))
                _add(of_a[index][:, rows], of_left, root)
    back = of_weight.view(tile.hidden, tile.hidden, tile.channels).permute(2, 0, 1).reshape(weight.shape)
    return tuple(
        total.to(own.dtype) if need and own is not None and total is not None else None
        for total, own, need in zip((of_a, of_b, back, of_bias), (a, b, weight, bias), wanted, strict=True)
    )


def forward(
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
    """Write or add the update, in the order that takes fewer products."""
    few = is_cheaper(a, weight.shape[0], backward=False)
    run = few_forward if few else cpu_tiles.tiled_forward
    run(a, b, weight, bias, weights, epsilon, out, add=add)


def backward(
    a: torch.Tensor,
    b: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    weights: torch.Tensor | None,
    epsilon: float,
    grad_out: torch.Tensor,
    wanted: Sequence[bool],
) -> Grads:
    """The same for gradients."""
    few = is_cheaper(a, weight.shape[0], backward=True)
    run = few_backward if few else cpu_tiles.tiled_backward
    return run(a, b, weight, bias, weights, epsilon, grad_out, wanted)


def _add(total: torch.Tensor, grad: torch.Tensor, root: torch.Tensor | None) -> None:
    """Add ``[columns, S, C]`` in any shape, weighted, to ``total`` ``[S, columns, C]``."""
    own = grad.view(total.shape[1], total.shape[0], total.shape[2]).transpose(0, 1)
    total += own if root is None else own.mul_(root.unsqueeze(-1))
