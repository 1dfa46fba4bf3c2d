"""Triangle multiplication on the CPU: tiles, and a backward pass that recomputes everything from z.

Nothing but z is kept between the passes: x would cost another tensor of its size in every layer.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch

from foldase_kernels.scratch import scaled
from foldase_kernels.triangle_multiplication.cpu_gradients import (
    BACKWARD_BLOCKS,
    BACKWARD_GROUPS,
    Sums,
    gradient_of_z,
)
from foldase_kernels.triangle_multiplication.cpu_tiles import (
    FORWARD_BLOCKS,
    Pairs,
    Scratch,
    fold,
    held_dtype,
)
from foldase_kernels.triangle_multiplication.parameters import (
    TriangleMultiplicationParameters,
    sum_dtype,
)

SMALL_PRODUCTS = 2 * 2**20
"""Bytes of the hidden products up to which autograd keeps what it needs; below it tiles only cost time."""


def is_small(z: torch.Tensor, parameters: TriangleMultiplicationParameters) -> bool:
    """Whether the reference is the better choice on the CPU."""
    pairs = z.numel() // z.shape[-1]
    return pairs * parameters.a_p_weight.shape[0] * sum_dtype(z.dtype).itemsize <= scaled(SMALL_PRODUCTS)


def indices(z: torch.Tensor) -> Iterator[tuple[int, ...]]:
    """All leading indices, in order."""
    return itertools.product(*(range(size) for size in z.shape[:-3]))


def full_mask(z: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor | None:
    """A mask for every leading index."""
    return None if mask is None else mask.expand(z.shape[:-1])


def triangle_multiplication_forward(
    z: torch.Tensor,
    parameters: TriangleMultiplicationParameters,
    mask: torch.Tensor | None,
    outgoing: bool,
    residual: bool,
    result: torch.Tensor,
    factor: torch.Tensor | None = None,
) -> None:
    """Write the update, or ``z + update``, into ``result``, which may be z; memory as in the API."""
    size, width = z.shape[-2:]
    hidden = parameters.a_p_weight.shape[0]
    kept = held_dtype(z.dtype)
    own = result is z or hidden > width or kept != z.dtype
    direct = own and kept == sum_dtype(z.dtype)
    held = z.new_empty(hidden, size, size, dtype=kept) if own else None
    scratch = Scratch(z, hidden, 2 if direct else 3, FORWARD_BLOCKS)
    mask = full_mask(z, mask)
    weights = fold(parameters, sum_dtype(z.dtype))
    for index in indices(z):
        x = result[index][..., :hidden].movedim(-1, 0) if held is None else held
        pairs = Pairs(z[index], None if mask is None else mask[index], outgoing, weights, scratch)
        pairs.factor = None if factor is None else factor.expand(z.shape)[index]
        pairs.measure()
        pairs.multiply(x)
        pairs.finish(x, result[index], residual)


def triangle_multiplication_backward(
    z: torch.Tensor,
    parameters: TriangleMultiplicationParameters,
    mask: torch.Tensor | None,
    outgoing: bool,
    residual: bool,
    grad: torch.Tensor,
    wanted: Sequence[bool],  # noqa: ARG001 - all gradients come from the same sweeps
    factor: torch.Tensor | None = None,
) -> tuple[torch.Tensor | None, ...]:
    """Gradients of z and of the parameters in their order, of all that are there."""
    size = z.shape[-2]
    hidden = parameters.a_p_weight.shape[0]
    wide = sum_dtype(z.dtype)
    grad_z = torch.empty(z.shape, dtype=z.dtype, device=z.device)
    held = z.new_empty(hidden, size, size, dtype=held_dtype(z.dtype))
    total = None if z.dtype == wide else z.new_empty(z.shape[-3:], dtype=wide)
    scratch = Scratch(z, hidden, BACKWARD_GROUPS + (held.dtype != wide), BACKWARD_BLOCKS)
    mask = full_mask(z, mask)
    weights = fold(parameters, wide)
    sums = Sums(weights)
    for index in indices(z):
        pairs = Pairs(z[index], None if mask is None else mask[index], outgoing, weights, scratch)
        pairs.factor = None if factor is None else factor.expand(z.shape)[index]
        own = grad_z[index] if total is None else total
        gradient_of_z(pairs, grad[index], held, own, sums, residual)
        if total is not None:
            grad_z[index].copy_(total)
    return (grad_z, *sums.of(parameters))
