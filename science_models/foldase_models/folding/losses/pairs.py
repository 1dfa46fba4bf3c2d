"""Losses on heads that classify: distances of pairs, aligned errors of pairs, masked letters.

Source: Jumper et al. 2021, supplement 1.9.7 (aligned error), 1.9.8 (distogram), 1.9.9 (masked MSA).
Shapes: ``...`` batch, N residues, S rows of the alignment. Lengths in A.
"""

from __future__ import annotations

import torch

from foldase_models.folding.losses.grouped import cross_entropy, masked_mean, sum_over_rows
from foldase_models.layers.rigid import Rigid

DISTOGRAM_FIRST, DISTOGRAM_LAST = 2.3125, 21.6875
"""Borders of the distogram: 63 of them, equally spaced, make 64 bins."""
ALIGNED_LAST = 31.0
"""The last border of the aligned error, the first being 0."""


def distogram_loss(logits: torch.Tensor, beta: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of binned distances between C-beta atoms.

    Args:
        logits: ``[..., N, N, 64]``.
        beta: ``[..., N, 3]``, A.
        mask: boolean ``[..., N]``.

    Returns:
        ``[...]``, the mean over pairs; 0 where there is none.
    """
    borders = torch.linspace(
        DISTOGRAM_FIRST, DISTOGRAM_LAST, logits.shape[-1] - 1, device=beta.device, dtype=beta.dtype
    )

    def squares(rows: slice) -> torch.Tensor:
        return (beta[..., rows, None, :] - beta[..., None, :, :]).square().sum(-1)

    return _classified(logits, squares, borders, mask)


def aligned_error_loss(
    logits: torch.Tensor, predicted: Rigid, true: Rigid, mask: torch.Tensor
) -> torch.Tensor:
    """Cross-entropy of binned errors of C-alpha j in frame i: what pTM and PAE are read from.

    Args:
        logits: ``[..., N, N, 64]``.
        predicted: frames of the last block ``[..., N]``; no gradient flows into them.
        true: ``[..., N]``.
        mask: boolean ``[..., N]``.

    Returns:
        ``[...]``, the mean over pairs; 0 where there is none.
    """
    predicted = predicted.detach()
    borders = torch.linspace(
        0.0, ALIGNED_LAST, logits.shape[-1] - 1, device=mask.device, dtype=true.translation.dtype
    )

    def squares(rows: slice) -> torch.Tensor:
        seen, wanted = (
            frames[..., rows].unsqueeze(-1).apply_inverse(frames.translation.unsqueeze(-3))
            for frames in (predicted, true)
        )
        return (seen - wanted).square().sum(-1)

    return _classified(logits, squares, borders, mask)


def masked_msa_loss(logits: torch.Tensor, letters: torch.Tensor, masked: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the letters that were hidden.

    Args:
        logits: ``[..., S, N, 23]``: 20 residues, unknown, gap, mask.
        letters: true ones ``[..., S, N]``.
        masked: boolean ``[..., S, N]``, which were hidden.

    Returns:
        ``[...]``, the mean; 0 where none was hidden.
    """
    return masked_mean(cross_entropy(logits, letters), masked, 2)


def _classified(
    logits: torch.Tensor, squares: object, borders: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """Mean cross-entropy over pairs of the bins that squared distances fall into, row by row."""
    assert callable(squares)
    weight = mask.to(borders.dtype)

    def of_rows(rows: slice) -> torch.Tensor:
        bins = torch.bucketize(squares(rows), borders.square())
        errors = cross_entropy(logits[..., rows, :, :], bins)
        return (errors * weight[..., rows, None] * weight[..., None, :]).sum((-1, -2))

    row_bytes = 2 * logits[..., :1, :, :].numel() * 4
    total = sum_over_rows(of_rows, logits.shape[-3], row_bytes)
    return total / weight.sum(-1).square().clamp(min=1.0)
