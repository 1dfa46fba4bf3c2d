"""Rates that folding models were trained with. Importable without torch."""

from __future__ import annotations

from typing import Any

from foldase_models.training.config import (
    CheckpointConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainingConfig,
)


def published_training(
    *, learning_rate: float = 1e-3, warmup_steps: int = 50, **changes: Any
) -> TrainingConfig:
    """Rates as in Jumper et al. 2021, supplement 1.11.3, but that a step's gradients are clipped together."""
    start: dict[str, Any] = {
        "optimizer": OptimizerConfig(
            learning_rate=learning_rate, betas=(0.9, 0.999), epsilon=1e-6, weight_decay=0.0
        ),
        "schedule": ScheduleConfig(warmup_steps=warmup_steps),
        "clip_norm": 0.1,
        "average_decay": 0.999,
        "checkpoint": CheckpointConfig(seconds=30.0),
    }
    return TrainingConfig(**(start | changes))
