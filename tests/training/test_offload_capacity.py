"""Under a cap of memory, a training on the disk holds eight times the parameters of a plain one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from training_ranks import SAME_WORKER, Gang

from foldase_models.training import LimitsConfig, OffloadConfig, Trainer, TrainingConfig

pytestmark = SAME_WORKER

MIB = 2**20
CAP = 256 * MIB
TIMES = 8
STEPS = 20
WIDTH = 1024
ROWS = 4
LOSS_TOLERANCE = 1e-5
"""Absolute, of losses below 1: sums in another order."""
ONE_LAYER = WIDTH * (WIDTH + 1)


class Tower(nn.Module):
    """Linear layers with ways around them."""

    def __init__(self, layers, width=WIDTH):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))

    def forward(self, x):
        for layer in self.layers:
            x = x + torch.tanh(layer(x)) / len(self.layers)
        return x


def resident_bytes():
    """Of this process, in memory that is no file's."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))


def losses_of(ranks, layers, config, device="cpu", width=WIDTH):
    """Train a tower, whose weights are made as the training takes it over where its device is ``meta``.

    Returns:
        The losses; the most bytes that the ledger counted in memory; those by which the process grew.
    """
    before = resident_bytes()
    torch.manual_seed(0)
    with torch.device(device):
        model = Tower(layers, width)

    def loss(batch, step):
        return (model(batch) - batch.sin()).square().mean(), {}

    def batch_of(number):
        return torch.randn(ROWS, width, generator=torch.Generator().manual_seed(number))

    trainer = Trainer(model, loss, batch_of, config, ranks=ranks)
    losses, resident = [], []

    def note(report):
        losses.append(report.loss)
        resident.append(resident_bytes())

    trainer.run(note)
    peak = sum(size for tier, size in trainer.ledger.peaks().items() if tier != "disk")
    trainer.close()
    return losses, peak, max(resident) - before


def training(folder=None, cap=CAP, parts=2):
    places = {"optimizer": "nvme", "parameters": "nvme", "folder": folder} if folder else {}
    return TrainingConfig(
        steps=STEPS,
        micro_batches=parts,
        average_decay=0.0,
        stage=3 if folder else 0,
        offload=OffloadConfig(**places),
        limits=LimitsConfig(bucket_bytes=4 * MIB, memory_bytes=cap),
    )


def test_losses_under_a_cap_are_those_without(tmp_path):
    with Gang(2) as gang:
        capped, peak, _ = gang.run(losses_of, 4, training(tmp_path, 8 * MIB), "cpu", 128)[0]
        free, *_ = gang.run(losses_of, 4, training(cap=None), "cpu", 128)[0]
    assert capped == pytest.approx(free, abs=LOSS_TOLERANCE)
    assert peak <= 8 * MIB


@pytest.mark.verify
@pytest.mark.timeout(1800)
def test_the_disk_takes_eight_times_the_parameters(tmp_path):
    """Plain: as many as fit beside their gradients and moments, and one layer more does not."""
    layers = CAP // (16 * ONE_LAYER)
    with Gang(1) as gang:
        while not gang.outcomes(losses_of, layers, training(parts=1), timeout=300)[0].good:
            layers -= 1
        assert layers * ONE_LAYER * 16 > 0.9 * CAP
    with Gang(1) as gang:
        settings = training(tmp_path, parts=1)
        losses, peak, grown = gang.run(losses_of, TIMES * layers, settings, "meta", timeout=1500)[0]
    assert len(losses) == STEPS
    assert losses[-1] < losses[0]
    assert peak <= CAP
    assert grown <= CAP
