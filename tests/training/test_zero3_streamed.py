"""Weights that are fetched for each use: what is held when, and what becomes of the model."""

from __future__ import annotations

import gc

import pytest
import torch
from training_ranks import SAME_WORKER, run_ranks
from zero3_cases import Letters, Problem, Shape, config_of

from foldase_models.errors import ModelError
from foldase_models.training import LimitsConfig, OffloadConfig, Trainer
from foldase_models.training.ranks import Ranks
from foldase_models.training.results import take_weights
from foldase_models.training.zero.gathered import WORKING
from foldase_models.training.zero.units import ROOT

pytestmark = SAME_WORKER

ON_CPU = OffloadConfig(optimizer="cpu", parameters="cpu")
DEEP = Shape(width=16, inner=64, blocks=6)
UNITS_AT_WORK = 2
"""The one that computes and the one on its way; the slices of a third are no more than its half."""


def streamed(ranks, shape, **changes):
    problem = Problem(shape)
    config = config_of(4, offload=ON_CPU, **changes)
    return problem, Trainer(problem.model, problem.loss, problem.batch, config, ranks=ranks)


def working_memory(ranks, shape):
    """Bytes of gathered weights at every use of a unit and after each step, and what units take."""
    _, trainer = streamed(ranks, shape)
    engine, seen, between = trainer.engine, [], []
    acquire = engine.acquire

    def watched(gathered):
        acquire(gathered)
        seen.append(trainer.ledger.held("device").get(WORKING, 0))

    engine.acquire = watched
    trainer.run(lambda report: between.append(engine.working_bytes))
    trainer.close()
    return max(seen), between, engine.unit_bytes


@pytest.mark.parametrize("size", [1, 2])
def test_only_the_units_at_work_are_there_and_nothing_between_the_steps(size):
    every = [working_memory(Ranks(), DEEP)] if size == 1 else run_ranks(working_memory, size, DEEP)
    for most, between, units in every:
        blocks = [taken for name, taken in units.items() if name != ROOT]
        assert len(blocks) == DEEP.blocks
        slices = 1 / size if size > 1 else 0
        assert most <= units[ROOT] + (UNITS_AT_WORK + slices) * max(blocks)
        assert most < sum(blocks)
        assert between == [0] * len(between)


def test_gradients_do_not_gather_up_on_the_device():
    _, trainer = streamed(Ranks(), DEEP)
    trainer.run()
    assert set(trainer.ledger.held("device")) <= {"buffers"}
    assert {"gradients", "optimizer", "float32 weights"} <= set(trainer.ledger.held("host"))
    trainer.close()


def test_nothing_of_a_step_stays_even_if_circles_are_never_looked_for():
    _, trainer = streamed(Ranks(), Shape(loops=2), limits=LimitsConfig(memory_bytes=2**30))
    held = []
    gc.disable()
    try:
        trainer.run(lambda report: held.append(report.memory["device"]))
    finally:
        gc.enable()
    trainer.close()
    assert held == [held[0]] * len(held)


def test_frozen_weights_lie_with_the_others_and_stay_as_they_are():
    problem, trainer = streamed(Ranks(), Shape(frozen=(0, 2)))
    before = Letters(Shape(frozen=(0, 2))).blocks[0].wide.weight.detach().clone()
    trainer.run()
    assert not any(name.startswith("blocks.0") for name in trainer.result())
    assert trainer.ledger.held("device").get("frozen weights", 0) == 0
    block = problem.model.blocks[0]
    seen = []
    block.wide.register_forward_pre_hook(lambda module, _: seen.append(module.weight.detach().clone()))
    with trainer.averaged(), torch.no_grad():
        problem.loss(problem.batch(0), 0)
    torch.testing.assert_close(seen[0], before, atol=0, rtol=0)
    trainer.close()


def test_weights_outside_their_unit_are_an_error_that_says_whose_they_are():
    problem, trainer = streamed(Ranks(), Shape())
    weight = problem.model.blocks[1].wide.weight
    assert weight.shape == (20, 12)
    with pytest.raises(ModelError) as caught:
        weight @ torch.ones(12)
    assert caught.value.code == "not_gathered"
    assert caught.value.location == "blocks.1.wide.weight"
    assert "'blocks.1'" in caught.value.message
    trainer.close()


def test_a_new_model_takes_the_trained_weights():
    problem, trainer = streamed(Ranks(), Shape())
    trainer.run()
    with trainer.averaged(), torch.no_grad():
        averaged = problem.loss(problem.batch(0), 0)[0]
    finished = Problem(Shape())
    take_weights(finished.model, trainer.result())
    trainer.close()
    with torch.no_grad():
        torch.testing.assert_close(finished.loss(finished.batch(0), 0)[0], averaged, atol=1e-6, rtol=0)


def given_back(ranks):
    """Codes of what comes of giving the weights to the trained model, and the loss of a new one."""
    problem = Problem(Shape())
    trainer = Trainer(problem.model, problem.loss, problem.batch, config_of(2), ranks=ranks)
    trainer.run()
    weights = trainer.result()
    trainer.close()
    if not weights:
        return None
    with pytest.raises(ModelError) as caught:
        take_weights(problem.model, weights)
    finished = Problem(Shape())
    take_weights(finished.model, weights)
    return caught.value.code, float(finished.loss(finished.batch(0), 0)[0].detach())


def test_the_model_of_shards_takes_none_back():
    first, second = run_ranks(given_back, 2)
    assert first[0] == "not_gathered"
    assert first[1] < float(Problem(Shape()).loss(Problem(Shape()).batch(0), 0)[0].detach())
    assert second is None


def test_a_failed_forward_pass_leaves_an_engine_that_goes_on():
    problem, trainer = streamed(Ranks(), Shape())

    class Broken(Exception):
        pass

    def breaks(*_):
        raise Broken

    handle = problem.model.blocks[1].narrow.register_forward_hook(breaks)
    with pytest.raises(Broken):
        trainer.run()
    assert trainer.engine.working_bytes == 0
    handle.remove()
    assert trainer.run().steps == 4
    trainer.close()


def from_nothing(ranks, shape):
    torch.manual_seed(0)
    with torch.device("meta"):
        problem = Problem(shape)
    problem.model.offset = torch.zeros(shape.width)
    trainer = Trainer(problem.model, problem.loss, problem.batch, config_of(6, offload=ON_CPU), ranks=ranks)
    losses = []
    trainer.run(lambda report: losses.append(report.loss))
    weights = trainer.result()
    trainer.close()
    return losses, weights


def test_a_model_without_memory_is_made_unit_by_unit_alike_on_every_rank():
    shape = Shape(tied=False)
    losses, weights = from_nothing(Ranks(), shape)
    assert losses[-1] < losses[0]
    assert weights["blocks.0.wide.weight"].std() > 0
    assert float(weights["blocks.0.norm.weight"].mean()) == pytest.approx(1.0, abs=0.1)
    for others, _ in run_ranks(from_nothing, 2, shape):
        assert others == pytest.approx(losses, abs=1e-5)
