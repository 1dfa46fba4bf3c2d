"""AdamW on flat float32 vectors (Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.optim.adamw import adamw

from foldase_models.training.config import OptimizerConfig
from foldase_models.training.surroundings import Update


@dataclass(frozen=True, slots=True)
class Vectors:
    """Float32 vectors of one length: weights, the two moments, and the average where one is kept."""

    weights: torch.Tensor
    exp_avg: torch.Tensor
    exp_avg_sq: torch.Tensor
    average: torch.Tensor | None


@torch.no_grad()
def step(
    vectors: Vectors, gradient: torch.Tensor, update: Update, optimizer: OptimizerConfig, *, decays: bool
) -> None:
    """One step in place, and the average after it.

    Args:
        vectors: what is stepped.
        gradient: of the same length, float32; may be overwritten.
        update: number, rate, scale and the decay of the average.
        optimizer: constants.
        decays: whether weight decay applies.
    """
    if update.scale != 1.0:
        gradient.mul_(update.scale)
    adamw(
        [vectors.weights],
        [gradient],
        [vectors.exp_avg],
        [vectors.exp_avg_sq],
        [],
        [torch.tensor(float(update.number - 1), device=gradient.device)],
        fused=True,
        amsgrad=False,
        beta1=optimizer.betas[0],
        beta2=optimizer.betas[1],
        lr=update.rate,
        weight_decay=optimizer.weight_decay if decays else 0.0,
        eps=optimizer.epsilon,
        maximize=False,
    )
    if vectors.average is not None and update.average_decay is not None:
        vectors.average.lerp_(vectors.weights, 1.0 - update.average_decay)
