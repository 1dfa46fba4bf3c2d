"""Our losses against OpenFold's on the same structures and logits; ``FOLDASE_OPENFOLD`` names a checkout."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from loss_cases import SEQUENCE, heads_of, prediction_of, truth_of
from openfold_checkout import openfold

from foldase_models.folding.losses import find_violations
from foldase_models.folding.losses.confidence import atom_lddt, plddt_loss, resolved_loss
from foldase_models.folding.losses.fape import backbone_fape, sidechain_fape
from foldase_models.folding.losses.pairs import aligned_error_loss, distogram_loss, masked_msa_loss
from foldase_models.folding.losses.renaming import rename
from foldase_models.folding.losses.torsions import angle_norm_loss, chi_loss
from foldase_models.layers import residues
from foldase_models.layers.atoms import atom14_to_atom37
from foldase_models.layers.residue_bonds import distance_bounds
from foldase_models.layers.residues import ATOM37_INDEX

pytestmark = pytest.mark.verify

CLOSE = 1e-4
"""Relative: OpenFold adds 1e-4 to counts of some ten residues, and takes torsions in float32."""


def batch_of(truth):
    """What OpenFold's data pipeline makes of the true atoms."""
    transforms = openfold().data_transforms
    batch = {
        "aatype": truth.aatype,
        "all_atom_positions": truth.atom37,
        "all_atom_mask": truth.atom37_mask.double(),
        "residue_index": truth.residue_index,
        "seq_mask": truth.residue_mask.double(),
        "resolution": torch.tensor([2.0]),
    }
    batch = transforms.atom37_to_frames(batch)
    batch = transforms.atom37_to_torsion_angles("")(batch)
    batch = transforms.make_atom14_masks(batch)
    batch = transforms.make_atom14_positions(batch)
    batch = transforms.get_backbone_frames(batch)
    return transforms.get_chi_angles(batch)


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert ours.mean().item() == pytest.approx(theirs.mean().item(), rel=CLOSE)
    assert ours.abs().sum() > 0


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_fape(share):
    truth = truth_of()
    predicted, batch, peer = prediction_of(truth, noise=2.0), batch_of(truth), openfold().loss
    clamped = torch.tensor([share], dtype=torch.float64)
    close(
        backbone_fape(predicted.frames, truth.backbone, truth.backbone_mask, clamped=clamped),
        peer.backbone_loss(
            batch["backbone_rigid_tensor"],
            batch["backbone_rigid_mask"],
            predicted.frames.to_tensor_4x4(),
            use_clamped_fape=clamped,
        ),
    )
    renamed = rename(truth, predicted.positions[-1])
    batch |= peer.compute_renamed_ground_truth(batch, predicted.positions[-1])
    assert torch.equal(renamed.swapped.double(), batch["alt_naming_is_better"])
    close(
        sidechain_fape(
            predicted.sidechain_frames[-1],
            renamed.groups,
            truth.groups_mask,
            predicted.positions[-1],
            renamed.atoms,
            renamed.mask,
        ),
        peer.sidechain_loss(
            predicted.sidechain_frames.to_tensor_4x4(),
            predicted.positions,
            **{
                name: batch[name]
                for name in (
                    "rigidgroups_gt_frames",
                    "rigidgroups_alt_gt_frames",
                    "rigidgroups_gt_exists",
                    "renamed_atom14_gt_positions",
                    "renamed_atom14_gt_exists",
                    "alt_naming_is_better",
                )
            },
        ),
    )


def test_torsions():
    truth = truth_of()
    predicted, batch = prediction_of(truth), batch_of(truth)
    for chi, norm in ((1.0, 0.0), (0.0, 1.0)):
        theirs = openfold().loss.supervised_chi_loss(
            predicted.angles,
            predicted.unnormalized_angles,
            truth.aatype,
            batch["seq_mask"],
            batch["chi_mask"],
            batch["chi_angles_sin_cos"],
            chi_weight=chi,
            angle_norm_weight=norm,
        )
        ours = chi_loss(predicted.angles, truth.chi, truth.chi_mask, truth.aatype)
        close(ours if chi else angle_norm_loss(predicted.unnormalized_angles, truth.residue_mask), theirs)


