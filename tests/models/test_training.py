"""The trainer: schedule, exact continuation, checkpoints that are whole or not there, bad gradients."""

from __future__ import annotations

import itertools
import json
import math
import os

import numpy as np
import pytest
import torch
from torch import nn

from foldase_models.errors import ModelError
from foldase_models.training import CheckpointStore, Trainer, TrainingConfig
from foldase_models.training.checkpoints import Checkpoint, write_durably
from foldase_models.training.config import average_decay, learning_rate


class Stop(Exception):
    pass


class Problem:
    """A small regression with dropout, whose batches depend on the step only."""

    def __init__(self, bad_steps=()):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(5, 16), nn.Dropout(0.3), nn.ReLU(), nn.Linear(16, 1))
        self.bad_steps = bad_steps

    def batch(self, step):
        x = np.random.default_rng([7, step]).normal(size=(32, 5)).astype(np.float32)
        return torch.from_numpy(x)

    def loss(self, batch, step):
        wanted = batch[:, :1].sin()
        loss = (self.model(batch) - wanted).square().mean()
        if step in self.bad_steps:
            loss = loss * float("nan")
        return loss, {"square": loss}


def trainer_of(problem, steps=30, store=None, **changes):
    config = TrainingConfig(steps=steps, warmup_steps=5, checkpoint_seconds=0.0, **changes)
    return Trainer(problem.model, problem.loss, problem.batch, config, store)


def run_and_collect(trainer, stop_after=None):
    losses = []

    def on_step(report):
        losses.append(report.loss)
        if report.step == stop_after:
            raise Stop

    if stop_after is None:
        trainer.run(on_step)
    else:
        with pytest.raises(Stop):
            trainer.run(on_step)
    return losses


def test_the_schedule_rises_and_falls():
    config = TrainingConfig(steps=100, warmup_steps=10, learning_rate=1.0, final_share=0.1)
    rates = [learning_rate(config, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1, rel=0.01)
    assert max(rates) == pytest.approx(1.0, rel=0.03)
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))
    assert rates[-1] == pytest.approx(0.1, rel=0.02)
    assert average_decay(config, 0) == pytest.approx(0.1)
    assert average_decay(config, 10_000) == config.average_decay


def test_training_learns():
    problem = Problem()
    losses = run_and_collect(trainer_of(problem, steps=150, learning_rate=2e-2))
    assert np.mean(losses[-20:]) < 0.6 * np.mean(losses[:20])
    assert all(math.isfinite(loss) for loss in losses)


@pytest.mark.parametrize("stop_after", [1, 13, 29])
def test_interrupted_and_continued_is_uninterrupted_bitwise(tmp_path, stop_after):
    whole = Problem()
    whole_trainer = trainer_of(whole)
    wanted = run_and_collect(whole_trainer)
    store = CheckpointStore(tmp_path)
    first = run_and_collect(trainer_of(Problem(), store=store), stop_after)
    continued = Problem()
    trainer = trainer_of(continued, store=CheckpointStore(tmp_path))
    second = run_and_collect(trainer)
    assert first + second == wanted
    assert trainer.curve == whole_trainer.curve
    for name, parameter in whole.model.named_parameters():
        assert torch.equal(parameter, dict(continued.model.named_parameters())[name])
        assert torch.equal(whole_trainer.average[name], trainer.average[name])
    whole_trainer.load_average()
    trainer.load_average()
    x = whole.batch(99)
    assert torch.equal(whole.model.eval()(x), continued.model.eval()(x))


def test_the_curve_is_thinned_out():
    trainer = trainer_of(Problem(), steps=450)
    losses = run_and_collect(trainer)
    curve = trainer.curve
    assert curve["step"] == list(range(3, 451, 3))
    assert curve["loss"][0] == pytest.approx(np.mean(losses[:3]))
    assert curve["loss"][-1] == pytest.approx(np.mean(losses[-3:]))


def test_a_finished_run_is_not_repeated(tmp_path):
    first = trainer_of(Problem(), store=CheckpointStore(tmp_path))
    run_and_collect(first)
    again = trainer_of(Problem(), store=CheckpointStore(tmp_path))
    assert run_and_collect(again) == []
    assert all(torch.equal(first.average[name], again.average[name]) for name in first.average)


