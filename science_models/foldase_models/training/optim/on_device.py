"""The optimizer's state beside the weights, where the model computes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from foldase_kernels.adam import square_sum
from foldase_models.training.collectives import Waitable
from foldase_models.training.ledger import ACTIVATIONS
from foldase_models.training.optim import adamw
from foldase_models.training.optim.adamw import Vectors
from foldase_models.training.optim.stepper import Done, Publish, Stepper
from foldase_models.training.shards import AVERAGE, FIRST_MOMENT, SECOND_MOMENT, WEIGHTS, FlatShard, part
from foldase_models.training.surroundings import Surroundings, Update
from foldase_models.training.zero.layout import Bucket


class DeviceStepper(Stepper):
    """Steps on the device. Gradients stay with whoever gave them."""

    def __init__(
        self,
        buckets: Sequence[Bucket],
        rank: int,
        weights: Iterable[torch.Tensor],
        surroundings: Surroundings,
    ) -> None:
        self.buckets, self.rank = buckets, rank
        self._optimizer = surroundings.config.optimizer
        self._ledger = surroundings.ledger
        averaged = surroundings.config.average_decay > 0
        self._vectors = {
            bucket.index: self._vectors_of(bucket, own, averaged)
            for bucket, own in zip(buckets, weights, strict=True)
        }
        self._gradients: dict[int, torch.Tensor] = {}

    @property
    def vectors(self) -> list[Vectors]:
        """Of every bucket, in their order."""
        return list(self._vectors.values())

    def holds_gradient(self, bucket: int) -> bool:
        """They are needed once only, and lie here already."""
        return False

    def take(self, bucket: int, gradient: torch.Tensor, *, add: bool = False, more: bool = False) -> Waitable:
        """Remember where it lies."""
        assert not add, "gradients are added up by whoever holds them"
        self._gradients[bucket] = gradient
        return Done()

    def square_sum(self) -> float:
        """In float64 over the slices."""
        return sum((square_sum(gradient) for gradient in self._gradients.values()), 0.0)

    def step(self, update: Update, publish: Publish | None) -> None:
        """Step in place."""
        for bucket, vectors in zip(self.buckets, self._vectors.values(), strict=True):
            gradient = self._gradients.pop(bucket.index, None)
            if gradient is None:
                gradient = torch.zeros_like(vectors.weights)
            adamw.step(vectors, gradient, update, self._optimizer, decays=bucket.decays)
            if publish is not None:
                publish(bucket.index, vectors.weights)

    def drop(self) -> None:
        """Forget where gradients lay."""
        self._gradients.clear()

    @torch.no_grad()
    def exchange(self, publish: Publish | None) -> None:
        """One bucket after the other."""
        for bucket, vectors in zip(self.buckets, self._vectors.values(), strict=True):
            if vectors.average is not None:
                kept = vectors.weights.clone()
                vectors.weights.copy_(vectors.average)
                vectors.average.copy_(kept)
                if publish is not None:
                    publish(bucket.index, vectors.weights)

    @torch.no_grad()
    def fetch(self, bucket: int, into: torch.Tensor) -> Waitable:
        """Copy on the device."""
        into.copy_(self._vectors[bucket].weights)
        return Done()

    def shards(self) -> dict[str, FlatShard]:
        """Views."""
        found: dict[str, FlatShard] = {}
        for bucket, vectors in zip(self.buckets, self._vectors.values(), strict=True):
            for piece in bucket.pieces(self.rank):
                for kind, vector in _kinds(vectors).items():
                    view = vector[piece.offset : piece.offset + piece.length]
                    found[f"{kind}/{piece.name}"] = part(view, piece.shape, piece.start)
        return found

    def _vectors_of(self, bucket: Bucket, own: torch.Tensor, averaged: bool) -> Vectors:
        def zeros(owner: str) -> torch.Tensor:
            return self._ledger.zeros("device", owner, bucket.share, torch.float32)

        if own.dtype != torch.float32:
            own = zeros("float32 weights").copy_(own)
        if self._ledger.note(own).owner == ACTIVATIONS:
            self._ledger.adopt("device", "float32 weights", own)
        average = zeros("average").copy_(own) if averaged else None
        return Vectors(own, zeros("optimizer"), zeros("optimizer"), average)


def _kinds(vectors: Vectors) -> dict[str, torch.Tensor]:
    found = {WEIGHTS: vectors.weights, FIRST_MOMENT: vectors.exp_avg, SECOND_MOMENT: vectors.exp_avg_sq}
    return found if vectors.average is None else found | {AVERAGE: vectors.average}
