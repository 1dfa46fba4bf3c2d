"""One small typed configuration: what it refuses, and how it travels."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foldase_models.errors import ModelError
from foldase_models.training import (
    CheckpointConfig,
    LimitsConfig,
    OffloadConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainingConfig,
)
from foldase_models.training.config import LAST_STAGE, CompressionConfig, check_ranks

COMPRESSION = "optimizer.compression"


def compressing(kind="zero_one_adam", *, steps=100, stage=0, offload=None, **compression):
    return TrainingConfig(
        steps=steps,
        stage=stage,
        optimizer=OptimizerConfig(kind=kind, compression=CompressionConfig(**compression)),
        offload=OffloadConfig(**offload or {}),
    )


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: TrainingConfig(steps=0), "steps"),
        (lambda: TrainingConfig(steps=3, average_decay=1.0), "average_decay"),
        (lambda: TrainingConfig(steps=3, clip_norm=-1.0), "clip_norm"),
        (lambda: TrainingConfig(steps=3, stage=4), "stage"),
        (lambda: TrainingConfig(steps=3, precision="float16"), "precision"),
        (lambda: TrainingConfig(steps=3, micro_batches=0), "micro_batches"),
        (lambda: OptimizerConfig(learning_rate=0.0), "optimizer.learning_rate"),
        (lambda: OptimizerConfig(betas=(0.9, 1.0)), "optimizer.betas"),
        (lambda: ScheduleConfig(final_share=2.0), "schedule.final_share"),
        (lambda: CheckpointConfig(kept=0), "checkpoint.kept"),
        (lambda: LimitsConfig(memory_bytes=5), "limits.memory_bytes"),
        (lambda: OffloadConfig(optimizer="disk"), "offload.optimizer"),
        (lambda: OffloadConfig(optimizer="cpu", device_buckets=-1), "offload.device_buckets"),
        (lambda: OptimizerConfig(kind="sgd"), "optimizer.kind"),
        (lambda: CompressionConfig(freeze_step=0), f"{COMPRESSION}.freeze_step"),
        (lambda: CompressionConfig(settled=1.0), f"{COMPRESSION}.settled"),
        (lambda: CompressionConfig(variance_kappa=0), f"{COMPRESSION}.variance_kappa"),
        (lambda: CompressionConfig(freeze_step=9, interval_steps=0), f"{COMPRESSION}.interval_steps"),
        (lambda: CompressionConfig(longest_interval=12), f"{COMPRESSION}.longest_interval"),
        (lambda: CompressionConfig(block=128), f"{COMPRESSION}.block"),
    ],
)
def test_a_field_that_makes_no_sense_is_named(make, field):
    with pytest.raises(ModelError) as caught:
        make()
    assert caught.value.code == "bad_config"
    assert caught.value.location == field


@pytest.mark.parametrize(
    ("make", "field", "fix"),
    [
        (lambda: OffloadConfig(optimizer="nvme"), "offload.folder", "name a folder"),
        (lambda: OffloadConfig(delayed=True), "offload.delayed", "offload.optimizer"),
        (
            lambda: TrainingConfig(steps=3, offload=OffloadConfig(optimizer="cpu", parameters="cpu")),
            "offload.parameters",
            "stage to 3",
        ),
        (lambda: OffloadConfig(parameters="cpu"), "offload.optimizer", "to cpu too"),
        (lambda: OffloadConfig(ahead=True), "offload.ahead", "optimizer to cpu"),
        (
            lambda: OffloadConfig(optimizer="nvme", folder=Path("/disk"), ahead=True),
            "offload.ahead",
            "leave ahead out",
        ),
        (
            lambda: OffloadConfig(optimizer="cpu", ahead=True, delayed=True),
            "offload.ahead",
            "leave ahead out",
        ),
        (lambda: OffloadConfig(device_buckets=2), "offload.device_buckets", "device_buckets to 0"),
        (
            lambda: OffloadConfig(optimizer="cpu", delayed=True, device_buckets=2),
            "offload.device_buckets",
            "device_buckets to 0",
        ),
        (
            lambda: OffloadConfig(optimizer="cpu", parameters="cpu", device_buckets=2),
            "offload.device_buckets",
            "device_buckets to 0",
        ),
        (lambda: compressing(stage=2), "stage", "set stage to 1 or less"),
        (lambda: compressing("one_bit_adam", stage=3), "stage", "or another optimizer.kind"),
        (lambda: compressing(offload={"optimizer": "cpu"}), "offload.optimizer", "optimizer.kind to adamw"),
        (lambda: compressing(freeze_step=100), f"{COMPRESSION}.freeze_step", "set it below 100"),
        (lambda: CompressionConfig(interval_steps=9), f"{COMPRESSION}.interval_steps", "set freeze_step too"),
        (
            lambda: compressing("adamw", freeze_step=9),
            f"{COMPRESSION}.freeze_step",
            "optimizer.kind to one_bit_adam or zero_one_adam",
        ),
        (
            lambda: compressing("one_bit_adam", longest_interval=4),
            f"{COMPRESSION}.longest_interval",
            "optimizer.kind to zero_one_adam",
        ),
        (lambda: compressing(settled=0.9), f"{COMPRESSION}.settled", "optimizer.kind to one_bit_adam"),
    ],
)
def test_contradictions_name_the_field_and_the_fix(make, field, fix):
    with pytest.raises(ModelError) as caught:
        make()
    assert (caught.value.code, caught.value.location) == ("bad_config", field)
    assert fix in caught.value.hint


@pytest.mark.parametrize("kind", ["one_bit_adam", "zero_one_adam"])
def test_optimizers_that_compress_have_somebody_to_send_to(kind):
    check_ranks(TrainingConfig(steps=3), 1)
    check_ranks(compressing(kind), 2)
    with pytest.raises(ModelError, match=f"{kind} is for two ranks or more") as caught:
        check_ranks(compressing(kind), 1)
    assert (caught.value.code, caught.value.location) == ("bad_config", "ranks")
    assert caught.value.hint.startswith("set ranks to 2 or more")


@given(
    steps=st.integers(1, 10**6),
    stage=st.integers(0, 3),
    optimizer=st.sampled_from(["none", "cpu", "nvme"]),
    precision=st.sampled_from(["float32", "bfloat16"]),
    rate=st.floats(1e-6, 1.0),
    kept=st.integers(1, 9),
)
def test_a_configuration_travels_as_json(steps, stage, optimizer, precision, rate, kept):
    config = TrainingConfig(
        steps=steps,
        stage=stage,
        precision=precision,
        optimizer=OptimizerConfig(learning_rate=rate),
        offload=OffloadConfig(
            optimizer=optimizer,
            folder=Path("/somewhere"),
            ahead=optimizer == "cpu",
            device_buckets=0 if optimizer == "none" else kept,
        ),
        checkpoint=CheckpointConfig(kept=kept),
    )
    assert TrainingConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_so_does_what_is_compressed_when():
    made = compressing(freeze_step=9, interval_steps=20, longest_interval=4, variance_kappa=3, block=1024)
    assert TrainingConfig.from_json(json.loads(json.dumps(made.to_json()))) == made


@pytest.mark.parametrize(
    ("plain", "field"),
    [
        ({"offload": {"place": "cpu"}}, "offload.place"),
        ({"optimizer": {"compression": {"frozen": 3}}}, "optimizer.compression.frozen"),
    ],
)
def test_an_unknown_field_is_named(plain, field):
    with pytest.raises(ModelError) as caught:
        TrainingConfig.from_json({"steps": 3} | plain)
    assert caught.value.location == field


def test_where_things_lie_is_no_part_of_the_result():
    plain = TrainingConfig(steps=3)
    spread = TrainingConfig(
        steps=3,
        stage=2,
        offload=OffloadConfig(optimizer="cpu", ahead=True, device_buckets=2),
        checkpoint=CheckpointConfig(seconds=1.0),
    )
    assert plain.result_fields() == spread.result_fields()
    assert plain.result_fields() != TrainingConfig(steps=3, precision="bfloat16").result_fields()


def test_a_delayed_step_is_part_of_the_result():
    exact = TrainingConfig(steps=3, offload=OffloadConfig(optimizer="cpu"))
    delayed = TrainingConfig(steps=3, offload=OffloadConfig(optimizer="cpu", delayed=True))
    assert exact.result_fields() != delayed.result_fields()


def test_what_is_sent_is_part_of_the_result_and_leaves_that_of_adamw_as_it_was():
    assert "compression" not in TrainingConfig(steps=3).result_fields()["optimizer"]
    fields = [
        compressing(**changes).result_fields()
        for changes in ({}, {"freeze_step": 9}, {"kind": "one_bit_adam"}, {"stage": 1})
    ]
    assert all(one != other for one, other in itertools.combinations(fields, 2))
    plain, shared = (compressing("one_bit_adam", stage=stage) for stage in (0, LAST_STAGE["one_bit_adam"]))
    assert plain.result_fields() == shared.result_fields()
