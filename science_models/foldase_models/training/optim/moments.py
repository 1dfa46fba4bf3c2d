"""Adam's steps with a second moment that takes in only some of the gradients, on flat float32 vectors.

Loshchilov and Hutter 2019 (arXiv:1711.05101), algorithm 2; how much the second moment keeps when it takes a
gradient in is for a policy to say (:mod:`foldase_models.training.optim.policies`). Where it is 0, no gradient
was ever seen and nothing moves.
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
        rest: share of the second moment that is the 0 it began with.
        epsilon: of the optimizer.
    """

    rest: float
    epsilon: float

    def of(self, exp_avg_sq: torch.Tensor) -> torch.Tensor:
        """Of some elements [n]; infinite where the second moment is 0."""
        return self.root(exp_avg_sq).masked_fill_(exp_avg_sq == 0, math.inf)

    def root(self, exp_avg_sq: torch.Tensor) -> torch.Tensor:
        """Of some elements [n]; epsilon where the second moment is 0."""
        return torch.sqrt(exp_avg_sq).div_(math.sqrt(1.0 - self.rest)).add_(self.epsilon)


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

    def prepare(self, *, kept: float, rest: float, number: int) -> None:
        """What the next :meth:`step` does.

        Args:
            kept: share of the second moment that is left when it takes the gradient in; 1 where it does not.
            rest: share of it that is then the 0 it began with.
            number: of steps with this one, for the bias of the first moment.
        """
        self._kept, self._number = kept, number
        self._by = Denominator(rest, self._optimizer.epsilon)

    @torch.no_grad()
    def step(self, update: Update, publish: Publish | None) -> None:
        """Step in place."""
        beta = self._optimizer.betas[0]
        for bucket, vectors in zip(self.buckets, self.vectors, strict=True):
            gradient = self._gradients.pop(bucket.index)
            take_in(vectors, gradient, update.scale, self._optimizer, kept=self._kept)
            factor = update.rate / (1.0 - beta**self._number)
            shrink = 1.0 - update.rate * self._optimizer.weight_decay * bucket.decays
            weights = vectors.weights
            move(weights, weights, shrink, vectors.exp_avg, factor, vectors.exp_avg_sq, self._by)
            if vectors.average is not None and update.average_decay is not None:
                vectors.average.lerp_(weights, 1.0 - update.average_decay)
            if publish is not None:
                publish(bucket.index, weights)


@torch.no_grad()
def take_in(
    vectors: Vectors, gradient: torch.Tensor, scale: float, optimizer: OptimizerConfig, *, kept: float = 1.0
) -> None:
    """The moments after a gradient [n] of any floating dtype, times a scale.

    Of the second moment a share is ``kept``; the rest is what it takes of the gradient in.
    """
    for own in parts(gradient.numel()):
        scaled = gradient[own].float() * scale
        vectors.exp_avg[own].lerp_(scaled, 1.0 - optimizer.betas[0])
        if kept < 1.0:
            vectors.exp_avg_sq[own].mul_(kept).addcmul_(scaled, scaled, value=1.0 - kept)
