"""fold.rank: order over seeds and models, and what is handed on."""

from __future__ import annotations

import csv
import hashlib
import json

import numpy as np
import pytest

from foldase_workflows.contracts import Artifact, BadInput, Cancelled, Hardware
from foldase_workflows.formats.all_atoms import read_all_atom_chain
from foldase_workflows.formats.atom_names import ATOM37_INDEX, RESIDUE_ATOMS
from foldase_workflows.formats.predicted import PredictedStructure, Provenance
from foldase_workflows.formats.zarr_folds import FoldsWriter
from foldase_workflows.formats.zarr_predictions import PredictionSet
from foldase_workflows.operators._folding_outputs import confidence_of
from foldase_workflows.operators.fold_rank import OPERATOR, RankInputs

MODEL_A, MODEL_B = (hashlib.sha256(name).hexdigest() for name in (b"a", b"b"))
B_DECIMALS = 0.01


def structure(name, chains, *, seed=1, plddt=50.0, ptm=None, iptm=None, weights=MODEL_A, contacts=True):
    rng = np.random.default_rng([seed, int(plddt * 10)])
    length = sum(map(len, chains))
    mask = np.zeros((length, 37), dtype=bool)
    for row, letter in enumerate("".join(chains)):
        mask[row, [ATOM37_INDEX[atom] for atom in RESIDUE_ATOMS[letter]]] = True
    probability = rng.random((length, length), dtype=np.float32)
    return PredictedStructure(
        name=name,
        chains=chains,
        positions=(rng.normal(scale=9, size=(length, 37, 3)) * mask[..., None]).astype(np.float32),
        atom_mask=mask,
        plddt=np.full(length, plddt, dtype=np.float32),
        pae=rng.uniform(0, 30, (length, length)).astype(np.float32),
        contact_probability=probability if contacts else None,
        ptm=ptm,
        iptm=iptm,
        provenance=Provenance(model="esmfold", weights=weights, seed=seed),
    )


def tree(folder, structures):
    writer = FoldsWriter(folder)
    for key in dict.fromkeys(one.name for one in structures):
        writer.add_record(key, key, next(one.chains for one in structures if one.name == key))
    for one in structures:
        writer.add(one.name, one, confidence_of(one))
    writer.complete()
    return folder


def ranking(outputs):
    return {one["record"]: one for one in json.loads(outputs.ranking.read_text())["records"]}


def test_one_chain_is_ranked_by_plddt_over_seeds_and_models(tmp_path, run):
    first = tree(
        tmp_path / "a",
        [structure("mono", ("MKVW",), seed=seed, plddt=plddt) for seed, plddt in ((1, 40), (2, 90))],
    )
    second = tree(tmp_path / "b", [structure("mono", ("MKVW",), plddt=70, weights=MODEL_B)])
    outputs = run(OPERATOR, folds=[first, second], keep=2)
    record = ranking(outputs)["mono"]
    assert record["by"] == "pLDDT"
    assert record["order"] == [
        f"esmfold_{MODEL_A[:8]}_s2_0",
        f"esmfold_{MODEL_B[:8]}_s1_0",
        f"esmfold_{MODEL_A[:8]}_s1_0",
    ]
    assert [one["target"] for one in record["models"]] == ["mono", "mono_rank_2", None]
    assert [one["confidence"] for one in record["models"]] == [0.9, 0.7, 0.4]
    assert record["plddts"][record["order"][0]] == 90
    names = sorted(path.name for path in outputs.structures.iterdir())
    assert names == sorted(
        f"{name}{end}" for name in ("mono", "mono_rank_2") for end in (".cif", ".pdb", "_pae.json")
    )
    best = read_all_atom_chain(outputs.structures / "mono.cif")
    np.testing.assert_allclose(best.b_factors[best.mask], 90, atol=B_DECIMALS)
    shown = PredictionSet(outputs.predictions)
    assert shown.targets == ["mono", "mono_rank_2"]
    assert shown.read("mono").scores["confidence"] == pytest.approx(0.9)
    assert outputs.best == {"confidence": 0.9, "plddt": 90.0}


