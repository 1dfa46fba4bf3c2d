"""fold.train: from structure files to a model that folds, and what bad input gets."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foldase_models.recipes import folding
from foldase_workflows.contracts import BadInput, Cancelled, Hardware
from foldase_workflows.contracts.gangs import OnlyRank
from foldase_workflows.formats.all_atoms import read_all_atom_chain
from foldase_workflows.operators import fold_compare, fold_predict, fold_train, structure_simulate
from foldase_workflows.operators._fold_training import read_examples
from foldase_workflows.spec import catalog_entry

SMALL = {"steps": 3, "width": 16, "pair_width": 16, "structure_blocks": 2, "crop": 12, "recycles": 1}
NEW = {"weights": None}
DECIMALS = 2e-3
"""Files hold coordinates with three decimals, A; the last one may round either way."""


@pytest.fixture(scope="module")
def bundles(run) -> Path:
    return run(structure_simulate.OPERATOR, structures=3, helices=2, helix_length=8, seed=4).structures


def test_simulated_structures_are_those_of_their_seed(bundles, run):
    files = sorted(bundles.iterdir())
    assert [path.name for path in files] == ["bundle-0001.pdb", "bundle-0002.pdb", "bundle-0003.pdb"]
    again = run(structure_simulate.OPERATOR, structures=3, helices=2, helix_length=8, seed=4).structures
    other = run(structure_simulate.OPERATOR, structures=1, helices=2, helix_length=8, seed=5).structures
    assert [path.read_bytes() for path in files] == [(again / path.name).read_bytes() for path in files]
    assert files[0].read_bytes() != (other / files[0].name).read_bytes()
    assert len(read_all_atom_chain(files[0]).sequence) == 20


@pytest.fixture(scope="module", params=["esmfold", "alphafold"])
def trained(bundles, make_context, request) -> tuple[str, Any, Any]:
    """A model's name, what its training reported, and its outputs."""
    context = make_context()
    inputs = fold_train.TrainInputs(structures=bundles, model=request.param, fine_tune=True, **SMALL)
    return request.param, context, fold_train.OPERATOR.run(inputs, context)


def test_a_model_is_trained_told_of_and_compared(bundles, trained, run):
    model, context, outputs = trained
    assert {"config.json", "model.safetensors", "training.json"} == {
        path.name for path in outputs.model.iterdir()
    }
    record = json.loads((outputs.model / "training.json").read_text())
    assert (record["kind"], record["steps"], record["structures"]) == (model, 3, 3)
    assert outputs.scores["scored"] == "trained on"
    assert 0 <= outputs.scores["lddt"] <= 1
    curve = {at: values for at, values in context.points if "loss" in values}
    assert set(curve) == {1.0, 3.0}
    losses = {
        "backbone",
        "sidechain",
        "chi",
        "distogram",
        "masked_msa",
        "plddt",
        "violation",
        "aligned_error",
    }
    assert losses | ({"resolved"} if model == "alphafold" else set()) <= set(curve[1.0])
    assert context.fractions == sorted(context.fractions)
    assert context.fractions[-1] == 1.0
    compared = run(fold_compare.OPERATOR, structures=outputs.structures, references=bundles)
    assert compared.summary["compared"] == 3
    assert compared.summary["mean"]["lddt"] == pytest.approx(outputs.scores["lddt"], abs=0.02)


def drawn_for(recipe_seed: int) -> int:
    """The seed that AlphaFold's features are drawn from when a training looks at what it made."""
    return int(np.random.default_rng((recipe_seed, 0)).integers(2**31))


def test_what_was_trained_folds_as_it_did_in_the_training(trained, tmp_path, run):
    _, _, outputs = trained
    learned = sorted(outputs.structures.glob("*.cif"))
    known = {path.stem: read_all_atom_chain(path) for path in learned}
    records = tmp_path / "learned.fasta"
    records.write_text("".join(f">{name}\n{chain.sequence}\n" for name, chain in known.items()))
    folded = run(
        fold_predict.OPERATOR,
        sequences=records,
        weights=outputs.model,
        seeds=[drawn_for(0)],
        recycles=SMALL["recycles"],
        pdb=False,
    )
    assert (folded.succeeded, folded.failed) == (3, 0)
    for name, chain in known.items():
        again = read_all_atom_chain(folded.structures / f"{name}.cif")
        np.testing.assert_array_equal(again.mask, chain.mask)
        np.testing.assert_allclose(again.positions, chain.positions, atol=DECIMALS)


