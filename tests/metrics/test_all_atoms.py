"""All-atom lDDT, RMSD, clashes and Ramachandran regions: against plain forms, peers and known structures."""

from __future__ import annotations

import itertools
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from Bio.PDB.PDBParser import PDBParser
from Bio.PDB.Polypeptide import PPBuilder
from Bio.PDB.Superimposer import SVDSuperimposer
from hypothesis import given, settings
from hypothesis import strategies as st

from foldase_models.folding.ideal_structures import HELIX, STRAND, build_chain, helix_bundle
from foldase_models.layers.residues import ATOM37, ATOM37_INDEX, THREE_TO_ONE
from foldase_models.metrics import AllAtoms, atom_rmsd, clashes, lddt_all_atoms, ramachandran
from foldase_models.metrics.all_atoms import SYMMETRIC, with_better_names
from foldase_models.metrics.ramachandran import backbone_torsions

EXACT = 1e-9
"""Agreement of two float64 computations of the same closed form."""
BUILT = 1e-3
"""Torsions of float32 coordinates, degrees."""
ALL_LETTERS = "ARNDCQEGHILKMFPSTWYV"
SHARED = Path(os.environ.get("FOLDASE_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))


def structure(sequence: str = ALL_LETTERS, torsions: tuple[float, float] = HELIX) -> AllAtoms:
    built = build_chain("ideal", sequence, np.tile(torsions, (len(sequence), 1)))
    return AllAtoms(
        sequence=sequence,
        positions=built.positions.astype(np.float64),
        mask=built.mask,
        chain_index=np.zeros(len(sequence), dtype=np.int16),
        residue_index=np.arange(len(sequence)),
    )


def disturbed(true: AllAtoms, noise: float, seed: int = 0) -> AllAtoms:
    rng = np.random.default_rng(seed)
    return replace(true, positions=true.positions + rng.normal(size=true.positions.shape) * noise)


def moved(given: AllAtoms, seed: int = 1) -> AllAtoms:
    rng = np.random.default_rng(seed)
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    q = q * np.sign(np.linalg.det(q))
    return replace(given, positions=given.positions @ q.T + rng.normal(size=3) * 30)


def exchanged(given: AllAtoms, residue: int) -> AllAtoms:
    """The same atoms under the other names that symmetry leaves open."""
    positions = given.positions.copy()
    for left, right in SYMMETRIC[given.sequence[residue]]:
        i, j = ATOM37_INDEX[left], ATOM37_INDEX[right]
        positions[residue, [i, j]] = positions[residue, [j, i]]
    return replace(given, positions=positions)


def naive_lddt(predicted: AllAtoms, true: AllAtoms) -> tuple[float, list[float]]:
    """The definition as loops over atoms, names as given."""
    kept, counted = np.zeros(len(true.sequence)), np.zeros(len(true.sequence))
    atoms = list(zip(*np.nonzero(true.mask), strict=True))
    for (i, a), (j, b) in itertools.permutations(atoms, 2):
        distance = np.linalg.norm(true.positions[i, a] - true.positions[j, b])
        if i == j or distance >= 15:
            continue
        counted[i] += 1
        if predicted.mask[i, a] and predicted.mask[j, b]:
            error = abs(np.linalg.norm(predicted.positions[i, a] - predicted.positions[j, b]) - distance)
            kept[i] += sum(error < threshold for threshold in (0.5, 1, 2, 4)) / 4
    return kept.sum() / counted.sum(), list(kept / counted)


def test_lddt_agrees_with_the_definition_as_loops_where_an_atom_is_missing():
    true = structure("AGLWSTK")
    predicted = disturbed(true, 1.0)
    mask = predicted.mask.copy()
    mask[3, ATOM37_INDEX["CZ2"]] = False
    predicted = replace(predicted, mask=mask)
    overall, per_residue = naive_lddt(predicted, true)
    found = lddt_all_atoms(predicted, true)
    assert found.overall == pytest.approx(overall, abs=EXACT)
    np.testing.assert_allclose(found.per_residue, per_residue, atol=EXACT)


@pytest.mark.parametrize("letter", sorted(SYMMETRIC))
def test_names_of_symmetric_atoms_are_those_that_suit_better(letter):
    true = structure(f"AAA{letter}AAA")
    other = exchanged(true, 3)
    assert naive_lddt(other, true)[0] < 1.0
    assert lddt_all_atoms(other, true).overall == 1.0
    assert atom_rmsd(other, true)["all"] == pytest.approx(0.0, abs=1e-6)
    np.testing.assert_array_equal(with_better_names(other, true).positions, true.positions)


@given(st.integers(0, 100), st.floats(0.0, 3.0))
@settings(max_examples=10)
def test_a_rigid_motion_changes_no_score(seed, noise):
    true = structure()
    predicted = disturbed(true, noise, seed)
    shifted = moved(predicted, seed)
    assert lddt_all_atoms(shifted, true).overall == pytest.approx(lddt_all_atoms(predicted, true).overall)
    assert atom_rmsd(shifted, true) == pytest.approx(atom_rmsd(predicted, true), abs=1e-6)
    assert clashes(shifted).pairs == clashes(predicted).pairs
    np.testing.assert_array_equal(ramachandran(shifted).level, ramachandran(predicted).level)


def test_rmsd_of_all_atoms_agrees_with_biopython():
    true = structure("AGLWSTKMIVC")
    predicted = disturbed(true, 0.7)
    peer = SVDSuperimposer()
    for name, atoms in {"alpha": ["CA"], "backbone": ["N", "CA", "C", "O"], "all": list(ATOM37)}.items():
        chosen = true.mask & np.isin(np.array(ATOM37), atoms)
        peer.set(true.positions[chosen], predicted.positions[chosen])
        peer.run()
        assert atom_rmsd(predicted, true)[name] == pytest.approx(peer.get_rms(), abs=1e-6)


def test_torsions_are_those_a_chain_was_built_with():
    phi, psi = backbone_torsions(structure("GAVLP", STRAND))
    np.testing.assert_allclose(phi[1:], STRAND[0], atol=BUILT)
    np.testing.assert_allclose(psi[:-1], STRAND[1], atol=BUILT)
    assert np.isnan([phi[0], psi[-1]]).all()


def test_torsions_end_where_a_chain_does_and_where_it_is_broken():
    whole = structure("AAAAAA")
    two_chains = replace(whole, chain_index=np.array([0, 0, 0, 1, 1, 1]))
    positions = whole.positions.copy()
    positions[3:] += 5.0
    for parted in (two_chains, replace(whole, positions=positions)):
        assert ramachandran(parted).level.tolist() == [-1, 2, -1, -1, 2, -1]


@pytest.mark.parametrize(
    ("sequence", "torsions", "level"),
    [
        ("AAA", HELIX, 2),
        ("AAA", STRAND, 2),
        ("AAA", (100.0, -60.0), 0),
        ("AGA", (95.0, -165.0), 2),
        ("AAA", (95.0, -165.0), 0),
        ("APA", STRAND, 0),
        ("APA", (-65.0, 145.0), 2),
        ("AAP", (-90.0, 0.0), 0),
        ("AAA", (-90.0, 0.0), 2),
    ],
)
def test_regions_differ_by_class(sequence, torsions, level):
    assert ramachandran(structure(sequence, torsions)).level[1] == level


def test_an_ideal_helix_has_no_clash_and_one_laid_upon_another_many():
    helix = structure("A" * 12)
    assert clashes(helix).pairs == 0
    twice = AllAtoms(
        sequence=helix.sequence * 2,
        positions=np.concatenate([helix.positions, helix.positions + 1.0]),
        mask=np.concatenate([helix.mask] * 2),
        chain_index=np.repeat([0, 1], 12),
        residue_index=np.tile(np.arange(12), 2),
    )
    found = clashes(twice)
    assert found.residues.all()
    assert found.score == pytest.approx(1000 * found.pairs / helix.mask.sum() / 2)


def test_clashes_are_counted_once_and_bonded_atoms_not_at_all():
    pair = structure("GG")
    atoms = list(zip(*np.nonzero(pair.mask), strict=True))
    place = {name: ATOM37_INDEX[name] for name in ("C", "O", "N", "CA")}
    assert len(atoms) == 8
    positions = pair.positions.copy()
    # The oxygen of the second residue onto the nitrogen of the first: six bonds apart.
    positions[1, place["O"]] = positions[0, place["N"]] + [2.6, 0.0, 0.0]
    near = positions[1, place["O"]]
    others = [(i, a) for i, a in atoms if (i, a) != (1, place["O"])]
    radius = {"C": 1.7, "N": 1.55, "O": 1.52}
    bonded = {(1, place["C"]), (1, place["CA"]), (1, place["N"])}
    expected = [
        (i, a)
        for i, a in others
        if (i, a) not in bonded and np.linalg.norm(positions[i, a] - near) < radius[ATOM37[a][0]] + 1.52 - 0.4
    ]
    assert (0, place["N"]) in expected
    assert clashes(replace(pair, positions=positions)).pairs == len(expected)


def test_a_disulfide_bond_is_no_clash():
    first, second = structure("C"), structure("C")
    sulphur = ATOM37_INDEX["SG"]
    axis = first.positions[0, sulphur] - first.positions[0, ATOM37_INDEX["CB"]]
    middle = first.positions[0, sulphur] + axis / np.linalg.norm(axis) * 1.02
    turned = 2 * middle - second.positions
    both = AllAtoms(
        sequence="CC",
        positions=np.concatenate([first.positions, turned]),
        mask=np.concatenate([first.mask, second.mask]),
        chain_index=np.array([0, 1]),
        residue_index=np.array([0, 0]),
    )
    assert np.linalg.norm(both.positions[0, sulphur] - both.positions[1, sulphur]) == pytest.approx(2.04)
    assert clashes(both).pairs == 0
    farther = both.positions.copy()
    farther[1] += axis / np.linalg.norm(axis) * 0.7
    assert clashes(replace(both, positions=farther)).pairs > 0


def test_bundles_are_compact_and_the_same_seed_builds_the_same():
    bundle = helix_bundle(3, 16, seed=4)
    assert bundle.sequence == helix_bundle(3, 16, seed=4).sequence
    np.testing.assert_array_equal(bundle.positions, helix_bundle(3, 16, seed=4).positions)
    alpha = bundle.positions[:, 1]
    apart = np.linalg.norm(alpha[:, None] - alpha[None], axis=-1) + 100 * np.eye(len(alpha))
    assert apart.min() > 3.7
    size = np.sqrt(((alpha - alpha.mean(axis=0)) ** 2).sum(axis=-1).mean())
    straight = 1.5 * len(alpha) / np.sqrt(12)
    assert size < 0.8 * straight


def read_with_biopython(path: Path) -> AllAtoms:
    chain = next(PDBParser(QUIET=True).get_structure("x", path)[0].get_chains())
    residues = [r for r in chain if r.resname in THREE_TO_ONE]
    positions = np.zeros((len(residues), 37, 3))
    mask = np.zeros((len(residues), 37), dtype=bool)
    for i, residue in enumerate(residues):
        for atom in residue:
            if atom.name in ATOM37_INDEX:
                positions[i, ATOM37_INDEX[atom.name]], mask[i, ATOM37_INDEX[atom.name]] = atom.coord, True
    return AllAtoms(
        sequence="".join(THREE_TO_ONE[r.resname] for r in residues),
        positions=positions,
        mask=mask,
        chain_index=np.zeros(len(residues)),
        residue_index=np.array([r.id[1] for r in residues]),
    )


def test_a_real_structure_is_favoured_and_has_few_clashes():
    path = SHARED / "6KWC_1_openfold_prediction.pdb"
    if not path.exists():
        pytest.skip(f"no real files in {SHARED}; set FOLDASE_TEST_DATA")
    real = read_with_biopython(path)
    phi, psi = backbone_torsions(real)
    [peptide] = PPBuilder().build_peptides(PDBParser(QUIET=True).get_structure("x", path))
    peer_phi, peer_psi = zip(*peptide.get_phi_psi_list(), strict=True)
    np.testing.assert_allclose(phi[1:], np.degrees(peer_phi[1:]), atol=BUILT)
    np.testing.assert_allclose(psi[:-1], np.degrees(peer_psi[:-1]), atol=BUILT)
    found = ramachandran(real)
    assert found.share(2) > 0.9
    assert found.share(0) < 0.01
    assert clashes(real).score < 10


def test_structures_that_do_not_fit_are_refused():
    true = structure("AG")
    with pytest.raises(ValueError, match="same residues"):
        lddt_all_atoms(structure("GA"), true)
    with pytest.raises(ValueError, match="positions must be"):
        replace(true, positions=true.positions[:1])
    with pytest.raises(ValueError, match="finite"):
        replace(true, positions=np.full_like(true.positions, np.nan))
    with pytest.raises(ValueError, match="no two atoms"):
        lddt_all_atoms(structure("A"), structure("A"))
    nothing = replace(true, mask=np.zeros_like(true.mask))
    with pytest.raises(ValueError, match="in common"):
        atom_rmsd(nothing, true)
