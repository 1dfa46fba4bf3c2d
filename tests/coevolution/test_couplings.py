"""Mean-field and pseudolikelihood couplings against naive forms, and on families with known contacts."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from foldase_models.coevolution import (
    FamilyConfig,
    couple,
    fit_pseudolikelihood,
    mean_field_couplings,
    probability_of_scores,
    sequence_weights,
    simulate_families,
)
from foldase_models.coevolution import pseudolikelihood as pseudolikelihood_module
from foldase_models.coevolution.lbfgs import minimise
from foldase_models.metrics import contact_precision

EXACT = 1e-8
"""Agreement of two float64 computations of one closed form, after an inversion."""
OPTIMUM = 1e-5
"""Agreement of two float64 optimisers at the minimum of one convex function."""
SINGLE = 2e-3
"""Agreement of couplings fitted in float32 and in float64, at the default tolerance of the gradient."""


def _letters(rows: int, columns: int, alphabet: int, seed: int) -> np.ndarray:
    """Letters with some coupling between neighbours."""
    rng = np.random.default_rng(seed)
    letters = rng.integers(0, alphabet, size=(rows, columns))
    copied = rng.random((rows, columns - 1)) < 0.3
    letters[:, 1:][copied] = letters[:, :-1][copied]
    return letters.astype(np.uint8)


def test_mean_field_is_minus_the_inverse_of_the_correlations():
    letters, weights = _letters(40, 4, 3, 0), np.random.default_rng(1).uniform(0.2, 1, 40)
    N, Q, theta = 4, 3, 0.4
    single = np.zeros((N, Q))
    joint = np.zeros((N, Q, N, Q))
    for s in range(40):
        for i in range(N):
            single[i, letters[s, i]] += weights[s] / weights.sum()
            for j in range(N):
                joint[i, letters[s, i], j, letters[s, j]] += weights[s] / weights.sum()
    single = (1 - theta) * single + theta / Q
    correlation = np.zeros((N * 2, N * 2))
    for (i, a), (j, b) in itertools.product(itertools.product(range(N), range(2)), repeat=2):
        pair = (1 - theta) * joint[i, a, j, b] + theta / Q**2 if i != j else single[i, a] * (a == b)
        correlation[i * 2 + a, j * 2 + b] = pair - single[i, a] * single[j, b]
    expected = -np.linalg.inv(correlation).reshape(N, 2, N, 2)
    found = mean_field_couplings(letters, Q, weights, pseudocount=theta)
    for i, j in itertools.product(range(N), repeat=2):
        block = np.zeros((2, 2)) if i == j else expected[i, :, j, :]
        np.testing.assert_allclose(found[i, :2, j, :2], block, atol=EXACT)
    assert not found[:, 2].any()
    np.testing.assert_allclose(found, found.transpose(2, 3, 0, 1), atol=EXACT)


@pytest.mark.parametrize("pseudocount", [0.0, 1.0])
def test_mean_field_needs_a_pseudocount(pseudocount):
    with pytest.raises(ValueError, match="pseudocount"):
        mean_field_couplings(_letters(5, 3, 3, 0), 3, pseudocount=pseudocount)


def _naive_objective(letters, Q, weights, field_penalty, coupling_penalty):
    """The function of the module's docstring by loops, with letters centred by their frequency."""
    S, N = letters.shape
    frequency = np.zeros((N, Q))
    for s in range(S):
        frequency[np.arange(N), letters[s]] += weights[s] / weights.sum()
    pairs = list(itertools.combinations(range(N), 2))

    def value(point: np.ndarray) -> float:
        fields = point[: N * Q].reshape(N, Q)
        couplings = np.zeros((N, Q, N, Q))
        for (i, j), block in zip(pairs, point[N * Q :].reshape(-1, Q, Q), strict=True):
            couplings[i, :, j, :] = block
            couplings[j, :, i, :] = block.T
        total = field_penalty * (point[: N * Q] ** 2).sum()
        total += coupling_penalty * (point[N * Q :] ** 2).sum()
        for s in range(S):
            for i in range(N):
                logits = fields[i].copy()
                for j in set(range(N)) - {i}:
                    logits += couplings[j, letters[s, j], i] - frequency[j] @ couplings[j, :, i]
                total -= weights[s] * (logits[letters[s, i]] - np.log(np.exp(logits).sum()))
        return float(total)

    return value, pairs


def test_pseudolikelihood_finds_the_minimum_that_an_independent_optimiser_finds():
    letters, weights = _letters(12, 3, 3, 2), np.random.default_rng(3).uniform(0.2, 1, 12)
    N, Q = 3, 3
    value, pairs = _naive_objective(letters, Q, weights, 0.05, 0.3)
    peer = minimize(value, np.zeros(N * Q + len(pairs) * Q * Q), method="BFGS", options={"gtol": 1e-7})
    found = fit_pseudolikelihood(
        letters,
        Q,
        weights,
        coupling_penalty=0.3,
        field_penalty=0.05,
        tolerance=1e-10,
        dtype=torch.float64,
    )
    assert found.converged
    assert found.relative_gradient <= 1e-10
    assert found.objective == pytest.approx(peer.fun, abs=1e-9 * abs(peer.fun))
    for (i, j), block in zip(pairs, peer.x[N * Q :].reshape(-1, Q, Q), strict=True):
        np.testing.assert_allclose(found.couplings[i, :, j, :], block, atol=OPTIMUM)
        np.testing.assert_allclose(found.couplings[j, :, i, :], block.T, atol=OPTIMUM)
        assert not found.couplings[i, :, i, :].any()


