"""Small trainings with optimizers that compress, for their tests."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import nn

from foldase_models.training import (
    CheckpointConfig,
    CheckpointStore,
    LimitsConfig,
    OptimizerConfig,
    ScheduleConfig,
    Trainer,
    TrainingConfig,
)
from foldase_models.training.config import CompressionConfig
from foldase_models.training.optim.compressed import CompressedMean

OWN_WORKER = pytest.mark.xdist_group("compressed ranks")
"""Keeps the tests of these trainings in one worker, beside those of others."""
TOKENS, WIDTH, ROWS = 11, 24, 6
UNSEEN = 3
"""Rows of the embedding that no batch has."""
QUICK = CompressionConfig(freeze_step=8, interval_steps=6, variance_kappa=3, longest_interval=4, block=256)
"""Whole gradients and signs by turns at first; from step 8 on an exchange in every step, from 14 on in every
second, from 20 on in every fourth."""
ONE_BIT = CompressionConfig(freeze_step=8, block=256)


class Small(nn.Module):
    """Predicts the sum of two tokens."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.embedding = nn.Embedding(TOKENS + UNSEEN, WIDTH)
        self.hidden = nn.Linear(2 * WIDTH, 2 * WIDTH)
        self.norm = nn.LayerNorm(2 * WIDTH)
        self.readout = nn.Linear(2 * WIDTH, TOKENS)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.readout(self.norm(self.hidden(self.embedding(tokens).flatten(1))).relu())


def batch_of(number: int) -> torch.Tensor:
    return torch.randint(0, TOKENS, (ROWS, 2), generator=torch.Generator().manual_seed(number))


def loss_of(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(model(batch).double(), batch.sum(dim=1) % TOKENS)


def config_of(kind: str = "zero_one_adam", **changes: Any) -> TrainingConfig:
    usual = {"adamw": CompressionConfig(), "one_bit_adam": ONE_BIT, "zero_one_adam": QUICK}
    optimizer = OptimizerConfig(
        kind=kind, learning_rate=3e-3, weight_decay=0.1, compression=changes.pop("compression", usual[kind])
    )
    known = {
        "steps": 40,
        "micro_batches": 4,
        "average_decay": 0.0,
        "schedule": ScheduleConfig(warmup_steps=4),
        "limits": LimitsConfig(bucket_bytes=8192),
        "checkpoint": CheckpointConfig(seconds=1e9),
    }
    return TrainingConfig(optimizer=optimizer, **{**known, **changes})


class Stop(Exception):
    """Ends a training on purpose."""


@dataclass
class Told:
    """What a rank saw of a training.

    Attributes:
        losses, traffic, rounds: after each step.
        weights: of this rank's model after each step, flat.
        result: at the end.
        first: step at which it took over.
    """

    losses: list[float] = field(default_factory=list)
    traffic: list[float] = field(default_factory=list)
    rounds: list[int] = field(default_factory=list)
    weights: list[torch.Tensor] = field(default_factory=list)
    looked: list[torch.Tensor] = field(default_factory=list)
    result: dict[str, torch.Tensor] = field(default_factory=dict)
    first: int = 0
    skipped: int = 0
    lost: int | None = None


def flat(model: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().float().reshape(-1) for parameter in model.parameters()])


def train(ranks, config, looks=(), folder=None, stop_after=None, spoil=None):
    """A training on every rank.

    Args:
        ranks: the processes.
        config: of the training.
        looks: steps after which ranks look at the model.
        folder: of checkpoints.
        stop_after: a step that a checkpoint is written after, and nothing follows.
        spoil: gives the factor of a loss by rank and step.
    """
    model, told = Small(), Told()

    def loss(batch, step):
        factor = 1.0 if spoil is None else spoil(ranks.rank, step)
        return loss_of(model, batch) * factor, {}

    store = None if folder is None else CheckpointStore(folder)
    trainer = Trainer(model, loss, batch_of, config, store, ranks)

    def on_step(report):
        told.losses.append(report.loss)
        told.traffic.append(report.traffic)
        told.rounds.append(report.rounds)
        told.lost = report.gradients_lost
        told.weights.append(flat(model))
        if report.step in looks:
            with trainer.averaged():
                told.looked.append(flat(model))
        if report.step == stop_after:
            raise Stop

    with contextlib.suppress(Stop):
        trainer.run(on_step)
    told.first = trainer.step - len(told.losses)
    told.skipped = trainer.skipped_steps
    told.result = trainer.result()
    trainer.close()
    return told


@contextlib.contextmanager
def exact_means(ranks):
    """Inside, exchanges are means in float32: no sign is rounded, and no error is left."""

    def begin(self, values):
        self.exact = values.clone()
        self._collectives.all_reduce("exact", self.exact).wait()

    def end(self, into):
        into.copy_(self.exact / ranks.size)

    found = CompressedMean.begin, CompressedMean.turn_round, CompressedMean.end
    CompressedMean.begin, CompressedMean.turn_round, CompressedMean.end = begin, lambda self: None, end
    try:
        yield
    finally:
        CompressedMean.begin, CompressedMean.turn_round, CompressedMean.end = found


def with_steps(config: TrainingConfig, **compression: Any) -> TrainingConfig:
    optimizer = config.optimizer
    changed = replace(optimizer.compression, **compression)
    return replace(config, optimizer=replace(optimizer, compression=changed))
