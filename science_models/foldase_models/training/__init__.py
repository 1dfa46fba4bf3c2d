"""How models are trained: loop, ZeRO, offload, checkpoints. Plain torch, nothing about any one model."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from foldase_models.training.checkpoints import CheckpointStore
    from foldase_models.training.config import (
        CheckpointConfig,
        LimitsConfig,
        OffloadConfig,
        OptimizerConfig,
        ScheduleConfig,
        TrainingConfig,
    )
    from foldase_models.training.ranks import Ranks
    from foldase_models.training.trainer import StepReport, Trainer, TrainingSummary

_HOMES = {
    "CheckpointConfig": "config",
    "CheckpointStore": "checkpoints",
    "LimitsConfig": "config",
    "OffloadConfig": "config",
    "OptimizerConfig": "config",
    "Ranks": "ranks",
    "ScheduleConfig": "config",
    "StepReport": "trainer",
    "Trainer": "trainer",
    "TrainingConfig": "config",
    "TrainingSummary": "trainer",
}

__all__ = [
    "CheckpointConfig",
    "CheckpointStore",
    "LimitsConfig",
    "OffloadConfig",
    "OptimizerConfig",
    "Ranks",
    "ScheduleConfig",
    "StepReport",
    "Trainer",
    "TrainingConfig",
    "TrainingSummary",
]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
