"""What the recipes share: a training on one or several ranks, with looks at the model on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import nn

from foldase_models.training.checkpoints import CheckpointStore
from foldase_models.training.config import TrainingConfig
from foldase_models.training.ranks import Ranks
from foldase_models.training.trainer import Loss, StepReport, Trainer, TrainingSummary

BatchT = TypeVar("BatchT")
FoundT = TypeVar("FoundT")


@dataclass(frozen=True, slots=True)
class Watcher:
    """What a training tells while it runs, and whom it asks whether to go on.

    In a single process any of these may raise to stop it. On several ranks only rank 0 tells, and whoever
    wants to stop says so by ``stop``, so that all ranks end after the same step.

    Attributes:
        step: called after every step.
        validation: called with the step and the numbers on what was held back.
        prepared: called with the number of examples whose features are known, and of all; only where
            features are computed before the training.
        stop: asked after every step, on every rank.
    """

    step: Callable[[StepReport], None] = lambda report: None  # noqa: ARG005
    validation: Callable[[int, Mapping[str, float]], None] = lambda step, values: None  # noqa: ARG005
    prepared: Callable[[int, int], None] = lambda done, of: None  # noqa: ARG005
    stop: Callable[[], bool] = lambda: False


@dataclass(frozen=True, slots=True)
class Looks(Generic[FoundT]):
    """Looks at the model with averaged weights, by all ranks at the same data.

    Attributes:
        every: steps between two of them.
        between: what they find while the training goes on; None for no such looks.
        at_end: what the last one finds.
    """

    every: int
    between: Callable[[], Mapping[str, float]] | None
    at_end: Callable[[], FoundT]


@dataclass(frozen=True, slots=True)
class Trained(Generic[FoundT]):
    """How a training ended: its summary, what the last look found, and on rank 0 the weights, whole."""

    summary: TrainingSummary
    found: FoundT
    weights: Mapping[str, torch.Tensor]


def run_training(
    model: nn.Module,
    loss: Loss[BatchT],
    batch_of: Callable[[int], BatchT],
    training: TrainingConfig,
    *,
    ranks: Ranks,
    checkpoints: Path | None,
    watcher: Watcher,
    looks: Looks[FoundT],
) -> Trained[FoundT]:
    """Train a model, which is of no use afterwards: its weights may lie in parts on many ranks.

    Args:
        model: the same on all ranks; it moves to the rank's device.
        loss: of a part of a batch.
        batch_of: the part with a number.
        training: what the trainer is told.
        ranks: the processes.
        checkpoints: a folder that all ranks see; the run continues from what an earlier one left there.
        watcher: hears of progress.
        looks: at the model.

    Raises:
        TrainingStopped: the watcher asked for it; a checkpoint was written.
        ModelError: as :class:`foldase_models.training.Trainer`.
    """
    store = None if checkpoints is None else CheckpointStore(checkpoints, kept=training.checkpoint.kept)
    _move(model, training, ranks.device)
    trainer = Trainer(model, loss, batch_of, training, store, ranks)
    with closing(trainer):

        def on_step(report: StepReport) -> None:
            if ranks.first:
                watcher.step(report)
            if looks.between and report.step % looks.every == 0 and report.step < report.steps:
                with trainer.averaged():
                    values = looks.between()
                if ranks.first:
                    watcher.validation(report.step, values)

        summary = trainer.run(on_step, watcher.stop)
        with trainer.averaged():
            found = looks.at_end()
        return Trained(summary, found, trainer.result())


def _move(model: nn.Module, training: TrainingConfig, device: torch.device) -> None:
    """To the device that computes; at stage 3 only buffers: the whole of the weights need not fit there."""
    if training.stage < 3:
        model.to(device)
        return
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = buffer.to(device)
