"""Plans of trainings beside real ones: bytes by tier, bytes sent, and the peak with activations."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from training_ranks import SAME_WORKER, Gang

from foldase_models.errors import ModelError
from foldase_models.folding.contacts.config import ContactModelConfig
from foldase_models.folding.contacts.losses import contact_losses
from foldase_models.folding.contacts.model import ContactModel
from foldase_models.language.decoder import Decoder, DecoderConfig
from foldase_models.language.decoder.heads import next_token_loss
from foldase_models.planning import DoesNotFit, Hardware, Part, plan_training
from foldase_models.planning.training_states import GATHERED, UNDER_WAY
from foldase_models.training import (
    LimitsConfig,
    OffloadConfig,
    OptimizerConfig,
    Ranks,
    Trainer,
    TrainingConfig,
)
from foldase_models.training.config import CompressionConfig

pytestmark = SAME_WORKER

STATE_BYTES = 0.01
"""Of the planned bytes of a tier, relative to what its ledger holds."""
BUFFER_BYTES = 1024
"""What the model's own buffers may take, which no plan counts."""
PEAK = 0.1
"""Of the planned peak with activations, relative to what was counted."""
SENT = 0.02
"""Of planned bytes sent, relative to what was counted: losses, norms and flags come on top."""
DECODER = DecoderConfig(
    vocab_size=70,
    hidden_size=64,
    intermediate_size=150,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=1024,
    tokens="foreign",
)
UNCAPPED = 2**50
"""A cap that nothing reaches, so that every tensor is counted."""
STAGES = (0, 1, 2, 3)
ROOMY = Hardware(ram_bytes=2**45, disk_bytes=2**45, cores=2)


def training(folder, **changes):
    offload = OffloadConfig(folder=folder, **changes.pop("offload", {}))
    limits = LimitsConfig(bucket_bytes=48 * 1024, memory_bytes=changes.pop("cap", None))
    return TrainingConfig(
        **{"steps": 2, "average_decay": 0.0, "offload": offload, "limits": limits} | changes
    )


def tokens(part):
    def batch_of(number):
        drawn = torch.Generator().manual_seed(number)
        shape = (part.examples, part.length + 1)
        return torch.randint(0, DECODER.vocab_size, shape, generator=drawn)

    return batch_of


def train_decoder(ranks, config, part, model_config=DECODER):
    """Bytes by tier at rest and at their peaks, and bytes sent in every step."""
    torch.manual_seed(0)
    model = Decoder(model_config)

    def loss(batch, step):
        del step
        return next_token_loss(model(batch[:, :-1]), batch[:, 1:]), {}

    trainer = Trainer(model, loss, tokens(part), config, ranks=ranks)
    reports = []
    trainer.run(reports.append)
    sent = [report.traffic for report in reports]
    found = dict(trainer.ledger.tiers()), dict(trainer.ledger.peaks()), sent
    trainer.close()
    return found


def resting(plan):
    """Planned bytes by tier between two steps."""
    passing = {"activations", GATHERED, UNDER_WAY}
    return {
        tier: sum(size for owner, size in owners.items() if owner not in passing)
        for tier, owners in plan.tiers.items()
    }


def check_states(found, plan):
    planned = resting(plan)
    assert found.keys() == planned.keys()
    for tier, size in found.items():
        assert planned[tier] == pytest.approx(size, rel=STATE_BYTES, abs=BUFFER_BYTES), tier


PART = Part(examples=2, length=12)
PLACES = ("none", "cpu", "nvme")
CASES = [
    *({"stage": stage, "offload": {"optimizer": place}} for stage, place in enumerate((*PLACES, "none"))),
    {"stage": 3, "offload": {"optimizer": "nvme", "parameters": "nvme"}},
    {"stage": 3, "precision": "bfloat16", "micro_batches": 2, "offload": {"optimizer": "cpu"}},
    {"stage": 0, "precision": "bfloat16", "micro_batches": 2, "average_decay": 0.9},
    {
        "stage": 2,
        "precision": "bfloat16",
        "average_decay": 0.9,
        "offload": {"optimizer": "cpu", "delayed": True},
    },
    {"stage": 1, "precision": "bfloat16", "offload": {"optimizer": "nvme", "delayed": True}},
    {"stage": 0, "average_decay": 0.9, "offload": {"optimizer": "cpu", "ahead": True}},
    {"stage": 2, "precision": "bfloat16", "offload": {"optimizer": "nvme", "device_buckets": 3}},
]


@pytest.mark.parametrize("case", CASES)
def test_a_plan_holds_what_the_ledger_of_a_training_holds(tmp_path, case):
    config = training(tmp_path, **case)
    plan = plan_training(DECODER, config, ROOMY, part=PART)
    check_states(train_decoder(Ranks(), config, PART)[0], plan)
    assert plan.parameters == sum(p.numel() for p in Decoder(DECODER).parameters())


