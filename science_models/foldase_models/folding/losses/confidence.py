"""Losses on what the model says about itself: lDDT of its atoms, and which atoms experiments see.

Source: Jumper et al. 2021, supplement 1.9.6 (algorithm 29) and 1.9.10. Shapes: ``...`` batch, N residues, A
atoms of a residue that confidence is given for. Lengths in A.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from foldase_models.folding.losses.grouped import cross_entropy, distances, masked_mean, sum_over_rows

CUTOFF = 15.0
THRESHOLDS = (0.5, 1.0, 2.0, 4.0)


@torch.no_grad()
def atom_lddt(
    predicted: torch.Tensor,
    true: torch.Tensor,
    mask: torch.Tensor,
    predicted_alpha: torch.Tensor,
    true_alpha: torch.Tensor,
    alpha_mask: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Score atoms (lDDT) by their distances to the C-alpha atoms of other residues.

    Args:
        predicted: ``[..., N, A, 3]``, A.
        true: likewise.
        mask: boolean ``[..., N, A]``.
        predicted_alpha: ``[..., N, 3]``.
        true_alpha: likewise.
        alpha_mask: boolean ``[..., N]``.

    Returns:
        Scores ``[..., N, A]`` from 0 to 1, and which of them there are: atoms with another residue's C-alpha
        within the cutoff.
    """
    residues, atoms = mask.shape[-2:]
    other = ~torch.eye(residues, dtype=torch.bool, device=mask.device).unsqueeze(-2)
    kept = torch.zeros_like(true[..., 0])
    count = torch.zeros_like(kept)

    def add(rows: slice) -> torch.Tensor:
        distance = distances(true[..., rows, :, :], true_alpha)
        error = (distances(predicted[..., rows, :, :], predicted_alpha) - distance).abs()
        pair = (distance < CUTOFF) & other[rows] & alpha_mask[..., None, None, :] & mask[..., rows, :, None]
        score = torch.stack([(error < threshold) for threshold in THRESHOLDS]).to(kept.dtype).mean(0)
        kept[..., rows, :] = (score * pair).sum(-1)
        count[..., rows, :] = pair.sum(-1).to(kept.dtype)
        return kept.new_zeros(())

    sum_over_rows(add, residues, 4 * atoms * true_alpha.numel() * true.element_size())
    return kept / count.clamp(min=1.0), count > 0


def plddt_loss(logits: torch.Tensor, lddt: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of lDDT in equal bins from 0 to 1.

    Args:
        logits: ``[..., N, A, 50]``.
        lddt: ``[..., N, A]``, as :func:`atom_lddt` gives it.
        mask: boolean ``[..., N, A]``.

    Returns:
        ``[...]``, the mean; 0 where nothing counts.
    """
    bins = logits.shape[-1]
    index = (lddt * bins).floor().long().clamp(0, bins - 1)
    return masked_mean(cross_entropy(logits, index), mask, 2)


def resolved_loss(logits: torch.Tensor, seen: torch.Tensor, exists: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy of which atoms were seen by experiment, among those that a residue has.

    Args:
        logits: ``[..., N, 37]``.
        seen: boolean ``[..., N, 37]``.
        exists: likewise.

    Returns:
        ``[...]``, the mean; 0 where no atom exists.
    """
    wide = logits if logits.dtype == torch.float64 else logits.float()
    errors = functional.binary_cross_entropy_with_logits(wide, seen.to(wide.dtype), reduction="none")
    return masked_mean(errors, exists, 2)
