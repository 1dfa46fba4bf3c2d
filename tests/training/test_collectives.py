"""Named operations over several ranks: results, bytes, and who waits for what when a rank does not come."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest
import torch
from module_graphs import Graph, GraphProblem, graph_training
from torch import nn
from training_ranks import SAME_WORKER, Gang, rank_outcomes

from foldase_models.errors import ModelError
from foldase_models.training import LimitsConfig, Ranks, Trainer, TrainingConfig
from foldase_models.training.collectives import POST_SECONDS, Collectives

pytestmark = SAME_WORKER

DEADLINE = 2.0
GRACE = 4.0
"""Seconds: what the last words of a rank that waited in vain may take."""


@pytest.fixture(scope="module")
def gang():
    with Gang(3) as gang:
        yield gang


def every_operation(ranks, dtype):
    """Sums, slices, gathers and broadcasts of vectors [3 n], and what was sent."""
    collectives = Collectives(ranks)
    whole = torch.arange(6, dtype=dtype) * (ranks.rank + 1)
    summed, largest, own, gathered = whole.clone(), whole.clone(), torch.empty(2, dtype=dtype), whole.clone()
    collectives.all_reduce("sum", summed).wait()
    collectives.all_reduce("largest", largest, largest=True).wait()
    collectives.reduce_scatter("slice", own, whole.clone()).wait()
    collectives.all_gather("slices", gathered, gathered[2 * ranks.rank : 2 * ranks.rank + 2]).wait()
    told = whole.clone()
    collectives.broadcast("told", told, source=2).wait()
    collectives.close()
    found = [one.tolist() for one in (summed, largest, own, gathered, told)]
    return found, collectives.traffic.by_kind, collectives.traffic.operations


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int64])
def test_operations_and_their_bytes(gang, dtype):
    vector = [float(number) for number in range(6)]
    for rank, (found, by_kind, operations) in enumerate(gang.run(every_operation, dtype)):
        summed, largest, own, gathered, told = found
        assert summed == [6 * value for value in vector]
        assert largest == [3 * value for value in vector]
        assert own == summed[2 * rank : 2 * rank + 2]
        assert gathered == [0, 1, 4, 6, 12, 15]
        assert told == [3 * value for value in vector]
        size = 6 * dtype.itemsize * 2 / 3
        sent = {"all_reduce": 4 * size, "reduce_scatter": size, "all_gather": size, "broadcast": size}
        assert by_kind == pytest.approx(sent)
        assert operations == 5


def test_one_rank_alone_copies_and_sends_nothing():
    collectives = Collectives(Ranks())
    vector, own, gathered = torch.arange(4.0), torch.empty(4), torch.empty(4)
    collectives.all_reduce("sum", vector).wait()
    collectives.reduce_scatter("slice", own, vector).wait()
    collectives.all_gather("slices", gathered, own).wait()
    assert vector.tolist() == own.tolist() == gathered.tolist() == [0, 1, 2, 3]
    assert collectives.gather_objects("value", "alone") == ["alone"]
    assert (collectives.traffic.operations, collectives.traffic.bytes) == (0, 0.0)


def agree_on(ranks, values):
    collectives = Collectives(ranks)
    assert collectives.gather_objects("values", values[ranks.rank]) == values
    try:
        collectives.agree("the recipe", values[ranks.rank])
    finally:
        collectives.close()


def test_ranks_agree_or_are_told_who_differs_in_what(gang):
    gang.run(agree_on, [{"a": 1}] * 3)
    with pytest.raises(
        ModelError, match="rank 2 differs from rank 0 in the recipe: 'b' is 3 instead of 2"
    ) as raised:
        gang.run(agree_on, [{"a": 1, "b": 2}, {"a": 1, "b": 2}, {"a": 1, "b": 3}])
    assert raised.value.code == "ranks_disagree"
    with pytest.raises(ModelError, match="ranks 1, 2 differ from rank 0 in the recipe: 5 instead of 4"):
        gang.run(agree_on, [4, 5, 4 + 1])


def disagree(ranks, what):
    width = 5 if what == "parameters" and ranks.rank == 1 else 4
    model = nn.Sequential(nn.Linear(4, width))
    model.register_buffer("scale", torch.ones(3 if what == "buffers" and ranks.rank == 1 else 2))
    if what == "frozen" and ranks.rank == 1:
        model[0].bias.requires_grad_(False)
    parts = 2 if what == "configuration" and ranks.rank == 1 else 1
    config = TrainingConfig(
        steps=1, stage=2, micro_batches=parts, limits=LimitsConfig(collective_seconds=10.0)
    )
    Trainer(model, None, None, config, ranks=ranks)


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("parameters", r"in the model's parameters: '0.weight' is '\(5, 4\) torch.float32 True' instead of"),
        ("buffers", r"in the model's buffers: 'scale' is '\(3,\) torch.float32' instead of"),
        ("frozen", r"in the model's parameters: '0.bias' is .* False' instead of"),
        ("configuration", "in the configuration: 'micro_batches' is 2 instead of 1"),
    ],
)
def test_ranks_with_other_models_or_configurations_never_begin(what, told):
    outcomes = rank_outcomes(disagree, 2, what)
    assert {outcome.error.code for outcome in outcomes} == {"ranks_disagree"}
    for outcome in outcomes:
        assert outcome.error.hint
        with pytest.raises(ModelError, match=told):
            raise outcome.error


def come_late(ranks, seconds):
    """Rank 1 has something else to do before the second operation."""
    collectives = Collectives(ranks, deadline_seconds=DEADLINE)
    collectives.all_reduce("the first", torch.zeros(4)).wait()
    if ranks.rank == 1:
        time.sleep(seconds)
    collectives.all_reduce("gradients of bucket 7", torch.zeros(4)).wait()


def test_who_waits_says_for_what_and_where_the_others_are():
    began = time.monotonic()
    outcomes = rank_outcomes(come_late, 2, DEADLINE + GRACE)
    error = outcomes[0].error
    assert error.code == "collective_failed"
    assert error.location == "rank 0"
    assert "rank 0 waited 2 s for '2. gradients of bucket 7'" in error.message
    assert "rank 1 computes after 1 operations, of which this rank started 2" in error.message
    assert outcomes[1].error.code == "collective_failed", "who comes too late finds nobody"
    assert time.monotonic() - began < DEADLINE + 3 * GRACE


def test_a_rank_that_is_only_slow_is_waited_for(gang):
    gang.run(come_late, DEADLINE / 4)


def train_and_die(ranks, stage, step):
    """Rank 1 is killed in the middle of a step's backward pass."""
    problem = GraphProblem(Graph(33, ("linear", "linear", "branch"), 0))
    limits = LimitsConfig(bucket_bytes=4096, collective_seconds=DEADLINE)
    config = graph_training(stage, steps=50, limits=limits)
    trainer = Trainer(problem.model, problem.loss, problem.batch, config, ranks=ranks)

    def die(_):
        if ranks.rank == 1 and trainer.step == step:
            os.kill(os.getpid(), signal.SIGKILL)

    problem.model.parts[0].inner.weight.register_post_accumulate_grad_hook(die)
    trainer.run()


