"""The transition in tiles of positions, its hidden layer never whole.

Every tile is copied into scratch in the dtype of the sums, so any strides are read where they lie. Scratch is
allocated once a call; the gradients of the parameters are summed over tiles in their order.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch

from foldase_kernels.scratch import scaled
from foldase_kernels.transition.parameters import TransitionParameters

TILE = 2**20
"""Bytes that one scratch tile may take; several of them are alive at once."""

Index = tuple[int | slice, ...]
Grads = tuple[torch.Tensor | None, ...]


def blocks(shape: Sequence[int], most: int) -> Iterator[Index]:
    """Indices that cut ``shape`` into blocks of at most ``most`` elements, in order.

    The last dimensions are taken whole while they fit, the one before is cut, those further ahead are walked.
    """
    whole, depth = 1, len(shape)
    while depth > 0 and whole * shape[depth - 1] <= most:
        depth -= 1
        whole *= shape[depth]
    if depth == 0:
        yield ()
        return
    step, size = max(1, most // whole), shape[depth - 1]
    for index in itertools.product(*(range(length) for length in shape[: depth - 1])):
        for start in range(0, size, step):
            yield (*index, slice(start, min(start + step, size)))


def _aligned(x: torch.Tensor, mask: torch.Tensor | None, *others: torch.Tensor) -> list[torch.Tensor | None]:
    """x, the mask expanded to its positions, and others; one run of positions where all lie so in memory."""
    mask = None if mask is None else mask.expand(x.shape[:-1])
    if all(tensor is None or tensor.is_contiguous() for tensor in (x, mask, *others)):
        flat = [tensor.view(-1, x.shape[-1]) for tensor in others]
        return [x.view(-1, x.shape[-1]), None if mask is None else mask.view(-1), *flat]
    return [x, mask, *others]


class _Tile:
    """Scratch for some positions, and the parameters in the dtype of the sums."""

    def __init__(self, x: torch.Tensor, parameters: TransitionParameters, epsilon: float) -> None:
        self.dtype = torch.promote_types(x.dtype, torch.float32)
        self.parameters = parameters.to(self.dtype)
        self.gated = parameters.weight_gate is not None
        self.epsilon = epsilon
        hidden, self.channels = parameters.weight_in.shape
        positions = max(1, x.numel() // self.channels)
        self.rows = min(positions, max(1, scaled(TILE) // (max(hidden, self.channels) * self.dtype.itemsize)))
        self.x, self.update = (self._buffer(x, self.channels) for _ in range(2))
        self.factor = self._buffer(x, hidden)
        self.gate, self.activated, self.product = (
            (self._buffer(x, hidden) for _ in range(3)) if self.gated else (self.factor,) * 3
        )

    def _buffer(self, x: torch.Tensor, width: int) -> torch.Tensor:
        return torch.empty(self.rows, width, dtype=self.dtype, device=x.device)

    def load(self, part: torch.Tensor, buffer: torch.Tensor) -> torch.Tensor:
        """Copy a block of positions of any strides, ``[..., c]``, as ``[count, c]``."""
        rows = buffer[: part.numel() // self.channels]
        rows.view(part.shape).copy_(part)
        return rows

    def norm(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Normed rows, their means and inverse deviations."""
        p = self.parameters
        return torch.native_layer_norm(rows, [self.channels], p.norm_weight, p.norm_bias, self.epsilon)

    def hidden(self, normed: torch.Tensor) -> torch.Tensor:
        """The activated hidden layer, in :attr:`product`."""
        p, count = self.parameters, normed.shape[0]
        factor = _linear(normed, p.weight_in, p.bias_in, self.factor[:count])
        if not self.gated:
            return factor.relu_()
        assert p.weight_gate is not None
        gate = _linear(normed, p.weight_gate, p.bias_gate, self.gate[:count])
        activated = torch.ops.aten.silu.out(gate, out=self.activated[:count])
        return torch.mul(activated, factor, out=self.product[:count])

    def out(self, hidden: torch.Tensor) -> torch.Tensor:
        """The update, in :attr:`update`."""
        p = self.parameters
        return _linear(hidden, p.weight_out, p.bias_out, self.update[: hidden.shape[0]])


def _linear(
    rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor
) -> torch.Tensor:
    if bias is None:
        return torch.mm(rows, weight.mT, out=out)
    return torch.addmm(bias, rows, weight.mT, out=out)


