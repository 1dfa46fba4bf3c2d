from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foldase_models.coevolution import (
    FamilyConfig,
    average_product_correction,
    contact_map,
    mutual_information,
    random_chain,
    shared_energy,
    simulate_families,
)
from foldase_models.coevolution.chains import BOND, CLASH, SECOND_NEIGHBOUR
from foldase_models.coevolution.families import gibbs_sweep
from foldase_models.metrics import contact_precision

ROUNDING = 1e-3
"""Coordinates are float32, A."""


@settings(max_examples=25)
@given(st.integers(1, 60), st.integers(0, 10_000))
def test_chains_have_bonds_and_angles_of_proteins_and_do_not_clash(length, seed):
    chain = random_chain(length, np.random.default_rng(seed)).astype(np.float64)
    assert chain.shape == (length, 3)
    np.testing.assert_allclose(chain.mean(axis=0), 0, atol=ROUNDING)
    distance = np.linalg.norm(chain[:, None] - chain[None], axis=-1)
    apart = np.abs(np.subtract.outer(np.arange(length), np.arange(length)))
    np.testing.assert_allclose(distance[apart == 1], BOND, atol=ROUNDING)
    assert (distance[apart >= 2] >= CLASH - ROUNDING).all()
    second = distance[apart == 2]
    assert (second >= SECOND_NEIGHBOUR[0] - ROUNDING).all()
    assert (second <= SECOND_NEIGHBOUR[1] + ROUNDING).all()


def test_chains_are_compact_and_have_no_preferred_handedness():
    rng = np.random.default_rng(1)
    chains = [random_chain(28, rng).astype(np.float64) for _ in range(200)]
    per_residue = [contact_map(chain).sum() / 2 / 28 for chain in chains]
    assert 1.8 < np.mean(per_residue) < 2.3
    loose = [contact_map(random_chain(28, rng, attraction=0.0)).sum() / 2 / 28 for _ in range(50)]
    assert np.mean(loose) < 0.6
    volume = [
        np.sign(np.linalg.det(np.diff(chain[k : k + 4], axis=0))) for chain in chains for k in range(0, 24, 4)
    ]
    # signs of 1,200 nearly independent triple products: 4 standard errors
    assert abs(np.mean(volume)) < 4 / np.sqrt(len(volume))


def test_contact_maps_by_the_definition():
    coords = np.random.default_rng(2).normal(size=(15, 3)) * 6
    found = contact_map(coords, cutoff=7.0, min_separation=4)
    for i, j in itertools.product(range(15), repeat=2):
        near = np.sqrt(((coords[i] - coords[j]) ** 2).sum()) < 7.0
        assert found[i, j] == (near and abs(i - j) >= 4)


def test_a_family_depends_on_recipe_seed_and_index_only():
    config = FamilyConfig(length=16, ancestors=10)
    many, few = simulate_families(config, 40, seed=3), simulate_families(config, 5, seed=3)
    for a, b in zip(few, many, strict=False):
        np.testing.assert_array_equal(a.letters, b.letters)
        np.testing.assert_array_equal(a.coords, b.coords)
    other = simulate_families(config, 5, seed=4)
    assert all(not np.allclose(a.coords, b.coords) for a, b in itertools.product(many, other))
    assert many[7].index == 7
    assert many[7].letters.shape == (20, 16)
    assert many[7].letters.dtype == np.uint8
    np.testing.assert_array_equal(many[7].contacts, contact_map(many[7].coords))


def test_all_families_share_the_energies_of_letters():
    energy = shared_energy(8, 0)
    np.testing.assert_array_equal(energy, energy.T)
    assert energy.mean() == pytest.approx(0, abs=1e-12)
    assert energy.var() == pytest.approx(1)
    np.testing.assert_array_equal(energy, shared_energy(8, 0))
    assert not np.allclose(energy, shared_energy(8, 1))
    # letters in contact are favoured as their energy says, in families of any seed
    for seed in (5, 6):
        together, apart = [], []
        for family in simulate_families(FamilyConfig(), 10, seed):
            pairs = np.argwhere(np.triu(family.contacts))
            strangers = family.letters[np.random.default_rng(seed).permutation(len(family.letters))]
            for i, j in pairs:
                together.append(energy[family.letters[:, i], family.letters[:, j]].mean())
                apart.append(energy[family.letters[:, i], strangers[:, j]].mean())
        assert np.mean(together) > np.mean(apart) + 0.2


def test_gibbs_sampling_reaches_the_exact_distribution():
    rng = np.random.default_rng(7)
    N, Q, C = 3, 3, 40_000
    energy = shared_energy(Q, 0)
    fields = rng.normal(size=(1, N, Q)) * 0.5
    strength = np.array([[0, 0.9, 0.0], [0.9, 0, 0.6], [0.0, 0.6, 0]])
    neighbours = np.array([[[1, 0], [0, 2], [1, 0]]])
    strengths = np.array([[[0.9, 0.0], [0.9, 0.6], [0.6, 0.0]]])
    state = rng.integers(0, Q, size=(1, N, C))
    for _ in range(30):
        gibbs_sweep(state, energy, neighbours, strengths, fields, rng.random((1, N, C)))
    exact = np.zeros((Q,) * N)
    for letters in itertools.product(range(Q), repeat=N):
        value = sum(fields[0, i, letters[i]] for i in range(N))
        value += sum(
            strength[i, j] * energy[letters[i], letters[j]] for i in range(N) for j in range(i + 1, N)
        )
        exact[letters] = np.exp(value)
    exact /= exact.sum()
    found = np.zeros_like(exact)
    np.add.at(found, tuple(state[0]), 1 / C)
    error = np.sqrt(exact * (1 - exact) / C)
    assert (np.abs(found - exact) < 5 * error).all()


def test_independent_ancestors_decide_whether_contacts_can_be_seen():
    def precision(ancestors: int, descendants: int) -> float:
        config = FamilyConfig(ancestors=ancestors, descendants=descendants)
        reached = []
        for family in simulate_families(config, 12, seed=8):
            found = average_product_correction(mutual_information(family.letters, 8))
            reached.append(contact_precision(found, family.contacts, min_separation=4)["L"])
        return float(np.mean(reached))

    # the standard error of each mean is about 0.02
    assert precision(96, 2) > precision(8, 24) + 0.06


def test_a_report_that_raises_stops_the_work():
    class Stopped(Exception):
        pass

    def report(done: int) -> None:
        if done == 2:
            raise Stopped

    with pytest.raises(Stopped):
        simulate_families(FamilyConfig(length=10, ancestors=2), 100, seed=0, report=report)


@pytest.mark.parametrize(
    "wrong", [{"length": 1}, {"alphabet": 21}, {"alphabet": 1}, {"ancestors": 0}, {"ancestor_sweeps": -1}]
)
def test_recipes_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match="must"):
        FamilyConfig(**wrong)
    with pytest.raises(ValueError, match="must not be negative"):
        simulate_families(FamilyConfig(), 1, seed=-1)
