"""Stages 1 and 2: every rank holds the weights, and the optimizer's state of its slices only.

At stage 1 whole gradients are kept and reduced once a step. At stage 2 each bucket of gradients is reduced in
every backward pass as soon as it is complete, and only this rank's slice of the sum is kept: with several
passes a step the ranks send so many times more, which is the price of the memory.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from foldase_models.training.collectives import Collectives, Pending, Waitable
from foldase_models.training.optim.stepper import Done
from foldase_models.training.surroundings import Surroundings, Update
from foldase_models.training.zero.arrivals import Arrivals
from foldase_models.training.zero.flat import FlatEngine
from foldase_models.training.zero.layout import Bucket
from foldase_models.training.zero.replicated import ReplicatedEngine
from foldase_models.training.zero.staging import Staging


class ShardedOptimizerEngine(ReplicatedEngine):
    """Stage 1."""

    def __init__(self, model: nn.Module, surroundings: Surroundings) -> None:
        super().__init__(model, surroundings, shared=True)

    def square_sum(self) -> float:
        """Over the slices of all ranks."""
        return total(self.around.collectives, self.stepper.square_sum())

    def reduce(self, name: str, bucket: Bucket, gradient: torch.Tensor) -> Pending:
        """Into the own slice; the rest is of no use afterwards."""
        own = gradient[bucket.slice_of(self.rank)]
        return self.around.collectives.reduce_scatter(name, own, gradient)


class ShardedGradientsEngine(FlatEngine):
    """Stage 2."""

    def __init__(self, model: nn.Module, surroundings: Surroundings) -> None:
        super().__init__(model, surroundings, shared=True)
        self._own = {
            bucket.index: surroundings.ledger.zeros(
                "device", "gradients", bucket.share, self.gradient_dtype(bucket)
            )
            for bucket in self.buckets
            if not self.stepper.holds_gradient(bucket.index)
        }
        self._taken: set[int] = set()
        limit = self.config.limits.bucket_bytes
        usual = max((bucket.bytes for bucket in self.buckets if bucket.payload_bytes <= limit), default=0)
        self._staging = Staging(surroundings.ledger, usual, self._take)
        self._arrivals = Arrivals(self.parameters, self.buckets, self._launch)

    def expect(self, update: Update) -> None:
        """What is still on its way is of the pass before, and not complete."""
        if self.config.offload.ahead:
            self._staging.settle()
        super().expect(update)

    def backward(self, loss: torch.Tensor | None, *, last: bool) -> None:
        """Reduce buckets as they become complete."""
        self._arrivals.begin(launching=True)
        if loss is not None and loss.requires_grad:
            torch.autograd.backward(loss)
        self._arrivals.end()

    def finish(self) -> float:
        """Wait for the reductions and take the norm."""
        self._staging.settle()
        for index in self._arrivals.late(self.around.collectives):
            self._launch(self.buckets[index])
        self._staging.settle()
        for index, own in self._own.items():
            self.stepper.take(index, own).wait()
        return math.sqrt(total(self.around.collectives, self.stepper.square_sum()))

    def begin_step(self) -> None:
        """Forget the gradients."""
        self._taken.clear()

    def close(self) -> None:
        """Let go of the model."""
        self._arrivals.close()
        self._staging.close()
        super().close()

    @torch.no_grad()
    def _launch(self, bucket: Bucket) -> None:
        vector = self._staging.vector(bucket)
        self._arrivals.collect(bucket, vector)
        name = f"gradients of bucket {bucket.index}"
        own = vector[bucket.slice_of(self.rank)]
        self._staging.travels(self.around.collectives.reduce_scatter(name, own, vector))

    @torch.no_grad()
    def _take(self, bucket: Bucket, vector: torch.Tensor) -> Waitable:
        reduced, first = vector[bucket.slice_of(self.rank)], bucket.index not in self._taken
        self._taken.add(bucket.index)
        with self.around.ledger.apart():
            if bucket.index not in self._own:
                return self.stepper.take(bucket.index, reduced, add=not first)
            if first:
                self._own[bucket.index].copy_(reduced)
            else:
                self._own[bucket.index].add_(reduced)
        return Done()


def total(collectives: Collectives, square_sum: float) -> float:
    """The sum over the ranks, in float64."""
    sums = torch.tensor([square_sum], dtype=torch.float64)
    collectives.all_reduce("sum of squared gradients", sums).wait()
    return float(sums)
