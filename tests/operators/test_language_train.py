"""language.train: from sequences to a checkpoint folder, and what bad input gets."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from foldase_models.language.decoder import decode, load_decoder
from foldase_workflows.contracts import BadInput, Cancelled, Hardware
from foldase_workflows.contracts.gangs import OnlyRank
from foldase_workflows.formats.zarr_families import FamiliesWriter
from foldase_workflows.operators import language_train
from foldase_workflows.operators._language_ranks import read_sequences

SMALL = {"steps": 6, "width": 16, "layers": 1, "heads": 2, "block": 16, "blocks_per_step": 2, "validation": 1}
NEW = {"weights": None}


@pytest.fixture(scope="module")
def proteins(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("sequences") / "some.fasta"
    rng = np.random.default_rng(0)
    letters = list("ACDEFGHIKLMNPQRSTVWY")
    path.write_text("".join(f">p{n}\n{''.join(rng.choice(letters, 20))}\n" for n in range(8)))
    return path


def inputs_of(**given: object) -> language_train.TrainInputs:
    return language_train.TrainInputs(**{**SMALL, **given})


def test_a_model_is_trained_and_told_of(proteins, make_context):
    context = make_context({"sequences": "mine.fasta"})
    outputs = language_train.OPERATOR.run(inputs_of(sequences=proteins), context)
    assert set(outputs.scores) == {"validation_loss", "validation_perplexity", "validation_accuracy"}
    record = json.loads((outputs.model / "training.json").read_text())
    assert (record["sequences"], record["sequences_held_back"]) == (7, 1)
    assert record["tokens"] == 6 * 2 * 16
    model = load_decoder(outputs.model)
    assert (model.config.vocab_size, model.config.hidden_size, model.config.tokens) == (27, 16, "amino_acids")
    curve = {at: values for at, values in context.points if "loss" in values}
    assert set(curve) == {1.0, 5.0, 6.0}
    assert curve[6.0]["tokens"] == 2 * 16
    assert {"device_bytes", "communicated_bytes", "compute_seconds"} <= set(curve[6.0])
    assert context.planned["parameters"] == record["parameters"]
    assert context.fractions[-1] == 1.0


def test_a_cancelled_training_goes_on_to_the_same_model_wherever_things_lie(proteins, make_context):
    names = {"sequences": "mine.fasta"}
    whole = language_train.OPERATOR.run(inputs_of(sequences=proteins), make_context(names))
    cancelled = make_context(names, cancel_after=3)
    with pytest.raises(Cancelled):
        language_train.OPERATOR.run(inputs_of(sequences=proteins), cancelled)
    assert not cancelled.written()
    second = make_context(names)
    second.checkpoints = cancelled.checkpoints
    other = inputs_of(sequences=proteins, bucket_mib=1, checkpoint_seconds=1)
    again = language_train.OPERATOR.run(other, second)
    assert len(second.fractions) == 3 + 1
    for name in ("model.safetensors", "config.json", "training.json"):
        assert (whole.model / name).read_bytes() == (again.model / name).read_bytes()


def test_a_model_is_trained_further_on_bytes_of_text(tmp_path, make_context):
    text = tmp_path / "notes.txt"
    text.write_text("Proteins fold.\nSome need help.\n\n\nFoldases help them, für sie.\n" * 3)
    context = make_context({"sequences": "notes.txt"})
    given = inputs_of(sequences=text, tokens="bytes", tied=False, key_value_heads=1)
    outputs = language_train.OPERATOR.run(given, context)
    config = load_decoder(outputs.model).config
    assert (config.vocab_size, config.num_key_value_heads, config.tie_word_embeddings) == (257, 1, False)
    further = inputs_of(sequences=text, weights=outputs.model, width=32, steps=1)
    again = language_train.OPERATOR.run(further, make_context({"sequences": "notes.txt"}))
    assert load_decoder(again.model).config == config
    found = read_sequences(given, "bytes", OnlyRank(context))
    assert [decode(ids, "bytes") for ids in found[:2]] == [
        "Proteins fold.\nSome need help.",
        "Foldases help them, für sie.\nProteins fold.\nSome need help.",
    ]


def test_rows_of_families_are_sequences_without_their_gaps(tmp_path, make_context):
    writer = FamiliesWriter(tmp_path)
    msa = np.array([[0, 1, 2, 3], [3, 3, 0, 1], [3, 3, 3, 3]], dtype=np.uint8)
    writer.add(
        "f0",
        msa=msa,
        coords=np.zeros((4, 3), dtype=np.float32),
        contacts=np.zeros((4, 4), dtype=np.uint8),
        attributes={},
    )
    writer.complete(letters="ACD-", contact_cutoff=7.0, min_separation=1)
    found = read_sequences(inputs_of(families=tmp_path), "amino_acids", OnlyRank(make_context()))
    assert [decode(ids) for ids in found] == ["ACD", "AC"]


def test_what_cannot_be_learned_is_named(proteins, tmp_path, make_context):
    def fault(**given: object) -> BadInput:
        with pytest.raises(BadInput) as caught:
            language_train.OPERATOR.run(inputs_of(**given), make_context({"sequences": "mine.fasta"}))
        return caught.value

    assert fault().code == "no_sequences"
    wrong = tmp_path / "wrong.fasta"
    wrong.write_text(">a\nMK1\n")
    assert fault(sequences=wrong).location.file == "mine.fasta"
    assert fault(sequences=wrong).location.record == "a"
    assert fault(sequences=proteins, micro_batches=3).location.path == "with.blocks_per_step"
    assert fault(sequences=proteins, heads=3).code == "bad_config"
    assert fault(sequences=proteins, offload_parameters="cpu").location.path == "with.offload_optimizer"
    assert fault(sequences=proteins, weights=tmp_path).code == "missing_file"
    (tmp_path / "config.json").write_text('{"model_type": "llama", "hidden_size": 64}')
    assert fault(sequences=proteins, weights=tmp_path).code == "wrong_model"


def test_what_it_takes_is_estimated_without_torch():
    hardware = Hardware(cpus=2, memory_bytes=2**33)
    few = language_train.OPERATOR.estimate({**NEW, "steps": 10}, hardware)
    many = language_train.OPERATOR.estimate({**NEW, "steps": 1000, "layers": 8}, hardware)
    assert many.seconds[0] > 100 * few.seconds[0] > 0
    assert many.plan["parameters"] > few.plan["parameters"]
    for unread in ({"weights": "some"}, {}):
        assert language_train.OPERATOR.estimate({**unread, "width": 17}, hardware) is None


@pytest.mark.parametrize(
    ("given", "path", "message"),
    [
        ({"width": 17}, "with.width", "width 17 is no multiple of 4 heads"),
        ({"width": 20}, "with.width", "rotary heads need an even width, got 5"),
        ({"key_value_heads": 3}, "with.heads", "heads 4 is no multiple of key_value_heads 3"),
    ],
)
def test_sizes_that_contradict_each_other_are_named_as_they_were_given(given, path, message):
    with pytest.raises(BadInput) as caught:
        language_train.OPERATOR.estimate({**NEW, **given}, Hardware(cpus=2, memory_bytes=2**33))
    assert (caught.value.message, caught.value.location.path) == (message, path)
    assert caught.value.hint.startswith("make ")


@pytest.mark.parametrize(
    ("given", "ranks", "path", "hint"),
    [
        ({}, 1, "resources.ranks", "set resources.ranks to 2 or more, or optimizer to adamw"),
        ({"freeze_step": 80}, 2, "with.freeze_step", "set it below 50"),
        ({"optimizer": "one_bit_adam", "steps": 20}, 2, "with.freeze_step", "set it, below 20"),
        ({"stage": 2}, 2, "with.stage", "set stage to 1 or less, or another optimizer"),
        (
            {"optimizer": "one_bit_adam", "freeze_step": 9, "interval_steps": 5},
            2,
            "with.interval_steps",
            "leave it out, or set optimizer to zero_one_adam",
        ),
        (
            {"micro_batches": 3},
            2,
            "with.blocks_per_step",
            "set blocks_per_step or micro_batches so that every part has as many examples",
        ),
    ],
)
@pytest.mark.parametrize("weights", [None, "some that are still to be read"])
def test_an_estimate_says_what_the_run_will_refuse(given, ranks, path, hint, weights, proteins, make_context):
    known = {**SMALL, "optimizer": "zero_one_adam", "steps": 50, "micro_batches": 2, **given}
    with pytest.raises(BadInput) as planned:
        language_train.OPERATOR.estimate({**known, "weights": weights}, Hardware(2, 2**33, ranks=ranks))
    assert planned.value.code == "bad_config"
    assert (planned.value.location.path, planned.value.hint) == (path, hint)
    context = make_context({"sequences": "mine.fasta"})
    context.ranks = ranks
    with pytest.raises(BadInput) as ran:
        language_train.OPERATOR.run(language_train.TrainInputs(sequences=proteins, **known), context)
    assert str(ran.value) == str(planned.value)