def test_training_leaves_the_random_numbers_of_the_process_alone():
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    problem = Problem.__new__(Problem)
    problem.model, problem.bad_steps = nn.Linear(5, 1), ()
    state = torch.get_rng_state()
    run_and_collect(trainer_of(problem))
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), wanted)


def test_bad_gradients_are_skipped_and_counted():
    problem = Problem(bad_steps=(4, 5, 9))
    trainer = trainer_of(problem)
    summary = trainer.run()
    assert summary.skipped_steps == 3
    assert len(summary.curve["loss"]) == 27
    assert all(math.isfinite(loss) for loss in summary.curve["loss"])
    assert all(bool(p.isfinite().all()) for p in problem.model.parameters())


def test_a_run_that_diverged_stops_and_says_so():
    problem = Problem(bad_steps=range(10, 100))
    with pytest.raises(ModelError) as caught:
        trainer_of(problem, bad_steps_allowed=3).run()
    assert caught.value.code == "diverged"
    assert "4 steps in a row" in caught.value.message


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    run_and_collect(trainer_of(Problem(), store=CheckpointStore(tmp_path)))
    other = Problem()
    other.model = nn.Linear(5, 1)
    with pytest.raises(ModelError) as caught:
        trainer_of(other, steps=40, store=CheckpointStore(tmp_path)).run()
    assert caught.value.code == "bad_checkpoint"


def checkpoint(step):
    return Checkpoint(step, {"weights": torch.full((4,), float(step))}, {"step": step})


def test_the_last_checkpoints_are_kept(tmp_path):
    store = CheckpointStore(tmp_path, kept=2)
    for step in (5, 10, 15):
        store.save(checkpoint(step))
    assert store.steps() == [15, 10]
    assert len(list(tmp_path.iterdir())) == 4
    found = store.load_latest()
    assert found.step == 15
    assert torch.equal(found.tensors["weights"], torch.full((4,), 15.0))


@pytest.mark.parametrize("damage", ["truncated", "changed", "no_tensors", "bad_json", "no_json"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path, damage):
    store = CheckpointStore(tmp_path, kept=2)
    for step in (5, 10):
        store.save(checkpoint(step))
    tensors, described = tmp_path / "step-0000000010.safetensors", tmp_path / "step-0000000010.json"
    raw = tensors.read_bytes()
    if damage == "truncated":
        tensors.write_bytes(raw[:-3])
    elif damage == "changed":
        tensors.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    elif damage == "no_tensors":
        tensors.unlink()
    elif damage == "bad_json":
        described.write_bytes(described.read_bytes()[:10])
    else:
        described.unlink()
    assert store.load_latest().step == 5


@pytest.mark.parametrize("crash_at", range(4))
def test_a_crash_while_saving_leaves_the_one_before(tmp_path, monkeypatch, crash_at):
    """Every rename and every removal of a save may be the last thing that happens."""
    store = CheckpointStore(tmp_path, kept=1)
    store.save(checkpoint(5))
    calls = 0
    real_replace, real_fsync = os.replace, os.fsync

    def crashing(original):
        def call(*arguments, **options):
            nonlocal calls
            calls += 1
            if calls == crash_at + 1:
                raise OSError(28, "No space left on device")
            return original(*arguments, **options)

        return call

    monkeypatch.setattr(os, "replace", crashing(real_replace))
    monkeypatch.setattr(os, "fsync", crashing(real_fsync))
    with pytest.raises(OSError, match="No space left"):
        store.save(checkpoint(10))
    monkeypatch.undo()
    found = CheckpointStore(tmp_path).load_latest()
    assert found.step in (5, 10)
    assert torch.equal(found.tensors["weights"], torch.full((4,), float(found.step)))


def test_no_half_written_file_remains(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_durably(path, b"old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_durably(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    "changes", [{"steps": 0}, {"learning_rate": 0.0}, {"average_decay": 1.0}, {"clip_norm": -1.0}]
)
def test_impossible_configurations_are_refused(changes):
    with pytest.raises(ModelError) as caught:
        TrainingConfig(**{"steps": 3, **changes})
    assert caught.value.code == "bad_config"


def test_a_configuration_is_plain_json():
    config = TrainingConfig(steps=3)
    assert json.loads(json.dumps(config.to_json()))["betas"] == [0.9, 0.99]
