from __future__ import annotations

import os
from pathlib import Path

import gemmi
import numpy as np
import pytest
from Bio.PDB.MMCIF2Dict import MMCIF2Dict
from hypothesis import given
from hypothesis import strategies as st

from foldase_workflows.contracts import BadInput
from foldase_workflows.formats.mmcif_traces import write_trace
from foldase_workflows.formats.structures import StructureLimits, read_chain, read_structure

SHARED = Path(os.environ.get("FOLDASE_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))


def shared(name: str) -> Path:
    if not (SHARED / name).exists():
        pytest.skip(f"no {name} in {SHARED}; set FOLDASE_TEST_DATA")
    return SHARED / name


def fault(path: Path, **options: object) -> BadInput:
    with pytest.raises(BadInput) as caught:
        read_structure(path, **options)  # type: ignore[arg-type]
    return caught.value


CIF_HEAD = """data_TEST
#
_entry.id TEST
loop_
_entity_poly_seq.entity_id
_entity_poly_seq.num
_entity_poly_seq.mon_id
1 1 GLY
1 2 MSE
1 3 ALA
1 4 XYZ
loop_
_pdbx_struct_mod_residue.id
_pdbx_struct_mod_residue.label_comp_id
_pdbx_struct_mod_residue.parent_comp_id
1 XYZ CYS
loop_
_atom_site.group_PDB
_atom_site.id
_atom_site.type_symbol
_atom_site.label_atom_id
_atom_site.label_alt_id
_atom_site.label_comp_id
_atom_site.label_asym_id
_atom_site.label_entity_id
_atom_site.label_seq_id
_atom_site.pdbx_PDB_ins_code
_atom_site.Cartn_x
_atom_site.Cartn_y
_atom_site.Cartn_z
_atom_site.occupancy
_atom_site.B_iso_or_equiv
_atom_site.auth_seq_id
_atom_site.auth_asym_id
_atom_site.pdbx_PDB_model_num
"""
CIF_ATOMS = [
    "ATOM 1 C CA . GLY A 1 1 ? 1.0 2.0 3.0 1.00 10.0 20 X 1",
    "HETATM 2 C CA A MSE A 1 2 ? 4.0 5.0 6.0 0.40 11.0 20 X 1",
    "HETATM 3 C CA B MSE A 1 2 ? 4.5 5.5 6.5 0.60 12.0 20 X 1",
    "HETATM 4 C CB . MSE A 1 2 ? 7.0 8.0 9.0 1.00 13.0 20 X 1",
    "ATOM 5 C CB . ALA A 1 3 A 0.0 0.0 0.0 1.00 14.0 21 X 1",
    "HETATM 6 C CA . XYZ A 1 4 ? 1.5 1.5 1.5 1.00 15.0 22 X 1",
    "HETATM 7 CA CA . CA B 2 . ? 9.0 9.0 9.0 1.00 16.0 99 X 1",
    "HETATM 8 C CA . GLU C 3 . ? 9.0 9.0 9.0 1.00 16.0 98 X 1",
    "ATOM 9 C CA . GLY A 1 1 ? 8.0 8.0 8.0 1.00 17.0 20 X 2",
]
CIF = CIF_HEAD + "\n".join(CIF_ATOMS) + "\n#\n"
FIRST_ATOM_LINE = CIF_HEAD.count("\n") + 1


def write(tmp_path: Path, content: str, name: str = "x.cif") -> Path:
    path = tmp_path / name
    path.write_text(content)
    return path


def test_modified_residues_alternatives_ligands_and_models(tmp_path):
    (chain,) = read_structure(write(tmp_path, CIF))
    assert chain.name == "X"
    assert chain.sequence == "GMC"
    assert chain.polymer == "GMAC"
    assert chain.residues == ("GLY", "MSE", "XYZ")
    assert chain.numbers.tolist() == [20, 20, 22]
    assert chain.positions.tolist() == [1, 2, 4]
    assert chain.alpha.tolist() == [[1, 2, 3], [4.5, 5.5, 6.5], [1.5, 1.5, 1.5]]
    assert chain.beta.tolist() == [[1, 2, 3], [7, 8, 9], [1.5, 1.5, 1.5]]
    assert chain.b_factors.tolist() == [10, 12, 15]
    assert chain.alpha.dtype == np.float32


@pytest.mark.parametrize(
    ("content", "code", "line"),
    [
        ("", "structure_empty", None),
        ("\n# nothing\n", "structure_empty", 2),
        (">a\nACDE\n", "structure_format", 1),
        ("data_x\n_cell.a 1\n", "cif_no_atoms", 2),
        (CIF_HEAD + "#\n", "cif_no_atoms", FIRST_ATOM_LINE),
        (CIF.replace(" GLY A 1 1 ? 1.0", " GLY A 1 1 ? nan"), "cif_coordinates", FIRST_ATOM_LINE),
        (CIF.replace("7.0 8.0 9.0", "7.0 inf 9.0"), "cif_coordinates", FIRST_ATOM_LINE + 3),
        (CIF.replace("7.0 8.0 9.0", "7.0 ? 9.0"), "cif_coordinates", FIRST_ATOM_LINE + 3),
        (CIF.replace("7.0 8.0 9.0", "7.0 1e39 9.0"), "cif_coordinates", FIRST_ATOM_LINE + 3),
        (CIF.replace("14.0 21 X", "14.0 twenty X"), "cif_syntax", FIRST_ATOM_LINE + 4),
        (CIF_HEAD + "\n".join(CIF_ATOMS)[:-11], "cif_loop", FIRST_ATOM_LINE + 8),
        (CIF.replace("1 4 XYZ\n", "1 4\n"), "cif_loop", None),
        (CIF.replace("_entry.id TEST", "_entry.id\n;an open field"), "cif_unterminated", 4),
        (CIF.replace("_entry.id TEST", "_entry.id 'open"), "cif_syntax", 3),
        ("data_x\nloop_\n1 2\n", "cif_syntax", 3),
        (CIF + CIF, "cif_several_blocks", CIF.count("\n") + 1),
        (CIF.replace("_atom_site.Cartn_y\n", "_atom_site.other\n"), "cif_columns", None),
        (CIF.replace(" CA ", " C1 "), "cif_no_protein", None),
        ("data_x\n_entry.id " + "x" * (1 << 20) + "\n", "line_too_long", 2),
    ],
)
def test_faults_of_mmcif(tmp_path, content, code, line):
    error = fault(write(tmp_path, content), name="mine.cif")
    assert error.code == code
    assert error.location is not None
    assert error.location.file == "mine.cif"
    if line is not None:
        assert error.location.line == line


PDB_ATOM = "ATOM      1  CA  GLY A   1       1.000   2.000   3.000  1.00 10.00           C  "


@pytest.mark.parametrize(
    ("content", "code", "line"),
    [
        ("HEADER    NOTHING\nEND\n", "pdb_no_atoms", 2),
        ("HEADER    X\n" + PDB_ATOM.replace("2.000", "  nan"), "pdb_coordinates", 2),
        ("HEADER    X\n" + PDB_ATOM.replace("2.000", "2.0x0"), "pdb_coordinates", 2),
        ("HEADER    X\n" + PDB_ATOM.replace("A   1 ", "A   x "), "pdb_syntax", 2),
        ("HEADER    X\n" + PDB_ATOM[:20], "pdb_syntax", 2),
        (PDB_ATOM.replace(" CA ", " P  "), "pdb_no_protein", None),
    ],
)
def test_faults_of_pdb(tmp_path, content, code, line):
    error = fault(write(tmp_path, content, "x.pdb"))
    assert error.code == code
    if line is not None:
        assert error.location.line == line


def test_too_many_atoms(tmp_path):
    limits = StructureLimits(atoms=8)
    assert fault(write(tmp_path, CIF), limits=limits).code == "structure_too_large"
    pdb = "".join(f"{PDB_ATOM.replace('    1  CA', f'{i:5d}  CA')}\n" for i in range(9))
    assert fault(write(tmp_path, pdb, "x.pdb"), limits=limits).code == "structure_too_large"


def test_a_chain_that_is_not_there(tmp_path):
    path = write(tmp_path, CIF)
    assert read_chain(path).name == read_chain(path, "X").name == "X"
    with pytest.raises(BadInput) as caught:
        read_chain(path, "Z")
    assert (caught.value.code, caught.value.hint) == ("structure_chain", "the chains are X")


def test_both_formats_of_an_entry_with_selenomethionine_agree():
    from_cif = read_chain(shared("1A8O.cif"))
    from_pdb = read_chain(shared("1A8O.pdb"))
    assert len(from_cif.sequence) == len(from_pdb.sequence) == 70
    assert from_cif.sequence == from_pdb.sequence
    assert from_cif.residues.count("MSE") == 4
    assert from_cif.numbers.tolist() == from_pdb.numbers.tolist() == list(range(151, 221))
    for array in ("alpha", "beta", "b_factors"):
        np.testing.assert_array_equal(getattr(from_cif, array), getattr(from_pdb, array))


def best(residue: gemmi.Residue, atom: str) -> gemmi.Atom:
    return max((a for a in residue if a.name == atom), key=lambda a: a.occ)


def letters(names) -> str:
    return "".join(gemmi.find_tabulated_residue(name).one_letter_code for name in names).upper()


@pytest.mark.parametrize("name", ["1A8O.cif", "1GBT.cif", "3JQH.cif", "4CUP.cif", "1A8O.pdb"])
def test_gemmi_reads_the_same_chain(name):
    chain = read_chain(shared(name))
    structure = gemmi.read_structure(str(shared(name)))
    structure.setup_entities()
    polymer = structure[0][chain.name].get_polymer()
    places: dict[str, gemmi.Residue] = {}
    for residue in polymer:
        if residue.find_atom("CA", "*") is not None:
            known = places.setdefault(str(residue.seqid), residue)
            if best(residue, "CA").occ > best(known, "CA").occ:
                places[str(residue.seqid)] = residue
    observed = list(places.values())
    assert chain.residues == tuple(residue.name for residue in observed)
    assert chain.numbers.tolist() == [residue.seqid.num for residue in observed]
    assert chain.sequence == letters(residue.name for residue in observed)
    alpha = np.array([best(residue, "CA").pos.tolist() for residue in observed])
    np.testing.assert_allclose(chain.alpha, alpha, atol=1e-3)
    beta = np.array([best(r, "CB" if r.find_atom("CB", "*") else "CA").pos.tolist() for r in observed])
    np.testing.assert_allclose(chain.beta, beta, atol=1e-3)
    if name.endswith(".cif"):
        assert chain.positions.tolist() == [residue.label_seq for residue in observed]
        entity = next(e for e in structure.entities if e.entity_type == gemmi.EntityType.Polymer)
        assert chain.polymer == letters(gemmi.Entity.first_mon(item) for item in entity.full_sequence)


def test_confidence_of_a_real_prediction():
    chain = read_chain(shared("6KWC_1_openfold_prediction.pdb"))
    assert len(chain.sequence) == 191
    assert 90 < chain.b_factors.mean() < 100


def test_a_written_trace_carries_confidence_where_viewers_look(tmp_path):
    path = tmp_path / "t.cif"
    write_trace(
        path,
        identifier="f0000 / a",
        sequence="AR-DE",
        alpha=np.arange(15).reshape(5, 3),
        confidence=[0, 25, 50, 75, 100],
    )
    document = MMCIF2Dict(str(path))
    assert document["_ma_qa_metric_local.metric_value"] == ["0.00", "25.00", "50.00", "75.00", "100.00"]
    assert document["_ma_qa_metric_local.label_seq_id"] == ["1", "2", "3", "4", "5"]
    assert document["_ma_qa_metric_global.metric_value"] == ["50.00"]
    assert set(document["_ma_qa_metric.type"]) == {"pLDDT"}
    assert document["_entity_poly_seq.mon_id"] == ["ALA", "ARG", "UNK", "ASP", "GLU"]
    read_back = read_chain(path)
    assert read_back.sequence == read_back.polymer == "ARXDE"
    assert read_back.b_factors.tolist() == [0, 25, 50, 75, 100]
    structure = gemmi.read_structure(str(path))
    assert [residue.name for residue in structure[0]["A"]] == ["ALA", "ARG", "UNK", "ASP", "GLU"]
    assert structure.entities[0].full_sequence == ["ALA", "ARG", "UNK", "ASP", "GLU"]


@given(st.text("ACDEFGHIKLMNPQRSTVWY", min_size=1, max_size=200), st.integers(0, 2**32 - 1))
def test_what_is_written_is_read(tmp_path_factory, sequence, seed):
    rng = np.random.default_rng(seed)
    alpha = rng.normal(scale=100, size=(len(sequence), 3))
    path = tmp_path_factory.mktemp("trace") / "t.cif"
    write_trace(path, identifier="t", sequence=sequence, alpha=alpha, chain="B")
    chain = read_chain(path, "B")
    assert chain.sequence == sequence
    np.testing.assert_allclose(chain.alpha, alpha, atol=6e-4)
    np.testing.assert_array_equal(chain.alpha, chain.beta)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alpha": np.zeros((4, 3))}, "shape"),
        ({"alpha": np.full((3, 3), np.nan)}, "finite"),
        ({"sequence": ""}, "shape"),
        ({"confidence": [1, 2]}, "shape"),
        ({"confidence": [1, 2, 101]}, "outside"),
        ({"confidence": [1, 2, np.nan]}, "outside"),
    ],
)
def test_a_trace_that_does_not_fit_is_refused(tmp_path, change, message):
    whole = {"identifier": "t", "sequence": "ACD", "alpha": np.zeros((3, 3)), "confidence": [1, 2, 3]}
    with pytest.raises(ValueError, match=message):
        write_trace(tmp_path / "t.cif", **(whole | change))
    assert not (tmp_path / "t.cif").exists()


@given(st.text(max_size=300), st.sampled_from([CIF, PDB_ATOM + "\n"]), st.integers(0, 2000))
def test_anything_is_read_or_refused(tmp_path_factory, noise, base, place):
    path = tmp_path_factory.mktemp("any") / "x"
    path.write_bytes((base[:place] + noise + base[place:]).encode("utf-8", "replace"))
    try:
        found = read_structure(path)[0].sequence
    except BadInput as error:
        found = error.code.removeprefix("bad_input")
    assert found
