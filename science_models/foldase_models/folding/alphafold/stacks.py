"""Stacks of blocks over alignment and pairs: the extra rows, and the Evoformer.

Shapes: S sequences, N residues, c_m, c_z and c_s channels.
"""

from __future__ import annotations

import torch
from torch import nn

from foldase_models.folding.alphafold.extra_msa import ExtraMSABlock
from foldase_models.folding.options import ForwardOptions
from foldase_models.layers.dims import EvoformerDims
from foldase_models.layers.evoformer import AfterBlock, EvoformerBlock, run_blocks
from foldase_models.layers.primitives import Linear


def _forms(options: ForwardOptions) -> dict[str, bool]:
    """What the options mean to :func:`foldase_models.layers.evoformer.run_blocks`."""
    training = torch.is_grad_enabled()
    return {
        "inplace": options.inplace and not training,
        "checkpoint": options.checkpoint and training,
        "waiting": options.offload_weights,
    }


class ExtraMSAStack(nn.Module):
    """Blocks under the key ``blocks``; only the pairs go on."""

    def __init__(self, dims: EvoformerDims, no_blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ExtraMSABlock(dims) for _ in range(no_blocks))

    def forward(
        self,
        m: torch.Tensor,
        z: torch.Tensor,
        msa_mask: torch.Tensor | None = None,
        pair_mask: torch.Tensor | None = None,
        *,
        options: ForwardOptions,
        after: AfterBlock | None = None,
    ) -> torch.Tensor:
        """New ``z`` ``[..., N, N, c_z]``; arguments as in :class:`EvoformerStack`."""
        return run_blocks(self.blocks, m, z, msa_mask, pair_mask, after=after, **_forms(options))[1]


class EvoformerStack(nn.Module):
    """The Evoformer, and the single representation by a linear layer of its first row.

    Keys: ``blocks``, ``linear``.
    """

    def __init__(self, dims: EvoformerDims, no_blocks: int, c_s: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(EvoformerBlock(dims) for _ in range(no_blocks))
        self.linear = Linear(dims.c_m, c_s)

    def forward(
        self,
        m: torch.Tensor,
        z: torch.Tensor,
        msa_mask: torch.Tensor | None = None,
        pair_mask: torch.Tensor | None = None,
        *,
        options: ForwardOptions,
        after: AfterBlock | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """All blocks in turn.

        Args:
            m: ``[..., S, N, c_m]``.
            z: ``[..., N, N, c_z]``.
            msa_mask: boolean ``[..., S, N]``, True = real.
            pair_mask: boolean ``[..., N, N]``.
            options: what may be done to save memory.
            after: called after each block.

        Returns:
            New ``m``, ``z``, and the single representation ``[..., N, c_s]``.
        """
        m, z = run_blocks(self.blocks, m, z, msa_mask, pair_mask, after=after, **_forms(options))
        return m, z, self.linear(m[..., 0, :, :])
