"""Weights, frequencies, mutual information and corrections against naive float64 forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foldase_models.coevolution import (
    SeparationPrior,
    average_product_correction,
    frobenius_scores,
    mutual_information,
    random_scores,
    sequence_weights,
    weighted_scores,
)
from foldase_models.coevolution import statistics as statistics_module
from foldase_models.coevolution import weights as weights_module
from foldase_models.coevolution.statistics import pair_frequencies, single_frequencies, with_pseudocount

EXACT = 1e-10
"""Agreement of two float64 computations of one closed form."""
SINGLE = 1e-6
"""Rounding of a float32 weight."""


def _letters(rows: int, columns: int, alphabet: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, alphabet, size=(rows, columns)).astype(np.uint8)


def _naive_weights(letters: np.ndarray, identity: float) -> np.ndarray:
    return np.array([1 / sum(float(np.mean(a == b)) >= identity - 1e-12 for b in letters) for a in letters])


@settings(max_examples=40)
@given(
    st.integers(1, 30), st.integers(1, 12), st.integers(0, 1000), st.sampled_from([0.2, 0.5, 0.62, 0.8, 1.0])
)
def test_weights_count_relatives(rows, columns, seed, identity):
    letters = _letters(rows, columns, 3, seed)
    found = sequence_weights(letters, identity)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, _naive_weights(letters, identity), rtol=SINGLE)


def test_weights_do_not_depend_on_the_blocks_and_report_the_share_done(monkeypatch):
    letters = _letters(50, 10, 4, 1)
    whole = sequence_weights(letters, 0.5)
    monkeypatch.setattr(weights_module, "BLOCK_BYTES", 7 * 10 * 4 * 4)
    shares = []
    np.testing.assert_array_equal(sequence_weights(letters, 0.5, check=shares.append), whole)
    assert len(shares) == 8
    assert shares[-1] == 1.0


def test_copies_weigh_one_together():
    letters = np.repeat(_letters(1, 20, 20, 2), 7, axis=0)
    assert sequence_weights(letters, 0.8).sum() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("letters", "identity"), [(_letters(3, 3, 2, 0), 0.0), (np.zeros((0, 4), "u1"), 0.8)]
)
def test_weights_refuse_what_makes_no_sense(letters, identity):
    with pytest.raises(ValueError, match=r"identity|needed"):
        sequence_weights(letters, identity)


def _naive_frequencies(letters, alphabet, weights):
    S, N = letters.shape
    single, joint = np.zeros((N, alphabet)), np.zeros((N, alphabet, N, alphabet))
    for s in range(S):
        for i in range(N):
            single[i, letters[s, i]] += weights[s]
            for j in range(N):
                joint[i, letters[s, i], j, letters[s, j]] += weights[s]
    return single / weights.sum(), joint / weights.sum()


def test_frequencies_and_pseudocounts_by_the_definition(monkeypatch):
    letters, weights = _letters(25, 5, 4, 3), np.random.default_rng(4).uniform(0.1, 1, 25)
    single, joint = _naive_frequencies(letters, 4, weights)
    monkeypatch.setattr(statistics_module, "BLOCK_BYTES", 4 * 20 * 8)
    found = pair_frequencies(letters, 4, weights)
    np.testing.assert_allclose(found[0], single, atol=EXACT)
    np.testing.assert_allclose(found[1], joint, atol=EXACT)
    np.testing.assert_allclose(single_frequencies(letters, 4, weights), single, atol=EXACT)
    mixed_single, mixed = with_pseudocount(*found, 0.3)
    np.testing.assert_allclose(mixed_single, 0.7 * single + 0.3 / 4, atol=EXACT)
    np.testing.assert_allclose(mixed[0, :, 1, :], 0.7 * joint[0, :, 1, :] + 0.3 / 16, atol=EXACT)
    np.testing.assert_allclose(mixed[2, :, 2, :], np.diag(mixed_single[2]), atol=EXACT)
    np.testing.assert_allclose(mixed.sum(axis=(1, 3)), 1.0, atol=EXACT)


def test_mutual_information_by_the_definition():
    letters, weights = _letters(30, 4, 3, 5), np.random.default_rng(6).uniform(0.1, 1, 30)
    single, joint = with_pseudocount(*_naive_frequencies(letters, 3, weights), 0.1)
    expected = np.zeros((4, 4))
    for i in range(4):
        for j in range(4):
            if i != j:
                expected[i, j] = sum(
                    joint[i, a, j, b] * np.log(joint[i, a, j, b] / (single[i, a] * single[j, b]))
                    for a in range(3)
                    for b in range(3)
                )
    found = mutual_information(letters, 3, weights, pseudocount=0.1)
    np.testing.assert_allclose(found, expected, atol=EXACT)


def test_mutual_information_of_equal_and_of_constant_columns():
    column = np.random.default_rng(7).integers(0, 4, size=500)
    letters = np.stack([column, column, np.zeros(500)], axis=1).astype(np.uint8)
    found = mutual_information(letters, 4)
    share = np.bincount(column) / 500
    assert found[0, 1] == pytest.approx(-(share * np.log(share)).sum())
    assert found[0, 2] == pytest.approx(0.0)


def test_skipping_the_gap_takes_its_runs_out():
    rng = np.random.default_rng(8)
    letters = rng.integers(0, 4, size=(400, 6)).astype(np.uint8)
    letters[:200, :3] = 4
    with_gaps = mutual_information(letters, 5)
    without = mutual_information(letters, 5, skip_letter=4)
    assert with_gaps[0, 1] > 0.5
    assert abs(without[0, 1]) < with_gaps[0, 1]


def test_letters_outside_the_alphabet_and_wrong_weights_are_refused():
    letters = _letters(5, 3, 4, 9)
    letters[2, 1] = 4
    with pytest.raises(ValueError, match="letter 4 is outside"):
        mutual_information(letters, 4)
    for weights in (np.ones(4), np.zeros(5)):
        with pytest.raises(ValueError, match="positive weight"):
            mutual_information(letters, 5, weights)
    with pytest.raises(ValueError, match="pseudocount"):
        mutual_information(letters, 5, pseudocount=1.0)


def test_average_product_correction_by_the_definition():
    raw = np.random.default_rng(10).random((9, 9))
    scores = raw + raw.T
    found = average_product_correction(scores)
    for i in range(9):
        assert found[i, i] == 0
        for j in set(range(9)) - {i}:
            mean_i = np.mean([scores[i, k] for k in range(9) if k != i])
            mean_j = np.mean([scores[j, k] for k in range(9) if k != j])
            mean = np.mean([scores[k, m] for k in range(9) for m in range(9) if k != m])
            assert found[i, j] == pytest.approx(scores[i, j] - mean_i * mean_j / mean, abs=EXACT)
    # what factors into columns vanishes but for the diagonal's share
    vector = np.ones(9)
    np.testing.assert_allclose(average_product_correction(np.outer(vector, vector)), 0, atol=EXACT)
    np.testing.assert_array_equal(average_product_correction(np.zeros((3, 3))), 0)
    np.testing.assert_array_equal(average_product_correction(np.ones((1, 1))), 0)


def test_norms_do_not_depend_on_the_gauge_and_leave_the_gap_out():
    rng = np.random.default_rng(11)
    couplings = rng.normal(size=(4, 3, 4, 3))
    couplings = couplings + couplings.transpose(2, 3, 0, 1)
    shift = rng.normal(size=(4, 3, 4))
    shifted = couplings + shift[:, :, :, None] + shift.transpose(2, 0, 1)[:, None]
    np.testing.assert_allclose(frobenius_scores(shifted), frobenius_scores(couplings), atol=EXACT)
    block = couplings[0, :, 1, :]
    centred = block - block.mean(0) - block.mean(1)[:, None] + block.mean()
    assert frobenius_scores(couplings)[0, 1] == pytest.approx(np.sqrt((centred**2).sum()), abs=EXACT)
    skipped = frobenius_scores(couplings, skip_letter=2)[0, 1]
    assert skipped == pytest.approx(np.sqrt((centred[:2, :2] ** 2).sum()), abs=EXACT)


def test_weighted_norms_by_the_definition_and_by_what_they_mean():
    rng = np.random.default_rng(13)
    couplings = rng.normal(size=(3, 4, 3, 4))
    couplings = couplings + couplings.transpose(2, 3, 0, 1)
    single = rng.dirichlet(np.ones(4), size=3)
    found = weighted_scores(couplings, single)
    skipped = weighted_scores(couplings, single, skip_letter=3)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        block, f, g = couplings[i, :, j, :], single[i], single[j]
        centred = block - (f @ block)[None] - (block @ g)[:, None] + f @ block @ g
        total = sum(f[a] * g[b] * centred[a, b] ** 2 for a in range(4) for b in range(4))
        assert found[i, j] == pytest.approx(np.sqrt(total), abs=EXACT)
        assert found[j, i] == found[i, j]
        kept = sum(f[a] * g[b] * centred[a, b] ** 2 for a in range(3) for b in range(3))
        assert skipped[i, j] == pytest.approx(np.sqrt(kept), abs=EXACT)
    # a weak coupling causes half the square of its score in mutual information
    centred = centred * 0.02
    joint = f[:, None] * g[None] * (1 + centred)
    information = (joint * np.log(joint / (f[:, None] * g[None]))).sum()
    weak = np.zeros((2, 4, 2, 4))
    weak[0, :, 1, :], weak[1, :, 0, :] = centred, centred.T
    assert weighted_scores(weak, np.stack([f, g]))[0, 1] ** 2 / 2 == pytest.approx(information, rel=0.05)


def test_the_prior_is_the_rate_of_each_separation():
    rng = np.random.default_rng(12)
    maps = []
    for length in (20, 25, 30):
        upper = np.triu(rng.random((length, length)) < 0.3, 4)
        maps.append((upper | upper.T).astype(np.uint8))
    prior = SeparationPrior(maps, smoothing=0).scores(25)
    pairs = [(j - i, one[i, j]) for one in maps for i in range(len(one)) for j in range(i + 1, len(one))]
    rate = np.mean([contact for _, contact in pairs])
    for separation in (1, 4, 10, 24):
        seen = [contact for apart, contact in pairs if apart == separation]
        expected = (sum(seen) + rate) / (len(seen) + 1)
        assert prior[0, separation] == pytest.approx(expected, abs=EXACT)
    longer = SeparationPrior(maps).scores(40)
    assert longer.shape == (40, 40)
    assert longer[0, 39] == pytest.approx(rate)
    np.testing.assert_array_equal(longer, longer.T)
    with pytest.raises(ValueError, match="at least one"):
        SeparationPrior([])


def test_random_scores_are_symmetric_and_seeded():
    np.testing.assert_array_equal(random_scores(10, 1), random_scores(10, 1).T)
    assert not np.array_equal(random_scores(10, 1), random_scores(10, 2))
