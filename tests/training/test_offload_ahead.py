"""Steps that begin before the norm is known are those that wait for it, to the last bit."""

from __future__ import annotations

import itertools
import threading
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from module_graphs import KINDS, Graph, GraphProblem, graph_training, graphs
from torch import nn
from torch.utils.checkpoint import checkpoint
from training_ranks import SAME_WORKER, Gang

from foldase_models.errors import ModelError
from foldase_models.training import (
    CheckpointConfig,
    CheckpointStore,
    LimitsConfig,
    OffloadConfig,
    Ranks,
    Trainer,
)
from foldase_models.training.offload import ahead as ahead_module
from foldase_models.training.optim import adamw

pytestmark = SAME_WORKER

EVERYTHING = Graph(33, KINDS, 1)
FACTORS = (1.0, 1e4, 1.0, float("nan"), 1.0, 1.0, 1e4)
"""Of the loss, step after step: left alone, clipped, not finite."""
STEPS, FEW = 20, 3
CYCLE = len(FACTORS)
CLIPPED, SKIPPED = 5, 3
"""Of these steps."""
CLIP_NORM = 100.0
PATIENCE = 30.0
"""Seconds, for a thread that is not going to come."""


@dataclass
class Outcome:
    """Of a training: losses, norms, all of its state, steps taken back and steps skipped."""

    losses: list[float]
    norms: list[float]
    state: dict[str, torch.Tensor]
    taken_back: int | None
    skipped: int


class Bumpy(GraphProblem):
    """Losses now and then so large that the step is clipped, or not a number."""

    def loss(self, batch, step):
        loss, values = super().loss(batch, step)
        return loss * FACTORS[step % len(FACTORS)], values


