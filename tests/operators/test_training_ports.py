"""Shared inputs of trainings: what they make of a recipe, and what inputs that contradict each other get."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import pytest
from pydantic import Field

from foldase.store import identify
from foldase_models.folding.contacts.config import ContactModelConfig
from foldase_models.training.config import CompressionConfig, OptimizerConfig, TrainingConfig
from foldase_workflows.contracts import BadInput, Estimate, Hardware, Ports
from foldase_workflows.contracts.ports import ports_of
from foldase_workflows.operators import contacts_train, fold_train, language_train
from foldase_workflows.operators._training_plan import Part, estimate_training_step, plan_step
from foldase_workflows.operators._training_ports import (
    CAME_LATER,
    SCRATCH_VARIABLE,
    WHERE_THINGS_LIE,
    TrainingPorts,
    training_config,
)

GIB = 2**30
MODEL = ContactModelConfig(letters="ARND", width=64, blocks=6)
PART = Part(examples=4, length=40, rows=64)
RECIPE = TrainingConfig(steps=40, clip_norm=0.3, optimizer=OptimizerConfig(weight_decay=0.02))


class OwnInputs(Ports):
    steps: Annotated[int, Field(description="Optimizer steps")] = 40
    families: Annotated[int, Field(description="Examples of a step")] = 4


class Inputs(TrainingPorts, OwnInputs):
    """As an operator has them."""


def estimated(inputs: Inputs, hardware: Hardware) -> Estimate:
    """Of the model above, which is there."""
    found = estimate_training_step(MODEL, inputs, RECIPE, PART, hardware, cpus=2.0, examples="families")
    assert found is not None
    return found


def test_an_operators_own_inputs_come_first_and_places_are_choices():
    ports = ports_of(Inputs)
    assert next(iter(ports)) == "steps"
    assert ports["offload_activations"].choices == ("none", "recompute", "cpu", "nvme")
    assert set(ports) >= WHERE_THINGS_LIE


def test_what_is_left_out_is_as_in_the_recipe():
    assert training_config(Inputs(), RECIPE) == RECIPE


def test_what_is_given_counts():
    inputs = Inputs(stage=2, precision="bfloat16", micro_batches=4, clip_norm=1.5, bucket_mib=0.5)
    made = training_config(inputs, RECIPE)
    assert (made.stage, made.precision, made.micro_batches, made.clip_norm) == (2, "bfloat16", 4, 1.5)
    assert made.limits.bucket_bytes == 2**19
    assert made.optimizer == RECIPE.optimizer


def test_a_contradiction_names_the_input():
    with pytest.raises(BadInput, match="set offload_optimizer to cpu, or leave ahead out") as caught:
        training_config(Inputs(offload_ahead=True), RECIPE)
    assert caught.value.location.path == "with.offload_ahead"
    with pytest.raises(BadInput, match="set offload_optimizer to cpu too") as caught:
        training_config(Inputs(stage=3, offload_parameters="cpu"), RECIPE)
    assert caught.value.location.path == "with.offload_optimizer"


def test_what_is_sent_when_is_said_by_flat_inputs():
    inputs = Inputs(optimizer="zero_one_adam", freeze_step=9, interval_steps=5, longest_interval=8)
    made = training_config(inputs, RECIPE).optimizer
    said = CompressionConfig(freeze_step=9, interval_steps=5, longest_interval=8)
    assert made == replace(RECIPE.optimizer, kind="zero_one_adam", compression=said)
    made = training_config(Inputs(optimizer="one_bit_adam", weight_decay=0.1), RECIPE).optimizer
    assert made == replace(RECIPE.optimizer, kind="one_bit_adam", weight_decay=0.1)


@pytest.mark.parametrize("training", [contacts_train, fold_train, language_train])
def test_every_training_takes_them(training):
    given = {"optimizer": "zero_one_adam", "freeze_step": 9, "interval_steps": 5, "longest_interval": 8}
    inputs = training.TrainInputs.model_construct(**given, steps=40)
    found = training_config(inputs, training._training(inputs)).optimizer
    assert found.kind == "zero_one_adam"
    assert found.compression == CompressionConfig(freeze_step=9, interval_steps=5, longest_interval=8)
    assert training_config(training.TrainInputs.model_construct(), RECIPE) == RECIPE


@pytest.mark.parametrize("training", [contacts_train, fold_train, language_train])
def test_results_of_adamw_keep_the_identity_they_had_before_there_was_a_choice(training):
    signature = training.OPERATOR.signature
    usual = {name: port.default for name, port in signature.inputs.items()}
    before = {name: value for name, value in usual.items() if name not in CAME_LATER}
    assert identify(signature, usual).key == identify(signature, before).key
    for changes in ({"optimizer": "one_bit_adam"}, {"freeze_step": 9}):
        assert identify(signature, usual | changes).key != identify(signature, before).key
    assert not CAME_LATER & WHERE_THINGS_LIE, "checkpoints of another optimizer are no good"


@pytest.mark.parametrize(
    ("given", "name", "hint"),
    [
        ({"freeze_step": 9}, "freeze_step", "optimizer to one_bit_adam or zero_one_adam"),
        ({"optimizer": "zero_one_adam", "freeze_step": 40}, "freeze_step", "set it below 40"),
        ({"optimizer": "zero_one_adam", "interval_steps": 9}, "interval_steps", "set freeze_step too"),
        ({"optimizer": "zero_one_adam", "longest_interval": 5}, "longest_interval", None),
        ({"optimizer": "one_bit_adam", "longest_interval": 4}, "longest_interval", "to zero_one_adam"),
        ({"optimizer": "zero_one_adam", "stage": 2}, "stage", "set stage to 1 or less, or another optimizer"),
        (
            {"optimizer": "zero_one_adam", "offload_optimizer": "cpu"},
            "offload_optimizer",
            "set offload_optimizer to none, or optimizer to adamw",
        ),
    ],
)
def test_what_an_optimizer_that_compresses_cannot_do_names_the_input(given, name, hint):
    with pytest.raises(BadInput) as caught:
        training_config(Inputs(**given), RECIPE)
    assert caught.value.location.path == f"with.{name}"
    assert "compression." not in caught.value.message
    assert hint is None or hint in caught.value.hint


def test_one_rank_alone_is_refused_before_it_trains(make_context):
    training = training_config(Inputs(optimizer="zero_one_adam", warmup_steps=4), RECIPE)
    with pytest.raises(BadInput, match="zero_one_adam is for two ranks or more") as caught:
        plan_step(MODEL, training, PART, make_context())
    assert caught.value.location.path == "resources.ranks"
    assert caught.value.hint == "set resources.ranks to 2 or more, or optimizer to adamw"
    plan_step(MODEL, training, PART, make_context(), ranks=2)


def test_a_second_moment_that_cannot_settle_is_refused_before_it_trains(make_context):
    training = training_config(Inputs(optimizer="one_bit_adam"), RECIPE)
    with pytest.raises(BadInput, match="settled after 200 steps at the earliest") as caught:
        plan_step(MODEL, training, PART, make_context(), ranks=2)
    assert caught.value.location.path == "with.freeze_step"


def test_an_estimate_tells_the_optimizer_and_what_ranks_exchange():
    hardware = Hardware(2.0, 8 * GIB, ranks=2)
    inputs = Inputs(optimizer="zero_one_adam", freeze_step=10, warmup_steps=4)
    found = estimated(inputs, hardware)
    assert found.plan["options"]["optimizer"] == "zero_one_adam"
    assert found.plan["exchanges"]["frozen_step"] == 10
    assert found.plan["exchanges"]["rounds"] < 40
    usual = estimated(Inputs(), hardware)
    assert "exchanges" not in usual.plan
    assert sum(found.plan["sent_bytes"].values()) < sum(usual.plan["sent_bytes"].values()) / 2


def test_nvme_is_the_workers_scratch_folder(tmp_path, monkeypatch):
    inputs = Inputs(offload_optimizer="nvme")
    monkeypatch.setenv(SCRATCH_VARIABLE, str(tmp_path))
    assert training_config(inputs, RECIPE).offload.folder == tmp_path
    for named in (None, "scratch", str(tmp_path / "missing")):
        if named is None:
            monkeypatch.delenv(SCRATCH_VARIABLE)
        else:
            monkeypatch.setenv(SCRATCH_VARIABLE, named)
        with pytest.raises(BadInput, match=SCRATCH_VARIABLE) as caught:
            training_config(inputs, RECIPE)
        assert caught.value.code == "no_scratch"
        assert caught.value.location.path == "with.offload_optimizer"


def test_an_estimate_holds_the_plan_of_a_rank():
    found = estimated(Inputs(offload_optimizer="nvme"), Hardware(2.0, 8 * GIB))
    assert found.memory_bytes == found.plan["peak_bytes"]["ram"]
    assert found.plan["tiers_bytes"]["disk"]["optimizer"] > 0
    low, high = found.plan["step_seconds"]
    assert found.seconds == (pytest.approx(40 * low), pytest.approx(40 * high))
    assert "refusal" not in found.plan
    assert "plan" in found.to_json()


def test_an_estimate_of_what_does_not_fit_names_the_input_that_would_help():
    found = estimated(Inputs(), Hardware(2.0, 3 * GIB // 4))
    assert found.memory_bytes > 3 * GIB // 4
    assert "offload_activations" in found.plan["refusal"]


def test_a_step_tells_its_plan_before_it_begins(make_context):
    context = make_context()
    plan = plan_step(MODEL, training_config(Inputs(), RECIPE), PART, context)
    assert context.planned["predicted_peak_bytes"] == plan.predicted_peak_bytes
    assert context.planned["key"] == "ContactModel cpu stage 0 n/n/n"
    context.corrections = {context.planned["key"]: 2.0}
    corrected = plan_step(MODEL, training_config(Inputs(), RECIPE), PART, context)
    assert corrected.predicted_peak_bytes == pytest.approx(2 * plan.predicted_peak_bytes, abs=2)


def test_a_step_that_does_not_fit_is_refused_with_the_input_to_change(make_context):
    with pytest.raises(BadInput, match="micro_batches") as caught:
        plan_step(
            MODEL,
            training_config(Inputs(memory_cap_mib=8), RECIPE),
            Part(examples=64, length=100),
            make_context(),
        )
    assert caught.value.code == "does_not_fit"
