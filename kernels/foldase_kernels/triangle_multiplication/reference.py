"""Triangle multiplication in plain torch: the definition that every other backend is tested against.

With ``n = LayerNorm(z)``, ``a = sigmoid(linear_a_g(n)) * linear_a_p(n)`` and b alike, both 0 where the mask
is False, ``x[i, j] = sum_k a[i, k] * b[j, k]`` for outgoing edges and ``sum_k a[k, i] * b[k, j]`` for
incoming ones; the update is ``sigmoid(linear_g(n)) * linear_z(LayerNorm(x))`` (Jumper et al. 2021,
supplement, algorithms 11 and 12). Works in float64, so that ``gradcheck`` applies.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from foldase_kernels.triangle_multiplication.parameters import (
    EPSILON,
    TriangleMultiplicationParameters,
    sum_dtype,
)


def triangle_multiplication_reference(
    z: torch.Tensor,
    parameters: TriangleMultiplicationParameters,
    mask: torch.Tensor | None,
    outgoing: bool,
    residual: bool,
    factor: torch.Tensor | None = None,
) -> torch.Tensor:
    """The update, or ``z + update`` with ``residual``; shapes as in the API.

    Follows autocast, which takes the matrix products to its own dtype.
    """
    wide = sum_dtype(z.dtype)
    p = parameters.to(wide)
    n = functional.layer_norm(z.to(wide), z.shape[-1:], p.norm_in_weight, p.norm_in_bias, EPSILON)
    a = torch.sigmoid(functional.linear(n, p.a_g_weight, p.a_g_bias))
    a = a * functional.linear(n, p.a_p_weight, p.a_p_bias)
    b = torch.sigmoid(functional.linear(n, p.b_g_weight, p.b_g_bias))
    b = b * functional.linear(n, p.b_p_weight, p.b_p_bias)
    if mask is not None:
        masked = ~mask.unsqueeze(-1)
        a, b = a.masked_fill(masked, 0.0), b.masked_fill(masked, 0.0)
    a, b = a.movedim(-1, -3), b.movedim(-1, -3)
    x = (a @ b.mT if outgoing else a.mT @ b).movedim(-3, -1)
    x = functional.layer_norm(x, x.shape[-1:], p.norm_out_weight, p.norm_out_bias, EPSILON)
    gate = torch.sigmoid(functional.linear(n, p.g_weight, p.g_bias))
    update = gate * functional.linear(x, p.z_weight, p.z_bias)
    if factor is not None:
        update = update * factor
    return (z + update if residual else update).to(z.dtype)
