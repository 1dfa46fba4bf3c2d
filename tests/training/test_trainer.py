"""The trainer: schedule, exact continuation, averages, parts of batches, bad gradients."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from foldase_models.errors import ModelError
from foldase_models.training import (
    CheckpointConfig,
    CheckpointStore,
    LimitsConfig,
    OptimizerConfig,
    ScheduleConfig,
    Trainer,
    TrainingConfig,
)
from foldase_models.training import trainer as trainer_module
from foldase_models.training.config import average_decay, learning_rate

PART_TOLERANCE = 1e-5
"""Relative; sums of gradients in another order."""


class Stop(Exception):
    pass


class Problem:
    """A small regression with dropout, whose batches depend on the step only."""

    def __init__(self, bad_steps=()):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(5, 16), nn.Dropout(0.3), nn.ReLU(), nn.Linear(16, 1))
        self.bad_steps = bad_steps

    def batch(self, number):
        x = np.random.default_rng([7, number]).normal(size=(32, 5)).astype(np.float32)
        return torch.from_numpy(x)

    def loss(self, batch, step):
        wanted = batch[:, :1].sin()
        loss = (self.model(batch) - wanted).square().mean()
        if step in self.bad_steps:
            loss = loss * float("nan")
        return loss, {"square": loss}


def trainer_of(problem, steps=30, store=None, **changes):
    settings = {"schedule": ScheduleConfig(warmup_steps=5), "checkpoint": CheckpointConfig(seconds=0.0)}
    config = TrainingConfig(steps=steps, **settings, **changes)
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
    config = TrainingConfig(
        steps=100,
        optimizer=OptimizerConfig(learning_rate=1.0),
        schedule=ScheduleConfig(warmup_steps=10, final_share=0.1),
    )
    rates = [learning_rate(config, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1, rel=0.01)
    assert max(rates) == pytest.approx(1.0, rel=0.03)
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))
    assert rates[-1] == pytest.approx(0.1, rel=0.02)
    assert average_decay(config, 0) == pytest.approx(0.1)
    assert average_decay(config, 10_000) == config.average_decay


def test_training_learns():
    problem = Problem()
    losses = run_and_collect(trainer_of(problem, steps=150, optimizer=OptimizerConfig(learning_rate=2e-2)))
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
    wanted, found = whole_trainer.result(), trainer.result()
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)
    x = whole.batch(99)
    with whole_trainer.averaged(), trainer.averaged():
        assert torch.equal(whole.model(x), continued.model(x))


def test_the_average_is_seen_inside_only_and_is_the_result():
    problem = Problem()
    trainer = trainer_of(problem, steps=20)
    trainer.run()
    last = {name: parameter.detach().clone() for name, parameter in problem.model.named_parameters()}
    result = trainer.result()
    with trainer.averaged():
        inside = {name: parameter.detach().clone() for name, parameter in problem.model.named_parameters()}
        assert not problem.model.training
    assert problem.model.training
    for name, parameter in problem.model.named_parameters():
        assert torch.equal(parameter, last[name])
        assert torch.equal(inside[name], result[name])
        assert not torch.equal(inside[name], last[name])


def test_without_an_average_the_weights_are_the_result():
    problem = Problem()
    trainer = trainer_of(problem, steps=5, average_decay=0.0)
    trainer.run()
    result = trainer.result()
    for name, parameter in problem.model.named_parameters():
        assert torch.equal(parameter, result[name])


@pytest.mark.parametrize("parts", [2, 4])
def test_a_batch_in_parts_is_the_batch(parts):
    """Parts of equal size: the mean of their gradients is the gradient of the mean."""

    class Parted(Problem):
        def __init__(self):
            super().__init__()
            self.model[1] = nn.Dropout(0.0)

        def batch(self, number):
            whole = Problem.batch(self, number // parts)
            return whole.chunk(parts)[number % parts]

    plain = Problem()
    plain.model[1] = nn.Dropout(0.0)
    wanted = run_and_collect(trainer_of(plain))
    found = run_and_collect(trainer_of(Parted(), micro_batches=parts))
    np.testing.assert_allclose(found, wanted, rtol=PART_TOLERANCE)


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
    wanted, found = first.result(), again.result()
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)


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
        trainer_of(problem, limits=LimitsConfig(bad_steps=3)).run()
    assert caught.value.code == "diverged"
    assert "4 steps in a row" in caught.value.message


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    run_and_collect(trainer_of(Problem(), store=CheckpointStore(tmp_path)))
    other = Problem()
    other.model = nn.Linear(5, 1)
    with pytest.raises(ModelError) as caught:
        trainer_of(other, steps=40, store=CheckpointStore(tmp_path)).run()
    assert caught.value.code == "bad_checkpoint"


class Hours:
    """A clock that only goes on when it is told to."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now


class SlowStore(CheckpointStore):
    """Takes two hours for a save, and remembers them."""

    hours: Hours

    def save(self, step, state, values, *, wait=True):
        self.hours.now += 2.0
        super().save(step, state, values, wait=True)


def test_saving_takes_no_more_than_about_a_tenth_of_the_time(tmp_path, monkeypatch):
    """However often checkpoints are asked for, here always; and the last one is not written twice."""
    store = SlowStore(tmp_path, kept=99)
    store.hours = Hours()
    monkeypatch.setattr(trainer_module, "time", store.hours)
    trainer = trainer_of(Problem(), steps=55, store=store)

    def an_hour_a_step(report):
        store.hours.now += 1.0

    trainer.run(an_hour_a_step)
    assert store.steps() == [55, 37, 19, 1]
    assert store.hours.now == 55 + 4 * 2
