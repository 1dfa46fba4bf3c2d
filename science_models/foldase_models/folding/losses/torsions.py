"""Torsions of side chains, and how near the raw outputs are to unit length.

Source: Jumper et al. 2021, supplement 1.9.1 and algorithm 27; as in their code, the four torsions of the side
chain count, those of the backbone being held by FAPE. Shapes: ``...`` batch, N residues, G blocks.
"""

from __future__ import annotations

import torch

from foldase_models.folding.losses.grouped import masked_mean
from foldase_models.folding.losses.truth import by_type
from foldase_models.layers.residues import CHI_PI_PERIODIC

EPSILON = 1e-6


def chi_loss(
    angles: torch.Tensor, true: torch.Tensor, mask: torch.Tensor, aatype: torch.Tensor
) -> torch.Tensor:
    """Squared distance on the unit circle; where half a turn changes nothing, from the nearer of the two.

    Args:
        angles: sine and cosine ``[G, ..., N, 7, 2]``, unit length; the last four are of the side chain.
        true: ``[..., N, 4, 2]``.
        mask: boolean ``[..., N, 4]``.
        aatype: ``[..., N]``.

    Returns:
        ``[...]``, the mean over blocks, residues and torsions.
    """
    chi = angles[..., 3:, :]
    error = (chi - true).square().sum(-1)
    turned = (chi + true).square().sum(-1)
    periodic = by_type(CHI_PI_PERIODIC, aatype)
    error = torch.where(periodic, torch.minimum(error, turned), error)
    return masked_mean(error, mask, 2).mean(0)


def angle_norm_loss(raw: torch.Tensor, residue_mask: torch.Tensor) -> torch.Tensor:
    """How far the raw pairs ``[G, ..., N, 7, 2]`` are from unit length, the mean; ``[...]``."""
    length = (raw.square().sum(-1) + EPSILON).sqrt()
    return masked_mean((length - 1.0).abs(), residue_mask.unsqueeze(-1), 2).mean(0)
