"""Who holds the optimizer's state of a rank's slices of the buckets, and steps them.

A step goes: the complete gradient of every bucket's slice is handed over by :meth:`Stepper.take` in whatever
order they become ready; :meth:`Stepper.square_sum` gives their part of the norm; then comes
:meth:`Stepper.step` or :meth:`Stepper.drop`. Before the last gradients arrive :meth:`Stepper.expect` may say
what step is going to come. Vectors are as long as a bucket's share, padding included.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch

from foldase_models.training.collectives import Waitable
from foldase_models.training.shards import FlatShard
from foldase_models.training.surroundings import Surroundings, Update
from foldase_models.training.zero.layout import Bucket

Publish = Callable[[int, torch.Tensor], None]
"""Called with a bucket's index and its new weights, [share], which are good until it returns.

They are float32 or of the bucket's dtype, on the device or in main memory: ``copy_`` takes all of these."""


class Done:
    """Of an operation that was over when it began."""

    def wait(self) -> None:
        """Nothing to wait for."""


def gradient_dtype(bucket: Bucket, surroundings: Surroundings) -> torch.dtype:
    """In which a rank adds gradients up: several parts of a batch are too many for bfloat16."""
    ranks = surroundings.collectives.ranks.size
    return torch.float32 if surroundings.config.micro_batches > ranks else bucket.dtype


class Stepper(ABC):
    """Float32 weights, moments, average and gradients of one rank's slices.

    Attributes:
        buckets: whose slices these are.
        rank: whose.
    """

    buckets: Sequence[Bucket]
    rank: int

    @property
    def steps_taken_back(self) -> int:
        """Steps so far of which something was computed ahead, in vain."""
        return 0

    @abstractmethod
    def holds_gradient(self, bucket: int) -> bool:
        """Whether a gradient that was taken for a bucket lies here, and later ones are added to it.

        Whoever gave it may use its memory again then; else it must stay as it is until the step.
        """

    def expect(self, update: Update) -> None:  # noqa: B027  # only some can begin ahead
        """Gradients taken from now on are those of a step that is going to be this one, unless it is not."""

    @abstractmethod
    def take(self, bucket: int, gradient: torch.Tensor, *, add: bool = False, more: bool = False) -> Waitable:
        """Hand over a slice's gradient, [share], of any floating dtype.

        ``add`` adds it to what was taken for this bucket since the last step; without, it takes the place of
        that. ``more`` says that more will be added in this backward pass; it may come also where that was
        not said. The tensor may be used again once the result was waited for, where gradients of its bucket
        are held.
        """

    @abstractmethod
    def square_sum(self) -> float:
        """Sum of the squares of all gradients taken, in float64; not finite where one of them is not."""

    @abstractmethod
    def step(self, update: Update, publish: Publish | None) -> None:
        """Step every bucket and publish its weights, in an order alike on all ranks; forget the gradients.

        Buckets of which no gradient was taken have a zero gradient. Publishing may happen later where steps
        are delayed; always in this thread. None for ``publish`` where all weights are fetched anew for every
        use: nothing is held ready for it then.
        """

    @abstractmethod
    def drop(self) -> None:
        """Forget the gradients."""

    def flush(self, publish: Publish | None) -> None:  # noqa: B027  # only delayed ones have something to do
        """Complete a delayed step."""

    @abstractmethod
    def exchange(self, publish: Publish | None) -> None:
        """Exchange weights and averages and publish the new weights; only where averages are kept."""

    @abstractmethod
    def fetch(self, bucket: int, into: torch.Tensor) -> Waitable:
        """Copy a slice's weights into a vector on the device, [share], of any floating dtype.

        They are those of the last step that was published, or would have been; fetches may be under way
        together, and are carried out in order.
        """

    @abstractmethod
    def shards(self) -> dict[str, FlatShard]:
        """State by key: this rank's parts of weights, moments and averages.

        A parameter of which this rank has no part is missing: engines add an empty shard for it.
        """

    def close(self) -> None:  # noqa: B027  # only those with files or threads have something to do
        """Give back files and threads."""