@pytest.fixture(scope="module")
def gang():
    with Gang(2) as gang:
        yield gang


@pytest.mark.parametrize("stage", STAGES)
def test_a_plan_on_two_ranks_holds_and_sends_what_each_of_them_does(gang, tmp_path, stage):
    config = training(tmp_path, stage=stage, micro_batches=4)
    plan = plan_training(DECODER, config, ROOMY, part=PART, ranks=2)
    for held, _, sent in gang.run(train_decoder, config, PART):
        check_states(held, plan)
        assert sum(plan.step.sent.values()) == pytest.approx(sent[-1], rel=SENT)


def test_a_plan_on_two_ranks_knows_what_is_stepped_beside_gathered_shards(gang, tmp_path):
    offload = {"optimizer": "cpu", "ahead": True, "device_buckets": 2}
    config = training(tmp_path, stage=3, average_decay=0.9, offload=offload)
    plan = plan_training(DECODER, config, ROOMY, part=PART, ranks=2)
    assert plan.tiers["device"]["optimizer"] == 2 * plan.tiers["device"]["average"] > 0
    for held, _, _ in gang.run(train_decoder, config, PART):
        check_states(held, plan)


def compressing(folder, kind, **changes):
    """Frozen after 4 of 12 steps, with intervals of 1, 2 and 4 steps after that."""
    when = (
        {"variance_kappa": 1, "interval_steps": 3, "longest_interval": 4} if kind == "zero_one_adam" else {}
    )
    optimizer = OptimizerConfig(kind=kind, compression=CompressionConfig(freeze_step=4, block=256, **when))
    return training(folder, steps=12, optimizer=optimizer, **{"micro_batches": 4} | changes)


def check_compressed(found, plan):
    """Of one rank: what it holds in the end, and what it sent in all steps."""
    held, _, sent = found
    check_states(held, plan)
    kinds = plan.step.exchanges
    assert sum(plan.step.sent.values()) == pytest.approx(sum(sent) / len(sent), rel=SENT)
    assert sum(size > 0 for size in sent[:-1]) == pytest.approx(kinds.rounds, abs=1), "the last one always"


@pytest.mark.parametrize(("kind", "stage"), [("one_bit_adam", 0), ("zero_one_adam", 1)])
def test_a_plan_on_two_ranks_knows_what_an_optimizer_that_compresses_holds_and_sends(
    gang, tmp_path, kind, stage
):
    config = compressing(tmp_path, kind, stage=stage, average_decay=0.9)
    plan = plan_training(DECODER, config, ROOMY, part=PART, ranks=2)
    for found in gang.run(train_decoder, config, PART):
        check_compressed(found, plan)


@pytest.mark.verify
@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("kind", ["one_bit_adam", "zero_one_adam"])
def test_every_optimizer_that_compresses_is_planned(tmp_path, size, kind):
    """At its peak too, which comes when the second moment is frozen."""
    options = itertools.product((0, 1), ("float32", "bfloat16"), (0.0, 0.9), (size, 3 * size))
    part = Part(examples=2, length=60)
    with Gang(size) as gang:
        for stage, precision, decay, parts in options:
            changes = {"precision": precision, "average_decay": decay, "micro_batches": parts}
            config = compressing(tmp_path, kind, stage=stage, cap=UNCAPPED, **changes)
            plan = plan_training(DECODER, config, ROOMY, part=part, ranks=size)
            for found in gang.run(train_decoder, config, part, timeout=300):
                check_compressed(found, plan)
                counted, planned = counted_and_planned(found[1], plan)
                assert planned == pytest.approx(counted, rel=PEAK)


@pytest.mark.verify
@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("stage", STAGES)
def test_every_way_to_hide_the_optimizer_is_planned(tmp_path, size, stage):
    ways = [
        {"optimizer": place, "ahead": ahead, "device_buckets": count}
        for place, ahead, count in (
            ("cpu", True, 0),
            ("cpu", True, 2),
            ("cpu", False, 2),
            ("cpu", True, 1000),
            ("nvme", False, 2),
        )
    ]
    with Gang(size) as gang:
        for way, precision, decay, parts in itertools.product(
            ways, ("float32", "bfloat16"), (0.0, 0.9), (1, 5)
        ):
            changes = {"precision": precision, "average_decay": decay, "micro_batches": parts}
            config = training(tmp_path, stage=stage, offload=dict(way), **changes)
            plan = plan_training(DECODER, config, ROOMY, part=PART, ranks=size)
            for held, _, _ in gang.run(train_decoder, config, PART):
                check_states(held, plan)


