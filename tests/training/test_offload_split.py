"""The last buckets are stepped on the device, the others elsewhere: together they take the same steps."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from module_graphs import KINDS, Graph, GraphProblem, graph_training, train_graph
from training_ranks import SAME_WORKER, Gang

from foldase_models.training import CheckpointConfig, CheckpointStore, OffloadConfig, Ranks, Trainer

pytestmark = SAME_WORKER

EVERYTHING = Graph(33, KINDS, 1)
TOLERANCE = 1e-5
"""Absolute, of losses and weights of order 1: squares are summed in another order."""
UNCLIPPED = 1e9
"""Largest norm in bfloat16, where a factor that differs in its last bit may round a weight another way."""
STEPS, HALF = 8, 4
ALL = 1000
"""More buckets than any model here has."""


def training(place, folder, count, *, stage=0, ahead=False, **changes):
    offload = OffloadConfig(
        optimizer=place, folder=folder if place == "nvme" else None, ahead=ahead, device_buckets=count
    )
    if changes.get("precision") == "bfloat16":
        changes["clip_norm"] = UNCLIPPED
    return graph_training(stage, steps=STEPS, offload=offload, **changes)


def assert_alike(found, wanted):
    np.testing.assert_allclose(found.losses, wanted.losses, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(found.norms, wanted.norms, rtol=TOLERANCE)
    np.testing.assert_allclose(found.averaged, wanted.averaged, rtol=0, atol=TOLERANCE)
    for name, weight in wanted.weights.items():
        np.testing.assert_allclose(found.weights[name], weight, rtol=0, atol=TOLERANCE, err_msg=name)


@pytest.fixture(scope="module")
def gang():
    with Gang(2) as gang:
        yield gang


@pytest.mark.parametrize(
    ("place", "stage", "count", "changes"),
    [
        ("cpu", 0, ALL, {}),
        ("cpu", 2, 2, {"precision": "bfloat16", "ahead": True}),
        ("nvme", 1, 2, {"micro_batches": 3, "average_decay": 0.0}),
    ],
)
def test_one_process_takes_the_same_steps(tmp_path, place, stage, count, changes):
    found, wanted = (
        train_graph(Ranks(), EVERYTHING, training(place, tmp_path, number, stage=stage, **changes))
        for number in (count, 0)
    )
    assert_alike(found, wanted)


@pytest.mark.verify
@pytest.mark.parametrize("stage", [1, 3])
def test_two_ranks_take_the_same_steps(gang, tmp_path, stage):
    """At stage 3 the device's part lies beside the shards that are gathered."""
    found, wanted = (
        gang.run(train_graph, EVERYTHING, training("cpu", tmp_path, count, stage=stage, micro_batches=3))
        for count in (2, 0)
    )
    for one, other in zip(found, wanted, strict=True):
        assert_alike(one, other)


@pytest.mark.verify
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("place", ["cpu", "nvme"])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_any_ranks_take_the_same_steps_at_every_stage(tmp_path, size, place, precision):
    with Gang(size, deadline=120.0) as several:
        for stage, parts, ahead in itertools.product((0, 1, 2, 3), (1, size + 1), (False, True)):
            if ahead and place == "nvme":
                continue
            changes = {"stage": stage, "micro_batches": parts, "precision": precision}
            found, wanted = (
                several.run(
                    train_graph,
                    EVERYTHING,
                    training(place, tmp_path, count, ahead=ahead and count > 0, **changes),
                )
                for count in (3, 0)
            )
            for one, other in zip(found, wanted, strict=True):
                assert_alike(one, other)


def losses_of(config, store=None, until=STEPS):
    problem = GraphProblem(EVERYTHING)
    trainer = Trainer(problem.model, problem.loss, problem.batch, config, store)
    losses = []

    def note(report):
        losses.append(report.loss)
        if report.step == until < STEPS:
            raise KeyboardInterrupt

    try:
        trainer.run(note)
    except KeyboardInterrupt:
        assert until < STEPS
    keys = set(trainer.engine.state())
    trainer.close()
    return losses, keys


@pytest.mark.parametrize(("first", "then"), [(0, 2), pytest.param(2, 0, marks=pytest.mark.verify), (3, ALL)])
def test_a_checkpoint_goes_on_with_another_number_of_them(tmp_path, first, then):
    plans = [
        training("cpu", None, count, checkpoint=CheckpointConfig(seconds=3600.0)) for count in (first, then)
    ]
    whole, keys = losses_of(plans[0])
    losses_of(plans[0], CheckpointStore(tmp_path), HALF)
    rest, others = losses_of(plans[1], CheckpointStore(tmp_path))
    assert others == keys
    assert rest == pytest.approx(whole[HALF:], abs=TOLERANCE)


def test_the_state_of_the_last_buckets_lies_on_the_device(tmp_path):
    """Moments and averages; float32 weights are the model's own."""
    problem = GraphProblem(EVERYTHING)
    trainer = Trainer(problem.model, problem.loss, problem.batch, training("cpu", tmp_path, 2))
    shares = [bucket.share for bucket in trainer.engine.buckets]
    here, there = sum(shares[-2:]), sum(shares[:-2])
    assert 0 < here < there
    device, host = (trainer.ledger.held(tier) for tier in ("device", "host"))
    trainer.close()
    assert (device["optimizer"], device["average"]) == (8 * here, 4 * here)
    assert (host["optimizer"], host["average"], host["gradients"]) == (8 * there, 4 * there, 4 * there)