def test_complexes_are_ranked_by_their_interfaces(tmp_path, run):
    chains = ("MKV", "AR")
    folder = tree(
        tmp_path / "a",
        [
            structure("dimer", chains, seed=1, plddt=90, ptm=0.9, iptm=0.2),
            structure("dimer", chains, seed=2, plddt=60, ptm=0.5, iptm=0.8),
            structure("mono", ("MK",), seed=1, plddt=80, ptm=0.3),
        ],
    )
    outputs = run(OPERATOR, folds=[folder], pdb=False)
    record = ranking(outputs)["dimer"]
    assert record["by"] == "0.8 ipTM + 0.2 pTM"
    assert [one["seed"] for one in record["models"]] == [2, 1]
    assert record["iptm+ptm"][record["order"][0]] == pytest.approx(0.8 * 0.8 + 0.2 * 0.5)
    assert ranking(outputs)["mono"]["by"] == "pLDDT"
    assert not list(outputs.structures.glob("*.pdb"))
    with outputs.table.open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [(row["record"], row["rank"], row["iptm"]) for row in rows] == [
        ("dimer", "1", "0.8000"),
        ("dimer", "2", "0.2000"),
        ("mono", "1", ""),
    ]
    assert outputs.best["plddt"] == pytest.approx(70.0)


@pytest.mark.verify
def test_a_model_without_iptm_is_not_put_beside_one_with_it(tmp_path, run):
    chains = ("MKV", "AR")
    made = [
        structure("dimer", chains, seed=1, plddt=50, ptm=0.9, iptm=0.9),
        structure("dimer", chains, seed=2, plddt=80),
    ]
    record = ranking(run(OPERATOR, folds=[tree(tmp_path / "a", made)]))["dimer"]
    assert record["by"] == "pLDDT"
    assert [one["seed"] for one in record["models"]] == [2, 1]


@pytest.mark.verify
def test_contacts_come_from_the_structure_where_the_model_tells_none(tmp_path, run):
    one = structure("mono", ("MGVW",), contacts=False)
    shown = PredictionSet(run(OPERATOR, folds=[tree(tmp_path / "a", [one])]).predictions).read("mono")
    beta = [one.positions[row, ATOM37_INDEX["CA" if row == 1 else "CB"]] for row in range(4)]
    near = np.linalg.norm(np.subtract.outer(beta, beta).diagonal(axis1=1, axis2=3), axis=-1) < 8.0
    np.testing.assert_array_equal(shown.contact_probability, near)


@pytest.mark.verify
def test_records_of_one_name_and_other_chains_stay_apart(tmp_path, run):
    folders = [
        tree(tmp_path / str(number), [structure("x", (sequence,))])
        for number, sequence in enumerate(("MKV", "MKVW"))
    ]
    outputs = run(OPERATOR, folds=folders)
    assert PredictionSet(outputs.predictions).targets == ["x", "x-2"]


def test_a_second_best_never_takes_the_file_of_a_record_of_its_name(tmp_path, run):
    made = [
        structure("x", ("MKV",), seed=1, plddt=80),
        structure("x", ("MKV",), seed=2, plddt=60),
        structure("x_rank_2", ("MKVW",), plddt=70),
    ]
    outputs = run(OPERATOR, folds=[tree(tmp_path / "a", made)], pdb=False)
    targets = [one["target"] for record in ranking(outputs).values() for one in record["models"]]
    assert targets == ["x", "x_rank_2_", "x_rank_2"]
    assert PredictionSet(outputs.predictions).targets == targets
    sequences = {name: read_all_atom_chain(outputs.structures / f"{name}.cif").sequence for name in targets}
    assert sequences == {"x": "MKV", "x_rank_2_": "MKV", "x_rank_2": "MKVW"}


def test_what_is_given_twice_or_is_no_tree_is_refused(tmp_path, make_context):
    folder = tree(tmp_path / "a", [structure("x", ("MKV",))])
    for folds, code in (([folder, folder], "given_twice"), ([tmp_path], "not_a_tree")):
        with pytest.raises(BadInput) as caught:
            OPERATOR.run(RankInputs(folds=folds), make_context())
        assert caught.value.code == code


def test_ranking_stops_when_asked(tmp_path, make_context):
    folder = tree(tmp_path / "a", [structure("x", ("MKV",))])
    with pytest.raises(Cancelled):
        OPERATOR.run(RankInputs(folds=[folder]), make_context(cancel_after=0))


def test_the_estimate_grows_with_the_trees():
    def estimate(size):
        given = Artifact("sha256:0", "tree", size, "folds")
        return OPERATOR.estimate({"folds": [given]}, Hardware(2.0, 1 << 33))

    assert estimate(10**8).memory_bytes > estimate(10**6).memory_bytes
    assert OPERATOR.estimate({}, Hardware(2.0, 1)) is None
