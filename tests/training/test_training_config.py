"""One small typed configuration: what it refuses, and how it travels."""

from __future__ import annotations

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
from foldase_models.training import config as training_config


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
    ],
)
def test_contradictions_name_the_field_and_the_fix(make, field, fix):
    with pytest.raises(ModelError) as caught:
        make()
    assert (caught.value.code, caught.value.location) == ("bad_config", field)
    assert fix in caught.value.hint


def test_an_optimizer_that_cannot_be_sharded_is_refused_at_higher_stages(monkeypatch):
    monkeypatch.setattr(training_config, "LAST_STAGE", {"adamw": 1})
    TrainingConfig(steps=3, stage=1)
    with pytest.raises(ModelError) as caught:
        TrainingConfig(steps=3, stage=3)
    assert caught.value.location == "stage"
    assert "set stage to 1 or less" in caught.value.hint


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


def test_an_unknown_field_is_named():
    with pytest.raises(ModelError) as caught:
        TrainingConfig.from_json({"steps": 3, "offload": {"place": "cpu"}})
    assert caught.value.location == "offload.place"


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
