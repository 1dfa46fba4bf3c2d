"""What the contact model is trained on.

Shapes: B proteins, N residues.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.nn import functional

from foldase_kernels.operators import no_autocast
from foldase_models.folding.contacts.config import ContactModelConfig
from foldase_models.folding.contacts.heads import DistanceBins
from foldase_models.folding.contacts.model import ContactOutput
from foldase_models.folding.contacts.trace import lddt_ca

WEIGHTS = {"contact": 1.0, "distance": 0.3, "confidence": 0.1}
"""Of the three losses; distance as in AlphaFold 2 (supplement 1.9), the other two for this model."""


def contact_losses(
    output: ContactOutput,
    coords: torch.Tensor,
    contacts: torch.Tensor,
    config: ContactModelConfig,
    bins: DistanceBins,
) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
    """The weighted sum, and its parts with the mean lDDT of the trace.

    Contacts are scored by cross-entropy over pairs at least ``config.min_separation`` apart, distances over
    pairs that are not neighbours, confidence by the likelihood of the true lDDT of the trace that was built.

    Args:
        output: of the model.
        coords: true C-alpha trace ``[B, N, 3]``, A.
        contacts: true contacts ``[B, N, N]``, 0 or 1.
        config: of the model.
        bins: of the distogram.
    """
    residues = coords.shape[-2]
    wide = torch.promote_types(output.contact_logits.dtype, torch.float32)
    logits, said, doubt = (
        own.to(wide) for own in (output.contact_logits, output.confidence, output.confidence_spread)
    )
    with no_autocast(coords.device):
        i, j = torch.triu_indices(residues, residues, offset=config.min_separation, device=coords.device)
        contact = functional.binary_cross_entropy_with_logits(
            logits[:, i, j], contacts[:, i, j].to(logits.dtype)
        )
        i, j = torch.triu_indices(residues, residues, offset=2, device=coords.device)
        true_bins = bins.index(torch.cdist(coords, coords)[:, i, j])
        distance = functional.cross_entropy(
            output.distogram_logits[:, i, j].flatten(0, 1), true_bins.flatten()
        )
        lddt = lddt_ca(output.coords, coords)
        confidence = functional.gaussian_nll_loss(said, lddt, doubt.square())
    parts = {"contact": contact, "distance": distance, "confidence": confidence}
    total = sum(WEIGHTS[name] * part for name, part in parts.items())
    assert isinstance(total, torch.Tensor)
    return total, {**{f"{name}_loss": part for name, part in parts.items()}, "lddt": lddt.mean()}
