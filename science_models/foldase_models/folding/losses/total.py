"""All losses of a folding model together.

Source: Jumper et al. 2021, supplement 1.9, equation 7, and the configuration of their code. Shapes: ``...``
batch, N residues, G blocks of the structure module, S rows of the alignment.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from foldase_kernels.operators import no_autocast
from foldase_models.errors import ModelError
from foldase_models.folding.losses.confidence import atom_lddt, plddt_loss, resolved_loss
from foldase_models.folding.losses.fape import backbone_fape, sidechain_fape
from foldase_models.folding.losses.pairs import aligned_error_loss, distogram_loss, masked_msa_loss
from foldase_models.folding.losses.renaming import rename
from foldase_models.folding.losses.torsions import angle_norm_loss, chi_loss
from foldase_models.folding.losses.truth import Truth
from foldase_models.folding.losses.violations import find_violations
from foldase_models.folding.losses.weights import LossWeights
from foldase_models.layers.atoms import atom14_to_atom37, atoms_of
from foldase_models.layers.residues import ATOM37, ATOM37_INDEX
from foldase_models.layers.structure_module import StructureOutput

_ALPHA = ATOM37_INDEX["CA"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """What a model says; None where it has no such head.

    Attributes:
        structure: of all blocks.
        distogram_logits: ``[..., N, N, 64]``.
        plddt_logits: of C-alpha ``[..., N, 50]``, or of all atoms ``[..., N, 37, 50]``.
        resolved_logits: ``[..., N, 37]``.
        aligned_error_logits: ``[..., N, N, 64]``.
        masked_msa_logits: ``[..., S, N, 23]``.
    """

    structure: StructureOutput
    distogram_logits: torch.Tensor | None = None
    plddt_logits: torch.Tensor | None = None
    resolved_logits: torch.Tensor | None = None
    aligned_error_logits: torch.Tensor | None = None
    masked_msa_logits: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class HiddenLetters:
    """The alignment before letters were hidden ``[..., S, N]``, and which were, boolean."""

    letters: torch.Tensor
    masked: torch.Tensor


def folding_losses(
    predicted: Predicted,
    truth: Truth,
    weights: LossWeights,
    *,
    clamped: torch.Tensor | None = None,
    hidden: HiddenLetters | None = None,
) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
    """The weighted sum over losses, each example times the root of its length, the mean over the batch.

    Args:
        predicted: of the model.
        truth: what it is compared with.
        weights: how much each loss counts.
        clamped: 1 for examples whose backbone FAPE is cut off, 0 for others, ``[...]``; None means all.
        hidden: letters behind the mask, where the model has that head.

    Returns:
        The loss, and each part of it before weighting, the mean over the batch; with ``lddt``, the mean over
        C-alpha atoms, 0 to 1.

    Raises:
        ModelError: ``no_losses``: every loss that this model has weighs 0.
    """
    # Where atoms are does not survive half precision, in which an autocast region would multiply.
    with no_autocast(truth.atom37.device):
        return _weighted(predicted, truth, weights, clamped, hidden)


def _weighted(
    predicted: Predicted,
    truth: Truth,
    weights: LossWeights,
    clamped: torch.Tensor | None,
    hidden: HiddenLetters | None,
) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
    parts = _structure_losses(predicted.structure, truth, weights, clamped)
    lddt, known = _lddt(predicted.structure, truth)
    parts |= _head_losses(predicted, truth, weights, (lddt, known))
    if hidden is not None and predicted.masked_msa_logits is not None and weights.masked_msa:
        parts["masked_msa"] = masked_msa_loss(predicted.masked_msa_logits, hidden.letters, hidden.masked)
    if not parts:
        raise ModelError("every loss that the model has weighs 0", code="no_losses")
    total = torch.stack([getattr(weights, name) * part for name, part in parts.items()]).sum(0)
    length = truth.residue_mask.sum(-1).clamp(min=1).to(total.dtype)
    alpha, there = lddt[..., _ALPHA], known[..., _ALPHA]
    shown = {name: part.mean() for name, part in parts.items()}
    shown["lddt"] = (alpha * there).sum() / there.sum().clamp(min=1)
    return (total * length.sqrt()).mean(), shown


def _structure_losses(
    structure: StructureOutput, truth: Truth, weights: LossWeights, clamped: torch.Tensor | None
) -> dict[str, torch.Tensor]:
    parts = {}
    if weights.backbone:
        parts["backbone"] = backbone_fape(
            structure.frames, truth.backbone, truth.backbone_mask, clamped=clamped
        )
    if weights.sidechain:
        renamed = rename(truth, structure.positions[-1].detach())
        parts["sidechain"] = sidechain_fape(
            structure.sidechain_frames[-1],
            renamed.groups,
            truth.groups_mask,
            structure.positions[-1],
            renamed.atoms,
            renamed.mask,
        )
    if weights.chi:
        parts["chi"] = chi_loss(structure.angles, truth.chi, truth.chi_mask, truth.aatype)
    if weights.angle_norm:
        parts["angle_norm"] = angle_norm_loss(structure.unnormalized_angles, truth.residue_mask)
    if weights.violation:
        found = find_violations(
            structure.positions[-1],
            truth.aatype,
            truth.residue_mask,
            truth.residue_index,
            truth.chain_index,
        )
        parts["violation"] = found.total
    return parts


def _head_losses(
    predicted: Predicted,
    truth: Truth,
    weights: LossWeights,
    lddt: tuple[torch.Tensor, torch.Tensor],
) -> dict[str, torch.Tensor]:
    parts = {}
    if predicted.distogram_logits is not None and weights.distogram:
        parts["distogram"] = distogram_loss(predicted.distogram_logits, truth.beta, truth.beta_mask)
    logits = predicted.plddt_logits
    if logits is not None and weights.plddt:
        scores, known = lddt
        if logits.dim() == scores.dim():
            logits, scores, known = (
                logits.unsqueeze(-2),
                scores[..., _ALPHA, None],
                known[..., _ALPHA, None],
            )
        parts["plddt"] = plddt_loss(logits, scores, known) * truth.counts
    if predicted.resolved_logits is not None and weights.resolved:
        exists = atoms_of(truth.aatype, len(ATOM37)) & truth.residue_mask.unsqueeze(-1)
        parts["resolved"] = resolved_loss(predicted.resolved_logits, truth.atom37_mask, exists) * truth.counts
    if predicted.aligned_error_logits is not None and weights.aligned_error:
        error = aligned_error_loss(
            predicted.aligned_error_logits,
            predicted.structure.frames[-1],
            truth.backbone,
            truth.backbone_mask,
        )
        parts["aligned_error"] = error * truth.counts
    return parts


@torch.no_grad()
def _lddt(structure: StructureOutput, truth: Truth) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the 37 atoms ``[..., N, 37]``, and which are known."""
    positions = atom14_to_atom37(structure.positions[-1], truth.aatype)
    mask = truth.atom37_mask
    return atom_lddt(
        positions,
        truth.atom37,
        mask,
        positions[..., _ALPHA, :],
        truth.atom37[..., _ALPHA, :],
        mask[..., _ALPHA],
    )
