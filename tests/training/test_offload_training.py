"""Whole trainings with the optimizer in main memory or on a disk are those without."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from module_graphs import KINDS, Graph, GraphProblem, graph_training, train_graph
from torch import nn
from training_ranks import SAME_WORKER, Gang

from foldase_models.training import LimitsConfig, OffloadConfig, Ranks, ScheduleConfig, Trainer
from foldase_models.training.counted_memory import peaks_of

pytestmark = SAME_WORKER

LOSS_TOLERANCE = 1e-5
"""Absolute, of every loss: sums in another order."""
FINAL_TOLERANCE = 0.01
"""Relative, of the mean loss at the end, where weights are rounded or gradients one step old."""
TRAJECTORY_STEPS = 50
LONG_STEPS = 100
END_STEPS = 30
EVERYTHING = Graph(33, KINDS, 1)
SMOOTH = Graph(16, ("linear", "norm", "tied"), 1)
DEVICE_BYTES = 4
"""A parameter, of bfloat16 weights and gradients."""
ACTIVATION_BYTES = 2**20
"""Of the small model, and of the step's scratch where its C++ is not built."""


@pytest.fixture(scope="module")
def gang():
    with Gang(2) as gang:
        yield gang


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("disk")


def training(place, folder, *, stage=0, steps=TRAJECTORY_STEPS, delayed=False, **changes):
    offload = OffloadConfig(
        optimizer=place,
        parameters=place if stage == 3 else "none",
        folder=folder if place == "nvme" else None,
        delayed=delayed,
    )
    settings = {
        "schedule": ScheduleConfig(warmup_steps=20),
        "limits": LimitsConfig(bucket_bytes=65536, collective_seconds=30.0),
    }
    return graph_training(stage, steps=steps, offload=offload, **(settings | changes))


@cache
def on_the_device(graph, steps):
    """What one process does that offloads nothing."""
    return train_graph(Ranks(), graph, training("none", None, steps=steps))


def check_trajectory(found):
    wanted = on_the_device(EVERYTHING, TRAJECTORY_STEPS)
    np.testing.assert_allclose(found.losses, wanted.losses, rtol=0, atol=LOSS_TOLERANCE)
    np.testing.assert_allclose(found.averaged, wanted.averaged, rtol=0, atol=LOSS_TOLERANCE)
    for name, weight in wanted.weights.items():
        np.testing.assert_allclose(found.weights[name], weight, rtol=0, atol=LOSS_TOLERANCE, err_msg=name)


def end_of(found):
    return np.mean(found.losses[-END_STEPS:])


@pytest.mark.parametrize(
    ("place", "stage"),
    [("cpu", 0), ("nvme", 0), ("nvme", 3), pytest.param("cpu", 3, marks=pytest.mark.verify)],
)
def test_one_process_takes_the_same_steps(folder, place, stage):
    """At stage 3 the weights lie beside the optimizer's state."""
    check_trajectory(train_graph(Ranks(), EVERYTHING, training(place, folder, stage=stage)))


@pytest.mark.parametrize(("place", "stage"), [("cpu", 2), ("nvme", 1)])
def test_two_ranks_take_the_same_steps(gang, folder, place, stage):
    check_trajectory(gang.run(train_graph, EVERYTHING, training(place, folder, stage=stage))[0])


@pytest.mark.verify
@pytest.mark.parametrize("place", ["cpu", "nvme"])
@pytest.mark.parametrize(("stage", "size"), [(0, 2), (0, 3), (1, 2), (1, 3), (2, 2), (2, 3), (3, 2)])
def test_any_ranks_take_the_same_steps_at_every_stage(folder, place, stage, size):
    """Also with fewer parts of a batch than ranks, where stages 0 to 2 allow that."""
    with Gang(size) as gang:
        check_trajectory(gang.run(train_graph, EVERYTHING, training(place, folder, stage=stage))[0])


@pytest.mark.parametrize("place", ["cpu", pytest.param("nvme", marks=pytest.mark.verify)])
@pytest.mark.parametrize(
    ("precision", "delayed"),
    [("float32", True), ("bfloat16", False), pytest.param("bfloat16", True, marks=pytest.mark.verify)],
)
def test_rounded_and_delayed_steps_end_where_exact_ones_do(folder, place, precision, delayed):
    config = training(place, folder, steps=LONG_STEPS, delayed=delayed, precision=precision)
    found = train_graph(Ranks(), SMOOTH, config)
    assert end_of(found) == pytest.approx(end_of(on_the_device(SMOOTH, LONG_STEPS)), rel=FINAL_TOLERANCE)


@pytest.mark.verify
@pytest.mark.parametrize("place", ["cpu", "nvme"])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_delayed_steps_on_two_ranks_end_where_exact_ones_do(gang, folder, place, stage):
    config = training(place, folder, stage=stage, steps=LONG_STEPS, delayed=True)
    first, second = gang.run(train_graph, SMOOTH, config)
    assert end_of(first) == pytest.approx(end_of(on_the_device(SMOOTH, LONG_STEPS)), rel=FINAL_TOLERANCE)
    assert first.losses == second.losses


def memory_of(place, folder, stage):
    """Of a training of half a million parameters: bytes by tier, by owner on the device, and at the peak."""
    model = nn.Sequential(*(nn.Linear(256, 256) for _ in range(8)))
    limits = LimitsConfig(bucket_bytes=2**17)
    changes = {"precision": "bfloat16", "average_decay": 0.0, "limits": limits, "micro_batches": 1}
    config = training(place, folder, stage=stage, steps=2, **changes)
    trainer = Trainer(
        model,
        lambda batch, step: (model(batch).float().square().mean(), {}),
        lambda number: torch.ones(2, 256),
        config,
    )
    peaks = peaks_of(trainer.ledger, trainer.run)
    found = trainer.ledger.tiers(), trainer.ledger.held("device"), peaks["device"]
    trainer.close()
    return sum(parameter.numel() for parameter in model.parameters()), *found


@pytest.mark.parametrize(
    ("place", "stage"),
    [
        ("cpu", 0),
        ("nvme", 2),
        pytest.param("cpu", 2, marks=pytest.mark.verify),
        pytest.param("nvme", 0, marks=pytest.mark.verify),
    ],
)
def test_with_bfloat16_weights_the_device_holds_four_bytes_a_parameter(folder, place, stage):
    """Weights and gradients, with the buckets in which these travel; beside them activations and nothing."""
    parameters, tiers, device, peak = memory_of(place, folder, stage)
    assert set(device) <= {"weights", "gradients", "gradient buckets"}
    assert sum(device.values()) <= DEVICE_BYTES * parameters
    assert peak <= DEVICE_BYTES * parameters + ACTIVATION_BYTES
    if place == "cpu":
        assert tiers["host"] == 14 * parameters
        assert tiers["pinned"] == tiers["disk"] == 0
    else:
        assert tiers["host"] == 0
        assert tiers["disk"] == pytest.approx(14 * parameters, rel=0.02)


def clock_of(folder, place):
    problem = GraphProblem(EVERYTHING)
    trainer = Trainer(problem.model, problem.loss, problem.batch, training(place, folder, steps=2))
    reports = []
    trainer.run(reports.append)
    trainer.close()
    return reports[-1].numbers()


def test_steps_say_what_the_disk_and_the_optimizer_took(folder):
    times = clock_of(folder, "nvme")
    assert min(times[f"{kind}_seconds"] for kind in ("disk", "optimizer", "transfer")) > 0
    assert times["disk_bytes"] > 0
    assert clock_of(folder, "cpu")["optimizer_seconds"] > 0