class Looped(nn.Module):
    """A layer that is used again in a part that is run backward within the backward pass."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.first, self.shared = nn.Linear(33, 33), nn.Linear(33, 33)

    def forward(self, x):
        x = checkpoint(lambda y: self.shared(y).tanh(), self.first(x), use_reentrant=True)
        return self.shared(x)


def training(ahead, *, stage=0, streams=False, steps=STEPS, **changes):
    offload = OffloadConfig(
        optimizer="cpu", parameters="cpu" if streams else "none", ahead=ahead, folder=None
    )
    return graph_training(stage, steps=steps, clip_norm=CLIP_NORM, offload=offload, **changes)


def train(ranks, problem, config, store=None, until=None):
    """Train to the end, or stop after so many steps, with a checkpoint where there is a store."""
    trainer = Trainer(problem.model, problem.loss, problem.batch, config, store, ranks=ranks)
    reports = []

    def note(report):
        reports.append(report)
        if report.step == until:
            raise KeyboardInterrupt

    try:
        trainer.run(note)
    except KeyboardInterrupt:
        assert until is not None
    state = {key: shard.read().clone() for key, shard in trainer.engine.state().items()}
    skipped = trainer.skipped_steps
    trainer.close()
    norms = [report.gradient_norm for report in reports]
    return Outcome([report.loss for report in reports], norms, state, reports[-1].steps_taken_back, skipped)


def train_graph(ranks, graph, config):
    return train(ranks, Bumpy(graph), config)


def assert_same(found, wanted):
    torch.testing.assert_close(found.losses, wanted.losses, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(found.norms, wanted.norms, rtol=0, atol=0, equal_nan=True)
    assert found.state.keys() == wanted.state.keys()
    for key, value in wanted.state.items():
        assert torch.equal(found.state[key], value), key


@pytest.fixture(scope="module")
def gang():
    with Gang(2) as gang:
        yield gang


@pytest.mark.parametrize(
    ("precision", "parts", "average"), [("float32", 1, 0.9), ("bfloat16", 2, 0.0), ("bfloat16", 1, 0.9)]
)
def test_a_step_ahead_changes_no_bit(precision, parts, average):
    """Through steps that are clipped and steps that are skipped; these were begun in vain."""
    changes = {"precision": precision, "micro_batches": parts, "average_decay": average}
    plain, early = (train_graph(Ranks(), EVERYTHING, training(ahead, **changes)) for ahead in (False, True))
    assert_same(early, plain)
    assert early.skipped == SKIPPED
    assert sum(norm > CLIP_NORM for norm in early.norms) == CLIPPED
    assert (early.taken_back, plain.taken_back) == (CLIPPED + SKIPPED, None)


@pytest.mark.parametrize("stage", [2, *(pytest.param(stage, marks=pytest.mark.verify) for stage in (1, 3))])
def test_a_step_ahead_changes_no_bit_on_two_ranks(gang, stage):
    plain, early = (
        gang.run(train_graph, EVERYTHING, training(ahead, stage=stage, steps=CYCLE, micro_batches=4))
        for ahead in (False, True)
    )
    for one, other in zip(early, plain, strict=True):
        assert_same(one, other)
    # Which buckets had begun when the norm was known depends on the moment, not what became of them.
    assert 0 < early[0].taken_back < CYCLE


@pytest.mark.verify
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_step_ahead_changes_no_bit_anywhere(size, precision):
    """At every stage, with one part of a batch for each rank, with fewer and with more."""
    with Gang(size, deadline=120.0) as several:
        for stage, streams, parts, average in itertools.product(
            (0, 1, 2, 3), (False, True), (1, size, 2 * size + 1), (0.0, 0.9)
        ):
            if streams and stage < 3:
                continue
            changes = {
                "steps": CYCLE,
                "precision": precision,
                "micro_batches": parts,
                "average_decay": average,
            }
            plain, early = (
                several.run(train_graph, EVERYTHING, training(ahead, stage=stage, streams=streams, **changes))
                for ahead in (False, True)
            )
            for one, other in zip(early, plain, strict=True):
                assert_same(one, other)


@given(graph=graphs(3), stage=st.sampled_from((0, 2, 3)), precision=st.sampled_from(("float32", "bfloat16")))
@settings(max_examples=4, deadline=None)
def test_any_model_takes_the_same_steps(graph, stage, precision):
    """With weights in main memory too at stage 3, where layers fetch them while steps are under way."""
    plain, early = (
        train_graph(
            Ranks(),
            graph,
            training(ahead, stage=stage, streams=stage == 3, steps=CYCLE, precision=precision),
        )
        for ahead in (False, True)
    )
    assert_same(early, plain)


@pytest.mark.parametrize("stage", [0, 2])
def test_a_gradient_that_comes_late_is_in_the_step_that_was_begun_without_it(stage):
    outcomes = []
    for ahead in (False, True):
        problem = GraphProblem(EVERYTHING)
        problem.model = Looped()

        def loss(batch, step, model=problem.model):
            del step
            return model(batch[1]).square().mean(), {}

        problem.loss = loss
        outcomes.append(train(Ranks(), problem, training(ahead, stage=stage, steps=FEW)))
    assert_same(outcomes[1], outcomes[0])
    assert outcomes[1].taken_back == FEW


class Gate(torch.autograd.Function):
    """The backward pass stands still here until an event comes; tells whether it did."""

    @staticmethod
    def forward(ctx, x, event, came):
        ctx.event, ctx.came = event, came
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        ctx.came.append(ctx.event.wait(PATIENCE))
        return gradient, None, None


def train_gated(ranks, config):
    """Train blocks; the way back through the first one waits for the step of another. Whether that came."""
    stepped, came = threading.Event(), []
    plain_step = adamw.step

    def step(*given, **named):
        plain_step(*given, **named)
        stepped.set()

    model = nn.Module()
    model.blocks = nn.ModuleList(nn.Linear(33, 33) for _ in range(4))

    def loss(batch, step):
        x = Gate.apply(model.blocks[0](batch), stepped, came)
        for block in model.blocks[1:]:
            x = block(x)
        stepped.clear()
        return x.square().mean(), {}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adamw, "step", step)
        trainer = Trainer(model, loss, lambda number: torch.ones(2, 33), config, ranks=ranks)
        trainer.run()
        trainer.close()
    return came


@pytest.mark.parametrize(("stage", "streams"), [(0, False), (2, False), (3, True)])
def test_buckets_are_stepped_before_the_backward_pass_is_over(stage, streams):
    config = training(True, stage=stage, streams=streams, steps=FEW, micro_batches=1)
    assert train_gated(Ranks(), config) == [True] * FEW


def test_buckets_of_gathered_shards_are_stepped_before_the_backward_pass_is_over(gang):
    config = training(True, stage=3, steps=FEW, micro_batches=2)
    assert gang.run(train_gated, config) == [[True] * FEW] * 2


@pytest.mark.parametrize(("first", "then"), [(True, False), (False, True)])
def test_a_checkpoint_goes_on_with_and_without(tmp_path, first, then):
    changes = {"checkpoint": CheckpointConfig(seconds=3600.0), "micro_batches": 1}
    whole = train_graph(Ranks(), EVERYTHING, training(first, **changes))
    store = CheckpointStore(tmp_path)
    train(Ranks(), Bumpy(EVERYTHING), training(first, **changes), store, until=8)
    rest = train(Ranks(), Bumpy(EVERYTHING), training(then, **changes), CheckpointStore(tmp_path))
    assert rest.losses[:1] == whole.losses[8:9]
    assert rest.state.keys() == whole.state.keys()
    for key, value in whole.state.items():
        assert torch.equal(rest.state[key], value), key


def test_the_second_set_has_an_owner_of_its_own():
    """12 bytes a parameter, 16 with an average; without it nothing."""
    for ahead, average, each in ((False, 0.9, 0), (True, 0.0, 12), (True, 0.9, 16)):
        problem = GraphProblem(EVERYTHING)
        config = training(ahead, average_decay=average)
        trainer = Trainer(problem.model, problem.loss, problem.batch, config)
        held = trainer.ledger.held("host")
        assert held.get(ahead_module.OWNER, 0) == each * held["optimizer"] // 8
        trainer.close()


def test_a_cap_that_the_second_set_exceeds_says_so():
    problem = GraphProblem(Graph(300, ("linear",) * 4, 0))
    size = sum(parameter.numel() for parameter in problem.model.parameters())
    config = training(True, average_decay=0.0, limits=LimitsConfig(memory_bytes=32 * size))
    with pytest.raises(ModelError, match="memory_cap") as caught:
        Trainer(problem.model, problem.loss, problem.batch, config)
    assert caught.value.location == "limits.memory_bytes"
