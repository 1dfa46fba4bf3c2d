"""What must not change the losses of folding models, and how they are added up."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from counted_memory import LiveBytes
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_cases import BLOCKS, SEQUENCE, heads_of, prediction_of, truth_of

from foldase_models.errors import ModelError
from foldase_models.folding.losses import HiddenLetters, LossWeights, Predicted, Truth, folding_losses
from foldase_models.folding.losses.fape import sidechain_fape
from foldase_models.layers import working_set
from foldase_models.layers.atoms import frames_to_atom14, torsions_to_frames
from foldase_models.layers.rigid import Rigid
from foldase_models.layers.structure_module import StructureOutput

EXACT = 1e-10
"""Agreement of two float64 computations of the same formula."""
MOVED = 1e-8
"""Change of a loss by a rigid motion, in float64."""


def moved(frames: Rigid, seed: int) -> Rigid:
    return motion(seed).compose(frames)


def motion(seed: int) -> Rigid:
    values = torch.randn(7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Rigid.from_tensor_7(values * torch.tensor([1, 1, 1, 1, 20, 20, 20]))


def moved_structure(structure: StructureOutput, seed: int) -> StructureOutput:
    return replace(
        structure,
        frames=moved(structure.frames, seed),
        sidechain_frames=moved(structure.sidechain_frames, seed),
        positions=motion(seed).apply(structure.positions),
    )


def moved_truth(truth: Truth, seed: int) -> Truth:
    return Truth.from_atoms(
        truth.aatype,
        motion(seed).apply(truth.atom37),
        truth.atom37_mask,
        truth.residue_index,
        chain_index=truth.chain_index,
    )


@given(st.integers(0, 1000), st.integers(0, 1000))
@settings(max_examples=5)
def test_rigid_motions_of_prediction_and_truth_change_no_loss(first, second):
    truth, heads = truth_of(), heads_of(truth_of())
    weights = LossWeights.fine_tuning()
    loss, parts = folding_losses(heads, truth, weights)
    elsewhere = replace(heads, structure=moved_structure(heads.structure, first))
    other, other_parts = folding_losses(elsewhere, moved_truth(truth, second), weights)
    assert {name: part.item() for name, part in other_parts.items()} == pytest.approx(
        {name: part.item() for name, part in parts.items()}, abs=MOVED
    )
    assert other.item() == pytest.approx(loss.item(), abs=100 * MOVED)


def test_the_total_is_the_weighted_sum_times_the_root_of_the_length():
    truth, heads = truth_of(), heads_of(truth_of())
    letters = torch.zeros(1, 3, len(SEQUENCE), dtype=torch.int64)
    hidden = HiddenLetters(letters, torch.ones_like(letters, dtype=torch.bool))
    weights = LossWeights.fine_tuning()
    total, parts = folding_losses(heads, truth, weights, hidden=hidden)
    named = {name: part.item() for name, part in parts.items() if name != "lddt"}
    assert set(named) == set(weights.to_json()) - {"clamped_share"}
    expected = sum(getattr(weights, name) * part for name, part in named.items()) * math.sqrt(len(SEQUENCE))
    assert total.item() == pytest.approx(expected, abs=EXACT)
    only = LossWeights(**dict.fromkeys(weights.to_json(), 0.0) | {"backbone": 1.0})
    assert set(folding_losses(heads, truth, only, hidden=hidden)[1]) == {"backbone", "lddt"}


def test_a_model_of_which_no_loss_counts_is_refused():
    heads = replace(heads_of(truth_of()), masked_msa_logits=None)
    only = LossWeights(**dict.fromkeys(LossWeights().to_json(), 0.0) | {"masked_msa": 1.0})
    with pytest.raises(ModelError, match="weighs 0"):
        folding_losses(heads, truth_of(), only)


def test_low_resolution_teaches_no_confidence():
    truth, heads = truth_of(), heads_of(truth_of())
    blurred = replace(truth, resolution=torch.tensor([4.0]))
    parts = folding_losses(heads, blurred, LossWeights.fine_tuning())[1]
    assert [parts[name].item() for name in ("plddt", "resolved", "aligned_error")] == [0.0, 0.0, 0.0]
    assert parts["sidechain"].item() > 0


def padded(truth: Truth, heads: Predicted, more: int) -> tuple[Truth, Predicted]:
    """The same example with residues that do not exist behind it; what is said of them is noise."""

    def pad(x: torch.Tensor, *dims: int) -> torch.Tensor:
        for dim in dims:
            shape = list(x.shape)
            shape[dim] = more
            fill = (
                torch.zeros(shape, dtype=x.dtype) if x.dtype != torch.float64 else torch.randn(shape).double()
            )
            x = torch.cat([x, fill], dim)
        return x

    longer = Truth.from_atoms(
        pad(truth.aatype, 1),
        pad(truth.atom37, 1),
        pad(truth.atom37_mask, 1),
        pad(truth.residue_index, 1),
        residue_mask=pad(truth.residue_mask, 1),
    )
    own = heads.structure
    rotation = Rigid.identity((BLOCKS, 1, more), like=own.positions).rotation
    groups = Rigid.identity((BLOCKS, 1, more, 8), like=own.positions).rotation
    structure = StructureOutput(
        Rigid(torch.cat([own.frames.rotation, rotation], 2), pad(own.frames.translation, 2)),
        Rigid(
            torch.cat([own.sidechain_frames.rotation, groups], 2), pad(own.sidechain_frames.translation, 2)
        ),
        pad(own.angles, 2),
        pad(own.unnormalized_angles, 2),
        pad(own.positions, 2),
        own.states,
    )
    return longer, Predicted(
        structure=structure,
        distogram_logits=pad(heads.distogram_logits, 1, 2),
        plddt_logits=pad(heads.plddt_logits, 1),
        resolved_logits=pad(heads.resolved_logits, 1),
        aligned_error_logits=pad(heads.aligned_error_logits, 1, 2),
    )


def test_padding_changes_no_loss():
    truth, heads = truth_of(), replace(heads_of(truth_of()), masked_msa_logits=None)
    weights = LossWeights.fine_tuning()
    loss, parts = folding_losses(heads, truth, weights)
    longer, said = padded(truth, heads, 3)
    same, same_parts = folding_losses(said, longer, weights)
    assert {name: part.item() for name, part in same_parts.items()} == pytest.approx(
        {name: part.item() for name, part in parts.items()}, abs=EXACT
    )
    assert same.item() == pytest.approx(loss.item(), abs=EXACT)


def gradients(heads: Predicted, truth: Truth, weights: LossWeights) -> list[torch.Tensor]:
    """By the frames, torsions and logits that the losses are made of."""
    update = torch.zeros(*heads.structure.frames.shape, 6, dtype=torch.float64, requires_grad=True)
    raw = heads.structure.unnormalized_angles.clone().requires_grad_()
    logits = heads.distogram_logits.clone().requires_grad_()
    frames = heads.structure.frames.compose_update(update)
    angles = raw / raw.norm(dim=-1, keepdim=True)
    aatype = truth.aatype.expand(frames.shape)
    groups = torsions_to_frames(frames, angles, aatype)
    atoms = frames_to_atom14(groups, aatype)
    structure = StructureOutput(frames, groups, angles, raw, atoms, raw.flatten(-2))
    loss, _ = folding_losses(replace(heads, structure=structure, distogram_logits=logits), truth, weights)
    return [loss, *torch.autograd.grad(loss, [update, raw, logits])]


def test_row_groups_change_neither_losses_nor_gradients():
    truth, heads = truth_of(), heads_of(truth_of())
    weights = LossWeights.fine_tuning()
    whole = gradients(heads, truth, weights)
    with working_set(2**16):
        parts = gradients(heads, truth, weights)
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one.detach(), other.detach(), atol=EXACT, rtol=EXACT)
        assert one.abs().sum() > 0


@pytest.mark.verify
def test_frames_and_atoms_are_never_all_held_against_each_other():
    count = 64
    groups = Rigid.identity((1, count, 8), like=torch.zeros(()))
    turns = torch.randn(1, count, 8, 6, generator=torch.Generator().manual_seed(0), requires_grad=True)
    atoms = torch.randn(1, count, 14, 3, generator=torch.Generator().manual_seed(1), requires_grad=True)
    known = torch.ones(1, count, 14, dtype=torch.bool)
    with LiveBytes() as memory:
        loss = sidechain_fape(
            groups.compose_update(turns), groups, known[..., :8], atoms, atoms.detach(), known
        )
        loss.sum().backward()
    held_at_once = 4 * 3 * (8 * count) * (14 * count)
    assert memory.peak < held_at_once
    assert atoms.grad.abs().sum() > 0


def test_gradients_are_those_of_finite_differences():
    truth = truth_of("FDC", missing=False)
    start = prediction_of(truth, noise=0.2)
    shape = (1, *truth.aatype.shape)

    def loss(update: torch.Tensor, raw: torch.Tensor) -> torch.Tensor:
        frames = start.frames[:1].compose_update(update)
        angles = raw / raw.norm(dim=-1, keepdim=True)
        groups = torsions_to_frames(frames, angles, truth.aatype.expand(shape))
        atoms = frames_to_atom14(groups, truth.aatype.expand(shape))
        structure = StructureOutput(frames, groups, angles, raw, atoms, raw.flatten(-2))
        return folding_losses(Predicted(structure=structure), truth, LossWeights.fine_tuning())[0]

    update = torch.full((*shape, 6), 0.01, dtype=torch.float64, requires_grad=True)
    raw = start.unnormalized_angles[:1].clone().requires_grad_()
    torch.autograd.gradcheck(loss, (update, raw), eps=1e-6, atol=1e-5, fast_mode=True)


def test_weights_that_cannot_be_are_refused():
    with pytest.raises(ModelError, match="distogram"):
        LossWeights(distogram=-1.0)
    with pytest.raises(ModelError, match="clamped_share"):
        LossWeights(clamped_share=1.5)
