"""Attention along the rows and the columns of an alignment.

Shapes: S sequences, N residues, c_m and c_z channels of alignment and pair representation, H heads.
"""

from __future__ import annotations

import torch
from torch import nn

from foldase_models.layers.attention import Attention, attend_within_rows, pair_bias
from foldase_models.layers.primitives import Linear


class MSAAttention(nn.Module):
    """Self-attention along dimension -2, with an optional bias from pairs (supplement, algorithm 7)."""

    def __init__(self, c_in: int, c_hidden: int, no_heads: int, *, c_z: int | None = None) -> None:
        super().__init__()
        self.layer_norm_m = nn.LayerNorm(c_in)
        self.layer_norm_z = None if c_z is None else nn.LayerNorm(c_z)
        self.linear_z = None if c_z is None else Linear(c_z, no_heads, bias=False, init="normal")
        self.mha = Attention(c_in, c_in, c_in, c_hidden, no_heads)

    def forward(
        self,
        m: torch.Tensor,
        z: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
        *,
        residual: bool = False,
        factor: torch.Tensor | None = None,
        inplace: bool = False,
    ) -> torch.Tensor:
        """Update of ``m``.

        Args:
            m: ``[..., S, N, c_in]``.
            z: ``[..., N, N, c_z]``, given where the layer takes pairs.
            mask: boolean ``[..., S, N]``, True = real.
            residual: return the new ``m``.
            factor: on the update, broadcastable to ``m``: a dropout mask.
            inplace: write the new ``m`` into ``m`` and return it; inference only.
        """
        biases = []
        if self.linear_z is not None and self.layer_norm_z is not None:
            assert z is not None
            biases.append(pair_bias(z, self.layer_norm_z, self.linear_z))
        return attend_within_rows(
            m,
            self.layer_norm_m,
            self.mha,
            biases,
            mask,
            residual=residual,
            factor=factor,
            inplace=inplace,
        )


class MSARowAttentionWithPairBias(MSAAttention):
    """Residues of a sequence attend to one another, biased by the pair representation."""

    def __init__(self, c_m: int, c_z: int, c_hidden: int, no_heads: int) -> None:
        super().__init__(c_m, c_hidden, no_heads, c_z=c_z)


class MSAColumnAttention(nn.Module):
    """Sequences attend to one another at each residue (algorithm 8). Keys lie under ``_msa_att``."""

    def __init__(self, c_m: int, c_hidden: int, no_heads: int) -> None:
        super().__init__()
        self._msa_att = MSAAttention(c_m, c_hidden, no_heads)

    def forward(
        self,
        m: torch.Tensor,
        mask: torch.Tensor | None = None,
        *,
        residual: bool = False,
        inplace: bool = False,
    ) -> torch.Tensor:
        """Update of ``m`` ``[..., S, N, c_m]``; ``mask`` boolean ``[..., S, N]``; the rest as for rows."""
        columns = m.transpose(-3, -2)
        seen = None if mask is None else mask.mT
        out: torch.Tensor = self._msa_att(columns, mask=seen, residual=residual, inplace=inplace)
        return m if inplace else out.transpose(-3, -2)
