"""Which of two equivalent namings of symmetric side chains suits a prediction better.

Source: Jumper et al. 2021, supplement 1.8.5 and algorithm 26: aspartate, glutamate, phenylalanine, tyrosine.
All losses then compare with the naming chosen here. Shapes: ``...`` batch, N residues.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from foldase_models.folding.losses.grouped import distances, sum_over_rows
from foldase_models.folding.losses.truth import Truth, by_type
from foldase_models.layers.residues import ATOM14_AMBIGUOUS, ATOM14_SWAPPED
from foldase_models.layers.rigid import Rigid


@dataclass(frozen=True, slots=True)
class Renamed:
    """True atoms ``[..., N, 14, 3]``, A, named to suit.

    Attributes:
        atoms: see above.
        mask: which are known, boolean ``[..., N, 14]``.
        groups: frames of the rigid groups ``[..., N, 8]``.
        swapped: residues whose other naming was chosen, boolean ``[..., N]``.
    """

    atoms: torch.Tensor
    mask: torch.Tensor
    groups: Rigid
    swapped: torch.Tensor


@torch.no_grad()
def rename(truth: Truth, predicted: torch.Tensor) -> Renamed:
    """Choose names residue by residue, by distances to atoms that are not ambiguous.

    Args:
        truth: what is compared with.
        predicted: ``[..., N, 14, 3]``, A.

    Returns:
        All without gradients.
    """
    order = by_type(ATOM14_SWAPPED, truth.aatype)
    other = truth.atom14.gather(-2, order.unsqueeze(-1).expand_as(truth.atom14))
    other_mask = truth.atom14_mask.gather(-1, order)
    swapped = _better_swapped(truth, predicted, other)
    atoms = torch.where(swapped[..., None, None], other, truth.atom14)
    mask = torch.where(swapped[..., None], other_mask, truth.atom14_mask)
    chosen = swapped[..., None, None]
    groups = Rigid(
        torch.where(chosen[..., None], truth.other_groups.rotation, truth.groups.rotation),
        torch.where(chosen, truth.other_groups.translation, truth.groups.translation),
    )
    return Renamed(atoms, mask, groups, swapped)


def _better_swapped(truth: Truth, predicted: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Boolean ``[..., N]``."""
    ambiguous = by_type(ATOM14_AMBIGUOUS, truth.aatype)
    fixed = (truth.atom14_mask & ~ambiguous).flatten(-2)
    moving = truth.atom14_mask & ambiguous
    truth_points, predicted_points = truth.atom14.flatten(-3, -2), predicted.flatten(-3, -2)
    gain = torch.zeros_like(truth.atom14[..., 0, 0])

    def add(rows: slice) -> torch.Tensor:
        seen = distances(predicted[..., rows, :, :], predicted_points)
        as_named = (seen - distances(truth.atom14[..., rows, :, :], truth_points)).abs()
        exchanged = (seen - distances(other[..., rows, :, :], truth_points)).abs()
        pair = moving[..., rows, :, None] & fixed[..., None, None, :]
        gain[..., rows] = ((as_named - exchanged) * pair).sum((-1, -2))
        return gain.new_zeros(())

    row = 3 * predicted.shape[-2] * predicted_points.numel() * predicted.element_size()
    sum_over_rows(add, predicted.shape[-3], row)
    return gain > 0
