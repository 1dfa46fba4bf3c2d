"""Stacks of blocks over alignment and pairs: the extra rows, and the Evoformer.

Shapes: S sequences, N residues, c_m, c_z and c_s channels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.func import functional_call

from foldase_models.folding.alphafold.extra_msa import ExtraMSABlock
from foldase_models.folding.options import ForwardOptions
from foldase_models.layers.dims import EvoformerDims
from foldase_models.layers.evoformer import EvoformerBlock
from foldase_models.layers.primitives import Linear

AfterBlock = Callable[[int], None]
"""Called with the number of blocks of a stack that are done; what it raises ends the work."""


def run_block(
    block: nn.Module,
    m: torch.Tensor,
    z: torch.Tensor,
    msa_mask: torch.Tensor | None,
    pair_mask: torch.Tensor | None,
    options: ForwardOptions,
) -> tuple[torch.Tensor, torch.Tensor]:
    """New ``m`` and ``z`` of one block of a stack, which may wait elsewhere with its weights."""
    training = torch.is_grad_enabled()
    form = {"inplace": options.inplace and not training, "checkpoint": options.checkpoint and training}
    if not options.offload_weights:
        out = block(m, z, msa_mask, pair_mask, **form)
    else:
        near = {name: tensor.to(m.device, non_blocking=True) for name, tensor in block.state_dict().items()}
        out = functional_call(block, near, (m, z, msa_mask, pair_mask), form)
    new_m, new_z = out
    return new_m, new_z


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
        for done, block in enumerate(self.blocks, start=1):
            m, z = run_block(block, m, z, msa_mask, pair_mask, options)
            if after is not None:
                after(done)
        return z


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
        for done, block in enumerate(self.blocks, start=1):
            m, z = run_block(block, m, z, msa_mask, pair_mask, options)
            if after is not None:
                after(done)
        return m, z, self.linear(m[..., 0, :, :])
