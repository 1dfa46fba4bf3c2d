"""What brings simulated families nearer to natural ones, each thing on its own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from foldase_models.coevolution import (
    FamilyConfig,
    average_product_correction,
    contact_map,
    mutual_information,
    sequence_weights,
    simulate_families,
)
from foldase_models.coevolution.gaps import put_gaps
from foldase_models.coevolution.layered_folds import beta_points
from foldase_models.metrics import contact_precision

SMALL = FamilyConfig(length=24, ancestors=60)
DRAWN = 0.03
"""Shares of a few thousand letters are met within this."""


def test_what_is_off_changes_nothing_and_what_is_on_is_repeated():
    plain = simulate_families(SMALL, 3, seed=2)
    rich = replace(
        SMALL, longest=40, fold="layered", own_energies=True, variety=0.5, stray=0.2, gaps=0.1, uneven=0.5
    )
    first, again = simulate_families(rich, 3, seed=2), simulate_families(rich, 2, seed=2)
    for one, other in zip(first, again, strict=False):
        np.testing.assert_array_equal(one.letters, other.letters)
        np.testing.assert_array_equal(one.coords, other.coords)
    # the same fold and sequences with and without gaps put in afterwards
    gapped = simulate_families(replace(SMALL, gaps=0.2), 3, seed=2)
    for one, other in zip(plain, gapped, strict=True):
        kept = other.letters != SMALL.alphabet
        np.testing.assert_array_equal(one.letters[kept], other.letters[kept])
        np.testing.assert_array_equal(one.contacts, other.contacts)


def test_lengths_and_depths_are_each_familys_own():
    made = simulate_families(replace(SMALL, longest=40, variety=0.7), 12, seed=1)
    lengths, depths = {f.letters.shape[1] for f in made}, {len(f.letters) for f in made}
    assert min(lengths) >= 24
    assert max(lengths) <= 40
    assert len(lengths) > 4
    assert len(depths) > 8
    assert min(depths) >= 2 * 60 / np.exp(0.7) - 2
    for family in made:
        N = family.letters.shape[1]
        assert family.coords.shape == (N, 3)
        assert family.contacts.shape == (N, N)


def test_contacts_of_layered_folds_are_those_of_beta_carbons():
    config = replace(SMALL, fold="layered", contact_cutoff=8.0, min_separation=6, nearest_coupling=2)
    for family in simulate_families(config, 3, seed=4):
        wanted = contact_map(beta_points(family.coords), cutoff=8.0, min_separation=6)
        np.testing.assert_array_equal(family.contacts, wanted)


def test_letters_mean_something_else_in_every_family():
    """With shared energies the pairs of letters met in contact agree between families, with own ones not."""

    def agreement(config):
        tables = []
        for family in simulate_families(config, 8, seed=3):
            i, j = np.nonzero(np.triu(family.contacts))
            table = np.ones((8, 8))
            np.add.at(table, (family.letters[:, i], family.letters[:, j]), 1.0)
            table = table + table.T
            expected = np.outer(table.sum(axis=0), table.sum(axis=0)) / table.sum()
            tables.append(np.log(table / expected).ravel())
        return np.corrcoef(tables)[np.triu_indices(8, 1)].mean()

    assert agreement(SMALL) > 0.5
    assert abs(agreement(replace(SMALL, own_energies=True))) < 0.25


def test_couplings_that_are_no_contacts_mislead():
    def precision(config):
        reached = []
        for family in simulate_families(config, 8, seed=6):
            found = average_product_correction(mutual_information(family.letters, 8))
            reached.append(contact_precision(found, family.contacts, min_separation=4)["L"])
        return np.mean(reached)

    clean = replace(SMALL, ancestors=200)
    assert precision(replace(clean, stray=1.0)) < precision(clean) - 0.1


def test_trees_leave_fewer_effective_sequences():
    tree = replace(SMALL, ancestors=10, descendants=3, generations=2, descendant_sweeps=1, redrawn=0.15)
    [related] = simulate_families(tree, 1, seed=7)
    assert related.letters.shape == (tree.sequences, 24) == (90, 24)
    [strangers] = simulate_families(replace(tree, redrawn=1.0), 1, seed=7)
    alone = sequence_weights(strangers.letters, 0.7).sum()
    assert sequence_weights(related.letters, 0.7).sum() < 0.6 * alone


def test_some_columns_are_more_conserved_than_others():
    def spread(config):
        made = simulate_families(replace(config, coupling=0.0), 4, seed=8)
        columns = [column for family in made for column in family.letters.T]
        return np.std([np.bincount(column, minlength=8).max() / len(column) for column in columns])

    assert spread(replace(SMALL, uneven=1.0)) > 2 * spread(SMALL)


@pytest.mark.parametrize("share", [0.05, 0.2])
def test_gaps_come_in_runs_and_at_ends(share):
    letters = np.zeros((400, 60), dtype=np.uint8)
    found = put_gaps(letters, 20, share, np.random.default_rng(0))
    missing = found == 20
    assert abs(missing.mean() - share) < share * 0.3
    assert missing[:, [0, -1]].mean() > 1.3 * missing[:, 20:40].mean()
    after_a_gap = missing[:, 1:][missing[:, :-1]].mean()
    assert after_a_gap > 0.6
    assert (letters == 0).all()
    assert (~missing).any(axis=1).all()


@pytest.mark.parametrize(
    "wrong",
    [
        {"longest": 10},
        {"variety": -1.0},
        {"redrawn": 1.5},
        {"gaps": 0.95},
        {"generations": 0},
        {"fold": "knotted"},
    ],
)
def test_recipes_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        replace(SMALL, **wrong)


def test_the_alphabet_has_a_gap_where_there_are_gaps():
    assert SMALL.letters == 8
    assert replace(SMALL, gaps=0.1).letters == 9
    [family] = simulate_families(replace(SMALL, gaps=0.3), 1, seed=1)
    assert family.letters.max() == 8
    assert abs((family.letters == 8).mean() - 0.3) < 0.3 * 0.3 + DRAWN
