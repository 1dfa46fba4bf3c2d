"""Who holds the optimizer's state of a rank's slices of the buckets, and steps them.

A step goes: the complete gradient of every bucket's slice is handed over by :meth:`Stepper.take` in whatever
order they become ready; :meth:`Stepper.square_sum` gives their part of the norm; then comes
:meth:`Stepper.step` or :meth:`Stepper.drop`. Vectors are as long as a bucket's share, padding included.
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
        holds_gradients: whether gradients that were taken lie here (and later ones are added to them), so
            that whoever gave them may use their memory again; else they must stay as they are until the step.
    """

    buckets: Sequence[Bucket]
    rank: int
    holds_gradients: bool

    @abstractmethod
    def take(self, bucket: int, gradient: torch.Tensor, *, add: bool = False) -> Waitable:
        """Hand over a slice's gradient, [share], of any floating dtype, complete unless more is added.

        ``add`` adds it to what was taken for this bucket since the last step. The tensor may be used again
        once the result was waited for, where this stepper holds gradients.
        """

    @abstractmethod
    def square_sum(self) -> float:
        """Sum of the squares of all gradients taken, in float64; not finite where one of them is not."""

    @abstractmethod
    def step(self, update: Update, publish: Publish | None) -> None:
        """Step every bucket in order of index and publish its weights; forget the gradients.

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
