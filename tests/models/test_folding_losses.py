"""Losses of the folding models against their definitions, written as loops in float64."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from loss_cases import BLOCKS, SEQUENCE, heads_of, prediction_of, truth_of

from foldase_models.folding.ideal_structures import HELIX, build_chain
from foldase_models.folding.losses import Truth, find_violations
from foldase_models.folding.losses.confidence import atom_lddt, plddt_loss, resolved_loss
from foldase_models.folding.losses.fape import backbone_fape, fape, sidechain_fape
from foldase_models.folding.losses.pairs import aligned_error_loss, distogram_loss, masked_msa_loss
from foldase_models.folding.losses.renaming import rename
from foldase_models.folding.losses.torsions import angle_norm_loss, chi_loss
from foldase_models.layers import residues
from foldase_models.layers.residue_bonds import distance_bounds
from foldase_models.layers.rigid import Rigid

EXACT = 1e-10
"""Agreement of two float64 computations of the same formula."""
NEARLY_FLAT = 0.02
"""How far the two sides of a ring of the tables are from being equal, A."""


def local(frames: Rigid, index: tuple[int, ...], point: torch.Tensor) -> np.ndarray:
    rotation, origin = frames.rotation[index].numpy(), frames.translation[index].numpy()
    return rotation.T @ (point.numpy() - origin)


def naive_fape(predicted, true, frames_mask, points, true_points, points_mask, share):
    """The definition, one example."""
    total, count = 0.0, 0
    for f, p in itertools.product(range(frames_mask.shape[0]), range(points_mask.shape[0])):
        if frames_mask[f] and points_mask[p]:
            difference = local(predicted, (f,), points[p]) - local(true, (f,), true_points[p])
            error = math.sqrt((difference**2).sum() + 1e-4)
            total += share * min(error, 10.0) + (1 - share) * error
            count += 1
    return total / count / 10.0


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_backbone_fape_is_its_definition(share):
    truth = truth_of()
    predicted = prediction_of(truth, noise=3.0)
    expected = np.mean(
        [
            naive_fape(
                predicted.frames[g, 0],
                truth.backbone[0],
                truth.backbone_mask[0],
                predicted.frames.translation[g, 0],
                truth.backbone.translation[0],
                truth.backbone_mask[0],
                share,
            )
            for g in range(BLOCKS)
        ]
    )
    clamped = torch.tensor([share], dtype=torch.float64)
    found = backbone_fape(predicted.frames, truth.backbone, truth.backbone_mask, clamped=clamped)
    assert found.item() == pytest.approx(expected, abs=EXACT)


def flat(frames: Rigid) -> Rigid:
    return Rigid(frames.rotation.flatten(0, 1), frames.translation.flatten(0, 1))


def test_sidechain_fape_is_its_definition():
    truth = truth_of()
    predicted = prediction_of(truth)
    arguments = (
        predicted.sidechain_frames[-1],
        truth.groups,
        truth.groups_mask,
        predicted.positions[-1],
        truth.atom14,
        truth.atom14_mask,
    )
    expected = naive_fape(
        flat(arguments[0][0]),
        flat(arguments[1][0]),
        arguments[2][0].flatten(),
        arguments[3][0].flatten(0, 1),
        arguments[4][0].flatten(0, 1),
        arguments[5][0].flatten(),
        1.0,
    )
    assert sidechain_fape(*arguments).item() == pytest.approx(expected, abs=EXACT)


def test_truth_against_itself_costs_nothing_and_its_mirror_image_much():
    truth = truth_of(missing=False)
    frames, mask = truth.backbone, truth.backbone_mask
    itself = fape(frames, frames, mask, frames.translation, frames.translation, mask)
    assert itself.item() == pytest.approx(math.sqrt(1e-4) / 10)
    mirror = -truth.atom37
    image = Truth.from_atoms(truth.aatype, mirror, truth.atom37_mask, truth.residue_index).backbone
    assert fape(image, frames, mask, image.translation, frames.translation, mask).item() > 0.1


def test_chi_loss_is_its_definition_and_knows_symmetry():
    truth = truth_of()
    predicted = prediction_of(truth)
    errors = []
    for g, i, k in itertools.product(range(BLOCKS), range(len(SEQUENCE)), range(4)):
        if truth.chi_mask[0, i, k]:
            said, true = predicted.angles[g, 0, i, 3 + k].numpy(), truth.chi[0, i, k].numpy()
            error = ((said - true) ** 2).sum()
            if residues.CHI_PI_PERIODIC[truth.aatype[0, i], k]:
                error = min(error, ((said + true) ** 2).sum())
            errors.append(error)
    found = chi_loss(predicted.angles, truth.chi, truth.chi_mask, truth.aatype)
    assert found.item() == pytest.approx(np.mean(errors), abs=EXACT)
    assert len(errors) < BLOCKS * len(SEQUENCE) * 4
    periodic = torch.as_tensor(residues.CHI_PI_PERIODIC)[truth.aatype].unsqueeze(-1)
    turned = torch.where(periodic, -predicted.angles[..., 3:, :], predicted.angles[..., 3:, :])
    other = torch.cat([predicted.angles[..., :3, :], turned], -2)
    assert chi_loss(other, truth.chi, truth.chi_mask, truth.aatype).item() == found.item()


def test_angles_off_the_unit_circle_cost_their_distance_from_it():
    raw = torch.tensor([[3.0, 4.0], [0.0, 0.5]], dtype=torch.float64).expand(1, 1, 1, 2, 2)
    found = angle_norm_loss(raw, torch.ones(1, 1, dtype=torch.bool))
    assert found.item() == pytest.approx((4.0 + 0.5) / 2, abs=1e-5)


def naive_class(logits: torch.Tensor, index: int) -> float:
    values = logits.numpy()
    return float(np.log(np.exp(values - values.max()).sum()) + values.max() - values[index])


def naive_bin(value: float, first: float, last: float, bins: int) -> int:
    return sum(value > first + (last - first) * k / (bins - 2) for k in range(bins - 1))


def test_distogram_loss_is_its_definition():
    truth, heads = truth_of(), heads_of(truth_of())
    known = np.flatnonzero(truth.beta_mask[0].numpy())
    errors = [
        naive_class(
            heads.distogram_logits[0, i, j],
            naive_bin(float((truth.beta[0, i] - truth.beta[0, j]).norm()), 2.3125, 21.6875, 64),
        )
        for i, j in itertools.product(known, known)
    ]
    found = distogram_loss(heads.distogram_logits, truth.beta, truth.beta_mask)
    assert found.item() == pytest.approx(np.mean(errors), abs=EXACT)


def test_aligned_error_loss_is_its_definition():
    truth, heads = truth_of(), heads_of(truth_of())
    predicted = heads.structure.frames[-1]
    known = np.flatnonzero(truth.backbone_mask[0].numpy())
    errors = []
    for i, j in itertools.product(known, known):
        seen = local(predicted, (0, i), predicted.translation[0, j])
        wanted = local(truth.backbone, (0, i), truth.backbone.translation[0, j])
        index = naive_bin(np.linalg.norm(seen - wanted), 0.0, 31.0, 64)
        errors.append(naive_class(heads.aligned_error_logits[0, i, j], index))
    found = aligned_error_loss(heads.aligned_error_logits, predicted, truth.backbone, truth.backbone_mask)
    assert found.item() == pytest.approx(np.mean(errors), abs=EXACT)


def test_masked_msa_loss_is_the_mean_over_hidden_letters():
    logits = heads_of(truth_of()).masked_msa_logits
    letters = torch.randint(23, logits.shape[:-1], generator=torch.Generator().manual_seed(5))
    hidden = torch.zeros_like(letters, dtype=torch.bool)
    assert masked_msa_loss(logits, letters, hidden).item() == 0.0
    hidden[0, 1, 2] = hidden[0, 2, 7] = True
    expected = np.mean([naive_class(logits[0, s, n], int(letters[0, s, n])) for s, n in ((1, 2), (2, 7))])
    assert masked_msa_loss(logits, letters, hidden).item() == pytest.approx(expected, abs=EXACT)


def naive_lddt(predicted: np.ndarray, true: np.ndarray, mask: np.ndarray, i: int, atom: int) -> float | None:
    alpha, kept = residues.ATOM37_INDEX["CA"], []
    for j in range(len(mask)):
        distance = np.linalg.norm(true[i, atom] - true[j, alpha])
        if j != i and mask[j, alpha] and distance < 15:
            error = abs(np.linalg.norm(predicted[i, atom] - predicted[j, alpha]) - distance)
            kept.append(np.mean([error < threshold for threshold in (0.5, 1, 2, 4)]))
    return float(np.mean(kept)) if kept and mask[i, atom] else None


def test_confidence_is_scored_against_lddt_atom_by_atom():
    truth = truth_of()
    true, mask = truth.atom37, truth.atom37_mask
    noise = torch.randn(true.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    predicted = true + noise
    alpha = residues.ATOM37_INDEX["CA"]
    lddt, known = atom_lddt(
        predicted, true, mask, predicted[..., alpha, :], true[..., alpha, :], mask[..., alpha]
    )
    logits = torch.randn(*mask.shape, 50, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    errors = []
    for i, atom in itertools.product(range(len(SEQUENCE)), range(37)):
        expected = naive_lddt(predicted[0].numpy(), true[0].numpy(), mask[0].numpy(), i, atom)
        assert bool(known[0, i, atom]) == (expected is not None)
        if expected is not None:
            assert lddt[0, i, atom].item() == pytest.approx(expected, abs=EXACT)
            errors.append(naive_class(logits[0, i, atom], min(49, int(expected * 50))))
    assert plddt_loss(logits, lddt, known).item() == pytest.approx(np.mean(errors), abs=EXACT)


def test_resolved_loss_counts_atoms_that_residues_have():
    truth, heads = truth_of(), heads_of(truth_of())
    exists = torch.as_tensor(residues.ATOM37_MASK)[truth.aatype]
    errors = [
        -math.log(1 / (1 + math.exp(-x if seen else x)))
        for x, seen, there in zip(
            heads.resolved_logits.flatten().tolist(),
            truth.atom37_mask.flatten().tolist(),
            exists.flatten().tolist(),
            strict=True,
        )
        if there
    ]
    found = resolved_loss(heads.resolved_logits, truth.atom37_mask, exists)
    assert found.item() == pytest.approx(np.mean(errors), abs=EXACT)


def root(vector: torch.Tensor) -> float:
    return math.sqrt(float((vector**2).sum()) + 1e-6)


def naive_violation(positions: torch.Tensor, truth: Truth) -> tuple[float, float, float, float]:
    """Bond, angles, between and within, one example without gaps."""
    aatype = truth.aatype[0].tolist()
    exists = residues.ATOM14_MASK[aatype]
    count = len(aatype)
    bond, angles = [], []
    for i in range(count - 1):
        (ca, c), (n, next_ca) = positions[i, 1:3], positions[i + 1, :2]
        mean, deviation = (1.341, 0.016) if SEQUENCE[i + 1] == "P" else (1.329, 0.014)
        bond.append(max(0.0, abs(root(n - c) - mean) - 12 * deviation))
        at_c = float(((ca - c) / root(ca - c)) @ ((n - c) / root(n - c)))
        at_n = float(((next_ca - n) / root(next_ca - n)) @ ((c - n) / root(n - c)))
        angles.append(max(0.0, abs(at_c + 0.4473) - 12 * 0.0311) + max(0.0, abs(at_n + 0.5203) - 12 * 0.0353))
    radii = residues.ATOM14_RADII[aatype]
    between = 0.0
    for (i, a), (j, b) in itertools.permutations(zip(*np.nonzero(exists), strict=True), 2):
        peptide = (j == i + 1 and (a, b) == (2, 0)) or (i == j + 1 and (b, a) == (2, 0))
        disulfide = SEQUENCE[i] == SEQUENCE[j] == "C" and a == b == 5
        if i != j and not peptide and not disulfide:
            between += max(0.0, radii[i, a] + radii[j, b] - 1.5 - root(positions[i, a] - positions[j, b]))
    lower, upper = distance_bounds(deviations=12, overlap=1.5)
    within = 0.0
    for i in range(count):
        for a, b in itertools.permutations(np.flatnonzero(exists[i]), 2):
            distance = root(positions[i, a] - positions[i, b])
            within += 2 * max(0.0, lower[aatype[i], a, b] - distance)
            within += 2 * max(0.0, distance - upper[aatype[i], a, b])
    return float(np.mean(bond)), float(np.mean(angles)), between / exists.sum(), within / exists.sum()


def violations_of(positions: torch.Tensor, truth: Truth):
    return find_violations(
        positions, truth.aatype, truth.residue_mask, truth.residue_index, truth.chain_index
    )


def test_violations_are_their_definition():
    truth = truth_of(missing=False)
    noise = torch.randn(truth.atom14.shape, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    positions = truth.atom14 + 0.8 * noise
    found = violations_of(positions, truth)
    expected = naive_violation(positions[0], truth)
    parts = (found.bond, found.angles, found.between, found.within)
    assert [part.item() for part in parts] == pytest.approx(expected, abs=EXACT)
    assert all(part > 0 for part in expected)
    assert found.total.item() == pytest.approx(sum(expected), abs=EXACT)


def test_an_ideal_helix_violates_nothing_and_a_broken_one_where_it_is_broken():
    chain = build_chain("helix", "AAAAAAAA", np.tile(HELIX, (8, 1)))
    truth = Truth.from_atoms(
        torch.zeros(1, 8, dtype=torch.int64),
        torch.from_numpy(chain.positions.astype(np.float64))[None],
        torch.from_numpy(chain.mask)[None],
        torch.arange(8)[None],
    )
    assert violations_of(truth.atom14, truth).total.item() == 0.0
    broken = truth.atom14.clone()
    broken[:, 4:] += torch.tensor([0.0, 0.0, 30.0], dtype=torch.float64)
    found = violations_of(broken, truth)
    assert found.residues[0].tolist() == [False, False, False, True, True, False, False, False]
    two_chains = replace(truth, chain_index=torch.tensor([[0] * 4 + [1] * 4]))
    assert violations_of(broken, two_chains).total.item() == 0.0


def test_nothing_is_said_of_bonds_to_a_residue_of_unknown_type():
    known = truth_of("AAAAA", missing=False)
    unknown = torch.arange(5)[None] == 2
    truth = replace(known, aatype=known.aatype.masked_fill(unknown, residues.UNKNOWN))
    positions = torch.where(unknown[..., None, None], 0.0, known.atom14 + 100.0).requires_grad_()
    found = violations_of(positions, truth)
    assert found.bond.item() == found.angles.item() == 0.0
    assert not found.residues[unknown].any()
    (gradient,) = torch.autograd.grad(found.total.sum(), positions)
    assert gradient.isfinite().all()
    assert gradient[unknown].abs().max() == 0


def test_names_are_exchanged_where_that_suits_the_prediction():
    truth = truth_of("AFDEYA", missing=False)
    order = torch.as_tensor(residues.ATOM14_SWAPPED)[truth.aatype]
    other = truth.atom14.gather(-2, order.unsqueeze(-1).expand_as(truth.atom14))
    predicted = truth.atom14.clone()
    predicted[:, [1, 3]] = other[:, [1, 3]]
    found = rename(truth, predicted)
    assert found.swapped[0].tolist() == [False, True, False, True, False, False]
    assert torch.equal(found.atoms, predicted)
    # Atoms of the last group of a swapped side chain lie in its turned frame where the truth had its twins.
    ring, twin = (
        residues.ATOM14[truth.aatype[0, 1]].index("CD1"),
        residues.ATOM14[truth.aatype[0, 1]].index("CD2"),
    )
    here = found.groups[0, 1, 5].apply_inverse(truth.atom14[0, 1, twin])
    there = truth.groups[0, 1, 5].apply_inverse(truth.atom14[0, 1, ring])
    np.testing.assert_allclose(here, there, atol=NEARLY_FLAT)
