"""Atom37 arrays of real files, compared with two other readers, and of files that were cut off."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import gemmi
import numpy as np
import pytest
from Bio.PDB.MMCIFParser import MMCIFParser
from Bio.PDB.PDBParser import PDBParser
from hypothesis import given, settings
from hypothesis import strategies as st

from foldase_workflows.contracts import BadInput
from foldase_workflows.formats.all_atoms import AllAtomChain, read_all_atom_chain, read_all_atoms
from foldase_workflows.formats.atom_names import (
    ATOM37,
    ATOM37_INDEX,
    RESIDUE_ATOMS,
    RESTYPES,
    THREE_LETTERS,
)

SHARED = Path(os.environ.get("FOLDASE_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
FILES = ["1A8O.cif", "1A8O.pdb", "1GBT.cif", "3JQH.cif", "4CUP.cif", "6KWC_1_openfold_prediction.pdb"]
CIF_DECIMALS = 1e-3
"""Coordinates are written with three decimals."""


def shared(name: str) -> Path:
    if not (SHARED / name).exists():
        pytest.skip(f"no {name} in {SHARED}; set FOLDASE_TEST_DATA")
    return SHARED / name


def outcome(path: Path) -> AllAtomChain | BadInput:
    """The one chain of a file, or the error that names the file."""
    try:
        (chain,) = read_all_atoms(path, name="mine")
    except BadInput as error:
        if error.location is None or error.location.file != "mine":
            raise AssertionError("the error does not name the file") from error
        return error
    return chain


def place(atom_name: str, residue: str) -> int | None:
    """The column of an atom as this package counts them, None for hydrogens."""
    if (residue, atom_name) == ("MSE", "SE"):
        atom_name = "SD"
    return ATOM37_INDEX.get(atom_name)


def arrays_by_gemmi(path: Path, chain: AllAtomChain) -> dict[str, np.ndarray]:
    structure = gemmi.read_structure(str(path))
    structure.setup_entities()
    residues: dict[tuple[int, str], list[gemmi.Residue]] = {}
    for residue in structure[0][chain.name].get_polymer():
        residues.setdefault((residue.seqid.num, residue.seqid.icode.strip()), []).append(residue)
    shape = (len(chain.sequence), 37)
    xyz, b, occupancy = np.zeros((*shape, 3)), np.zeros(shape), np.full(shape, -1.0)
    keys = zip(chain.numbers.tolist(), chain.insertion_codes, chain.residues, strict=True)
    for row, (number, code, name) in enumerate(keys):
        (residue,) = (one for one in residues[number, code] if one.name == name)
        for atom in residue:
            column = place(atom.name, name)
            if column is not None and atom.occ > occupancy[row, column]:
                xyz[row, column], b[row, column] = atom.pos.tolist(), atom.b_iso
                occupancy[row, column] = atom.occ
    return {"positions": xyz, "mask": occupancy >= 0, "b_factors": b}


def arrays_by_biopython(path: Path, chain: AllAtomChain) -> dict[str, np.ndarray]:
    parser: Any = (MMCIFParser if path.suffix == ".cif" else PDBParser)(QUIET=True)
    found = parser.get_structure("", str(path))[0][chain.name]
    residues = {(one.id[1], one.id[2].strip()): one for one in found if one.has_id("CA")}
    shape = (len(chain.sequence), 37)
    xyz, b, mask = np.zeros((*shape, 3)), np.zeros(shape), np.zeros(shape, dtype=bool)
    for row, key in enumerate(zip(chain.numbers.tolist(), chain.insertion_codes, strict=True)):
        for atom in residues[key]:
            column = place(atom.name, residues[key].resname)
            if column is not None:
                xyz[row, column], b[row, column], mask[row, column] = atom.coord, atom.bfactor, True
    return {"positions": xyz, "mask": mask, "b_factors": b}


PEERS = [(name, arrays_by_gemmi) for name in FILES] + [
    # 3JQH has two residues in one place, of which Biopython keeps one by a rule of its own.
    pytest.param(name, arrays_by_biopython, marks=pytest.mark.verify)
    for name in FILES
    if name != "3JQH.cif"
]


@pytest.mark.parametrize(("name", "peer"), PEERS)
def test_other_readers_find_the_same_atoms(name, peer):
    path = shared(name)
    for chain in read_all_atoms(path):
        wanted = peer(path, chain)
        np.testing.assert_array_equal(chain.mask, wanted["mask"])
        np.testing.assert_allclose(chain.positions, wanted["positions"], atol=CIF_DECIMALS)
        np.testing.assert_allclose(chain.b_factors, wanted["b_factors"], atol=CIF_DECIMALS)


def test_selenomethionine_is_methionine_in_both_formats():
    from_cif, from_pdb = (read_all_atom_chain(shared(name)) for name in ("1A8O.cif", "1A8O.pdb"))
    assert len(from_cif.sequence) == len(from_pdb.sequence) == 70
    assert from_cif.sequence == from_pdb.sequence
    for array in ("numbers", "positions", "mask", "b_factors"):
        np.testing.assert_array_equal(getattr(from_cif, array), getattr(from_pdb, array))
    assert (from_cif.modified, from_cif.residues.count("MSE")) == (4, 4)
    methionines = [i for i, residue in enumerate(from_cif.residues) if residue == "MSE"]
    assert from_cif.mask[methionines, ATOM37_INDEX["SD"]].all()
    bond = from_cif.positions[methionines][:, [ATOM37_INDEX["SD"], ATOM37_INDEX["CG"]]]
    lengths = np.linalg.norm(bond[:, 0] - bond[:, 1], axis=-1)
    assert ((lengths > 1.8) & (lengths < 2.1)).all(), "C-Se is 1.95 A"


@pytest.mark.parametrize("name", FILES)
def test_atoms_are_those_that_the_residues_have(name):
    for chain in read_all_atoms(shared(name)):
        assert chain.positions.dtype == np.float32
        assert chain.positions.shape == (len(chain.sequence), 37, 3)
        assert not chain.positions[~chain.mask].any()
        for row, letter in enumerate(chain.sequence):
            found = {ATOM37[column] for column in np.flatnonzero(chain.mask[row])}
            assert "CA" in found
            assert found <= {*RESIDUE_ATOMS[letter], "OXT"}


def test_a_chain_that_is_not_there():
    with pytest.raises(BadInput) as caught:
        read_all_atom_chain(shared("1A8O.cif"), "Z")
    assert (caught.value.code, caught.value.hint) == ("structure_chain", "the chains are A")


@pytest.mark.parametrize("name", ["1A8O.cif", "3JQH.cif", "1A8O.pdb"])
@given(share=st.floats(0, 1, exclude_max=True))
@settings(max_examples=5)
def test_a_deposited_entry_cut_anywhere_is_refused_or_whole(tmp_path_factory, name, share):
    """What is cut off before the last atom is noticed; what follows the atoms may be missing."""
    raw = shared(name).read_bytes().rstrip()
    last_atom = max(raw.rfind(b"\nATOM"), raw.rfind(b"\nHETATM"))
    cut = raw[: int(share * len(raw))]
    path = tmp_path_factory.mktemp("cut") / name
    path.write_bytes(cut)
    found = outcome(path)
    if isinstance(found, BadInput):
        assert found.location is not None
        assert found.location.line is not None or not cut.strip()
    else:
        assert len(cut) > last_atom
        np.testing.assert_array_equal(found.positions, read_all_atom_chain(shared(name)).positions)


def check_bare_cut(folder: Path, share: float) -> None:
    source = shared("6KWC_1_openfold_prediction.pdb")
    raw = source.read_bytes()
    path = folder / "x.pdb"
    path.write_bytes(raw[: int(share * len(raw))])
    whole = read_all_atom_chain(source)
    chain = outcome(path)
    if isinstance(chain, AllAtomChain):
        count, seen = len(chain.sequence), chain.mask
        assert whole.sequence.startswith(chain.sequence)
        assert not (seen & ~whole.mask[:count]).any()
        np.testing.assert_array_equal(chain.positions[seen], whole.positions[:count][seen])
        np.testing.assert_array_equal(chain.b_factors[seen], whole.b_factors[:count][seen])


@given(share=st.floats(0, 1, exclude_max=True))
@settings(max_examples=3)
def test_a_bare_file_cut_anywhere_gives_no_false_atom(tmp_path_factory, share):
    """Nothing ends a PDB file without a head, so a cut between two atoms cannot be seen; none is invented."""
    check_bare_cut(tmp_path_factory.mktemp("cut"), share)


@pytest.mark.verify
@given(share=st.floats(0, 1, exclude_max=True))
@settings(max_examples=300)
def test_a_bare_file_cut_in_many_places_gives_no_false_atom(tmp_path_factory, share):
    check_bare_cut(tmp_path_factory.mktemp("cut"), share)


def test_a_file_without_separators_is_no_cut_file(tmp_path):
    """Other programs close no category by `#`."""
    structure = gemmi.read_structure(str(shared("1A8O.cif")))
    structure.setup_entities()
    path = tmp_path / "x.cif"
    structure.make_mmcif_document().write_file(str(path))
    assert "#\n" not in path.read_text()
    assert read_all_atom_chain(path).sequence == read_all_atom_chain(shared("1A8O.cif")).sequence


def test_two_chains_under_one_letter_are_refused_and_not_read_by_half(tmp_path):
    atoms = [line for line in shared("1A8O.pdb").read_text().splitlines() if line.startswith("ATOM")][:30]
    elsewhere = [line[:30] + f"{90.0:8.3f}" + line[38:] for line in atoms]
    path = tmp_path / "dimer.pdb"
    path.write_text("\n".join([*atoms, *elsewhere]) + "\n")
    error = outcome(path)
    assert (error.code, error.location.line) == ("pdb_twice", 31)
    renamed = [line[:21] + "B" + line[22:] for line in elsewhere]
    path.write_text("\n".join([*atoms, *renamed]) + "\n")
    first, second = read_all_atoms(path)
    assert first.sequence == second.sequence
    models = ["MODEL        1", *atoms, "ENDMDL", "MODEL        2", *elsewhere, "ENDMDL", "END"]
    path.write_text("\n".join(models) + "\n")
    assert read_all_atom_chain(path).sequence == first.sequence


def test_names_agree_with_those_of_models():
    from foldase_models.layers import residues

    assert RESTYPES == residues.RESTYPES
    assert tuple(ATOM37) == tuple(residues.ATOM37)
    assert list(THREE_LETTERS.values()) == [residues.ONE_TO_THREE[letter] for letter in RESTYPES]
    for letter in RESTYPES:
        theirs = [name for name in residues.ATOM14[RESTYPES.index(letter)] if name]
        assert set(RESIDUE_ATOMS[letter]) == set(theirs)
