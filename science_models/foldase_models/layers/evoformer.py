"""The Evoformer: blocks that let an alignment and its pairs of residues inform one another.

Shapes: S sequences, N residues, c_m and c_z channels of alignment (m) and pair (z) representation.

Memory is told in U, the bytes of z. A block never holds logits, hidden layers or projections whole: what lies
between a representation and its update exists for a group of rows or channels at a time.
:class:`EvoformerBlock` says what remains.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint as torch_checkpoint

from foldase_models.layers.dims import EvoformerDims
from foldase_models.layers.msa import MSAColumnAttention, MSARowAttentionWithPairBias
from foldase_models.layers.outer_product import OuterProductMean
from foldase_models.layers.primitives import DropoutColumnwise, DropoutRowwise
from foldase_models.layers.row_groups import check_in_place
from foldase_models.layers.transition import Transition
from foldase_models.layers.triangle import TriangleAttention, TriangleMultiplication

AfterBlock = Callable[[int], None]
"""Called with the number of blocks of a stack that are done; what it raises ends the work."""

Segment = Callable[..., torch.Tensor]
"""A part of a block, from representations and masks to one new representation."""


def _run(segment: Segment, *arguments: object, checkpoint: bool) -> torch.Tensor:
    """A part of a block; with ``checkpoint`` only its arguments are kept for the backward pass."""
    if not (checkpoint and torch.is_grad_enabled()):
        return segment(*arguments)
    result: torch.Tensor = torch_checkpoint(segment, *arguments, use_reentrant=False)
    return result


class PairStack(nn.Module):
    """The part of a block that sees pairs only."""

    def __init__(self, dims: EvoformerDims, *, attention_first: bool = False) -> None:
        """With ``attention_first`` the attentions come before the multiplications, as for templates."""
        super().__init__()
        self.attention_first = attention_first
        c_z, hidden, heads = dims.c_z, dims.c_hidden_pair_att, dims.no_heads_pair
        self.tri_mul_out = TriangleMultiplication(c_z, dims.c_hidden_mul, outgoing=True)
        self.tri_mul_in = TriangleMultiplication(c_z, dims.c_hidden_mul, outgoing=False)
        self.tri_att_start = TriangleAttention(c_z, hidden, heads, starting=True)
        self.tri_att_end = TriangleAttention(c_z, hidden, heads, starting=False)
        self.pair_transition = Transition(c_z, dims.transition_n)
        self.ps_dropout_row_layer = DropoutRowwise(dims.pair_dropout)
        self.ps_dropout_column_layer = DropoutColumnwise(dims.pair_dropout)

    def _multiply(self, z: torch.Tensor, mask: torch.Tensor | None, inplace: bool) -> torch.Tensor:
        for layer in (self.tri_mul_out, self.tri_mul_in):
            z = layer(z, mask, residual=True, factor=self.ps_dropout_row_layer.factor(z), inplace=inplace)
        return z

    def _attend(self, z: torch.Tensor, mask: torch.Tensor | None, inplace: bool) -> torch.Tensor:
        layers = (
            (self.tri_att_start, self.ps_dropout_row_layer),
            (self.tri_att_end, self.ps_dropout_column_layer),
        )
        for layer, dropout in layers:
            z = layer(z, mask, residual=True, factor=dropout.factor(z), inplace=inplace)
        return z

    def forward(
        self,
        z: torch.Tensor,
        pair_mask: torch.Tensor | None = None,
        *,
        inplace: bool = False,
        checkpoint: bool = False,
    ) -> torch.Tensor:
        """New ``z`` ``[..., N, N, c_z]``; ``pair_mask`` boolean ``[..., N, N]``.

        ``inplace`` as in :class:`EvoformerBlock`; ``checkpoint`` keeps three tensors like z for the backward
        pass: the inputs of multiplications, attentions and transition.
        """
        stages = (self._multiply, self._attend)
        for stage in reversed(stages) if self.attention_first else stages:
            z = _run(stage, z, pair_mask, inplace, checkpoint=checkpoint)
        out: torch.Tensor = self.pair_transition(z, pair_mask, residual=True, inplace=inplace)
        return out


class EvoformerBlock(nn.Module):
    """One block (algorithm 6); with ``opm_first`` the outer product mean comes first, as in multimer.

    Peaks on the CPU at c_m = 256, S = 128, c_z = 128, N = 512, float32, weights and arguments not counted:

    - inference in place: the products of a triangle multiplication and scratch, 1.4 U, m and z apart;
    - training with checkpoints: 6 U beyond the checkpoints, gradients of m, z and weights included. The
      checkpoints are the arguments m and z and the new m, which the next block keeps anyway (with
      ``opm_first`` z after the outer product mean instead of the new m). The backward pass computes the
      pair part anew, keeping the inputs of its three stages (3 U), and each stage once more.
    """

    def __init__(self, dims: EvoformerDims) -> None:
        super().__init__()
        self.opm_first = dims.opm_first
        self.msa_att_row = MSARowAttentionWithPairBias(
            dims.c_m, dims.c_z, dims.c_hidden_msa_att, dims.no_heads_msa
        )
        self.msa_att_col: nn.Module = MSAColumnAttention(dims.c_m, dims.c_hidden_msa_att, dims.no_heads_msa)
        self.msa_dropout_layer = DropoutRowwise(dims.msa_dropout)
        self.msa_transition = Transition(dims.c_m, dims.transition_n)
        self.outer_product_mean = OuterProductMean(
            dims.c_m, dims.c_z, dims.c_hidden_opm, centred=dims.opm_centred
        )
        self.pair_stack = PairStack(dims)

    def _update_m(
        self, m: torch.Tensor, z: torch.Tensor, mask: torch.Tensor | None, inplace: bool
    ) -> torch.Tensor:
        factor = self.msa_dropout_layer.factor(m)
        m = self.msa_att_row(m, z, mask, residual=True, factor=factor, inplace=inplace)
        m = self.msa_att_col(m, mask, residual=True, inplace=inplace)
        out: torch.Tensor = self.msa_transition(m, mask, residual=True, inplace=inplace)
        return out

    def _add_outer(
        self, m: torch.Tensor, z: torch.Tensor, mask: torch.Tensor | None, inplace: bool
    ) -> torch.Tensor:
        out: torch.Tensor = self.outer_product_mean(m, mask, residual=z if inplace else None)
        return out if inplace else z + out

    def _update_z(
        self,
        m: torch.Tensor | None,
        z: torch.Tensor,
        msa_mask: torch.Tensor | None,
        pair_mask: torch.Tensor | None,
        inplace: bool,
        checkpoint: bool,
    ) -> torch.Tensor:
        """The pair stack, after the outer product mean where ``m`` is given."""
        if m is not None:
            z = _run(self._add_outer, m, z, msa_mask, inplace, checkpoint=checkpoint)
        out: torch.Tensor = self.pair_stack(z, pair_mask, inplace=inplace, checkpoint=checkpoint)
        return out

    def forward(
        self,
        m: torch.Tensor,
        z: torch.Tensor,
        msa_mask: torch.Tensor | None = None,
        pair_mask: torch.Tensor | None = None,
        *,
        inplace: bool = False,
        checkpoint: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """New ``m`` ``[..., S, N, c_m]`` and ``z`` ``[..., N, N, c_z]``; masks boolean, True = real.

        With ``inplace``, for inference only, they are written over ``m`` and ``z``. With ``checkpoint`` the
        backward pass computes the block anew. Results are the same but for rounding.

        Raises:
            ValueError: ``inplace`` where a gradient is needed, or on an expanded view.
        """
        if inplace:
            check_in_place("m", m, self.parameters())
            check_in_place("z", z)
        elif not torch.is_grad_enabled():
            # The new m and z are needed anyway: what is updated in place needs no third of either.
            m, z, inplace = m.clone(), z.clone(), True
        if self.opm_first:
            z = _run(self._add_outer, m, z, msa_mask, inplace, checkpoint=checkpoint)
        m = _run(self._update_m, m, z, msa_mask, inplace, checkpoint=checkpoint)
        outer = None if self.opm_first else m
        z = _run(self._update_z, outer, z, msa_mask, pair_mask, inplace, checkpoint, checkpoint=checkpoint)
        return m, z


def run_blocks(
    blocks: Iterable[nn.Module],
    m: torch.Tensor,
    z: torch.Tensor,
    msa_mask: torch.Tensor | None = None,
    pair_mask: torch.Tensor | None = None,
    *,
    inplace: bool = False,
    checkpoint: bool = False,
    waiting: bool = False,
    after: AfterBlock | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """New ``m`` and ``z`` of all blocks of a stack in turn; shapes and forms as in :class:`EvoformerBlock`.

    Args:
        blocks: of :class:`EvoformerBlock` or called like one.
        m: alignment.
        z: pairs.
        msa_mask: of the alignment.
        pair_mask: of pairs.
        inplace: for inference only, as in the block.
        checkpoint: as in the block.
        waiting: weights of blocks may lie on another device; each is brought near while its block runs.
        after: called after each block with the number that are done.
    """
    if not (inplace or torch.is_grad_enabled()):
        m, z, inplace = m.clone(), z.clone(), True
    form = {"inplace": inplace, "checkpoint": checkpoint}
    for done, block in enumerate(blocks, start=1):
        run = partial(_brought_near, block) if waiting else block
        m, z = run(m, z, msa_mask, pair_mask, **form)
        if after is not None:
            after(done)
    return m, z


def _brought_near(
    block: nn.Module, m: torch.Tensor, *others: torch.Tensor | None, **form: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """A block with its weights where ``m`` is; they go when it returns."""
    near = {name: own.to(m.device, non_blocking=True) for name, own in block.state_dict().items()}
    new_m, new_z = functional_call(block, near, (m, *others), form)
    return new_m, new_z


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
        *,
        inplace: bool = False,
        checkpoint: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """All blocks in turn; shapes and options as in :class:`EvoformerBlock`."""
        return run_blocks(self.blocks, m, z, msa_mask, pair_mask, inplace=inplace, checkpoint=checkpoint)
