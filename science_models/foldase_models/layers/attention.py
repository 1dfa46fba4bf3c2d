"""Gated multi-head attention on projections of its inputs.

Shapes: R rows, Q queries, K keys, H heads, C channels of a head.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from foldase_kernels import evoformer_attention
from foldase_models.layers.primitives import Linear


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

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(*x.shape[:-1], self.no_heads, -1)

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
        gate = None if self.linear_g is None else self._heads(self.linear_g(q_x))
        out = evoformer_attention(
            self._heads(self.linear_q(q_x)),
            self._heads(self.linear_k(kv_x)),
            self._heads(self.linear_v(kv_x)),
            biases,
            mask=mask,
            gate=gate,
        )
        result: torch.Tensor = self.linear_o(out.flatten(-2))
        return result