def tiled_forward(
    x: torch.Tensor,
    parameters: TransitionParameters,
    mask: torch.Tensor | None,
    residual: bool,
    epsilon: float,
    out: torch.Tensor,
) -> None:
    """Write the update, or with ``residual`` ``x + update``, into ``out``, which may be x itself."""
    tile = _Tile(x, parameters, epsilon)
    source, real, target = _aligned(x, mask, out)
    assert source is not None
    assert target is not None
    for index in blocks(source.shape[:-1], tile.rows):
        part = source[index]
        rows = tile.load(part, tile.x)
        update = tile.out(tile.hidden(tile.norm(rows)[0]))
        if real is not None:
            update.masked_fill_(~real[index].reshape(-1, 1), 0.0)
        if residual:
            update += rows
        target[index] = update.view(part.shape)


def tiled_backward(
    x: torch.Tensor,
    parameters: TransitionParameters,
    mask: torch.Tensor | None,
    residual: bool,
    epsilon: float,
    grad_out: torch.Tensor,
    wants_x: bool,
    wanted: Sequence[bool],
) -> tuple[torch.Tensor | None, Grads]:
    """Gradients of x and of the parameters, None where not wanted."""
    tile = _BackwardTile(x, parameters, epsilon, wanted)
    grad_x = torch.empty(x.shape, dtype=x.dtype, device=x.device) if wants_x else None
    source, real, grad, *target = _aligned(x, mask, grad_out, *(() if grad_x is None else (grad_x,)))
    assert source is not None
    assert grad is not None
    for index in blocks(source.shape[:-1], tile.rows):
        part = source[index]
        rows = tile.load(part, tile.x)
        arrived = tile.load(grad[index], tile.update)
        if real is not None:
            arrived.masked_fill_(~real[index].reshape(-1, 1), 0.0)
        grad_rows = tile.backward(rows, arrived, wants_x)
        if grad_rows is not None and target[0] is not None:
            if residual:
                grad_rows.view(part.shape).add_(grad[index])
            target[0][index] = grad_rows.view(part.shape)
    sums = (
        None if total is None or own is None else total.to(own.dtype)
        for total, own in zip(tile.sums, parameters, strict=True)
    )
    return grad_x, tuple(sums)


class _BackwardTile(_Tile):
    """As in the forward pass, with the sums of the parameters' gradients and scratch for theirs."""

    def __init__(
        self,
        x: torch.Tensor,
        parameters: TransitionParameters,
        epsilon: float,
        wanted: Sequence[bool],
    ) -> None:
        super().__init__(x, parameters, epsilon)
        self.sums = TransitionParameters(
            *(
                torch.zeros_like(own) if need and own is not None else None
                for own, need in zip(self.parameters, wanted, strict=True)
            )  # type: ignore[arg-type]
        )
        self.grad_normed = self._buffer(x, self.channels)
        if not self.gated:
            self.product = self._buffer(x, parameters.weight_in.shape[0])

    def backward(self, rows: torch.Tensor, grad: torch.Tensor, wants_x: bool) -> torch.Tensor | None:
        """Add the share of some rows to the sums; the gradient of the rows if wanted."""
        p, sums, count = self.parameters, self.sums, rows.shape[0]
        normed, mean, deviation = self.norm(rows)
        _add_linear(sums.weight_out, sums.bias_out, grad, self.hidden(normed))
        grad_hidden = torch.mm(grad, p.weight_out, out=self.product[:count])
        grad_normed = self.grad_normed[:count]
        if self.gated:
            assert p.weight_gate is not None
            grad_factor = self.activated[:count].mul_(grad_hidden)
            grad_hidden.mul_(self.factor[:count])
            gate = self.gate[:count]
            torch.ops.aten.silu_backward.grad_input(grad_hidden, gate, grad_input=grad_hidden)
            _add_linear(sums.weight_gate, sums.bias_gate, grad_hidden, normed)
            torch.mm(grad_hidden, p.weight_gate, out=grad_normed)
            grad_normed.addmm_(grad_factor, p.weight_in)
        else:
            hidden = self.factor[:count]
            grad_factor = grad_hidden
            torch.ops.aten.threshold_backward.grad_input(grad_hidden, hidden, 0, grad_input=grad_hidden)
            torch.mm(grad_factor, p.weight_in, out=grad_normed)
        _add_linear(sums.weight_in, sums.bias_in, grad_factor, normed)
        needs = [wants_x, sums.norm_weight is not None, sums.norm_bias is not None]
        grad_rows, *of_norm = torch.ops.aten.native_layer_norm_backward(
            grad_normed, rows, [self.channels], mean, deviation, p.norm_weight, p.norm_bias, needs
        )
        for total, share in zip((sums.norm_weight, sums.norm_bias), of_norm, strict=True):
            if total is not None:
                total.add_(share)
        return grad_rows if wants_x else None


def _add_linear(
    weight: torch.Tensor | None, bias: torch.Tensor | None, grad: torch.Tensor, rows: torch.Tensor
) -> None:
    """Add the gradients of a linear layer over some rows."""
    if weight is not None:
        weight.addmm_(grad.mT, rows)
    if bias is not None:
        bias += grad.sum(0)
