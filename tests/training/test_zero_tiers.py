"""Which memory stages 1 to 3 use with the optimizer elsewhere: every tensor counted, none in a wrong tier."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from training_ranks import SAME_WORKER, Gang

from foldase_models.training import LimitsConfig, OffloadConfig, Ranks, Trainer, TrainingConfig
from foldase_models.training.counted_memory import peaks_of

pytestmark = SAME_WORKER

WIDTH, LAYERS, ROWS, STEPS = 256, 8, 4, 3
DEVICE_BYTES = 4.0
"""A parameter, with bfloat16 weights and the optimizer in main memory: gradient buckets included."""
OPTIMIZER_BYTES = 12.0
"""A parameter in float32: weights and both moments."""
SMALL_CHANGE = 0.1
"""Bytes a parameter, for padding and scalars."""
LOSS_TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def gang():
    with Gang(2) as gang:
        yield gang


def measure(ranks, folder, stage, precision, parts, **offload):
    """Peak bytes a parameter by tier, activations at most, and losses."""
    torch.manual_seed(0)
    layers = [part for _ in range(LAYERS) for part in (nn.Linear(WIDTH, WIDTH), nn.Tanh())]
    model = nn.Sequential(*layers)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    config = TrainingConfig(
        steps=STEPS,
        stage=stage,
        precision=precision,
        micro_batches=parts * ranks.size,
        average_decay=0.0,
        offload=OffloadConfig(**offload, folder=Path(folder) / str(ranks.rank) if offload else None),
        limits=LimitsConfig(bucket_bytes=2**17, collective_seconds=30.0),
    )

    def loss(batch, step):
        return model(batch).float().square().mean(), {}

    trainer = Trainer(model, loss, lambda number: torch.randn(ROWS, WIDTH), config, ranks=ranks)
    losses = []
    peaks = peaks_of(trainer.ledger, lambda: trainer.run(lambda report: losses.append(report.loss)))
    trainer.close()
    activations = 4 * ROWS * WIDTH * (4 * LAYERS + 4) / parameters
    return {tier: size / parameters for tier, size in peaks.items()}, activations, losses


def with_host_optimizer(ranks, folder, parts):
    return measure(ranks, folder, 2, "bfloat16", parts, optimizer="cpu")


@pytest.mark.parametrize("parts", [1, 3])
def test_with_the_optimizer_in_main_memory_the_device_holds_weights_and_a_few_buckets(gang, tmp_path, parts):
    for peaks, activations, _ in gang.run(with_host_optimizer, str(tmp_path), parts):
        assert peaks["device"] <= DEVICE_BYTES + activations
        assert OPTIMIZER_BYTES / 2 <= peaks["host"] <= (OPTIMIZER_BYTES + 4) / 2 + SMALL_CHANGE


def everywhere(ranks, folder, precision):
    """Losses by stage and tier; every training is counted, so no tensor of main memory is calculated with."""
    places = [
        (stage, {"optimizer": optimizer, "parameters": parameters})
        for stage in (0, 1, 2, 3)
        for optimizer in ("none", "cpu", "nvme")
        for parameters in (("none", "cpu", "nvme") if stage == 3 and optimizer != "none" else ("none",))
    ]
    found = {}
    for number, (stage, offload) in enumerate(places):
        home = Path(folder, f"{precision}-{ranks.size}-{number}", str(ranks.rank))
        home.mkdir(parents=True)
        where = {name: place for name, place in offload.items() if place != "none"}
        _, _, found[stage, *offload.values()] = measure(ranks, home.parent, stage, precision, 2, **where)
    return found


@pytest.mark.verify
def test_float32_losses_are_the_same_wherever_things_lie(gang, tmp_path):
    alone = everywhere(Ranks(), tmp_path, "float32")
    assert len(alone) == 3 * 3 + 7
    for several in (alone, gang.run(everywhere, str(tmp_path), "float32", timeout=300)[0]):
        wanted = several[0, "none", "none"]
        for place, losses in several.items():
            assert losses == pytest.approx(wanted, abs=LOSS_TOLERANCE), place