def test_pseudolikelihood_does_not_depend_on_the_blocks_of_sequences(monkeypatch):
    letters = _letters(60, 5, 4, 4)
    whole = fit_pseudolikelihood(letters, 4, dtype=torch.float64, tolerance=1e-9)
    monkeypatch.setattr(pseudolikelihood_module, "BLOCK_BYTES", 7 * 20 * 8)
    parts = fit_pseudolikelihood(letters, 4, dtype=torch.float64, tolerance=1e-9)
    np.testing.assert_allclose(parts.couplings, whole.couplings, atol=OPTIMUM)


@pytest.mark.verify
def test_float32_is_enough_for_the_default_tolerance():
    family = simulate_families(FamilyConfig(length=16), 1, seed=5)[0]
    exact = fit_pseudolikelihood(family.letters, 8, dtype=torch.float64, tolerance=1e-9)
    single = fit_pseudolikelihood(family.letters, 8)
    assert single.converged
    assert np.abs(single.couplings - exact.couplings).max() < SINGLE
    assert single.objective == pytest.approx(exact.objective, rel=2e-4)


def test_a_copy_counts_as_a_weight_of_two():
    letters = _letters(30, 4, 3, 6)
    weights = np.ones(30)
    weights[:10] = 2
    doubled = np.concatenate([letters, letters[:10]])
    for method in ("mean_field", "pseudolikelihood"):
        a = couple(letters, 3, weights, method=method, tolerance=1e-6)
        b = couple(doubled, 3, method=method, tolerance=1e-6)
        np.testing.assert_allclose(a.scores, b.scores, atol=SINGLE)


def test_a_fit_that_ran_out_of_iterations_says_so_and_one_that_is_stopped_stops():
    family = simulate_families(FamilyConfig(length=16), 1, seed=7)[0]
    short = fit_pseudolikelihood(family.letters, 8, max_iterations=2)
    assert not short.converged
    assert short.iterations == 2
    assert short.relative_gradient > 3e-4

    class Stopped(Exception):
        pass

    def report(iteration: int, value: float, gradient: float) -> None:
        if iteration == 3:
            raise Stopped

    with pytest.raises(Stopped):
        fit_pseudolikelihood(family.letters, 8, report=report)


def test_penalties_must_be_positive():
    with pytest.raises(ValueError, match="positive"):
        fit_pseudolikelihood(_letters(4, 3, 2, 0), 2, coupling_penalty=0.0)


@pytest.mark.parametrize("method", ["mean_field", "pseudolikelihood"])
def test_couplings_of_simulated_families_are_converged_and_find_contacts(method):
    config = FamilyConfig(length=24, alphabet=20, ancestors=150, field=1.5)
    for family in simulate_families(config, 2, seed=8):
        weights = sequence_weights(family.letters)
        found = couple(family.letters, 20, weights, method=method)
        assert found.converged
        if method == "pseudolikelihood":
            assert found.details["relative_gradient"] <= 3e-4
        reached = contact_precision(found.scores, family.contacts, min_separation=4)
        assert reached["L/2"] > 0.8


def test_indirect_correlations_are_taken_apart():
    """A chain of couplings 0-1-2-3: correlation runs through it, couplings do not."""
    rng = np.random.default_rng(9)
    S, Q = 4000, 3
    letters = np.zeros((S, 8), dtype=np.uint8)
    letters[:, 0] = rng.integers(0, Q, S)
    for i in range(1, 4):
        keep = rng.random(S) < 0.8
        letters[:, i] = np.where(keep, letters[:, i - 1], rng.integers(0, Q, S))
    letters[:, 4:] = rng.integers(0, Q, size=(S, 4))
    for method in ("mean_field", "pseudolikelihood"):
        raw = couple(letters, Q, method=method, pseudocount=0.05, coupling_penalty=1.0).raw
        assert min(raw[0, 1], raw[1, 2], raw[2, 3]) > 4 * max(raw[0, 2], raw[1, 3], raw[0, 3])


def test_probabilities_keep_the_order_and_lie_between_0_and_1():
    rng = np.random.default_rng(10)
    scores = rng.normal(size=(20, 20))
    scores = scores + scores.T
    scores[2, 15] = scores[15, 2] = 1e6
    found = probability_of_scores(scores, min_separation=4)
    i, j = np.triu_indices(20, 4)
    assert (np.diff(found[i, j][np.argsort(scores[i, j])]) >= 0).all()
    assert found[2, 15] == 1.0
    assert found.min() >= 0
    assert not found[np.abs(np.subtract.outer(np.arange(20), np.arange(20))) < 4].any()
    np.testing.assert_array_equal(found, found.T)
    assert (probability_of_scores(np.zeros((10, 10)), min_separation=2)[0, 5]) < 0.05
    assert not probability_of_scores(np.ones((3, 3)), min_separation=4).any()


def test_the_minimiser_solves_a_badly_scaled_quadratic():
    generator = torch.Generator().manual_seed(11)
    n = 40
    basis, _ = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))
    hessian = basis @ torch.diag(torch.logspace(-2, 2, n, dtype=torch.float64)) @ basis.T
    target = torch.randn(n, generator=generator, dtype=torch.float64)

    def objective(point: torch.Tensor) -> tuple[float, torch.Tensor]:
        gradient = hessian @ (point - target)
        return float((point - target) @ gradient / 2), gradient

    start = torch.zeros(n, dtype=torch.float64)
    found = minimise(objective, start, 1 / hessian.diagonal(), tolerance=1e-9, max_iterations=2000)
    assert found.converged
    torch.testing.assert_close(found.point, target, atol=1e-4, rtol=0)
    assert not start.any()
    already = minimise(
        objective, target, torch.ones(n, dtype=torch.float64), tolerance=1e-6, max_iterations=5
    )
    assert (already.iterations, already.converged, already.relative_gradient) == (0, True, 0.0)
