"""The plan of a training whose optimizer compresses what it sends, without torch: bytes, rounds, refusals."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from foldase_models.errors import ModelError
from foldase_models.language.decoder.config import DecoderConfig
from foldase_models.planning import DoesNotFit, Hardware, Part, plan_training
from foldase_models.training.config import (
    CompressionConfig,
    LimitsConfig,
    OffloadConfig,
    OptimizerConfig,
    TrainingConfig,
)
from foldase_models.training.optim.policies import Exchange, turns

DECODER = DecoderConfig(
    vocab_size=512,
    hidden_size=64,
    intermediate_size=192,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=4,
    max_position_embeddings=1024,
    tokens="foreign",
)
NUMEL = 2 * 512 * 64 + 3 * (4 * 64 * 64 + 3 * 64 * 192) + 7 * 64
"""Parameters: embedding, head, blocks, norms. They fill their buckets without padding."""
NORMS = 7 * 64
BLOCK = 1024
ROOMY = Hardware(ram_bytes=2**45, disk_bytes=2**45, cores=2)
PART = Part(examples=4, length=64)


def config(kind="zero_one_adam", *, steps=1200, stage=0, precision="float32", **compression):
    if kind != "adamw":
        compression.setdefault("block", BLOCK)
    return TrainingConfig(
        steps=steps,
        stage=stage,
        precision=precision,
        micro_batches=2,
        optimizer=OptimizerConfig(kind=kind, compression=CompressionConfig(**compression)),
        limits=LimitsConfig(bucket_bytes=2**20),
    )


def planned(training, *, ranks=2, hardware=ROOMY, part=PART):
    return plan_training(DECODER, training, hardware, part=part, ranks=ranks)


def owners(training, ranks=2):
    held = dict(planned(training, ranks=ranks).tiers["device"])
    held.pop("activations")
    return held


def message(ranks):
    """Scales and bits, in words of four bytes, of two buckets: matrices, and norms."""
    chunks = [(NUMEL - NORMS) // ranks, NORMS // ranks]
    return ranks * sum(4 * -(-chunk // BLOCK) + 4 * -(-chunk // 32) for chunk in chunks)


@pytest.mark.parametrize("stage", [0, 1])
def test_a_frozen_second_moment_leaves_a_rank_with_all_of_the_state(stage):
    """Of N ranks: moments 8, average 4, errors 4 + 4 / N, updates 4, and 4 for the weights to step from."""
    shared = {
        "weights": 4 * NUMEL,
        "gradients": 4 * NUMEL,
        "optimizer": 8 * NUMEL,
        "average": 4 * NUMEL,
        "compression errors": 4 * NUMEL + 4 * NUMEL // 2,
        "messages": NUMEL // 8 + 2 * message(2),
    }
    alone = {"pending updates": 4 * NUMEL, "weights at the last exchange": 4 * NUMEL}
    assert owners(config(stage=stage)) == shared | alone
    assert owners(config("one_bit_adam", stage=stage)) == shared
    assert owners(config(stage=stage, freeze_step=9, longest_interval=1)) == shared
    half = {"weights": 2 * NUMEL, "gradients": 2 * NUMEL, "float32 weights": 4 * NUMEL}
    mixed = owners(config(stage=stage, precision="bfloat16"))
    assert mixed == shared | half | {"pending updates": 4 * NUMEL}
    averaged = replace(config(stage=stage), average_decay=0.0)
    assert owners(averaged) == {name: size for name, size in (shared | alone).items() if name != "average"}


def test_until_then_stage_1_shares_out_moments_and_average_and_a_note_says_how_much_less_it_holds():
    notes = [
        next(note for note in planned(made).notes if "frozen" in note)
        for made in (config(), config(stage=1), config("one_bit_adam"), config("one_bit_adam", stage=1))
    ]
    apart = 8 * NUMEL
    errors = 6 * NUMEL + NUMEL // 8 + 2 * message(2)
    less = [apart, apart + errors + 6 * NUMEL, errors, errors + 6 * NUMEL]
    for note, size in zip(notes, less, strict=True):
        assert f"until then a rank holds {size / 2**20:.1f} MiB less" in note
    assert notes[0].startswith("the second moment is frozen from step 612 of 1,200 on; until then")
    assert notes[2].startswith("the second moment is frozen from step 200 of 1,200 on at the earliest; until")


def test_where_activations_are_few_the_peak_is_when_the_largest_bucket_is_made_ready_to_be_sent():
    few = planned(config(), part=Part(examples=1, length=2))
    assert few.tiers["device"]["activations"] == 3 * 4 * (NUMEL - NORMS)


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("stage", [0, 1])
def test_what_is_sent_is_the_mean_of_whole_gradients_and_two_messages_of_one_bit_a_number(ranks, stage):
    made = config(stage=stage, steps=300)
    step = planned(made, ranks=ranks).step
    taken = [turn.exchange for turn in turns(made)]
    counts = {kind.value: taken.count(kind) for kind in Exchange}
    ring = (ranks - 1) / ranks
    sent = {"whole": ring * 8 * NUMEL, "sync": ring * 2 * message(ranks), "local": 0.0}
    assert step.exchanges.steps == counts
    assert step.exchanges.sent == pytest.approx(sent)
    assert step.exchanges.rounds == 300 - counts["local"]
    gathered = ring * 16 * NUMEL * stage  # weights, moments and average, once
    total = sum(counts[kind] * sent[kind] for kind in sent) + gathered
    assert sum(step.sent.values()) == pytest.approx(total / 300)
    plain = planned(config("adamw", stage=stage, steps=300), ranks=ranks).step
    assert plain.exchanges is None
    assert sum(plain.sent.values()) == pytest.approx(sent["whole"])
    assert step.kinds["communication"] < plain.kinds["communication"]


def test_a_plan_tells_the_optimizer_the_rounds_and_the_bytes():
    plan = planned(config())
    told = json.loads(json.dumps(plan.to_json()))
    assert told["options"]["optimizer"] == "zero_one_adam"
    assert told["exchanges"]["rounds"] == 773
    assert told["exchanges"]["frozen_step"] == 612
    assert told["exchanges"]["steps_of"]["whole"] == {"steps": 84, "sent_bytes": 4 * NUMEL}
    assert told["exchanges"]["steps_of"]["local"] == {"steps": 427, "sent_bytes": 0}
    assert "float32, zero_one_adam; " in plan.in_words()
    assert "sent on average, in 773 of 1,200 steps" in plan.in_words()
    table = plan.explain()
    assert "stage 0, float32, zero_one_adam, 1,200 steps of 2 parts" in table
    assert "sent on average, in 773 of 1,200 steps" in table
    assert "    whole gradients           84 steps   0.9 MiB each\n" in table
    assert "    nothing                  427 steps\n" in table
    assert "  weights at the last exchange         0.9\n" in table
    plain = planned(config("adamw"))
    assert "exchanges" not in plain.to_json()
    assert "adamw" not in plain.explain() + plain.in_words()


def test_ranks_without_a_part_of_the_batch_are_told():
    (note,) = [note for note in planned(config(), ranks=4).notes if "part" in note]
    assert note.startswith("2 of 4 ranks have a part of a step's batch")
    assert note.endswith("set micro_batches to 4")
    assert not [note for note in planned(config(), ranks=2).notes if "part" in note]


def test_a_refusal_never_proposes_what_the_optimizer_cannot_do():
    """No stage above 1 and no other place for its state; another optimizer comes last."""
    part = Part(examples=1, length=64)
    offload = OffloadConfig(activations="recompute")
    for kind in ("one_bit_adam", "zero_one_adam"):
        training = replace(config(kind), offload=offload, micro_batches=1)
        peak = planned(training, part=part).peak["ram"]
        with pytest.raises(DoesNotFit) as caught:
            planned(training, part=part, hardware=replace(ROOMY, ram_bytes=peak - 2**18))
        ways = caught.value.hint.split("; or ")
        assert ways[-2] == "set optimizer.kind to adamw"
        assert caught.value.location == ways[0].split()[1]
        assert not any("stage" in way or "offload.optimizer" in way or "ranks" in way for way in ways)
        plain = replace(training, optimizer=OptimizerConfig())
        assert planned(plain, part=part, hardware=replace(ROOMY, ram_bytes=peak - 2**18))


def test_beside_another_optimizer_the_ways_of_that_one_are_open():
    with pytest.raises(DoesNotFit) as caught:
        planned(config(), hardware=replace(ROOMY, ram_bytes=2**20))
    before, after = caught.value.hint.split("set optimizer.kind to adamw and ")
    assert "stage" not in before
    assert "offload.optimizer" not in before
    assert "stage to 3" in after
    assert "offload.optimizer to cpu" in after


@pytest.mark.parametrize(
    ("training", "ranks", "field"),
    [
        (config(), 1, "ranks"),
        (config("one_bit_adam"), 1, "ranks"),
        (config("one_bit_adam", steps=30), 2, "optimizer.compression.freeze_step"),
        (config(longest_interval=1), 2, "optimizer.compression.freeze_step"),
    ],
)
def test_what_could_never_work_is_refused_naming_the_field(training, ranks, field):
    with pytest.raises(ModelError) as caught:
        planned(training, ranks=ranks)
    assert (caught.value.code, caught.value.location) == ("bad_config", field)
    assert caught.value.hint
