"""The outer product mean in plain torch: the definition that every other backend is tested against.

``out[i, j] = (W vec(sum_s r_si r_sj a_si b_sj^T) + bias) / (sum_s r_si r_sj + epsilon)`` with ``r`` the
square root of the weights (Jumper et al. 2021, supplement, algorithm 10, where weights are a mask). All outer
products are held in memory. Works in float64, so that ``gradcheck`` applies.
"""

from __future__ import annotations

import torch
from torch.nn.functional import linear


def outer_product_mean_reference(
    a: torch.Tensor,
    b: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    weights: torch.Tensor | None,
    epsilon: float,
) -> torch.Tensor:
    """The update of the pair representation; shapes as in the API."""
    wide = torch.promote_types(a.dtype, torch.float32)
    left, right = a.to(wide), b.to(wide)
    *leading, sequences, residues, hidden = a.shape
    count: torch.Tensor | int = sequences
    if weights is not None:
        root = weights.to(wide).sqrt()
        count = (root.mT @ root).unsqueeze(-1)
        left, right = left * root.unsqueeze(-1), right * root.unsqueeze(-1)
    # One matrix product [N C, S] x [S, N C] holds all outer products.
    product = left.flatten(-2).mT @ right.flatten(-2)
    product = product.view(*leading, residues, hidden, residues, hidden).transpose(-3, -2).flatten(-2)
    projected = linear(product, weight.to(wide), None if bias is None else bias.to(wide))
    return (projected / (count + epsilon)).to(a.dtype)
