"""Triangle multiplication on the CPU: tiles, and a backward pass that recomputes everything from z."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.autograd.function import once_differentiable

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
from foldase_kernels.triangle_multiplication.reference import triangle_multiplication_reference

SMALL_PRODUCTS = 2 * 2**20
"""Bytes of the hidden products up to which autograd keeps what it needs; below it tiles only cost time."""


def _is_small(z: torch.Tensor, parameters: TriangleMultiplicationParameters) -> bool:
    pairs = z.numel() // z.shape[-1]
    return pairs * parameters.a_p_weight.shape[0] * sum_dtype(z.dtype).itemsize <= SMALL_PRODUCTS


def triangle_multiplication_cpu(
    z: torch.Tensor,
    parameters: TriangleMultiplicationParameters,
    mask: torch.Tensor | None,
    outgoing: bool,
    residual: bool,
    factor: torch.Tensor | None = None,
) -> torch.Tensor:
    """The update, or ``z + update`` with ``residual``; shapes and memory as in the API."""
    if _is_small(z, parameters):
        with torch.autocast("cpu", enabled=False):
            return triangle_multiplication_reference(z, parameters, mask, outgoing, residual, factor)
    result: torch.Tensor = Tiled.apply(z, mask, outgoing, residual, Pairs, *parameters, factor)  # type: ignore[no-untyped-call]
    return result


def triangle_multiplication_cpu_(
    z: torch.Tensor,
    parameters: TriangleMultiplicationParameters,
    mask: torch.Tensor | None,
    outgoing: bool,
    factor: torch.Tensor | None = None,
) -> torch.Tensor:
    """Write ``z + update`` into z; only without gradients."""
    run(z, parameters, mask, outgoing, residual=True, result=z, kind=Pairs, factor=factor)
    return z


def _indices(z: torch.Tensor) -> Iterator[tuple[int, ...]]:
    return itertools.product(*(range(size) for size in z.shape[:-3]))


def _full_mask(z: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor | None:
    return None if mask is None else mask.expand(z.shape[:-1])


def run(
    z: torch.Tensor,
    parameters: TriangleMultiplicationParameters,
    mask: torch.Tensor | None,
    outgoing: bool,
    residual: bool,
    result: torch.Tensor,
    kind: type[Pairs],
    factor: torch.Tensor | None = None,
) -> None:
    """Write the update, or ``z + update``, into ``result``, which may be z; ``kind`` does the tiles."""
    size, width = z.shape[-2:]
    hidden = parameters.a_p_weight.shape[0]
    kept = held_dtype(z.dtype)
    own = result is z or hidden > width or kept != z.dtype
    direct = own and kept == kind.operand_dtype(z.dtype)
    held = z.new_empty(hidden, size, size, dtype=kept) if own else None
    scratch = Scratch(z, hidden, 2 if direct else 3, FORWARD_BLOCKS, kind.operand_dtype(z.dtype))
    mask = _full_mask(z, mask)
    # Sums stay in their dtype under autocast too.
    with torch.autocast(z.device.type, enabled=False):
        weights = fold(parameters, sum_dtype(z.dtype))
        for index in _indices(z):
            x = result[index][..., :hidden].movedim(-1, 0) if held is None else held
            pairs = kind(z[index], None if mask is None else mask[index], outgoing, weights, scratch)
            pairs.factor = None if factor is None else factor.expand(z.shape)[index]
            pairs.start()
            pairs.multiply(x)
            pairs.finish(x, result[index], residual)


def _split(
    tensors: Sequence[torch.Tensor | None],
) -> tuple[TriangleMultiplicationParameters, torch.Tensor | None]:
    """Parameters, and the factor on the update where one follows them."""
    count = len(TriangleMultiplicationParameters._fields)
    named = TriangleMultiplicationParameters(*tensors[:count])  # type: ignore[arg-type]
    return named, tensors[count] if len(tensors) > count else None


class Tiled(torch.autograd.Function):
    """Keeps z only: x would cost another tensor of its size from one pass to the other in every layer."""

    @staticmethod
    def forward(
        ctx: Any,
        z: torch.Tensor,
        mask: torch.Tensor | None,
        outgoing: bool,
        residual: bool,
        kind: type[Pairs],
        *tensors: torch.Tensor | None,
    ) -> torch.Tensor:
        """The update; ``kind`` does the tiles, ``tensors`` are parameters in their order and the factor."""
        parameters, factor = _split(tensors)
        result = torch.empty(z.shape, dtype=z.dtype, device=z.device)
        run(z, parameters, mask, outgoing, residual, result, kind, factor)
        ctx.save_for_backward(z, mask, *tensors)
        ctx.outgoing, ctx.residual, ctx.kind = outgoing, residual, kind
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of z and of the parameters."""
        z, mask, *tensors = ctx.saved_tensors
        parameters, factor = _split(tensors)
        size = z.shape[-2]
        hidden = parameters.a_p_weight.shape[0]
        wide = sum_dtype(z.dtype)
        grad_z = torch.empty(z.shape, dtype=z.dtype, device=z.device)
        held = z.new_empty(hidden, size, size, dtype=held_dtype(z.dtype))
        total = None if z.dtype == wide else z.new_empty(z.shape[-3:], dtype=wide)
        operand = ctx.kind.operand_dtype(z.dtype)
        scratch = Scratch(z, hidden, BACKWARD_GROUPS + (held.dtype != operand), BACKWARD_BLOCKS, operand)
        mask = _full_mask(z, mask)
        with torch.autocast(z.device.type, enabled=False):
            weights = fold(parameters, wide)
            sums = Sums(weights)
            for index in _indices(z):
                part = None if mask is None else mask[index]
                pairs = ctx.kind(z[index], part, ctx.outgoing, weights, scratch)
                pairs.factor = None if factor is None else factor.expand(z.shape)[index]
                own = grad_z[index] if total is None else total
                gradient_of_z(pairs, grad[index], held, own, sums, ctx.residual)
                if total is not None:
                    grad_z[index].copy_(total)
            of_parameters = sums.of(parameters)
        rest = len(tensors) - len(of_parameters)
        return (grad_z, None, None, None, None, *of_parameters, *(None,) * rest)
