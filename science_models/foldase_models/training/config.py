"""How a model is trained. Importable without torch."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from foldase_models.errors import ModelError


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """One run of the trainer.

    Attributes:
        steps: optimizer steps.
        learning_rate: its peak.
        warmup_steps: steps over which it rises from 0.
        final_share: share of the peak left at the end of the cosine.
        weight_decay: of AdamW, on matrices only.
        betas: of AdamW.
        epsilon: of AdamW, added to the root of the second moment.
        clip_norm: largest norm of all gradients together.
        average_decay: of the exponential average of the weights, which is what the training yields.
        checkpoint_seconds: wall time between checkpoints.
        checkpoints_kept: how many are kept.
        bad_steps_allowed: steps in a row with a gradient that is not finite before the run stops.
        seed: of dropout and whatever else draws from torch.
    """

    steps: int
    learning_rate: float = 2e-3
    warmup_steps: int = 50
    final_share: float = 0.03
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.99)
    epsilon: float = 1e-8
    clip_norm: float = 1.0
    average_decay: float = 0.99
    checkpoint_seconds: float = 10.0
    checkpoints_kept: int = 2
    bad_steps_allowed: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        for name, lowest in (("steps", 1), ("warmup_steps", 0), ("checkpoints_kept", 1), ("seed", 0)):
            if getattr(self, name) < lowest:
                raise ModelError(
                    f"{name} must be at least {lowest}, got {getattr(self, name)}", code="bad_config"
                )
        for name in ("learning_rate", "clip_norm"):
            if not getattr(self, name) > 0:
                raise ModelError(f"{name} must be above 0, got {getattr(self, name)}", code="bad_config")
        if not 0 <= self.average_decay < 1:
            raise ModelError(f"average_decay must lie in [0, 1), got {self.average_decay}", code="bad_config")

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "betas": list(self.betas)}


def learning_rate(config: TrainingConfig, step: int) -> float:
    """The rate of a step, counted from 0: a linear rise, then half a cosine down to ``final_share``."""
    rise = min(1.0, (step + 1) / max(1, config.warmup_steps))
    fall = 0.5 * (1.0 + math.cos(math.pi * min(1.0, step / config.steps)))
    return config.learning_rate * rise * (config.final_share + (1.0 - config.final_share) * fall)


def average_decay(config: TrainingConfig, step: int) -> float:
    """The decay of the average at a step; smaller at first, so that the start is soon forgotten."""
    return min(config.average_decay, (1.0 + step) / (10.0 + step))
