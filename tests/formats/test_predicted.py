"""Predicted structures, written and read again by other programs."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import gemmi
import numpy as np
import pytest
from Bio import SeqIO
from Bio.PDB.MMCIF2Dict import MMCIF2Dict
from Bio.PDB.MMCIFParser import MMCIFParser
from Bio.PDB.PDBParser import PDBParser
from hypothesis import given, settings
from hypothesis import strategies as st

from foldase_workflows.contracts import BadInput
from foldase_workflows.formats.all_atoms import read_all_atoms
from foldase_workflows.formats.atom_names import ATOM37, ATOM37_INDEX, RESIDUE_ATOMS, THREE_LETTERS
from foldase_workflows.formats.predicted import PredictedStructure, Provenance, chain_name, file_name
from foldase_workflows.formats.predicted_json import read_pae, write_pae, write_ranking
from foldase_workflows.formats.predicted_mmcif import write_mmcif
from foldase_workflows.formats.predicted_pdb import write_pdb

DECIMALS = 6e-4
"""Coordinates are written with three decimals, A."""
B_DECIMALS = 6e-3
WEIGHTS = hashlib.sha256(b"weights").hexdigest()
HOW = Provenance(
    model="esmfold",
    weights=WEIGHTS,
    seed=7,
    sample=2,
    recycles=3,
    options={"dtype": "float32", "backend": "cpu", "inplace": True, "group_bytes": 1 << 20},
    plan={"peak": 1},
    predicted_peak_bytes=1 << 30,
    versions={"foldase": "0.1.0", "torch": "2.13.0"},
)


def predicted(
    chains: tuple[str, ...] = ("MKWVX", "ARND", "MKWVX"), *, seed: int = 0, maps: bool = True, **changed: Any
) -> PredictedStructure:
    """A structure with every atom its residues have, at random places."""
    rng = np.random.default_rng(seed)
    sequence = "".join(chains)
    length = len(sequence)
    mask = np.zeros((length, 37), dtype=bool)
    for row, letter in enumerate(sequence):
        mask[row, [ATOM37_INDEX[name] for name in RESIDUE_ATOMS.get(letter, ("N", "CA", "C", "O", "CB"))]] = 1
    values: dict[str, Any] = {
        "name": "two / proteins",
        "chains": chains,
        "positions": (rng.normal(scale=30, size=(length, 37, 3)) * mask[..., None]).astype(np.float32),
        "atom_mask": mask,
        "plddt": rng.uniform(0, 100, length).astype(np.float32),
        "ptm": 0.75,
        "iptm": 0.5 if len(chains) > 1 else None,
        "recycle_alpha": rng.normal(size=(2, length, 3)).astype(np.float32),
        "provenance": HOW,
    }
    if maps:
        values["pae"] = rng.uniform(0, 31.75, (length, length)).astype(np.float32)
        values["contact_probability"] = rng.random((length, length)).astype(np.float32)
    return PredictedStructure(**(values | changed))


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, PredictedStructure]:
    structure = predicted()
    write_mmcif(tmp_path / "p.cif", structure)
    return tmp_path / "p.cif", structure


def test_gemmi_reads_the_same_atoms_chains_and_sequences(written):
    path, structure = written
    found = gemmi.read_structure(str(path))
    assert [chain.name for chain in found[0]] == ["A", "B", "C"]
    assert [entity.full_sequence for entity in found.entities] == [
        ["MET", "LYS", "TRP", "VAL", "UNK"],
        ["ALA", "ARG", "ASN", "ASP"],
    ]
    rows, columns = np.nonzero(structure.atom_mask)
    atoms = [atom for chain in found[0] for residue in chain for atom in residue]
    assert [atom.name for atom in atoms] == [ATOM37[column] for column in columns]
    xyz = np.array([atom.pos.tolist() for atom in atoms])
    np.testing.assert_allclose(xyz, structure.positions[rows, columns], atol=DECIMALS)
    np.testing.assert_allclose([atom.b_iso for atom in atoms], structure.plddt[rows], atol=B_DECIMALS)
    assert [residue.label_seq for residue in found[0]["C"]] == [1, 2, 3, 4, 5]
    assert {residue.entity_id for residue in found[0]["C"]} == {"1"}


def test_biopython_reads_it_too(written):
    path, structure = written
    reader: Any = MMCIFParser(QUIET=True)
    atoms = list(reader.get_structure("p", str(path)).get_atoms())
    rows, columns = np.nonzero(structure.atom_mask)
    np.testing.assert_allclose(
        [atom.coord for atom in atoms], structure.positions[rows, columns], atol=DECIMALS
    )


def test_confidence_stands_where_viewers_look_and_goes_from_0_to_100(written):
    path, structure = written
    document = MMCIF2Dict(str(path))
    local = [float(value) for value in document["_ma_qa_metric_local.metric_value"]]
    np.testing.assert_allclose(local, structure.plddt, atol=B_DECIMALS)
    assert document["_ma_qa_metric_local.label_asym_id"] == list("AAAAABBBBCCCCC")
    assert document["_ma_qa_metric_local.label_seq_id"] == [*"12345", *"1234", *"12345"]
    kinds = dict(zip(document["_ma_qa_metric.id"], document["_ma_qa_metric.name"], strict=True))
    overall = {
        kinds[metric]: float(value)
        for metric, value in zip(
            document["_ma_qa_metric_global.metric_id"],
            document["_ma_qa_metric_global.metric_value"],
            strict=True,
        )
    }
    assert overall == pytest.approx(
        {"mean pLDDT": structure.mean_plddt, "pTM": 0.75, "ipTM": 0.5}, abs=B_DECIMALS
    )


def test_programs_that_look_up_residues_by_chain_find_the_whole_sequence(written):
    path, structure = written
    found = {record.annotations["chain"]: str(record.seq) for record in SeqIO.parse(path, "cif-seqres")}
    assert found == dict(zip("ABC", structure.chains, strict=True))
    [block] = gemmi.cif.read(str(path))
    assert block.find_values("_entity_poly.pdbx_seq_one_letter_code")[0] == "MKWV(UNK)"
    kinds = dict(block.find("_chem_comp.", ["id", "type"]))
    assert {kinds[name].strip("'") for name in ("ALA", "UNK")} == {"L-peptide linking"}
    write_mmcif(path, predicted(("MGK",)))
    [block] = gemmi.cif.read(str(path))
    assert ["GLY", "'peptide linking'"] in [list(row) for row in block.find("_chem_comp.", ["id", "type"])]


def test_the_file_says_how_it_was_made(written):
    document = MMCIF2Dict(str(written[0]))
    names, values = document["_ma_software_parameter.name"], document["_ma_software_parameter.value"]
    parameters = dict(zip(names, values, strict=True))
    assert parameters["seed"] == "7"
    assert parameters["weights"] == f"sha256:{WEIGHTS}"
    assert (parameters["dtype"], parameters["inplace"], parameters["recycles"]) == ("float32", "true", "3")
    software = dict(zip(document["_software.name"], document["_software.version"], strict=True))
    assert software == {"foldase": "0.1.0", "torch": "2.13.0"}
    assert "seed 7" in document["_ma_protocol_step.details"][0]
    assert document["_ma_model_list.data_id"] == ["2"]
    assert document["_ma_data.content_type"] == ["target", "model coordinates"]


def test_our_reader_gets_every_atom_back(tmp_path):
    structure = predicted()
    for name, write in (("p.cif", write_mmcif), ("p.pdb", write_pdb)):
        write(tmp_path / name, structure)
        chains = read_all_atoms(tmp_path / name)
        assert tuple(chain.sequence for chain in chains) == structure.chains
        mask = np.concatenate([chain.mask for chain in chains])
        np.testing.assert_array_equal(mask, structure.atom_mask)
        found = np.concatenate([chain.positions for chain in chains])
        np.testing.assert_allclose(found, structure.positions, atol=DECIMALS)
        b_factors = np.concatenate([chain.b_factors for chain in chains])
        np.testing.assert_allclose(b_factors[:, 1], structure.plddt, atol=B_DECIMALS)


def test_the_pdb_file_has_fixed_columns_that_others_read(tmp_path):
    structure = predicted()
    path = tmp_path / "p.pdb"
    write_pdb(path, structure)
    lines = path.read_text().splitlines()
    assert {len(line) for line in lines} == {80}
    assert lines[-1].strip() == "END"
    assert any(WEIGHTS in line for line in lines)
    found = gemmi.read_structure(str(path))
    rows, columns = np.nonzero(structure.atom_mask)
    xyz = [atom.pos.tolist() for chain in found[0] for residue in chain for atom in residue]
    np.testing.assert_allclose(xyz, structure.positions[rows, columns], atol=DECIMALS)
    found.setup_entities()
    assert found.entities[0].full_sequence == [*(THREE_LETTERS[letter] for letter in "MKWV"), "UNK"]
    reader: Any = PDBParser(QUIET=True, PERMISSIVE=False)
    b_factors = [atom.bfactor for atom in reader.get_structure("p", str(path)).get_atoms()]
    np.testing.assert_allclose(b_factors, structure.plddt[rows], atol=B_DECIMALS)


@pytest.mark.parametrize(
    ("chains", "why"),
    [(("A",) * 63, "63 chains"), (("A" * 10_000,), "10,000 residues"), (("W" * 7_200,), "atoms")],
)
def test_what_a_pdb_file_cannot_hold_is_refused_and_the_other_format_named(tmp_path, chains, why):
    length = sum(map(len, chains))
    mask = np.zeros((length, 37), dtype=bool)
    mask[:, :14] = True
    structure = predicted(
        chains,
        maps=False,
        positions=np.zeros((length, 37, 3), dtype=np.float32),
        atom_mask=mask,
    )
    with pytest.raises(BadInput) as caught:
        write_pdb(tmp_path / "p.pdb", structure)
    assert caught.value.code == "pdb_too_large"
    assert why in caught.value.message
    assert "mmCIF" in str(caught.value.hint)
    assert not (tmp_path / "p.pdb").exists()


def test_many_chains_fit_into_mmcif(tmp_path):
    structure = predicted(("AC",) * 63, maps=False)
    write_mmcif(tmp_path / "p.cif", structure)
    found = gemmi.read_structure(str(tmp_path / "p.cif"))
    assert len(found[0]) == 63
    assert [chain_name(index) for index in (0, 25, 26, 27, 51, 52, 701, 702)] == [
        *("A", "Z", "AA", "BA", "ZA", "AB", "ZZ", "AAA")
    ]
    assert len({chain_name(index) for index in range(2000)}) == 2000


def test_aligned_errors_in_the_form_of_the_alphafold_database(tmp_path):
    pae = np.array([[0, 31.9], [12.4, 0.6]], dtype=np.float32)
    write_pae(tmp_path / "pae.json", pae)
    document = json.loads((tmp_path / "pae.json").read_text())
    assert document == [{"predicted_aligned_error": [[0, 32], [12, 1]], "max_predicted_aligned_error": 31.75}]
    assert read_pae(tmp_path / "pae.json").tolist() == [[0, 32], [12, 1]]


@pytest.mark.parametrize("content", ["", "[]", '{"distance": []}', '[{"predicted_aligned_error": [[1, 2]]}]'])
def test_what_holds_no_aligned_errors_is_refused(tmp_path, content):
    (tmp_path / "pae.json").write_text(content)
    with pytest.raises(BadInput) as caught:
        read_pae(tmp_path / "pae.json")
    assert caught.value.code == "pae_format"
    assert caught.value.location.file == "pae.json"


def test_a_ranking_is_plain_json(tmp_path):
    write_ranking(tmp_path / "r.json", "by pLDDT", [{"record": "a", "order": ["x"], "models": []}])
    document = json.loads((tmp_path / "r.json").read_text())
    assert (document["kind"], document["rule"]) == ("fold.ranking", "by pLDDT")
    with pytest.raises(ValueError, match="JSON compliant"):
        write_ranking(tmp_path / "r.json", "", [{"plddt": float("nan")}])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"plddt": np.full(14, 0.9, dtype=np.float32)}, "0 to 100"),
        ({"plddt": np.full(14, 101, dtype=np.float32)}, "0 to 100"),
        ({"plddt": np.full(14, np.nan, dtype=np.float32)}, "finite"),
        ({"positions": np.full((14, 37, 3), 1e6, dtype=np.float32)}, "from the origin"),
        ({"pae": np.zeros((14, 13), dtype=np.float32)}, "shape"),
        ({"chains": ("MKWVX", "ARND", "MKWVB")}, "'B'"),
        ({"chains": ("MKWVX", "", "ARNDMKWVX")}, "empty"),
        ({"ptm": 75.0}, "between 0 and 1"),
    ],
)
def test_what_does_not_fit_together_is_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        predicted(**changed)


def test_equal_structures_are_equal_files(tmp_path):
    for name in ("a", "b"):
        write_mmcif(tmp_path / f"{name}.cif", predicted())
        write_pdb(tmp_path / f"{name}.pdb", predicted())
    for kind in ("cif", "pdb"):
        assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()


@given(st.lists(st.text(max_size=30), max_size=6))
@settings(max_examples=20)
def test_names_of_files_are_safe_and_unlike(names):
    taken: list[str] = []
    for name in names:
        taken.append(file_name(name, taken))
    assert len({name.lower() for name in taken}) == len(names)
    assert all(name.isascii() and "/" not in name and name[0] not in ".-" for name in taken)
    assert "c" not in taken
