"""esm.contacts on a tiny random ESM-2: contacts, scores, and faults that stay with their records."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from foldase_models.folding.esm2 import (
    Esm2,
    Esm2Config,
    load_esm2,
    masked_log_probabilities,
    predict_contacts,
    pseudo_perplexity,
    score_mutations,
)
from foldase_workflows.contracts import BadInput, Cancelled
from foldase_workflows.formats.zarr_predictions import PredictionSet
from foldase_workflows.operators import esm_contacts
from foldase_workflows.operators.esm_contacts import OPERATOR, ContactsInputs

ROUNDED = 1e-4
"""Log-probabilities are told with four decimals."""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("esm2")
    config = Esm2Config(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        position_embedding_type="rotary",
        token_dropout=True,
    )
    torch.manual_seed(0)
    model = Esm2(config)
    save_file({key: value.clone() for key, value in model.state_dict().items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "esm", **asdict(config)}))
    return folder


@pytest.fixture
def fasta(tmp_path: Path) -> Path:
    path = tmp_path / "two.fasta"
    path.write_text(">first one\nMKVWARNDCQEGH\n>c\nMLKAT\n")
    return path


def records(outputs):
    return json.loads(outputs.scores.read_text())["records"]


def test_contacts_are_those_of_the_model(weights, fasta, run):
    outputs = run(OPERATOR, sequences=fasta, weights=weights)
    predictions = PredictionSet(outputs.predictions)
    assert predictions.targets == ["first", "c_"]
    assert (predictions.contact_cutoff, predictions.min_separation) == (8.0, 6)
    model = load_esm2(weights)
    for target, sequence in (("first", "MKVWARNDCQEGH"), ("c_", "MLKAT")):
        one = predictions.read(target)
        assert one.sequence == sequence
        np.testing.assert_array_equal(one.contact_probability, predict_contacts(model, sequence))
    assert (outputs.succeeded, outputs.failed) == (2, 0)
    assert [record["state"] for record in records(outputs)] == ["succeeded"] * 2


@pytest.mark.parametrize("scoring", ["masked", pytest.param("wild-type", marks=pytest.mark.verify)])
def test_scores_are_those_of_the_model(weights, fasta, run, scoring):
    outputs = run(
        OPERATOR,
        sequences=fasta,
        weights=weights,
        masked_scores=True,
        mutations=["first/M1A:K2R", "c/L2W", "first/V3I"],
        scoring=scoring,
    )
    model = load_esm2(weights)
    first, second = records(outputs)
    expected = masked_log_probabilities(model, "MLKAT")
    assert second["pseudo_perplexity"] == pytest.approx(pseudo_perplexity(expected, "MLKAT"))
    own = [
        row[second["letters"].index(letter)]
        for row, letter in zip(second["log_probabilities"], "MLKAT", strict=True)
    ]
    assert np.exp(-np.mean(own)) == pytest.approx(second["pseudo_perplexity"], rel=10 * ROUNDED)
    wanted = score_mutations(model, "MKVWARNDCQEGH", ["M1A:K2R", "V3I"], method=scoring)
    assert [one["mutation"] for one in first["mutations"]] == ["M1A:K2R", "V3I"]
    np.testing.assert_allclose([one["log_odds"] for one in first["mutations"]], wanted)
    shown = PredictionSet(outputs.predictions).read("first").scores
    assert shown["pseudo_perplexity"] == pytest.approx(first["pseudo_perplexity"])


def refused(inputs, context):
    with pytest.raises(BadInput) as caught:
        OPERATOR.run(inputs, context)
    return caught.value


def test_a_faulty_record_fails_the_step_unless_it_may(weights, tmp_path, make_context, run):
    path = tmp_path / "x.fasta"
    path.write_text(">good\nMKVW\n>bad\nMK1\n>dimer\nMK:VW\n>also\nARND\n")
    context = make_context({"sequences": "x.fasta", "weights": "esm2"})
    error = refused(ContactsInputs(sequences=path, weights=weights), context)
    assert error.code == "records_failed"
    assert "bad (fasta_letters), dimer (several_chains)" in error.message
    assert "allow_failures" in error.hint
    assert error.location.record == "bad"
    outputs = run(OPERATOR, sequences=path, weights=weights, allow_failures=0.5)
    assert (outputs.succeeded, outputs.failed) == (2, 2)
    assert PredictionSet(outputs.predictions).targets == ["good", "also"]
    states = {record["record"]: record.get("error", {}).get("code") for record in records(outputs)}
    assert states == {"good": None, "bad": "fasta_letters", "dimer": "several_chains", "also": None}


def test_records_of_one_name_are_counted_one_by_one_and_the_first_is_scored(weights, tmp_path, run):
    path = tmp_path / "x.fasta"
    path.write_text(">a\nMKVW\n>a\nMKVV\n>a\nMKVL\n>b\nARND\n")
    outputs = run(OPERATOR, sequences=path, weights=weights, mutations=["a/M1A"], allow_failures=0.5)
    assert (outputs.succeeded, outputs.failed) == (2, 2)
    assert [record["state"] for record in records(outputs)] == ["succeeded", "failed", "failed", "succeeded"]
    assert records(outputs)[0]["mutations"][0]["mutation"] == "M1A"


@pytest.mark.verify
def test_a_record_that_runs_out_of_memory_leaves_the_others(weights, fasta, run, monkeypatch):
    real = esm_contacts._scores

    def scores(model, sequence, *rest):
        if len(sequence) > 10:
            raise MemoryError("no memory for a long one")
        return real(model, sequence, *rest)

    monkeypatch.setattr(esm_contacts, "_scores", scores)
    outputs = run(OPERATOR, sequences=fasta, weights=weights, allow_failures=0.5)
    assert records(outputs)[0]["error"]["code"] == "out_of_memory"
    assert PredictionSet(outputs.predictions).targets == ["c_"]


@pytest.mark.parametrize(
    ("mutation", "code"),
    [("M1A", "bad_mutation"), ("nobody/M1A", "bad_mutation"), ("first/A1G", "bad_mutation")],
)
def test_mutations_that_are_refused(weights, fasta, make_context, mutation, code):
    inputs = ContactsInputs(sequences=fasta, weights=weights, mutations=[mutation])
    context = make_context({"sequences": "two.fasta", "weights": "esm2"})
    assert refused(inputs, context).code == code


@pytest.mark.verify
def test_a_mutation_needs_no_name_where_there_is_one_record(weights, tmp_path, run):
    (tmp_path / "one.fasta").write_text(">only\nMKVW\n")
    outputs = run(OPERATOR, sequences=tmp_path / "one.fasta", weights=weights, mutations=["K2R"])
    assert records(outputs)[0]["mutations"][0]["mutation"] == "K2R"


def test_weights_of_another_kind_are_refused(weights, fasta, tmp_path, make_context):
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "config.json").write_text((weights / "config.json").read_text())
    (tmp_path / "w" / "pytorch_model.bin").write_bytes(b"x")
    context = make_context({"sequences": "two.fasta", "weights": "w"})
    error = refused(ContactsInputs(sequences=fasta, weights=tmp_path / "w"), context)
    assert error.location.path == "with.weights"
    assert "safetensors" in str(error)


@pytest.mark.verify
def test_scoring_stops_when_asked(weights, fasta, make_context):
    context = make_context({"sequences": "two.fasta", "weights": "esm2"}, cancel_after=3)
    with pytest.raises(Cancelled):
        OPERATOR.run(ContactsInputs(sequences=fasta, weights=weights, masked_scores=True), context)


@pytest.mark.verify
def test_scoring_mutations_stops_when_asked_after_residues_were_scored(weights, tmp_path, make_context):
    (tmp_path / "one.fasta").write_text(">only\nMKVW\n")
    inputs = ContactsInputs(
        sequences=tmp_path / "one.fasta", weights=weights, masked_scores=True, mutations=["K2R"]
    )
    # Checked when the record begins, after its residues, after its mutations; then it would be written.
    context = make_context({"sequences": "one.fasta", "weights": "esm2"}, cancel_after=3)
    with pytest.raises(Cancelled):
        OPERATOR.run(inputs, context)
    assert not (context.outputs / "predictions" / "only").exists()


def test_estimates_need_no_torch():
    code = (
        "import sys\n"
        "from foldase_workflows.contracts import Artifact, Hardware\n"
        "from foldase_workflows.operators.esm_contacts import OPERATOR\n"
        "hardware = Hardware(2.0, 8 << 30)\n"
        "given = lambda size: {'weights': Artifact('sha256:0', 'weights', size, 'w'),\n"
        "                      'sequences': Artifact('sha256:0', 'fasta', 300, 'f')}\n"
        "few, many = (OPERATOR.estimate(given(size), hardware) for size in (10**7, 10**10))\n"
        "assert few.memory_bytes < many.memory_bytes and few.seconds[1] < many.seconds[1]\n"
        "assert OPERATOR.estimate({}, hardware) is None\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
