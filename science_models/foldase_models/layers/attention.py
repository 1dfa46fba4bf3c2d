"""Gated multi-head attention on projections of its inputs, and a residual update by it in groups of rows.

Shapes: R rows, Q queries, K keys, N positions of self-attention, H heads, C channels of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from foldase_kernels import evoformer_attention
from foldase_models.layers.primitives import Linear
from foldase_models.layers.row_groups import by_rows, by_rows_in_place, check_in_place, rows_of


class AttentionWeights(NamedTuple):
    """Of the linear layers of :class:`Attention`, by their names; those of the gate where there is one."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    o: torch.Tensor
    o_bias: torch.Tensor
    g: torch.Tensor | None = None
    g_bias: torch.Tensor | None = None

    def attend(
        self,
        no_heads: int,
        q_x: torch.Tensor,
        kv_x: torch.Tensor,
        biases: Sequence[torch.Tensor],
        mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """As :meth:`Attention.forward`."""

        def heads(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
            projected = functional.linear(x, weight, bias)
            return projected.view(*projected.shape[:-1], no_heads, -1)

        out = evoformer_attention(
            heads(q_x, self.q),
            heads(kv_x, self.k),
            heads(kv_x, self.v),
            biases,
            mask=mask,
            gate=None if self.g is None else heads(q_x, self.g, self.g_bias),
        )
        return functional.linear(out.flatten(-2), self.o, self.o_bias)


class Attention(nn.Module):
    """Keys: ``linear_q``, ``linear_k``, ``linear_v``, ``linear_o``, ``linear_g`` (gated only)."""

    def __init__(
        self, c_q: int, c_k: int, c_v: int, c_hidden: int, no_heads: int, *, gating: bool = True
    ) -> None:
        """``c_hidden`` is the width of one head."""
        super().__init__()
        self.no_heads = no_heads
        self.linear_q = Linear(c_q, c_hidden * no_heads, bias=False, init="glorot")
        self.linear_k = Linear(c_k, c_hidden * no_heads, bias=False, init="glorot")
        self.linear_v = Linear(c_v, c_hidden * no_heads, bias=False, init="glorot")
        self.linear_o = Linear(c_hidden * no_heads, c_q, init="final")
        self.linear_g = Linear(c_q, c_hidden * no_heads, init="gating") if gating else None

    def weights(self) -> AttentionWeights:
        """All parameters, in the order of the tuple."""
        gate = () if self.linear_g is None else (self.linear_g.weight, self.linear_g.bias)
        first = (self.linear_q.weight, self.linear_k.weight, self.linear_v.weight)
        return AttentionWeights(*first, self.linear_o.weight, self.linear_o.bias, *gate)

    def forward(
        self,
        q_x: torch.Tensor,
        kv_x: torch.Tensor,
        biases: Sequence[torch.Tensor] = (),
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Attend from ``q_x`` to ``kv_x``.

        Args:
            q_x: ``[..., R, Q, c_q]``.
            kv_x: ``[..., R, K, c_k]``.
            biases: each broadcastable to ``[..., R, H, Q, K]``.
            mask: boolean, True = may attend, broadcastable likewise.

        Returns:
            ``[..., R, Q, c_q]``.
        """
        return self.weights().attend(self.no_heads, q_x, kv_x, biases, mask)


def pair_bias(z: torch.Tensor, norm: nn.LayerNorm, linear: Linear) -> torch.Tensor:
    """The bias ``[..., 1, H, N, N]`` that pairs ``[..., N, N, c_z]`` give, normed and projected."""

    def compute(
        part: torch.Tensor, _: slice, weight: torch.Tensor, bias: torch.Tensor, projection: torch.Tensor
    ) -> torch.Tensor:
        normed = functional.layer_norm(part, norm.normalized_shape, weight, bias, norm.eps)
        return functional.linear(normed, projection)

    projected = by_rows(compute, z, (norm.weight, norm.bias, linear.weight), channels_first=True)
    return projected.movedim(-1, -3).unsqueeze(-4)


def attend_within_rows(
    x: torch.Tensor,
    norm: nn.LayerNorm,
    mha: Attention,
    biases: Sequence[torch.Tensor] = (),
    mask: torch.Tensor | None = None,
    *,
    residual: bool = False,
    factor: torch.Tensor | None = None,
    inplace: bool = False,
) -> torch.Tensor:
    """Self-attention of every row on the normed representation.

    Rows know of one another through biases only, so projections, heads and norm exist for one group of rows
    at a time (:mod:`foldase_models.layers.row_groups`, whose memory bound holds), and a row may be
    overwritten as soon as it is done. Any strides are taken: columns are rows of a transposed view.

    Args:
        x: ``[..., R, N, c]``.
        norm: of the representation, ahead of ``mha``.
        mha: projections, heads and gate.
        biases: each broadcastable to ``[..., R, H, N, N]``, with one row for all.
        mask: of keys, boolean ``[..., R, N]``, True = real.
        residual: return ``x + update``.
        factor: on the update, ``[..., R or 1, N or 1, c]``, a constant.
        inplace: write ``x + update`` into ``x`` and return it; inference only.

    Raises:
        ValueError: ``inplace`` where a gradient is needed, or ``x`` is an expanded view.
    """
    keys = None if mask is None else mask[..., :, None, None, :]
    own = [tensor for tensor in mha.weights() if tensor is not None]
    shape, eps, no_heads, count = norm.normalized_shape, norm.eps, mha.no_heads, len(own)

    def compute(part: torch.Tensor, rows: slice, *tensors: torch.Tensor) -> torch.Tensor:
        normed = functional.layer_norm(part, shape, tensors[0], tensors[1], eps)
        weights = AttentionWeights(*tensors[2 : 2 + count])
        seen = None if keys is None else rows_of(keys, rows, -4)
        update = weights.attend(no_heads, normed, normed, tensors[2 + count :], seen)
        if factor is not None:
            update = update * rows_of(factor, rows)
        return part + update if residual or inplace else update

    tensors = (norm.weight, norm.bias, *own, *biases)
    if not inplace:
        return by_rows(compute, x, tensors)
    check_in_place("x", x, iter(tensors))
    return by_rows_in_place(compute, x, tensors)