def test_heads():
    truth = truth_of()
    heads, batch, peer = heads_of(truth), batch_of(truth), openfold().loss
    structure = heads.structure
    close(
        distogram_loss(heads.distogram_logits, truth.beta, truth.beta_mask),
        peer.distogram_loss(heads.distogram_logits, truth.beta, truth.beta_mask.double()),
    )
    close(
        aligned_error_loss(
            heads.aligned_error_logits, structure.frames[-1], truth.backbone, truth.backbone_mask
        ),
        peer.tm_loss(
            heads.aligned_error_logits,
            structure.frames[-1].to_tensor_4x4(),
            batch["backbone_rigid_tensor"],
            batch["backbone_rigid_mask"],
            batch["resolution"],
        ),
    )
    letters = torch.randint(22, (1, 3, len(SEQUENCE)), generator=torch.Generator().manual_seed(1))
    masked = letters % 3 == 0
    close(
        masked_msa_loss(heads.masked_msa_logits, letters, masked),
        peer.masked_msa_loss(heads.masked_msa_logits, letters, masked.double(), num_classes=23),
    )
    close(
        resolved_loss(heads.resolved_logits, truth.atom37_mask, batch["atom37_atom_exists"].bool()),
        peer.experimentally_resolved_loss(
            heads.resolved_logits,
            batch["atom37_atom_exists"],
            truth.atom37_mask.double(),
            batch["resolution"],
            0.1,
            3.0,
        ),
    )


def test_confidence():
    truth, alpha = truth_of(missing=False), ATOM37_INDEX["CA"]
    heads = heads_of(truth)
    positions = atom14_to_atom37(heads.structure.positions[-1], truth.aatype)
    own, true = positions[..., alpha, :], truth.atom37[..., alpha, :]
    mask = truth.atom37_mask[..., alpha]
    lddt, known = atom_lddt(own.unsqueeze(-2), true.unsqueeze(-2), mask.unsqueeze(-1), own, true, mask)
    close(
        plddt_loss(heads.plddt_logits.unsqueeze(-2), lddt, known),
        openfold().loss.lddt_loss(
            heads.plddt_logits,
            positions,
            truth.atom37,
            truth.atom37_mask.double(),
            torch.tensor([2.0]),
        ),
    )


def test_violations(monkeypatch):
    # OpenFold lets any two sixth atoms touch, as only sulphurs may: here cysteine alone has one.
    truth = truth_of("AGCACGA", missing=False)
    noise = torch.randn(truth.atom14.shape, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    positions, batch, peer = truth.atom14 + 0.8 * noise, batch_of(truth), openfold().loss
    exists = batch["atom14_atom_exists"].double()
    ours = find_violations(
        positions, truth.aatype, truth.residue_mask, truth.residue_index, truth.chain_index
    )
    bonds = peer.between_residue_bond_loss(positions, exists, truth.residue_index, truth.aatype)
    close(ours.bond, bonds["c_n_loss_mean"])
    radii = torch.as_tensor(residues.ATOM14_RADII)[truth.aatype]
    clashes = peer.between_residue_clash_loss(positions, exists, radii, truth.residue_index)
    close(ours.between, clashes["per_atom_loss_sum"].sum() / exists.sum())
    lower, upper = (
        torch.as_tensor(np.minimum(bound, 1e10))[truth.aatype]
        for bound in distance_bounds(deviations=12, overlap=1.5)
    )
    within = peer.within_residue_violations(positions, exists, lower, upper)
    close(ours.within, within["per_atom_loss_sum"].sum() / exists.sum())
    # For the angle at C it takes the spread of the bond, 0.014, where the supplement has that of the cosine.
    monkeypatch.setattr(peer.residue_constants, "between_res_bond_length_stddev_c_n", [0.0311, 0.0311])
    angles = peer.between_residue_bond_loss(positions, exists, truth.residue_index, truth.aatype)
    close(ours.angles, angles["ca_c_n_loss_mean"] + angles["c_n_ca_loss_mean"])
