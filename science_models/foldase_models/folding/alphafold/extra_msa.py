"""The rows that were not chosen as clusters, which inform the pairs before the Evoformer (algorithm 18).

Shapes: E extra rows, N residues, c_e and c_z channels, H heads, C channels of a head.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from foldase_kernels import evoformer_attention
from foldase_models.layers.dims import EvoformerDims
from foldase_models.layers.evoformer import EvoformerBlock
from foldase_models.layers.primitives import Linear
from foldase_models.layers.row_groups import by_rows, by_rows_in_place, check_in_place, rows_of


class GlobalAttention(nn.Module):
    """Weights of attention with one query a column, and keys and values that all heads share.

    Keys: ``linear_q``, ``linear_k``, ``linear_v``, ``linear_g``, ``linear_o``.
    """

    def __init__(self, c_in: int, c_hidden: int, no_heads: int) -> None:
        super().__init__()
        self.linear_q = Linear(c_in, c_hidden * no_heads, bias=False, init="glorot")
        self.linear_k = Linear(c_in, c_hidden, bias=False, init="glorot")
        self.linear_v = Linear(c_in, c_hidden, bias=False, init="glorot")
        self.linear_g = Linear(c_in, c_hidden * no_heads, init="gating")
        self.linear_o = Linear(c_hidden * no_heads, c_in, init="final")

    def weights(self) -> tuple[torch.Tensor, ...]:
        """In the order in which :func:`_attend` takes them."""
        gate, out = self.linear_g, self.linear_o
        first = (self.linear_q.weight, self.linear_k.weight, self.linear_v.weight)
        return (*first, gate.weight, gate.bias, out.weight, out.bias)


def _attend(
    columns: torch.Tensor, mask: torch.Tensor | None, no_heads: int, *weights: torch.Tensor
) -> torch.Tensor:
    """Updates of columns ``[..., columns, E, c_in]``; ``mask`` boolean ``[..., columns, E]``."""
    q_weight, k_weight, v_weight, g_weight, g_bias, o_weight, o_bias = weights
    if mask is None:
        mean = columns.mean(-2)
    else:
        counted = mask.to(columns.dtype).unsqueeze(-1)
        mean = (columns * counted).sum(-2) / counted.sum(-2).clamp(min=1)
    q = functional.linear(mean, q_weight)
    # Heads differ in their queries only: for the kernel they are queries of one head.
    out = evoformer_attention(
        torch.unflatten(q, -1, (no_heads, 1, -1)),
        functional.linear(columns, k_weight).unsqueeze(-2),
        functional.linear(columns, v_weight).unsqueeze(-2),
        mask=None if mask is None else mask[..., None, None, :],
    )
    gate = torch.sigmoid(functional.linear(columns, g_weight, g_bias))
    return functional.linear(gate * out.flatten(-3).unsqueeze(-2), o_weight, o_bias)


class MSAColumnGlobalAttention(nn.Module):
    """Each column attends to itself by one mean query a head (algorithm 19), in groups of columns.

    Keys: ``layer_norm_m``, ``global_attention``.
    """

    def __init__(self, c_in: int, c_hidden: int, no_heads: int) -> None:
        super().__init__()
        self.no_heads = no_heads
        self.layer_norm_m = nn.LayerNorm(c_in)
        self.global_attention = GlobalAttention(c_in, c_hidden, no_heads)

    def forward(
        self,
        m: torch.Tensor,
        mask: torch.Tensor | None = None,
        *,
        residual: bool = False,
        inplace: bool = False,
    ) -> torch.Tensor:
        """Update of ``m`` ``[..., E, N, c_in]``; ``mask`` boolean ``[..., E, N]``, True = real.

        With ``residual`` the new ``m``; with ``inplace``, for inference only, this is written into ``m``.
        """
        norm, no_heads = self.layer_norm_m, self.no_heads
        shape, eps = norm.normalized_shape, norm.eps
        seen = None if mask is None else mask.mT.unsqueeze(-1)

        def compute(part: torch.Tensor, rows: slice, *tensors: torch.Tensor) -> torch.Tensor:
            normed = functional.layer_norm(part, shape, tensors[0], tensors[1], eps)
            own = None if seen is None else rows_of(seen, rows).squeeze(-1)
            update = _attend(normed, own, no_heads, *tensors[2:])
            return part + update if residual or inplace else update

        tensors = (norm.weight, norm.bias, *self.global_attention.weights())
        columns = m.transpose(-3, -2)
        if not inplace:
            return by_rows(compute, columns, tensors).transpose(-3, -2)
        check_in_place("m", m, iter(tensors))
        by_rows_in_place(compute, columns, tensors)
        return m


class ExtraMSABlock(EvoformerBlock):
    """A block of the Evoformer whose attention along columns is global."""

    def __init__(self, dims: EvoformerDims) -> None:
        super().__init__(dims)
        self.msa_att_col = MSAColumnGlobalAttention(dims.c_m, dims.c_hidden_msa_att, dims.no_heads_msa)
