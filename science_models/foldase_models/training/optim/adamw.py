"""AdamW on flat float32 vectors (Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from foldase_kernels.adam import adamw_
from foldase_models.training.config import OptimizerConfig
from foldase_models.training.surroundings import Update


@dataclass(frozen=True, slots=True)
class Vectors:
    """Float32 vectors of one length: weights, the two moments, and the average where one is kept."""

    weights: torch.Tensor
    exp_avg: torch.Tensor
    exp_avg_sq: torch.Tensor
    average: torch.Tensor | None


def step(
    vectors: Vectors,
    gradient: torch.Tensor,
    update: Update,
    optimizer: OptimizerConfig,
    *,
    decays: bool,
    out: torch.Tensor | None = None,
) -> None:
    """One step in place, and the average after it; see :func:`foldase_kernels.adam.adamw_`.

    Args:
        vectors: what is stepped.
        gradient: of the same length, float32, which may be overwritten, or bfloat16.
        update: number, rate, scale and the decay of the average.
        optimizer: constants.
        decays: whether weight decay applies.
        out: bfloat16, gets the new weights too; may be the memory of a bfloat16 gradient.
    """
    keeps_average = vectors.average is not None and update.average_decay is not None
    adamw_(
        vectors.weights,
        vectors.exp_avg,
        vectors.exp_avg_sq,
        gradient,
        step=update.number,
        rate=update.rate,
        betas=optimizer.betas,
        epsilon=optimizer.epsilon,
        weight_decay=optimizer.weight_decay if decays else 0.0,
        scale=update.scale,
        average=vectors.average if keeps_average else None,
        average_decay=update.average_decay if keeps_average else None,
        out=out,
    )
