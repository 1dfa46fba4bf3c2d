"""Bonds and angles of the residues: chains built from the ideal positions keep to them."""

from __future__ import annotations

import numpy as np
import pytest

from foldase_models.folding.ideal_structures import STRAND, build_chain
from foldase_models.layers import residues
from foldase_models.layers.residue_bonds import angle_ends, bonds, bonds_between, distance_bounds

IDEAL_DEVIATIONS = 5.0
"""Of bonds, within which the two independent tables of geometry agree."""


@pytest.mark.parametrize("letter", residues.RESTYPES)
def test_ideal_residues_keep_bonds_and_angles(letter):
    built = build_chain("one", f"A{letter}A", np.tile(STRAND, (3, 1)))
    name = residues.ONE_TO_THREE[letter]
    for spread in bonds(name) + angle_ends(name):
        i, j = (residues.ATOM37_INDEX[atom] for atom in (spread.one, spread.other))
        found = np.linalg.norm(built.positions[1, i] - built.positions[1, j])
        assert abs(found - spread.length) < IDEAL_DEVIATIONS * spread.deviation, spread


def test_bonds_join_all_atoms_of_a_residue_and_no_others():
    steps = bonds_between()
    for kind in range(residues.UNKNOWN):
        has = residues.ATOM37_MASK[kind]
        assert steps[kind][np.ix_(has, has)].max() < 9
        assert (steps[kind][has][:, ~has & (np.arange(37) != residues.ATOM37_INDEX["OXT"])] == 99).all()
    tryptophan = steps[residues.RESTYPES.index("W")]
    assert tryptophan[residues.ATOM37_INDEX["CA"], residues.ATOM37_INDEX["CH2"]] == 6
    assert (steps[residues.UNKNOWN][:3, :3] == 99 * (1 - np.eye(3))).all()


def test_bounds_are_narrow_for_bonds_and_open_for_others():
    lower, upper = distance_bounds(deviations=12, overlap=1.5)
    alanine = residues.RESTYPES.index("A")
    # C-alpha to C-beta: 1.520 +- 0.021 A.
    assert lower[alanine, 1, 4] == pytest.approx(1.520 - 12 * 0.021)
    assert upper[alanine, 4, 1] == pytest.approx(1.520 + 12 * 0.021)
    # Oxygen to C-beta, four atoms of a torsion: only their spheres keep them apart.
    assert lower[alanine, 3, 4] == pytest.approx(1.52 + 1.7 - 1.5)
    assert np.isinf(upper[alanine, 3, 4])
    assert not lower[residues.UNKNOWN].any()
