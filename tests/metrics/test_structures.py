"""Superposition, lDDT, TM-score and GDT against peers and by properties."""

import tracemalloc

import numpy as np
import pytest
from Bio.PDB.Superimposer import SVDSuperimposer
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from foldase_models.coevolution import random_chain
from foldase_models.metrics import (
    gdt,
    lddt,
    mirror_rmsd,
    pearson,
    rmsd,
    spearman,
    superpose,
    template_score,
    tm_score,
)
from foldase_models.metrics.template_score import GDT_HA, tm_scale

EXACT = 1e-9
"""Agreement of two float64 computations of the same closed form, in A or as a share."""
WORKING_SETS = 8
"""Arrays of coordinates that a superposition holds at once."""
SEARCH = 0.02
"""How far the heuristic searches of TM-score may lie apart."""


def _rotation(rng: np.random.Generator) -> np.ndarray:
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.sign(np.linalg.det(q))


def _chain(length: int, seed: int) -> np.ndarray:
    return random_chain(length, np.random.default_rng(seed)).astype(np.float64)


def _moved(points: np.ndarray, seed: int, noise: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return points @ _rotation(rng) + rng.normal(size=3) * 20 + rng.normal(size=points.shape) * noise


@given(st.integers(3, 60), st.integers(0, 1000), st.floats(0, 5))
def test_rmsd_agrees_with_biopython(length, seed, noise):
    true = _chain(length, seed)
    mobile = _moved(true, seed + 1, noise)
    peer = SVDSuperimposer()
    peer.set(true, mobile)
    peer.run()
    assert rmsd(mobile, true) == pytest.approx(peer.get_rms(), abs=1e-6)


def test_a_rigid_motion_is_undone_and_the_rotation_is_proper():
    true = _chain(50, 1)
    mobile = _moved(true, 2, noise=0.0)
    found = superpose(mobile, true)
    np.testing.assert_allclose(found.apply(mobile), true, atol=EXACT)
    assert np.linalg.det(found.rotation) == pytest.approx(1.0)


def test_a_mirror_image_is_far_by_rmsd_and_near_by_the_better_mirror():
    true = _chain(40, 3)
    mirror = _moved(true * [1, 1, -1], 4, noise=0.0)
    assert rmsd(mirror, true) > 2.0
    assert mirror_rmsd(mirror, true) < 1e-6
    assert mirror_rmsd(true, true) < 1e-6


def test_flat_and_straight_sets_of_points_are_superposed_too():
    line = np.outer(np.arange(10.0), [1.0, 2.0, 3.0])
    plane = np.random.default_rng(0).normal(size=(12, 3)) * [1, 1, 0]
    for points in (line, plane, np.zeros((3, 3))):
        assert rmsd(_moved(points, 5, noise=0.0), points) < 1e-6


def test_weights_choose_the_part_that_is_superposed():
    true = _chain(40, 6)
    mobile = _moved(true, 7, noise=0.0)
    mobile[20:] += np.random.default_rng(8).normal(size=(20, 3)) * 10
    moved = superpose(mobile, true, np.r_[np.ones(20), np.zeros(20)]).apply(mobile)
    np.testing.assert_allclose(moved[:20], true[:20], atol=1e-8)


def _naive_lddt(predicted: np.ndarray, true: np.ndarray) -> tuple[float, list[float]]:
    kept, counted = np.zeros(len(true)), np.zeros(len(true))
    for i in range(len(true)):
        for j in range(len(true)):
            distance = float(np.sqrt(((true[i] - true[j]) ** 2).sum()))
            if i == j or distance >= 15:
                continue
            error = abs(float(np.sqrt(((predicted[i] - predicted[j]) ** 2).sum())) - distance)
            counted[i] += 4
            kept[i] += sum(error < threshold for threshold in (0.5, 1, 2, 4))
    return kept.sum() / counted.sum(), list(kept / counted)


@pytest.mark.parametrize("noise", [0.0, 0.3, 1.0, 5.0])
def test_lddt_agrees_with_the_definition_written_as_loops(noise):
    true = _chain(35, 9)
    predicted = _moved(true, 10, noise)
    overall, per_residue = _naive_lddt(predicted, true)
    found = lddt(predicted, true)
    assert found.overall == pytest.approx(overall, abs=EXACT)
    np.testing.assert_allclose(found.per_residue, per_residue, atol=EXACT)


def test_lddt_of_the_truth_moved_or_mirrored_is_one():
    true = _chain(30, 11)
    assert lddt(_moved(true, 12, noise=0.0), true).overall == 1.0
    assert lddt(-true, true).overall == 1.0


def test_a_residue_without_neighbours_has_no_lddt():
    true = np.array([[0.0, 0, 0], [3.8, 0, 0], [100.0, 0, 0]])
    found = lddt(true, true)
    assert found.overall == 1.0
    assert np.isnan(found.per_residue).tolist() == [False, False, True]
    with pytest.raises(ValueError, match="no two residues"):
        lddt(true[[0, 2]], true[[0, 2]])


@pytest.mark.parametrize(("length", "noise"), [(40, 0.5), (60, 1.5), (100, 2.0), (150, 3.0)])
def test_tm_score_agrees_with_tmtools(length, noise):
    tmtools = pytest.importorskip("tmtools")
    true = _chain(length, length)
    predicted = _moved(true, length + 1, noise)
    sequence = "A" * length
    peer = tmtools.tm_align(predicted, true, sequence, sequence).tm_norm_chain2
    ours = tm_score(predicted, true)
    # tm_align may also shift the alignment, so it can only lie above by more than the search's error
    assert peer - SEARCH < ours < peer + SEARCH


def test_tm_score_and_gdt_find_a_part_that_fits_where_plain_superposition_does_not():
    true = _chain(80, 20)
    predicted = _moved(true, 21, noise=0.0)
    predicted[50:] = predicted[50:] @ _rotation(np.random.default_rng(22)) + 60
    moved = superpose(predicted, true).apply(predicted)
    distance = np.linalg.norm(moved - true, axis=1)
    plain = float((1 / (1 + (distance / tm_scale(80)) ** 2)).mean())
    assert tm_score(predicted, true) >= 50 / 80 > plain
    assert gdt(predicted, true) >= 50 / 80


def test_the_search_holds_no_more_than_some_fragments_at_a_time(monkeypatch):
    truth = _chain(150, 0)
    said = _moved(truth, 1, 3.0)
    monkeypatch.setattr(template_score, "POINTS", 8 * len(truth))
    tracemalloc.start()
    try:
        score = tm_score(said, truth)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 0 < score < 1
    starts = len(template_score._fragments(len(truth)))
    assert starts > 20 * 8
    assert peak < WORKING_SETS * 8 * truth.nbytes + starts * len(truth)


def test_identical_traces_have_full_marks_and_strangers_few():
    true = _chain(60, 30)
    assert tm_score(_moved(true, 31, 0.0), true) == pytest.approx(1.0)
    assert gdt(_moved(true, 31, 0.0), true) == 1.0
    stranger = _chain(60, 32)
    assert tm_score(stranger, true) < 0.5
    assert gdt(stranger, true, cutoffs=GDT_HA) <= gdt(stranger, true) < 0.6


@pytest.mark.parametrize("score", [rmsd, lddt, tm_score, gdt])
def test_traces_that_do_not_fit_are_refused(score):
    with pytest.raises(ValueError, match="needed"):
        score(np.zeros((5, 3)), np.zeros((6, 3)))
    broken = np.zeros((5, 3))
    broken[2, 1] = np.nan
    with pytest.raises(ValueError, match="finite"):
        score(broken, np.zeros((5, 3)))


@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=3, max_size=40))
def test_correlations_agree_with_scipy(pairs):
    a, b = np.array(pairs, dtype=float).T
    if a.std() == 0 or b.std() == 0:
        assert pearson(a, b) == 0.0
        return
    assert pearson(a, b) == pytest.approx(stats.pearsonr(a, b).statistic, abs=EXACT)
    assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic, abs=EXACT)
