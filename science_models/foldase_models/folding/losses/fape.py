"""Frame aligned point error: how far points lie from where they should, seen from every frame.

Source: Jumper et al. 2021, supplement 1.9.2 and algorithm 28. Unlike distances it tells an image from its
mirror image. Shapes: ``...`` batch, F frames, P points, N residues, G blocks of the structure module.
"""

from __future__ import annotations

import torch

from foldase_models.folding.losses.grouped import sum_over_rows
from foldase_models.layers.rigid import Rigid

CLAMP = 10.0
"""Largest error that counts, A."""
SCALE = 10.0
"""Unit of the loss, A."""
EPSILON = 1e-4
"""Added to squared distances, A^2, so that the root has a gradient at 0."""


def fape(
    predicted: Rigid,
    true: Rigid,
    frames_mask: torch.Tensor,
    predicted_points: torch.Tensor,
    true_points: torch.Tensor,
    points_mask: torch.Tensor,
    *,
    clamped: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean error of points in frames, in units of :data:`SCALE`.

    Args:
        predicted: frames ``[..., F]``.
        true: likewise.
        frames_mask: boolean ``[..., F]``.
        predicted_points: ``[..., P, 3]``, A.
        true_points: likewise.
        points_mask: boolean ``[..., P]``.
        clamped: share ``[...]``, 0 to 1, of the error cut off at :data:`CLAMP`; the rest is not cut off.
            None means all of it.

    Returns:
        ``[...]``; 0 where there is no frame or no point.
    """
    mask = points_mask.to(predicted_points.dtype)
    row = 4 * predicted_points.numel() * predicted_points.element_size()

    def of_frames(rows: slice) -> torch.Tensor:
        seen = predicted[..., rows].unsqueeze(-1).apply_inverse(predicted_points.unsqueeze(-3))
        wanted = true[..., rows].unsqueeze(-1).apply_inverse(true_points.unsqueeze(-3))
        error = ((seen - wanted).square().sum(-1) + EPSILON).sqrt()
        cut = error.clamp(max=CLAMP)
        if clamped is not None:
            share = clamped[..., None, None]
            cut = share * cut + (1.0 - share) * error
        return ((cut * mask.unsqueeze(-2)).sum(-1) * frames_mask[..., rows]).sum(-1)

    total = sum_over_rows(of_frames, predicted.shape[-1], row)
    return total / (SCALE * frames_mask.sum(-1).clamp(min=1) * mask.sum(-1).clamp(min=1.0))


def backbone_fape(
    predicted: Rigid, true: Rigid, mask: torch.Tensor, *, clamped: torch.Tensor | None = None
) -> torch.Tensor:
    """C-alpha atoms in backbone frames, the mean over blocks: the auxiliary loss and that of the last block.

    Args:
        predicted: frames after each block ``[G, ..., N]``.
        true: ``[..., N]``.
        mask: boolean ``[..., N]``.
        clamped: as in :func:`fape`.

    Returns:
        ``[...]``.
    """
    errors = [
        fape(block, true, mask, block.translation, true.translation, mask, clamped=clamped)
        for block in (predicted[i] for i in range(predicted.shape[0]))
    ]
    return torch.stack(errors).mean(0)


def sidechain_fape(
    predicted: Rigid,
    true: Rigid,
    groups_mask: torch.Tensor,
    predicted_atoms: torch.Tensor,
    true_atoms: torch.Tensor,
    atoms_mask: torch.Tensor,
) -> torch.Tensor:
    """All atoms in the frames of all rigid groups, always clamped.

    Args:
        predicted: frames ``[..., N, 8]``.
        true: likewise, symmetric groups as :mod:`~foldase_models.folding.losses.renaming` chose.
        groups_mask: boolean ``[..., N, 8]``.
        predicted_atoms: ``[..., N, 14, 3]``, A.
        true_atoms: likewise, renamed.
        atoms_mask: boolean ``[..., N, 14]``.

    Returns:
        ``[...]``.
    """
    return fape(
        _flat(predicted),
        _flat(true),
        groups_mask.flatten(-2),
        predicted_atoms.flatten(-3, -2),
        true_atoms.flatten(-3, -2),
        atoms_mask.flatten(-2),
    )


def _flat(frames: Rigid) -> Rigid:
    return Rigid(frames.rotation.flatten(-4, -3), frames.translation.flatten(-3, -2))