@pytest.mark.verify
@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("stage", STAGES)
def test_every_place_and_precision_is_planned(tmp_path, size, stage):
    options = itertools.product(
        PLACES, (False, True), ("float32", "bfloat16"), (0.0, 0.9), (False, True), (1, 5)
    )
    with Gang(size) as gang:
        for place, streams, precision, decay, delayed, parts in options:
            if (place == "none" and (delayed or streams)) or (streams and stage < 3):
                continue
            places = {"optimizer": place, "delayed": delayed, "parameters": place if streams else "none"}
            config = training(
                tmp_path,
                stage=stage,
                precision=precision,
                average_decay=decay,
                micro_batches=parts,
                offload=places,
            )
            plan = plan_training(DECODER, config, ROOMY, part=PART, ranks=size)
            for held, _, sent in gang.run(train_decoder, config, PART):
                check_states(held, plan)
                assert sum(plan.step.sent.values()) == pytest.approx(sent[-1], rel=SENT)


def counted_and_planned(found, plan):
    memory = ("device", "pinned", "host")
    return sum(found[tier] for tier in memory), plan.predicted_peak_bytes


@pytest.mark.parametrize(
    ("part", "sizes"),
    [
        (Part(examples=3, length=90), {}),
        (Part(examples=1, length=700), {"vocab_size": 300}),
        (Part(examples=7, length=20), {"intermediate_size": 700, "num_hidden_layers": 1}),
    ],
)
def test_the_peak_of_a_decoder_is_near_what_is_counted(tmp_path, part, sizes):
    model = replace(DECODER, **sizes)
    config = training(tmp_path, cap=UNCAPPED)
    plan = plan_training(model, config, ROOMY, part=part)
    counted, planned = counted_and_planned(train_decoder(Ranks(), config, part, model)[1], plan)
    assert planned == pytest.approx(counted, rel=PEAK)


def train_contacts(model_config, config, part):
    """Peaks of the tiers of a training of the contact model."""
    model = ContactModel(model_config)

    def batch_of(number):
        torch.manual_seed(number)
        B, N = part.examples, part.length
        rows = torch.randint(0, len(model_config.letters), (B, part.rows, N), dtype=torch.uint8)
        return rows, 10 * torch.randn(B, N, 3), (torch.rand(B, N, N) < 0.1).to(torch.uint8)

    def loss(batch, step):
        del step
        rows, coords, contacts = batch
        out = model(rows[:, : model_config.sequences], rows, recycles=0)
        return contact_losses(out, coords, contacts, model_config, model.distance_bins)

    trainer = Trainer(model, loss, batch_of, config)
    trainer.run()
    found = dict(trainer.ledger.peaks())
    trainer.close()
    return found


@pytest.mark.parametrize(
    ("part", "sizes"),
    [
        (Part(examples=3, length=33, rows=70), {}),
        (Part(length=75, rows=40), {"width": 16, "heads": 3, "sequences": 12, "blocks": 1}),
    ],
)
def test_the_peak_of_the_contact_model_is_near_what_is_counted(tmp_path, part, sizes):
    model = ContactModelConfig(letters="ARNDCQ", **sizes)
    config = training(tmp_path, cap=UNCAPPED)
    plan = plan_training(model, config, ROOMY, part=part)
    counted, planned = counted_and_planned(train_contacts(model, config, part), plan)
    assert planned == pytest.approx(counted, rel=PEAK)


def test_the_documentation_shows_a_plan_as_it_is_printed():
    model = DecoderConfig(
        hidden_size=1024,
        intermediate_size=2752,
        num_hidden_layers=12,
        num_attention_heads=16,
        num_key_value_heads=16,
    )
    places = OffloadConfig(
        optimizer="nvme", parameters="nvme", activations="recompute", folder=Path("/scratch")
    )
    config = TrainingConfig(steps=1000, stage=3, precision="bfloat16", micro_batches=8, offload=places)
    hardware = Hardware(ram_bytes=8 * 2**30, cores=2, disk_bytes=50 * 2**30)
    plan = plan_training(model, config, hardware, part=Part(examples=2, length=512), ranks=4)
    shown = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    assert "\n".join(line.rstrip() for line in plan.explain().splitlines()) in shown


