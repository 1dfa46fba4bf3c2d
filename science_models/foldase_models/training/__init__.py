"""How models are trained: loop, schedule, averages, checkpoints. Plain torch, nothing about any one model."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from foldase_models.training.checkpoints import CheckpointStore
    from foldase_models.training.config import TrainingConfig
    from foldase_models.training.trainer import StepReport, Trainer, TrainingSummary

_HOMES = {
    "CheckpointStore": "checkpoints",
    "StepReport": "trainer",
    "Trainer": "trainer",
    "TrainingConfig": "config",
    "TrainingSummary": "trainer",
}

__all__ = ["CheckpointStore", "StepReport", "Trainer", "TrainingConfig", "TrainingSummary"]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
