"""Stage 0: every rank holds everything, gradients are summed over the ranks. The measure for the others."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from foldase_models.training.engine import Engine, buffer_shards
from foldase_models.training.optim.steppers import make_stepper
from foldase_models.training.shards import AVERAGE, WEIGHTS, FlatShard
from foldase_models.training.surroundings import Surroundings, Update
from foldase_models.training.zero.layout import Bucket, lay_out, trainable


class ReplicatedEngine(Engine):
    """Plain data parallelism on flat buckets."""

    def __init__(self, model: nn.Module, surroundings: Surroundings) -> None:
        self.model = model
        self._around = surroundings
        self._parameters = trainable(model)
        self._buckets = lay_out(self._parameters, 1, surroundings.config.limits.bucket_bytes)
        self._weights = [self._vector("weights", bucket) for bucket in self._buckets]
        self._gradients = [self._vector("gradients", bucket) for bucket in self._buckets]
        surroundings.ledger.add("device", "buffers", sum(b.nbytes for b in model.buffers()))
        self._move_in()
        self._stepper = make_stepper(self._buckets, 0, self._weights, surroundings)

    def backward(self, loss: torch.Tensor | None, *, last: bool) -> None:
        """Accumulate into the flat gradients."""
        if loss is not None:
            torch.autograd.backward(loss)

    def finish(self) -> float:
        """Sum over the ranks and take the norm."""
        reduced = [
            self._around.collectives.all_reduce(f"gradients of bucket {bucket.index}", gradient)
            for bucket, gradient in zip(self._buckets, self._gradients, strict=True)
        ]
        for bucket, pending, gradient in zip(self._buckets, reduced, self._gradients, strict=True):
            pending.wait()
            self._stepper.take(bucket.index, gradient).wait()
        return math.sqrt(self._stepper.square_sum())

    def step(self, update: Update) -> None:
        """Step every bucket."""
        self._stepper.step(update, self._publish)
        self._zero()

    def drop(self) -> None:
        """Forget the gradients."""
        self._stepper.drop()
        self._zero()

    def flush(self) -> None:
        """Complete a delayed step."""
        self._stepper.flush(self._publish)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Exchange weights and averages, and back."""
        if not self._around.config.average_decay:
            yield
            return
        self._stepper.exchange(self._publish)
        try:
            yield
        finally:
            self._stepper.exchange(self._publish)

    def state(self) -> dict[str, FlatShard]:
        """The stepper's, which is whole here, and the buffers."""
        return self._stepper.shards() | buffer_shards(self.model)

    @torch.no_grad()
    def loaded(self) -> None:
        """Fetch the weights anew."""
        for bucket, weights in zip(self._buckets, self._weights, strict=True):
            self._stepper.fetch(bucket.index, weights).wait()

    def weights(self, *, averaged: bool) -> dict[str, torch.Tensor]:
        """Copies of the parts of the stepper's vectors."""
        if not self._around.collectives.ranks.first:
            return {}
        kind = AVERAGE if averaged and self._around.config.average_decay else WEIGHTS
        shards = self._stepper.shards()
        return {
            name: shards[f"{kind}/{name}"].read().reshape(parameter.shape).cpu().clone()
            for name, parameter in self._parameters.items()
            if parameter.numel()
        }

    def close(self) -> None:
        """Close the stepper."""
        self._stepper.close()

    def _vector(self, owner: str, bucket: Bucket) -> torch.Tensor:
        return self._around.ledger.zeros("device", owner, bucket.size, bucket.dtype)

    @torch.no_grad()
    def _move_in(self) -> None:
        """Make the parameters and their gradients views of the flat vectors, with rank 0's values."""
        for bucket, weights, gradient in zip(self._buckets, self._weights, self._gradients, strict=True):
            for entry in bucket.entries:
                parameter = self._parameters[entry.name]
                view = weights[entry.start : entry.stop].view(entry.shape)
                view.copy_(parameter)
                parameter.data = view
                parameter.grad = gradient[entry.start : entry.stop].view(entry.shape)
            self._around.collectives.broadcast(f"weights of bucket {bucket.index}", weights).wait()

    @torch.no_grad()
    def _publish(self, bucket: int, weights: torch.Tensor) -> None:
        if weights.data_ptr() != self._weights[bucket].data_ptr():
            self._weights[bucket].copy_(weights)

    def _zero(self) -> None:
        for gradient in self._gradients:
            gradient.zero_()