@given(
    ram=st.integers(2**29, 2**33),
    disk=st.integers(0, 2**31),
    less=st.floats(0, 1),
    stage=st.sampled_from(STAGES),
    place=st.sampled_from(PLACES),
    ranks=st.integers(1, 4),
    length=st.integers(8, 2000),
)
@settings(max_examples=60, deadline=None)
def test_a_tighter_budget_never_gives_a_larger_peak_and_a_refusal_says_what_is_lacking(
    ram, disk, less, stage, place, ranks, length
):
    offload = OffloadConfig(optimizer=place, folder=Path("disk"))
    config = TrainingConfig(steps=1, stage=stage, offload=offload)
    part = Part(examples=4, length=length)
    found, refusals = [], []
    for share in (1.0, less):
        hardware = Hardware(ram_bytes=max(1, int(share * ram)), disk_bytes=int(share * disk))
        try:
            found.append(plan_training(DECODER, config, hardware, part=part, ranks=ranks))
        except DoesNotFit as error:
            found.append(None)
            refusals.append(error)
    assert all(error.plan.lacking and "too little" in error.message for error in refusals)
    assert all("it fits as it is with" in error.hint for error in refusals)
    roomy, tight = found
    if roomy is None:
        assert tight is None
    elif tight is not None:
        assert tight.predicted_peak_bytes <= roomy.predicted_peak_bytes


def test_a_refusal_names_the_cheapest_knob_that_is_enough_and_it_is():
    part = Part(examples=4, length=512)
    config = TrainingConfig(steps=1)
    peak = plan_training(DECODER, config, ROOMY, part=part).peak["ram"]
    with pytest.raises(DoesNotFit) as caught:
        plan_training(DECODER, config, replace(ROOMY, ram_bytes=peak - 2**20), part=part)
    assert caught.value.location == "offload.activations"
    assert caught.value.hint.startswith("set offload.activations to recompute; or set micro_batches to 2")
    turned = replace(config, offload=OffloadConfig(activations="recompute"))
    assert plan_training(DECODER, turned, replace(ROOMY, ram_bytes=peak - 2**20), part=part)


def test_a_refusal_names_each_knob_once_however_far_it_is_turned():
    config = TrainingConfig(steps=1, stage=3, limits=LimitsConfig(memory_bytes=2**20, bucket_bytes=4096))
    with pytest.raises(DoesNotFit) as caught:
        plan_training(DECODER, config, ROOMY, part=Part(examples=4, length=256), ranks=4)
    knobs = [words.split()[1] for words in re.split(r": | and |; or ", caught.value.hint) if "set " in words]
    assert "ranks" in knobs
    assert len(knobs) == len(set(knobs))


def test_a_refusal_names_the_second_set_of_vectors_before_anything_that_costs_time():
    config = TrainingConfig(steps=1, offload=OffloadConfig(optimizer="cpu", ahead=True))
    peak = plan_training(DECODER, config, ROOMY, part=PART).peak["ram"]
    with pytest.raises(DoesNotFit) as caught:
        plan_training(DECODER, config, replace(ROOMY, ram_bytes=peak - 2**18), part=PART)
    assert caught.value.location == "offload.ahead"
    assert caught.value.hint.startswith("set offload.ahead to false; or")


def test_a_way_out_leaves_out_what_would_contradict_it():
    """The state of an optimizer on the disk cannot be stepped ahead."""
    offload = OffloadConfig(optimizer="cpu", ahead=True, device_buckets=1)
    config = TrainingConfig(steps=1, stage=3, offload=offload)
    with pytest.raises(DoesNotFit) as caught:
        plan_training(DECODER, config, replace(ROOMY, ram_bytes=2**20), part=PART, ranks=2)
    assert caught.value.hint.startswith("not enough: set offload.ahead to false and ")


def test_a_step_that_is_hidden_has_a_time_of_its_own():
    """Beside the rest at best; on the device less of it is left."""
    part = Part(examples=1, length=2)
    ways = [
        OffloadConfig(optimizer="cpu", **changes)
        for changes in ({}, {"ahead": True}, {"ahead": True, "device_buckets": 1})
    ]
    limits = LimitsConfig(bucket_bytes=48 * 1024)
    exact, ahead, split = (
        plan_training(
            DECODER, TrainingConfig(steps=1, offload=way, limits=limits), ROOMY, part=part
        ).step.kinds
        for way in ways
    )
    assert exact["optimizer"] == (0.0, 0.0)
    assert ahead["compute"] < exact["compute"]
    assert split["optimizer"] < ahead["optimizer"]
    assert split["transfer"] < ahead["transfer"]


def test_a_plan_is_plain_values_and_a_line():
    config = TrainingConfig(steps=3, stage=2, offload=OffloadConfig(optimizer="cpu"))
    plan = plan_training(DECODER, config, ROOMY, part=PART, ranks=2, correction=1.5)
    told = json.loads(json.dumps(plan.to_json()))
    assert told["predicted_peak_bytes"] == plan.predicted_peak_bytes
    assert told["options"]["offload_optimizer"] == "cpu"
    assert plan.in_words().startswith("2 ranks on the CPU, stage 2, float32, optimizer in main memory; ")
    with pytest.raises(ModelError, match="bad_request"):
        plan_training(DECODER, config, ROOMY, part=PART, ranks=0)
    with pytest.raises(ModelError, match="no plan for the training of a str"):
        plan_training("a model", config, ROOMY, part=PART)
