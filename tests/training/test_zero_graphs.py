"""Stages 0 to 2 train whatever module there is as one process would."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from module_graphs import KINDS, Graph, GraphProblem, graph_training, graphs, train_graph
from torch import nn
from training_ranks import SAME_WORKER, Gang

from foldase_models.training import Ranks, Trainer

pytestmark = SAME_WORKER

TOLERANCE = 1e-5
"""Of losses, norms and weights, relative to 1 or their size: sums in another order."""
IDLE_SECONDS = 60
LONG_EXAMPLES = 25
EVERYTHING = Graph(33, KINDS, 1)


@pytest.fixture(scope="module")
def gang():
    with Gang(2) as gang:
        yield gang


@pytest.fixture(scope="module", params=[2, 3, 4])
def large_gang(request):
    with Gang(request.param) as gang:
        yield gang


def check_equal(found, wanted):
    np.testing.assert_allclose(found.losses, wanted.losses, rtol=TOLERANCE, atol=TOLERANCE)
    np.testing.assert_allclose(found.norms, wanted.norms, rtol=TOLERANCE, atol=TOLERANCE)
    np.testing.assert_allclose(found.averaged, wanted.averaged, rtol=TOLERANCE, atol=TOLERANCE)
    assert found.weights.keys() == wanted.weights.keys()
    for name, weight in wanted.weights.items():
        np.testing.assert_allclose(found.weights[name], weight, rtol=TOLERANCE, atol=TOLERANCE, err_msg=name)


def check_ranks(outcomes, wanted):
    check_equal(outcomes[0], wanted)
    assert [other.losses for other in outcomes[1:]] == [outcomes[0].losses] * (len(outcomes) - 1)
    assert not any(other.weights for other in outcomes[1:])


@given(graphs(), st.sampled_from([0, 1, 2]))
@settings(max_examples=5)
def test_any_graph_on_two_ranks_equals_one_process(gang, graph, stage):
    alone = train_graph(Ranks(), graph, graph_training(0))
    check_ranks(gang.run(train_graph, graph, graph_training(stage)), alone)


@pytest.mark.verify
@pytest.mark.parametrize("stage", [0, 1, 2])
@given(graph=graphs(9), parts=st.integers(1, 7))
@settings(max_examples=LONG_EXAMPLES)
def test_any_graph_on_any_ranks_equals_one_process(large_gang, stage, graph, parts):
    """Also with fewer parts of a batch than ranks, and several for some ranks."""
    alone = train_graph(Ranks(), graph, graph_training(0, micro_batches=parts))
    check_ranks(large_gang.run(train_graph, graph, graph_training(stage, micro_batches=parts)), alone)


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_one_process_alone_has_the_same_at_every_stage(stage):
    wanted = train_graph(Ranks(), EVERYTHING, graph_training(0))
    check_equal(train_graph(Ranks(), EVERYTHING, graph_training(stage)), wanted)


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_a_branch_that_is_idle_on_one_rank_never_hangs(gang, stage):
    graph = Graph(33, ("branch", "branch", "linear", "branch"), 5)
    alone = train_graph(Ranks(), graph, graph_training(0))
    check_ranks(gang.run(train_graph, graph, graph_training(stage), timeout=IDLE_SECONDS), alone)


def test_a_whole_model_may_be_idle_on_one_rank(gang):
    """Its loss depends on no parameter there."""
    losses = gang.run(idle_on_the_second_rank)
    assert losses[0] == losses[1]
    assert losses[0][-1] < losses[0][0]


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_buckets_leave_while_the_backward_pass_goes_on(gang, stage):
    """Before the gradient of the first layer is there, those of all later ones are on their way."""
    layers, launched = gang.run(launched_before_the_first_layer, stage)[0]
    assert launched >= layers - 2


def launched_before_the_first_layer(ranks, stage):
    problem = GraphProblem(Graph(33, ("linear",) * 6, 0))
    trainer = Trainer(problem.model, problem.loss, problem.batch, graph_training(stage, steps=1), ranks=ranks)
    operations = trainer.collectives.traffic
    before, found = operations.operations, []
    first = problem.model.parts[0].inner.weight
    first.register_post_accumulate_grad_hook(lambda _: found.append(operations.operations - before))
    trainer.run()
    trainer.close()
    return len(problem.model.parts), found[0]


def test_buffers_and_frozen_weights_are_those_of_the_first_rank(gang):
    assert gang.run(fixed_parts, "bfloat16") == [([0.5, 0.5], [2.0, 2.0], True, "torch.bfloat16")] * 2


def fixed_parts(ranks, precision):
    model = nn.Linear(2, 2)
    model.weight.requires_grad_(False).fill_(0.5 + ranks.rank)
    model.register_buffer("scale", torch.full((2,), 2.0 + ranks.rank))
    model.register_buffer("wide", torch.tensor(True).expand(3))
    config = graph_training(2, steps=1, precision=precision)
    trainer = Trainer(model, lambda batch, step: (model(torch.ones(2)).sum(), {}), int, config, ranks=ranks)
    trainer.run()
    trainer.close()
    return model.weight[0].tolist(), model.scale.tolist(), bool(model.wide[0]), str(model.weight.dtype)


def idle_on_the_second_rank(ranks):
    torch.manual_seed(0)
    model = nn.Linear(4, 1)

    def loss(batch, step):
        value = torch.ones(()) if batch % 2 else model(torch.ones(4)).square().sum()
        return value, {}

    config = graph_training(2, steps=10)
    return losses_of(Trainer(model, loss, lambda number: number, config, ranks=ranks))


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_gradients_that_come_after_their_bucket_was_reduced_count(gang, stage):
    """A part is called twice, and each call runs backward on its own within the pass."""
    alone = called_twice(Ranks(), 0)
    outcomes = gang.run(called_twice, stage)
    np.testing.assert_allclose(outcomes[0], alone, rtol=TOLERANCE)
    assert outcomes[1] == outcomes[0]


def called_twice(ranks, stage):
    torch.manual_seed(0)
    shared = nn.Linear(6, 6)

    def loss(batch, step):
        x = Reentrant.apply(batch.requires_grad_(), shared)
        if int(batch.sum() * 1000) % 2:
            x = Reentrant.apply(x.tanh(), shared)
        return x.square().mean(), {}

    def batch_of(number):
        return torch.randn(3, 6, generator=torch.Generator().manual_seed(number))

    return losses_of(Trainer(shared, loss, batch_of, graph_training(stage, steps=6), ranks=ranks))


class Reentrant(torch.autograd.Function):
    """Calls a module again in the backward pass and runs backward through it there."""

    @staticmethod
    def forward(ctx, x, module):
        ctx.save_for_backward(x)
        ctx.module = module
        return module(x)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            torch.autograd.backward(ctx.module(x), gradient)
        return x.grad, None


def losses_of(trainer):
    losses = []
    trainer.run(lambda report: losses.append(report.loss))
    trainer.close()
    return losses
