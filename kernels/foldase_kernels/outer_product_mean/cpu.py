"""The outer product mean on the CPU: whole where the products are small, tiles of pairs where not."""

from __future__ import annotations

import math

import torch

from foldase_kernels.outer_product_mean import cpu_few, cpu_tiles, op
from foldase_kernels.outer_product_mean.reference import outer_product_mean_reference
from foldase_kernels.scratch import scaled

SMALL_PRODUCTS = 4 * 2**20
"""Bytes of outer products up to which they are kept for the backward pass; below it tiles cost time."""


def scratch_bytes(a: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> int:
    """The most bytes this backend holds beyond inputs, the result and the gradients asked for.

    Six tiles and three times the weight; where a dtype is narrower than that of the sums, also copies of bias
    and sums of all gradients in the wider one. Outer products of at most :data:`SMALL_PRODUCTS` bytes are
    held four times, with the weighted factors.
    """
    wide = torch.promote_types(a.dtype, torch.float32)
    cast = sum(2 * t.numel() for t in (weight, bias) if t is not None and t.dtype != wide)
    if _is_small(a, weight):
        return 4 * _product_bytes(a, weight) + (4 * a.numel() + cast) * wide.itemsize
    sums = 0 if a.dtype == wide else 2 * a.numel()
    return 6 * scaled(cpu_tiles.TILE) + (sums + cast + 3 * weight.numel()) * wide.itemsize


def _product_bytes(a: torch.Tensor, weight: torch.Tensor) -> int:
    """Of all outer products, or of all their projections if these are more."""
    *leading, _, residues, hidden = a.shape
    numbers = math.prod(leading) * residues**2 * max(hidden**2, weight.shape[0])
    return numbers * torch.promote_types(a.dtype, torch.float32).itemsize


def _is_small(a: torch.Tensor, weight: torch.Tensor) -> bool:
    return _product_bytes(a, weight) <= scaled(SMALL_PRODUCTS)


def outer_product_mean_cpu(
    a: torch.Tensor,
    b: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    weights: torch.Tensor | None,
    epsilon: float,
) -> torch.Tensor:
    """The update of the pair representation; shapes and memory bound as in the API."""
    if _is_small(a, weight):
        return outer_product_mean_reference(a, b, weight, bias, weights, epsilon)
    out: torch.Tensor = op.outer_product_mean(a, b, weight, bias, weights, epsilon, "cpu")
    return out


def outer_product_mean_cpu_into(
    residual: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    weights: torch.Tensor | None,
    epsilon: float,
) -> torch.Tensor:
    """Add the update to ``residual``; inference only."""
    with torch.no_grad():
        if _is_small(a, weight):
            return residual.add_(outer_product_mean_reference(a, b, weight, bias, weights, epsilon))
        cpu_few.forward(a, b, weight, bias, weights, epsilon, residual, add=True)
    return residual
