"""Adam's steps with a second moment that takes in only some of the gradients, on flat float32 vectors.

Loshchilov and Hutter 2019 (arXiv:1711.05101), algorithm 2; of the second moment the bias is corrected by the
number of its own updates. Where it is 0, no gradient was ever seen and nothing moves.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from foldase_models.training.config import OptimizerConfig
from foldase_models.training.optim.adamw import Vectors
from foldase_models.training.optim.on_device import DeviceStepper
from foldase_models.training.optim.stepper import Publish
from foldase_models.training.surroundings import Update

_TOGETHER = 2**20
"""Elements in a scratch vector."""


@dataclass(frozen=True, slots=True)
class Denominator:
    """What moments are divided by: the root of the second moment without its bias, and epsilon.

    Attributes:
        updates: of the second moment.
        beta: its decay.
        epsilon: of the optimizer.
    """

    updates: int
    beta: float
    epsilon: float

    def of(self, exp_avg_sq: torch.Tensor) -> torch.Tensor:
        """Of some elements [n]; infinite where the second moment is 0."""
        return self.root(exp_avg_sq).masked_fill_(exp_avg_sq == 0, math.inf)

    def root(self, exp_avg_sq: torch.Tensor) -> torch.Tensor:
        """Of some elements [n]; epsilon where the second moment is 0."""
        return torch.sqrt(exp_avg_sq).div_(math.sqrt(self.unbiased)).add_(self.epsilon)

    @property
    def unbiased(self) -> float:
        """Share of the second moment that is not its beginning."""
        return 1.0 - self.beta**self.updates


def denominator(optimizer: OptimizerConfig, updates: int) -> Denominator:
    """After so many updates of the second moment."""
    return Denominator(max(1, updates), optimizer.betas[1], optimizer.epsilon)


@torch.no_grad()
def move(
    into: torch.Tensor,
    start: torch.Tensor,
    shrink: float,
    change: torch.Tensor,
    factor: float,
    exp_avg_sq: torch.Tensor,
    by: Denominator,
) -> None:
    """``into = shrink * start - factor * change / denominator``, vectors [n]; into may be start."""
    for own in parts(into.numel()):
        moved = (start[own] * shrink).addcdiv_(change[own], by.of(exp_avg_sq[own]), value=-factor)
        into[own] = moved


def parts(numel: int) -> Iterator[slice]:
    """Slices of a vector, one after the other, that scratch is made for."""
    for first in range(0, numel, _TOGETHER):
        yield slice(first, min(first + _TOGETHER, numel))


class MomentStepper(DeviceStepper):
    """Steps with whole gradients on the device, while the second moment is not frozen."""

    def prepare(self, *, variance: bool, updates: int, number: int) -> None:
        """What the next :meth:`step` does.

        Args:
            variance: whether the second moment takes the gradient in.
            updates: of it, with this one.
            number: of steps with this one, for the bias of the first moment.
        """
        self._variance, self._updates, self._number = variance, updates, number

    @torch.no_grad()
    def step(self, update: Update, publish: Publish | None) -> None:
        """Step in place."""
        beta = self._optimizer.betas[0]
        by = denominator(self._optimizer, self._updates)
        for bucket, vectors in zip(self.buckets, self.vectors, strict=True):
            gradient = self._gradients.pop(bucket.index)
            take_in(vectors, gradient, update.scale, self._optimizer, variance=self._variance)
            factor = update.rate / (1.0 - beta**self._number)
            shrink = 1.0 - update.rate * self._optimizer.weight_decay * bucket.decays
            weights = vectors.weights
            move(weights, weights, shrink, vectors.exp_avg, factor, vectors.exp_avg_sq, by)
            if vectors.average is not None and update.average_decay is not None:
                vectors.average.lerp_(weights, 1.0 - update.average_decay)
            if publish is not None:
                publish(bucket.index, weights)


@torch.no_grad()
def take_in(
    vectors: Vectors, gradient: torch.Tensor, scale: float, optimizer: OptimizerConfig, *, variance: bool
) -> None:
    """The moments after a gradient [n] of any floating dtype, times a scale."""
    for own in parts(gradient.numel()):
        scaled = gradient[own].float() * scale
        vectors.exp_avg[own].lerp_(scaled, 1.0 - optimizer.betas[0])
        if variance:
            vectors.exp_avg_sq[own].mul_(optimizer.betas[1]).addcmul_(
                scaled, scaled, value=1.0 - optimizer.betas[1]
            )