def test_a_cancelled_training_goes_on_to_the_same_model(bundles, make_context):
    inputs = fold_train.TrainInputs(structures=bundles, **SMALL)
    whole = fold_train.OPERATOR.run(inputs, make_context())
    # One check for the plan, as the first chain fills the crop, three for the files, then one a step.
    cancelled = make_context(cancel_after=6)
    with pytest.raises(Cancelled):
        fold_train.OPERATOR.run(inputs, cancelled)
    assert not cancelled.written()
    second = make_context()
    second.checkpoints = cancelled.checkpoints
    again = fold_train.OPERATOR.run(inputs, second)
    assert len(second.fractions) == 2
    for name in ("model.safetensors", "config.json", "training.json"):
        assert (whole.model / name).read_bytes() == (again.model / name).read_bytes()
    for path in whole.structures.iterdir():
        assert path.read_bytes() == (again.structures / path.name).read_bytes()
    further = fold_train.TrainInputs(structures=bundles, weights=whole.model, **SMALL)
    fold_train.OPERATOR.run(further, make_context())


def test_residues_that_were_not_observed_are_part_of_the_sequence(real_data, make_context):
    context = OnlyRank(make_context())
    [known] = read_examples([("1A8O.cif", real_data / "1A8O.cif")], 16, context)
    [as_pdb] = read_examples([("1A8O.pdb", real_data / "1A8O.pdb")], 16, context)
    assert known.length == as_pdb.length == 70
    assert known.sequence == as_pdb.sequence
    np.testing.assert_array_equal(known.positions[known.mask], as_pdb.positions[as_pdb.mask])


def test_structures_of_one_name_keep_apart(bundles, tmp_path, make_context):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        shutil.copy(bundles / "bundle-0001.pdb", tmp_path / folder / "x y.pdb")
    known = [(f"{folder}/x y.pdb", tmp_path / folder / "x y.pdb") for folder in ("a", "b")]
    again = ("x y.pdb", known[0][1])
    names = [one.name for one in read_examples([*known, again, again], 16, OnlyRank(make_context()))]
    assert names == ["a_x_y", "b_x_y", "x_y", "x_y-2"]


def test_a_model_outlives_a_structure_that_no_file_can_hold(bundles, make_context, monkeypatch):
    real = folding.fold_all

    def run_away(*given):
        first, *others = real(*given)
        return [replace(first, atoms=replace(first.atoms, positions=first.atoms.positions + 1e6)), *others]

    monkeypatch.setattr(folding, "fold_all", run_away)
    context = make_context()
    outputs = fold_train.OPERATOR.run(fold_train.TrainInputs(structures=bundles, **SMALL), context)
    assert (outputs.model / "model.safetensors").exists()
    assert sorted(path.stem for path in outputs.structures.iterdir()) == ["bundle-0002", "bundle-0003"]
    assert [line for level, line in context.lines if level == "warning" and "bundle-0001" in line]


def test_files_that_cannot_be_learned_are_named(bundles, tmp_path, make_context):
    def fault(**given: object) -> BadInput:
        with pytest.raises(BadInput) as caught:
            fold_train.OPERATOR.run(fold_train.TrainInputs(**{**SMALL, **given}), make_context())
        return caught.value

    assert fault().code == "no_structures"
    broken = tmp_path / "structures"
    shutil.copytree(bundles, broken)
    (broken / "bundle-0003.pdb").write_text("nothing of a structure\n")
    assert fault(structures=broken).location.file == "bundle-0003.pdb"
    assert fault(structures=bundles, shortest=30).code == "no_structures"
    pickled = tmp_path / "weights"
    pickled.mkdir()
    (pickled / "pytorch_model.bin").write_bytes(b"\x80\x04")
    (pickled / "config.json").write_text("{}")
    assert fault(structures=bundles, weights=pickled).code == "pickle_refused"
    assert fault(structures=bundles, weights=tmp_path / "none").code == "missing_file"


