"""The Evoformer: blocks that let an alignment and its pairs of residues inform one another.

Shapes: S sequences, N residues, c_m and c_z channels of alignment (m) and pair (z) representation.
"""

from __future__ import annotations

import torch
from torch import nn

from foldase_models.layers.dims import EvoformerDims
from foldase_models.layers.msa import MSAColumnAttention, MSARowAttentionWithPairBias
from foldase_models.layers.outer_product import OuterProductMean
from foldase_models.layers.primitives import DropoutColumnwise, DropoutRowwise
from foldase_models.layers.transition import Transition
from foldase_models.layers.triangle import TriangleAttention, TriangleMultiplication


class PairStack(nn.Module):
    """The part of a block that sees pairs only."""

    def __init__(self, dims: EvoformerDims) -> None:
        super().__init__()
        c_z, hidden, heads = dims.c_z, dims.c_hidden_pair_att, dims.no_heads_pair
        self.tri_mul_out = TriangleMultiplication(c_z, dims.c_hidden_mul, outgoing=True)
        self.tri_mul_in = TriangleMultiplication(c_z, dims.c_hidden_mul, outgoing=False)
        self.tri_att_start = TriangleAttention(c_z, hidden, heads, starting=True)
        self.tri_att_end = TriangleAttention(c_z, hidden, heads, starting=False)
        self.pair_transition = Transition(c_z, dims.transition_n)
        self.ps_dropout_row_layer = DropoutRowwise(dims.pair_dropout)
        self.ps_dropout_column_layer = DropoutColumnwise(dims.pair_dropout)

    def forward(self, z: torch.Tensor, pair_mask: torch.Tensor | None = None) -> torch.Tensor:
        """New ``z`` ``[..., N, N, c_z]``; ``pair_mask`` boolean ``[..., N, N]``."""
        z = z + self.ps_dropout_row_layer(self.tri_mul_out(z, pair_mask))
        z = z + self.ps_dropout_row_layer(self.tri_mul_in(z, pair_mask))
        z = z + self.ps_dropout_row_layer(self.tri_att_start(z, pair_mask))
        z = z + self.ps_dropout_column_layer(self.tri_att_end(z, pair_mask))
        out: torch.Tensor = z + self.pair_transition(z, pair_mask)
        return out


class EvoformerBlock(nn.Module):
    """One block (algorithm 6); with ``opm_first`` the outer product mean comes first, as in multimer."""

    def __init__(self, dims: EvoformerDims) -> None:
        super().__init__()
        self.opm_first = dims.opm_first
        self.msa_att_row = MSARowAttentionWithPairBias(
            dims.c_m, dims.c_z, dims.c_hidden_msa_att, dims.no_heads_msa
        )
        self.msa_att_col = MSAColumnAttention(dims.c_m, dims.c_hidden_msa_att, dims.no_heads_msa)
        self.msa_dropout_layer = DropoutRowwise(dims.msa_dropout)
        self.msa_transition = Transition(dims.c_m, dims.transition_n)
        self.outer_product_mean = OuterProductMean(
            dims.c_m, dims.c_z, dims.c_hidden_opm, centred=dims.opm_centred
        )
        self.pair_stack = PairStack(dims)

    def forward(
        self,
        m: torch.Tensor,
        z: torch.Tensor,
        msa_mask: torch.Tensor | None = None,
        pair_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """New ``m`` ``[..., S, N, c_m]`` and ``z`` ``[..., N, N, c_z]``; masks boolean, True = real."""
        if self.opm_first:
            z = z + self.outer_product_mean(m, msa_mask)
        m = m + self.msa_dropout_layer(self.msa_att_row(m, z, msa_mask))
        m = m + self.msa_att_col(m, msa_mask)
        m = m + self.msa_transition(m, msa_mask)
        if not self.opm_first:
            z = z + self.outer_product_mean(m, msa_mask)
        return m, self.pair_stack(z, pair_mask)


class Evoformer(nn.Module):
    """A stack of blocks under the key ``blocks``."""

    def __init__(self, dims: EvoformerDims, no_blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(EvoformerBlock(dims) for _ in range(no_blocks))

    def forward(
        self,
        m: torch.Tensor,
        z: torch.Tensor,
        msa_mask: torch.Tensor | None = None,
        pair_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """All blocks in turn; shapes as in :class:`EvoformerBlock`."""
        for block in self.blocks:
            m, z = block(m, z, msa_mask, pair_mask)
        return m, z
