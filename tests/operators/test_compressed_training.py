"""catalog/train-compressed.yaml: one model, three optimizers, and what each of them sends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from thread_platform import ThreadPlatform

from foldase.cli.main import main
from foldase_workflows.contracts import Hardware, default_registry
from foldase_workflows.spec import bind_inputs, catalog_entry, check, load_workflow, plan

TRAININGS = ("adamw", "one_bit_adam", "zero_one_adam")
SMALL = {"families": 4, "length": 16, "steps": 60, "width": 32, "layers": 1}
FAIR = 0.1
"""Nats by which validation losses of so short trainings differ."""
SENT = 0.05
"""Of planned bytes, relative to what was counted: of so small a model losses and norms are some per cent."""


def points(platform: ThreadPlatform, run: str, step: str, name: str) -> list[float]:
    """A number that a step told, in order."""
    _, page = platform.store.logs.read(run, step, "metrics")
    return [line["values"][name] for line in page.lines if name in line["values"]]


def planned(**inputs: Any) -> dict[str, dict[str, Any]]:
    """The plan of every training of the document."""
    checked = check(load_workflow(catalog_entry("train-compressed").source), default_registry())
    made = plan(checked, bind_inputs(checked, inputs), default_registry(), Hardware(2, 8 << 30))
    return {step.name: step.estimate.plan for step in made.steps if step.name in TRAININGS}


def test_the_trainings_differ_in_nothing_but_the_optimizer():
    document = catalog_entry("train-compressed").load()
    inputs = {name: dict(document.steps[name].with_) for name in TRAININGS}
    assert {name: given.pop("optimizer") for name, given in inputs.items()} == dict(
        zip(TRAININGS, TRAININGS, strict=True)
    )
    inputs["one_bit_adam"].pop("freeze_step")
    assert inputs["adamw"] == inputs["one_bit_adam"] == inputs["zero_one_adam"]
    resources = [document.steps[name].resources for name in TRAININGS]
    assert resources[0].ranks == 2
    assert resources[0] == resources[1] == resources[2]


@pytest.mark.parametrize("steps", [20, 1000, 1_000_000])
def test_the_plan_says_how_much_less_is_sent_whatever_the_number_of_steps(steps):
    plans = planned(steps=steps)
    sent = [sum(plans[name]["sent_bytes"].values()) for name in TRAININGS]
    assert sent[1] / sent[0] == pytest.approx(0.2 + 0.8 / 32, abs=0.01)
    assert sent[2] < sent[0]
    assert (
        plans["zero_one_adam"]["exchanges"]["rounds"] < plans["one_bit_adam"]["exchanges"]["rounds"] == steps
    )
    assert "exchanges" not in plans["adamw"]


def test_the_command_line_tells_it_before_anything_runs(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("FOLDASE_HOME", str(tmp_path))
    assert main(["plan", "train-compressed"]) == 0
    told = capsys.readouterr().out
    assert "zero_one_adam: with zero_one_adam ranks exchange in 644 of 1,000 steps, " in told
    assert "one_bit_adam: with one_bit_adam ranks exchange in 1,000 of 1,000 steps, " in told
    assert "with adamw" not in told


@pytest.fixture
def platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadPlatform]:
    monkeypatch.setattr("thread_platform.PATIENCE", 900.0)
    made = ThreadPlatform(tmp_path / "home")
    yield made
    made.close()


@pytest.mark.verify
@pytest.mark.timeout(1800)  # six starts of torch on two cores
def test_the_document_compares_three_optimizers(platform):
    run = platform.run("train-compressed", **SMALL)
    assert run.summary.state == "succeeded", run.summary.error
    losses = {name: run.outputs[name]["validation_loss"] for name in TRAININGS}
    assert losses == pytest.approx(dict.fromkeys(TRAININGS, losses["adamw"]), abs=FAIR)
    sent = {
        name: points(platform, run.summary.id, name, "communicated_bytes_total")[-1] for name in TRAININGS
    }
    rounds = {name: points(platform, run.summary.id, name, "communication_rounds")[-1] for name in TRAININGS}
    plans = planned(**SMALL)
    for name in TRAININGS:
        assert sent[name] == pytest.approx(60 * sum(plans[name]["sent_bytes"].values()), rel=SENT)
    for name in TRAININGS[1:]:
        more = rounds[name] - plans[name]["exchanges"]["rounds"]
        assert more in (0, 1), "the last step always tells its loss"
