from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foldase_models.coevolution import contact_map
from foldase_models.coevolution.layered_folds import beta_points, layered_chain
from foldase_models.folding.ideal_structures import HELIX, STRAND, build_chain

ROUNDING = 1e-3
"""Coordinates are float32, A."""
AIMED = 0.93
"""Cosine between C-beta bonds guessed from the trace and those of ideal residues: within 22 degrees."""


@settings(max_examples=25)
@given(st.integers(1, 120), st.integers(0, 10_000))
def test_chains_have_the_length_asked_for_and_are_the_same_again(length, seed):
    chain = layered_chain(length, np.random.default_rng(seed))
    assert chain.shape == (length, 3)
    assert chain.dtype == np.float32
    assert np.isfinite(chain).all()
    np.testing.assert_allclose(chain.mean(axis=0), 0, atol=ROUNDING * length)
    np.testing.assert_array_equal(chain, layered_chain(length, np.random.default_rng(seed)))


@pytest.mark.parametrize("torsions", [HELIX, STRAND])
def test_beta_carbons_point_where_those_of_ideal_residues_do(torsions):
    ideal = build_chain("ideal", "A" * 14, np.tile(torsions, (14, 1)))
    alpha, beta = ideal.positions[:, 1].astype(np.float64), ideal.positions[:, 3]
    found, wanted = beta_points(alpha) - alpha, beta - alpha
    length = np.linalg.norm(found, axis=1)
    np.testing.assert_allclose(length[[0, -1]], 0)
    cosine = (found * wanted).sum(axis=1)[1:-1] / (length * np.linalg.norm(wanted, axis=1))[1:-1]
    assert cosine.min() > AIMED


def test_two_residues_have_no_side():
    pair = np.array([[0.0, 0, 0], [3.8, 0, 0]])
    np.testing.assert_array_equal(beta_points(pair), pair)


def test_contact_maps_look_like_those_of_proteins():
    """About as many contacts as proteins have, in runs along both diagonals: ladders of strands."""
    chains = [layered_chain(100, np.random.default_rng(seed)) for seed in range(30)]
    maps = [contact_map(beta_points(chain), cutoff=8.0, min_separation=6) for chain in chains]
    assert 1.5 < np.mean([one.sum() / 2 / 100 for one in maps]) < 4.0

    def runs(one, step):
        """Contacts (i, j) whose neighbour (i + 1, j + step) is one too."""
        i, j = np.argwhere(np.triu(one, 8)[:-1, 1:-1]).T
        return int(one[i + 1, j + 1 + step].sum())

    anti = sum(runs(one, -1) for one in maps)
    along = sum(runs(one, 1) for one in maps)
    strangers = sum(runs(np.roll(one, 1, axis=1) & maps[k - 1], -1) for k, one in enumerate(maps))
    assert anti > along > 0
    assert anti > 10 * strangers


def test_helices_turn_to_the_right_in_every_direction():
    """Triple products of successive steps are positive in right-handed helices."""
    signs = []
    for seed in range(40):
        chain = layered_chain(60, np.random.default_rng(seed)).astype(np.float64)
        near = np.linalg.norm(chain[3:] - chain[:-3], axis=1)
        steps = [np.diff(chain[k : k + 4], axis=0) for k in np.flatnonzero(near < 5.6)]
        signs += [np.sign(np.linalg.det(step)) for step in steps]
    assert len(signs) > 100
    assert np.mean(signs) > 0.7


def test_a_chain_of_no_residues_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        layered_chain(0, np.random.default_rng(0))