@pytest.mark.parametrize(
    "stage", [pytest.param(0, marks=pytest.mark.verify), pytest.param(1, marks=pytest.mark.verify), 2]
)
def test_a_killed_rank_ends_the_others_within_the_deadline(stage):
    began = time.monotonic()
    outcomes = rank_outcomes(train_and_die, 3, stage, 2)
    assert outcomes[1].exit_code == -signal.SIGKILL
    for rank in (0, 2):
        error = outcomes[rank].error
        assert error.code == "collective_failed"
        assert f"rank {rank} waited" in error.message
        assert "of bucket" in error.message or "loss" in error.message
        assert "rank 1" in error.message
        assert error.hint.startswith("a rank that is gone or busy elsewhere is the cause")
    assert time.monotonic() - began < DEADLINE + 3 * GRACE


def spoil(ranks, stage, bad_rank):
    """The gradients of one rank are not finite at two steps; which steps were skipped, and the weights."""
    problem = GraphProblem(Graph(33, ("linear", "linear", "loop"), 0))

    def loss(batch, step):
        value, shown = problem.loss(batch, step)
        return (value * float("nan") if step in (1, 4) and ranks.rank == bad_rank else value), shown

    trainer = Trainer(problem.model, loss, problem.batch, graph_training(stage, steps=6), ranks=ranks)
    norms = []
    summary = trainer.run(lambda report: norms.append(report.gradient_norm))
    weights = torch.cat([weight.detach().flatten() for weight in problem.model.parameters()])
    trainer.close()
    return summary.skipped_steps, [norm == norm for norm in norms], weights.tolist()


@pytest.mark.parametrize("stage", [pytest.param(0, marks=pytest.mark.verify), 1, 2])
def test_gradients_that_are_not_finite_on_one_rank_skip_the_step_on_all(gang, stage):
    outcomes = gang.run(spoil, stage, 1)
    for skipped, finite, weights in outcomes:
        assert skipped == 2
        assert finite == [True, False, True, True, False, True]
        assert weights == outcomes[0][2]
        assert all(value == value for value in weights)


def diverge(ranks):
    problem = GraphProblem(Graph(2, ("linear",), 0))
    limits = LimitsConfig(bad_steps=3, collective_seconds=10.0)
    config = graph_training(2, steps=50, limits=limits)

    def loss(batch, step):
        value, shown = problem.loss(batch, step)
        return (value * float("inf") if ranks.rank else value), shown

    Trainer(problem.model, loss, problem.batch, config, ranks=ranks).run()


def test_too_many_bad_steps_end_the_run_on_every_rank():
    outcomes = rank_outcomes(diverge, 2)
    assert {outcome.error.code for outcome in outcomes} == {"diverged"}
    assert {outcome.error.location for outcome in outcomes} == {"step 3"}


@pytest.mark.parametrize("closes", [True, False])
def test_collectives_that_are_closed_or_forgotten_leave_no_thread(gang, closes):
    assert gang.run(threads_left, closes) == [0, 0, 0]


def threads_left(ranks, closes):
    before = set(threading.enumerate())
    collectives = Collectives(ranks)
    collectives.barrier("here")
    if closes:
        collectives.close()
    del collectives
    left = [thread for thread in threading.enumerate() if thread not in before]
    for thread in left:
        thread.join(4 * POST_SECONDS)
    return sum(thread.is_alive() for thread in left)
