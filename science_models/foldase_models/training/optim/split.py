"""The optimizer's state of the last buckets on the device, that of the others in main memory or on a disk."""

from __future__ import annotations

import torch

from foldase_models.training.collectives import Waitable
from foldase_models.training.optim.stepper import Publish, Stepper
from foldase_models.training.shards import FlatShard
from foldase_models.training.surroundings import Update


class SplitStepper(Stepper):
    """Two steppers, of the first and of the last buckets.

    Gradients arrive in about the order of the buckets' index, so that the last ones leave the least time for
    their way out of the device, for a step elsewhere and for the way back: all of that is spared them, and
    their step goes on beside that of the others (bucketization repartitioning: Lian et al. 2025,
    SuperOffload, arXiv:2509.21271). At stage 3 they arrive in the order of the units instead, those
    outside of blocks last; the last buckets then are simply fewer bytes for the processor.
    """

    def __init__(self, first: Stepper, last: Stepper) -> None:
        """``first`` has the buckets from index 0 on, ``last`` the rest; ``last`` computes on the device."""
        assert first.rank == last.rank
        self.buckets, self.rank = (*first.buckets, *last.buckets), first.rank
        self._first, self._last = first, last

    @property
    def steps_taken_back(self) -> int:
        """On the device nothing is begun ahead."""
        return self._first.steps_taken_back

    def holds_gradient(self, bucket: int) -> bool:
        """As the stepper of that bucket."""
        return self._of(bucket).holds_gradient(bucket)

    def expect(self, update: Update) -> None:
        """Tell both."""
        self._first.expect(update)
        self._last.expect(update)

    def take(self, bucket: int, gradient: torch.Tensor, *, add: bool = False, more: bool = False) -> Waitable:
        """Give it to the stepper of that bucket."""
        return self._of(bucket).take(bucket, gradient, add=add, more=more)

    def square_sum(self) -> float:
        """Of both."""
        return self._first.square_sum() + self._last.square_sum()

    def step(self, update: Update, publish: Publish | None) -> None:
        """The last buckets first: a GPU works on them while this thread waits for the others."""
        self._last.step(update, publish)
        self._first.step(update, publish)

    def drop(self) -> None:
        """Forget both's gradients."""
        self._first.drop()
        self._last.drop()

    def exchange(self, publish: Publish | None) -> None:
        """One after the other."""
        self._first.exchange(publish)
        self._last.exchange(publish)

    def fetch(self, bucket: int, into: torch.Tensor) -> Waitable:
        """From the stepper of that bucket."""
        return self._of(bucket).fetch(bucket, into)

    def shards(self) -> dict[str, FlatShard]:
        """Of both; keys are the same wherever a bucket lies."""
        return self._first.shards() | self._last.shards()

    def close(self) -> None:
        """Close both."""
        self._first.close()
        self._last.close()

    def _of(self, bucket: int) -> Stepper:
        return self._first if bucket < len(self._first.buckets) else self._last
