"""contacts.train and contacts.predict, end to end at the smallest size, and what bad input gets."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from foldase_workflows.contracts import BadInput, Cancelled, Hardware
from foldase_workflows.formats.structures import read_chain
from foldase_workflows.formats.zarr_families import FamiliesWriter, FamilySet
from foldase_workflows.formats.zarr_msa import write_msa
from foldase_workflows.formats.zarr_predictions import PredictionSet
from foldase_workflows.operators import _machine, contacts_evaluate, contacts_predict, contacts_train, report

SMALL = {
    "steps": 6,
    "width": 8,
    "blocks": 1,
    "heads": 2,
    "sequences": 6,
    "rows": 16,
    "families_per_step": 2,
    "smallest_crop": 10,
    "validation": 1,
}
LETTERS = "ARND"


def write_families(folder, *, count=6, length=14, letters=LETTERS, seed=3):
    from foldase_models.coevolution import FamilyConfig, simulate_families

    config = FamilyConfig(length=length, alphabet=len(letters), ancestors=12)
    folder.mkdir()
    writer = FamiliesWriter(folder)
    for family in simulate_families(config, count, seed):
        writer.add(
            f"f{family.index:04d}",
            msa=family.letters,
            coords=family.coords,
            contacts=family.contacts,
            attributes={"seed": seed},
        )
    writer.complete(letters=letters, contact_cutoff=7.0, min_separation=4)
    return folder


def write_alignment(folder, *, letters, msa, weights=None, query="a query/1"):
    folder.mkdir()
    write_msa(
        folder,
        msa=msa,
        deletions=np.zeros_like(msa, dtype=np.uint16),
        weights=np.ones(len(msa), dtype=np.float32) if weights is None else weights,
        letters=letters,
        names=[query, *(f"row{i}" for i in range(1, len(msa)))],
        identity=0.8,
    )
    return folder


_TRAINED = []


@pytest.fixture
def trained(tmp_path_factory, make_context):
    """A tiny model and the families it was trained on; trained once."""
    if not _TRAINED:
        families = write_families(tmp_path_factory.mktemp("trained") / "families")
        inputs = contacts_train.TrainInputs(families=families, **SMALL)
        _TRAINED.append((contacts_train.OPERATOR.run(inputs, make_context()), families))
    return _TRAINED[0]


def test_training_writes_a_model_and_reports(tmp_path, make_context):
    families = write_families(tmp_path / "families")
    context = make_context()
    outputs = contacts_train.OPERATOR.run(contacts_train.TrainInputs(families=families, **SMALL), context)
    assert sorted(path.name for path in outputs.model.iterdir()) == [
        "config.json",
        "model.safetensors",
        "training.json",
    ]
    config = json.loads((outputs.model / "config.json").read_text())["config"]
    assert config["letters"] == LETTERS
    assert config["width"] == 8
    training = json.loads((outputs.model / "training.json").read_text())
    assert training["steps"] == 6
    assert training["families"] == 5
    assert 0 <= outputs.scores["precision_at_L"] <= 1
    assert context.fractions == sorted(context.fractions)
    assert context.fractions[-1] == 1.0
    curve = {at: values["loss"] for at, values in context.points if "loss" in values}
    assert set(curve) == {1.0, 5.0, 6.0}
    told = next(values for at, values in context.points if at == 6.0 and "loss" in values)
    assert told["residues"] > 0
    assert told["device_bytes"] > 0
    assert {"learning_rate", "gradient_norm", "compute_seconds", "communicated_bytes"} <= set(told)
    assert context.planned["ranks"] == 1
    assert list(context.checkpoints.iterdir())


def test_a_cancelled_training_goes_on_where_it_was(tmp_path, make_context):
    families = write_families(tmp_path / "families")
    inputs = contacts_train.TrainInputs(families=families, **SMALL)
    whole = contacts_train.OPERATOR.run(inputs, make_context())
    # Six checks while the families are read, then one a step.
    cancelled = make_context(cancel_after=10)
    with pytest.raises(Cancelled):
        contacts_train.OPERATOR.run(inputs, cancelled)
    assert not cancelled.written()
    second = make_context()
    second.checkpoints = cancelled.checkpoints
    continued = contacts_train.OPERATOR.run(inputs, second)
    assert len(second.fractions) < 6
    for name in ("model.safetensors", "config.json"):
        assert (whole.model / name).read_bytes() == (continued.model / name).read_bytes()


@pytest.mark.parametrize("shuffled", [False, True])
def test_families_are_predicted(trained, make_context, shuffled):
    outputs, families = trained
    context = make_context()
    found = contacts_predict.OPERATOR.run(
        contacts_predict.PredictInputs(model=outputs.model, families=families, shuffle_columns=shuffled),
        context,
    )
    predictions = PredictionSet(found.predictions)
    assert predictions.targets == [f"f{number:04d}" for number in range(6)]
    assert predictions.attributes["shuffled"] is shuffled
    assert predictions.min_separation == 4
    known = FamilySet(families).read("f0002")
    one = predictions.read("f0002")
    assert np.array_equal(one.truth, known.contacts)
    assert one.coords.shape == (14, 3)
    assert ((one.confidence >= 0) & (one.confidence <= 100)).all()
    assert {"lddt", "rmsd", "confidence", "precision_at_L"} <= set(one.scores)
    chain = read_chain(found.structures / "f0002.cif")
    assert chain.sequence == one.sequence
    assert np.allclose(chain.alpha, one.coords, atol=1e-3)
    assert np.allclose(chain.b_factors, one.confidence, atol=0.01)
    assert set(found.scores) == set(one.scores)
    assert context.fractions[-1] == 1.0


def test_shuffling_is_seeded_and_changes_the_answer(trained, make_context):
    outputs, families = trained

    def run(**options):
        inputs = contacts_predict.PredictInputs(model=outputs.model, families=families, **options)
        found = contacts_predict.OPERATOR.run(inputs, make_context())
        return PredictionSet(found.predictions).read("f0001").contact_probability

    plain, first, again = run(), run(shuffle_columns=True), run(shuffle_columns=True)
    assert np.array_equal(first, again)
    assert not np.array_equal(plain, first)
    assert not np.array_equal(first, run(shuffle_columns=True, seed=1))


def test_an_alignment_in_a_larger_alphabet_is_translated(trained, make_context, tmp_path):
    """Letters are matched by name, not by index, and only those that occur matter."""
    outputs, families = trained
    msa = FamilySet(families).read("f0000").msa
    order = "DNRA-"
    table = np.array([order.index(letter) for letter in LETTERS], dtype=np.uint8)
    alignment = write_alignment(tmp_path / "msa", letters=order, msa=table[msa])
    context = make_context()
    found = contacts_predict.OPERATOR.run(
        contacts_predict.PredictInputs(model=outputs.model, msa=alignment), context
    )
    predictions = PredictionSet(found.predictions)
    assert predictions.targets == ["a_query_1"]
    one = predictions.read("a_query_1")
    assert one.truth is None
    assert one.sequence == "".join(LETTERS[i] for i in msa[0])
    assert set(one.scores) == {"confidence"}
    plain = write_alignment(tmp_path / "plain", letters=LETTERS, msa=msa)
    same = contacts_predict.OPERATOR.run(
        contacts_predict.PredictInputs(model=outputs.model, msa=plain), make_context()
    )
    wanted = PredictionSet(same.predictions).read("a_query_1")
    assert np.array_equal(one.contact_probability, wanted.contact_probability)


def refused(operator, inputs, context):
    with pytest.raises(BadInput) as caught:
        operator.run(inputs, context)
    return caught.value


def test_a_letter_the_model_does_not_know(trained, make_context, tmp_path):
    outputs, _ = trained
    msa = np.zeros((5, 12), dtype=np.uint8)
    msa[2, 7] = 4
    alignment = write_alignment(tmp_path / "msa", letters="ARND-", msa=msa, query="xyl")
    inputs = contacts_predict.PredictInputs(model=outputs.model, msa=alignment)
    error = refused(contacts_predict.OPERATOR, inputs, make_context())
    assert error.code == "wrong_alphabet"
    assert "'-'" in error.message
    assert "row 3, column 8" in error.message
    assert error.location.record == "xyl"


def test_one_of_families_and_alignment(trained, make_context):
    outputs, families = trained
    inputs = contacts_predict.PredictInputs(model=outputs.model)
    assert refused(contacts_predict.OPERATOR, inputs, make_context()).code == "one_of_two"
    both = contacts_predict.PredictInputs(model=outputs.model, families=families, msa=families)
    assert refused(contacts_predict.OPERATOR, both, make_context()).code == "one_of_two"


def test_a_folder_that_is_no_model(trained, make_context):
    _, families = trained
    inputs = contacts_predict.PredictInputs(model=families, families=families)
    error = refused(contacts_predict.OPERATOR, inputs, make_context())
    assert error.code == "missing_file"
    assert error.location.path == "with.model"


def test_a_chain_too_short(trained, make_context, tmp_path):
    outputs, _ = trained
    alignment = write_alignment(tmp_path / "msa", letters=LETTERS, msa=np.zeros((5, 4), dtype=np.uint8))
    inputs = contacts_predict.PredictInputs(model=outputs.model, msa=alignment)
    assert refused(contacts_predict.OPERATOR, inputs, make_context()).code == "too_short"


def test_families_too_short_to_train_on(make_context, tmp_path):
    folder = tmp_path / "families"
    folder.mkdir()
    writer = FamiliesWriter(folder)
    coords = np.arange(12, dtype=np.float32).reshape(4, 3)
    contacts = np.zeros((4, 4), dtype=np.uint8)
    msa = np.zeros((6, 4), dtype=np.uint8)
    writer.add("stub", msa=msa, coords=coords, contacts=contacts, attributes={})
    writer.complete(letters=LETTERS, contact_cutoff=7.0, min_separation=4)
    inputs = contacts_train.TrainInputs(families=folder, **SMALL)
    error = refused(contacts_train.OPERATOR, inputs, make_context())
    assert error.code == "too_short"
    assert error.location.record == "stub"


def test_estimates_need_no_torch():
    code = (
        "import sys\n"
        "from foldase_workflows.contracts import Hardware\n"
        "from foldase_workflows.operators.contacts_train import OPERATOR as train\n"
        "from foldase_workflows.operators.contacts_predict import OPERATOR as predict\n"
        "hardware = Hardware(2.0, 8 << 30)\n"
        "few, many = (train.estimate({'steps': n}, hardware).seconds for n in (100, 1000))\n"
        "assert few[1] < many[1] and few[0] < few[1]\n"
        "assert predict.estimate({}, hardware).memory_bytes > 0\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert contacts_train.OPERATOR.estimate({"width": "wide"}, Hardware(2.0, 1)) is None
    with pytest.raises(BadInput, match="zero_one_adam is for two ranks or more"):
        contacts_train.OPERATOR.estimate({"optimizer": "zero_one_adam"}, Hardware(2.0, 1))


def test_predictions_are_what_evaluation_and_report_take(trained, make_context, tmp_path):
    """The steps of catalog/contacts.yaml fit together."""
    outputs, training = trained
    unseen = write_families(tmp_path / "unseen", count=3, seed=99)
    predicted = [
        contacts_predict.OPERATOR.run(
            contacts_predict.PredictInputs(model=outputs.model, families=unseen, shuffle_columns=shuffled),
            make_context(),
        )
        for shuffled in (False, True)
    ]
    evaluated = contacts_evaluate.OPERATOR.run(
        contacts_evaluate.EvaluateInputs(
            predictions=predicted[0].predictions,
            shuffled=predicted[1].predictions,
            families=unseen,
            training_families=training,
            tuning_families=1,
            bootstrap_samples=100,
        ),
        make_context(),
    )
    table = json.loads(evaluated.scores.read_text())
    assert set(table["precision"]["L"]) >= {"model", "shuffled", "prior", "couplings"}
    assert table["families"] == 3
    assert 0 < table["lddt"] <= 1
    written = report.OPERATOR.run(
        report.ReportInputs(
            predictions=predicted[0].predictions, scores=evaluated.scores, model=outputs.model
        ),
        make_context(),
    )
    page = written.report.read_text()
    assert "Loss over training steps" in page


def test_a_model_without_letters_reads_an_alignment_in_other_letters(tmp_path, make_context, monkeypatch):
    """Renaming the letters of an alignment changes nothing, which a model of letters cannot promise."""
    families = write_families(tmp_path / "families")
    context = make_context()
    inputs = contacts_train.TrainInputs(
        families=families, model_inputs="couplings", convolutions=1, largest_crop=12, **SMALL
    )
    trained = contacts_train.OPERATOR.run(inputs, context)
    assert context.fractions == sorted(context.fractions)
    assert json.loads((trained.model / "config.json").read_text())["config"]["inputs"] == "couplings"
    found = contacts_predict.OPERATOR.run(
        contacts_predict.PredictInputs(model=trained.model, families=families), make_context()
    )
    assert len(PredictionSet(found.predictions).targets) == 6
    msa = FamilySet(families).read("f0000").msa
    maps = []
    for name, renamed in (("plain", msa), ("renamed", 3 - msa)):
        alignment = write_alignment(tmp_path / name, letters=LETTERS, msa=renamed)
        asked = contacts_predict.PredictInputs(model=trained.model, msa=alignment)
        outputs = contacts_predict.OPERATOR.run(asked, make_context())
        maps.append(PredictionSet(outputs.predictions).read("a_query_1").contact_probability)
    assert np.allclose(maps[0], maps[1], atol=1e-4)
    meminfo = tmp_path / "meminfo"
    monkeypatch.setattr(_machine, "MEMORY", meminfo)
    meminfo.write_text("MemAvailable:    100 kB\n")
    for operator, given in ((contacts_train, inputs), (contacts_predict, asked)):
        with pytest.raises(MemoryError, match="14 columns and 4 letters need"):
            operator.OPERATOR.run(given, make_context())


def test_convolutions_need_couplings(tmp_path, make_context):
    families = write_families(tmp_path / "families")
    inputs = contacts_train.TrainInputs(families=families, convolutions=2, **SMALL)
    assert refused(contacts_train.OPERATOR, inputs, make_context()).code == "bad_config"