def run_catalog(make_context, **chosen: object) -> dict[str, object]:
    """Run the steps of catalog/train-folding.yaml one after the other, as the document wires them."""
    document = catalog_entry("train-folding").load()
    known = {f"inputs.{name}": spec.default for name, spec in document.inputs.items()}
    known |= {f"inputs.{name}": value for name, value in chosen.items()}
    operators = {
        one.reference: one
        for one in (structure_simulate.OPERATOR, fold_train.OPERATOR, fold_compare.OPERATOR)
    }
    for name, step in document.steps.items():
        operator = operators[step.uses]
        values = {
            port: known[value[3:-2].strip()] if str(value).startswith("${{") else value
            for port, value in step.with_.items()
        }
        outputs = operator.run(operator.Inputs.model_validate(values), make_context())
        known |= {f"steps.{name}.{port}": getattr(outputs, port) for port in operator.Outputs.model_fields}
    return known


def test_the_steps_of_the_catalog_fit_together(make_context):
    known = run_catalog(make_context, helix_length=6, steps=2, width=16)
    assert known["steps.compare.summary"]["compared"] == 2


@pytest.mark.verify
@pytest.mark.timeout(1800)  # a minute of one core, which others may share
def test_the_catalog_learns_its_structures_by_heart(make_context):
    known = run_catalog(make_context)
    means = known["steps.compare.summary"]["mean"]
    assert means["lddt"] > 0.8
    assert means["rmsd_alpha"] < 1.5


def test_what_it_takes_is_estimated_without_torch():
    hardware = Hardware(cpus=2, memory_bytes=2**33)
    few = fold_train.OPERATOR.estimate({**NEW, "steps": 10}, hardware)
    many = fold_train.OPERATOR.estimate({**NEW, "steps": 1000, "structures_per_step": 2}, hardware)
    assert many.seconds[0] > 10 * few.seconds[0] > 0
    wide = fold_train.OPERATOR.estimate({**NEW, "model": "alphafold", "width": 128}, hardware)
    assert wide.plan["parameters"] > few.plan["parameters"]
    assert wide.plan["tiers_bytes"]["device"]["activations"] > 0
    for unread in ({"weights": "an artifact"}, {}):
        assert fold_train.OPERATOR.estimate({**unread, "width": 17}, hardware) is None
    with pytest.raises(BadInput, match="17") as caught:
        fold_train.OPERATOR.estimate({**NEW, "width": 17}, hardware)
    assert (caught.value.code, caught.value.location.path) == ("bad_config", "with.model")


def test_an_estimate_of_a_crop_that_does_not_fit_names_the_input_that_would_help():
    hardware = Hardware(cpus=2, memory_bytes=2**31)
    long = {**NEW, "crop": 512, "blocks": 8}
    refused = fold_train.OPERATOR.estimate(long, hardware)
    assert "set offload_activations to recompute" in refused.plan["refusal"]
    frugal = fold_train.OPERATOR.estimate({**long, "offload_activations": "recompute"}, hardware)
    assert "refusal" not in frugal.plan
    again = fold_train.OPERATOR.estimate({**long, "checkpointing": True}, hardware)
    assert again.memory_bytes == pytest.approx(frugal.memory_bytes, rel=0.1)


def test_a_training_tells_its_plan_and_what_its_weights_say_counts(trained, make_context, bundles):
    model, context, outputs = trained
    record = json.loads((outputs.model / "training.json").read_text())
    assert context.planned["parameters"] == record["parameters"]
    assert context.planned["model"] == model
    assert context.planned["part"] == {"examples": 1, "length": 12, "rows": 1, "passes": 2}
    weights = {"model": model, "weights": outputs.model, "width": 64}
    known = fold_train.OPERATOR.estimate(weights, Hardware(cpus=2, memory_bytes=2**33))
    assert known.plan["parameters"] == record["parameters"]
    assert fold_train.OPERATOR.estimate({**weights, "weights": bundles}, Hardware(2, 2**33)) is None


def test_a_training_that_does_not_fit_is_refused_before_the_model_is_made(bundles, make_context):
    inputs = {**SMALL, "blocks": 24, "width": 128, "memory_cap_mib": 64}
    with pytest.raises(BadInput, match="of counted memory where there are") as caught:
        fold_train.OPERATOR.run(fold_train.TrainInputs(structures=bundles, **inputs), make_context())
    assert caught.value.code == "does_not_fit"
    assert caught.value.location.path == "with.offload_parameters"
