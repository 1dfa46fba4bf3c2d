"""The folding trunk with its recycling and the structure module behind it (Lin et al. 2023, supplement A.3).

Shapes: B proteins, N residues, c_s and c_z channels of sequence (s) and pair (z) representation, R passes.
Lengths in A.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint as torch_checkpoint

from foldase_models.folding.esmfold.blocks import TrunkBlock
from foldase_models.folding.esmfold.config import TrunkDims
from foldase_models.folding.options import ForwardOptions
from foldase_models.layers.primitives import Linear
from foldase_models.layers.row_groups import by_rows, by_rows_in_place, rows_at_once
from foldase_models.layers.structure_dims import StructureDims
from foldase_models.layers.structure_module import StructureModule, StructureOutput

RECYCLE_BINS = 15
RECYCLE_FIRST, RECYCLE_LAST = 3.375, 21.375
"""Limits of the first and the last bin of distances between C-beta that are fed back, A."""

VIRTUAL_BETA = (-0.58273431, 0.56802827, -0.54067466)
"""C-beta from C-alpha by the cross product of the bonds to it, the bond from N, and the bond to C."""

Progress = Callable[[float, str], None]


@dataclass(frozen=True, slots=True)
class TrunkOutput:
    """What the last pass gives.

    Attributes:
        s: ``[B, N, c_s]``.
        z: ``[B, N, N, c_z]``.
        structure: of the last pass.
        alpha: C-alpha after each pass, ``[R, B, N, 3]``, A, without gradient.
        converged: the passes ended before their number, for nothing moved any more.
    """

    s: torch.Tensor
    z: torch.Tensor
    structure: StructureOutput
    alpha: torch.Tensor
    converged: bool


class RelativePosition(nn.Module):
    """Key: ``embedding``, of offsets cut at both ends; its first row is for pairs with padding."""

    def __init__(self, bins: int, c_z: int) -> None:
        super().__init__()
        self.bins = bins
        self.embedding = nn.Embedding(2 * bins + 2, c_z)

    def index(self, residue_index: torch.Tensor, mask: torch.Tensor | None, rows: slice) -> torch.Tensor:
        """Rows of the table for some rows of pairs, int64 ``[B, rows, N]``."""
        offset = residue_index[:, None, :] - residue_index[:, rows, None]
        index = offset.clamp(-self.bins, self.bins) + self.bins + 1
        return index if mask is None else index * (mask[:, rows, None] & mask[:, None, :])


class FoldingTrunk(nn.Module):
    """Blocks, recycling and structure module.

    Keys as in Hugging Face's ESMFold: ``pairwise_positional_embedding``, ``blocks``, ``recycle_s_norm``,
    ``recycle_z_norm``, ``recycle_disto``, ``structure_module``, ``trunk2sm_s``, ``trunk2sm_z``.
    """

    def __init__(self, dims: TrunkDims, structure: StructureDims) -> None:
        super().__init__()
        self.pairwise_positional_embedding = RelativePosition(dims.position_bins, dims.c_z)
        self.blocks = nn.ModuleList(TrunkBlock(dims) for _ in range(dims.no_blocks))
        self.recycle_s_norm = nn.LayerNorm(dims.c_s)
        self.recycle_z_norm = nn.LayerNorm(dims.c_z)
        self.recycle_disto = nn.Embedding(RECYCLE_BINS, dims.c_z)
        nn.init.zeros_(self.recycle_disto.weight)
        self.structure_module = StructureModule(structure)
        self.trunk2sm_s = Linear(dims.c_s, structure.c_s)
        self.trunk2sm_z = Linear(dims.c_z, structure.c_z)

    def forward(
        self,
        s_first: torch.Tensor,
        aatype: torch.Tensor,
        residue_index: torch.Tensor,
        mask: torch.Tensor | None,
        *,
        passes: int,
        tolerance: float | None = None,
        options: ForwardOptions,
        progress: Progress | None = None,
    ) -> TrunkOutput:
        """All passes; only the last has a gradient.

        The pair representation starts empty, so that a pass needs of the one before only what it overwrites.

        Args:
            s_first: ``[B, N, c_s]``.
            aatype: residue types, int64 ``[B, N]``.
            residue_index: numbers along the chains, int64 ``[B, N]``.
            mask: of residues, boolean ``[B, N]``, True = real.
            passes: at most, at least 1.
            tolerance: end when distances between C-alpha change by less from pass to pass, A, root mean
                square of the protein that changes most.
            options: in place or not, checkpoints.
            progress: called after every block with the share of all passes done.
        """
        s, z, structure = torch.zeros_like(s_first), None, None
        alphas: list[torch.Tensor] = []
        converged = False
        wanted = torch.is_grad_enabled()
        for number in range(passes):
            # Which pass is the last is not known beforehand where it may end early.
            last = number == passes - 1
            with torch.set_grad_enabled(wanted and last):
                s = s_first + self.recycle_s_norm(s.detach())
                z = self._start(z, structure, residue_index, mask, s, options)
                s, z = self._blocks(s, z, mask, options, _part(progress, number, passes))
                pairs = by_rows(_linear, z, (self.trunk2sm_z.weight, self.trunk2sm_z.bias))
                structure = self.structure_module(self.trunk2sm_s(s), pairs, aatype, mask)
                del pairs
            alphas.append(structure.positions[-1, :, :, 1].detach())
            if not wanted and not last and tolerance is not None and number > 0:
                converged = change_of_distances(alphas[-2], alphas[-1], mask) < tolerance
                if converged:
                    break
        assert z is not None
        assert structure is not None
        return TrunkOutput(s, z, structure, torch.stack(alphas), converged)

    def _start(
        self,
        z: torch.Tensor | None,
        structure: StructureOutput | None,
        residue_index: torch.Tensor,
        mask: torch.Tensor | None,
        s: torch.Tensor,
        options: ForwardOptions,
    ) -> torch.Tensor:
        """Pairs at the start of a pass, ``[B, N, N, c_z]``, over those of the last pass where there are."""
        batch, length = residue_index.shape
        inplace = not torch.is_grad_enabled() and (options.inplace or z is None)
        if z is None:
            shape = (batch, length, length, self.recycle_disto.embedding_dim)
            # Zeros of their own where they are written over, else one for all.
            z = s.new_zeros(shape) if inplace else s.new_zeros(1, 1, 1, 1).expand(shape)
        beta = None if structure is None else virtual_beta(structure.positions[-1].detach())
        norm, positions = self.recycle_z_norm, self.pairwise_positional_embedding
        tensors = (norm.weight, norm.bias, self.recycle_disto.weight, positions.embedding.weight)

        def compute(part: torch.Tensor, rows: slice, *given: torch.Tensor) -> torch.Tensor:
            weight, bias, of_bins, of_offsets = given
            normed = functional.layer_norm(part, norm.normalized_shape, weight, bias, norm.eps)
            bins = None if beta is None else distance_bins(beta, rows)
            fed_back = of_bins[0] if bins is None else functional.embedding(bins, of_bins)
            index = positions.index(residue_index, mask, rows)
            started: torch.Tensor = normed + fed_back + functional.embedding(index, of_offsets)
            return started

        if inplace:
            return by_rows_in_place(compute, z, tensors)
        return by_rows(compute, z.detach(), tensors)

    def _blocks(
        self,
        s: torch.Tensor,
        z: torch.Tensor,
        mask: torch.Tensor | None,
        options: ForwardOptions,
        progress: Progress | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        grad = torch.is_grad_enabled()
        for number, block in enumerate(self.blocks, start=1):
            if grad and options.checkpoint:
                s, z = torch_checkpoint(block, s, z, mask, use_reentrant=False)
            else:
                s, z = block(s, z, mask, inplace=options.inplace and not grad)
            if progress is not None:
                progress(number / len(self.blocks), f"block {number} of {len(self.blocks)}")
        return s, z


def virtual_beta(atoms: torch.Tensor) -> torch.Tensor:
    """Where C-beta would be, ``[..., N, 3]``, from N, C-alpha and C, the first of ``[..., N, 14, 3]``."""
    n, alpha, c = atoms[..., 0, :], atoms[..., 1, :], atoms[..., 2, :]
    before, behind = alpha - n, c - alpha
    cross, of_before, of_behind = VIRTUAL_BETA
    normal: torch.Tensor = torch.linalg.cross(before, behind)
    return alpha + cross * normal + of_before * before + of_behind * behind


def distance_bins(points: torch.Tensor, rows: slice) -> torch.Tensor:
    """Which of the 15 bins each distance from some points to all falls into, int64 ``[B, rows, N]``."""
    limits = torch.linspace(RECYCLE_FIRST, RECYCLE_LAST, RECYCLE_BINS - 1, device=points.device)
    squares = (points[:, None, :, :] - points[:, rows, None, :]).square().sum(-1)
    return torch.bucketize(squares, limits.square().to(squares.dtype))


def change_of_distances(one: torch.Tensor, other: torch.Tensor, mask: torch.Tensor | None) -> float:
    """Root mean square change of distances between points ``[B, N, 3]``, of the protein that changes most."""
    batch, length, _ = one.shape
    real = one.new_ones(batch, length) if mask is None else mask.to(one.dtype)
    total = one.new_zeros(batch)
    step = rows_at_once(length, 4 * batch * length * one.element_size())
    for start in range(0, length, step):
        rows = slice(start, start + step)
        change = _distances(one, rows) - _distances(other, rows)
        total += (change.square() * real[:, rows, None] * real[:, None]).sum((-2, -1))
    return float((total / real.sum(-1).square().clamp(min=1)).sqrt().max())


def _distances(points: torch.Tensor, rows: slice) -> torch.Tensor:
    # Not by matrix products, whose rounding would pass for movement.
    return torch.cdist(points[:, rows], points, compute_mode="donot_use_mm_for_euclid_dist")


def _linear(part: torch.Tensor, _: slice, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return functional.linear(part, weight, bias)


def _part(progress: Progress | None, number: int, passes: int) -> Progress | None:
    """Progress within one of the passes, as progress of all."""
    if progress is None:
        return None
    return lambda share, words: progress((number + share) / passes, f"pass {number + 1}, {words}")
