"""Steps of the optimizer that begin before it is known whether they are taken, and with which clipping.

After Lian et al. 2025, SuperOffload, arXiv:2509.21271, speculation-then-validation; where they take a wrong
step back, here it never touched the state.
"""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial

import torch

from foldase_models.training.clock import Clock
from foldase_models.training.config import OptimizerConfig
from foldase_models.training.ledger import Ledger
from foldase_models.training.offload.crew import Crew
from foldase_models.training.optim import adamw
from foldase_models.training.optim.adamw import Vectors
from foldase_models.training.surroundings import Update
from foldase_models.training.zero.layout import Bucket

OWNER = "steps ahead"
"""In the ledger, of the second set of vectors."""


@dataclass(slots=True)
class _Attempt:
    """One bucket's step that was begun; ``void`` once it is known that its result is of no use."""

    begun: Future[None] = field(default_factory=Future)
    void: bool = False


class Ahead:
    """Steps every bucket into a second set of vectors, as soon as its gradient is there.

    It is computed as the step expected: with no clipping, as most are once a training runs. If that is what
    comes, the two sets change places; whatever else comes (clipping, a gradient that is not finite, one that
    arrived late) the second set is forgotten. State, weights and gradients are therefore at all times those
    of a training that waits for the norm, to the last bit. The price is the second set, 12 bytes a parameter
    and 4 more with an average, and one copy of the state a step.

    Attributes:
        expected: the step that gradients taken from now on are for, as far as is known; None between steps.
        steps_taken_back: steps so far of which a bucket had been stepped in vain.
    """

    def __init__(self, crew: Crew, optimizer: OptimizerConfig, clock: Clock) -> None:
        """Work in the thread of a crew, which has one only."""
        self._crew, self._optimizer, self._clock = crew, optimizer, clock
        self._spare: dict[int, Vectors] = {}
        self.expected: Update | None = None
        self._attempts: dict[int, _Attempt] = {}
        self._in_vain = False
        self.steps_taken_back = 0

    def prepare(self, bucket: Bucket, like: Vectors, ledger: Ledger) -> None:
        """Make the second set of a bucket's vectors.

        Raises:
            ModelError: ``out_of_memory``, ``memory_cap``.
        """

        def zeros() -> torch.Tensor:
            return ledger.zeros("host", OWNER, bucket.share, torch.float32)

        average = None if like.average is None else zeros()
        self._spare[bucket.index] = Vectors(zeros(), zeros(), zeros(), average)

    def landed(self, bucket: Bucket, vectors: Vectors, gradient: torch.Tensor, update: Update | None) -> None:
        """A bucket's gradient is there, or changed: begin a step; None where it is not complete.

        Called by one thread at a time, not always the same one.
        """
        self._void(bucket.index)
        if update is not None:
            attempt = self._attempts[bucket.index] = _Attempt()
            attempt.begun = self._crew.submit(partial(self._try, attempt, bucket, vectors, gradient, update))

    def foresaw(self, bucket: Bucket, update: Update) -> bool:
        """Whether a bucket's step was begun just as it is now to be taken; else it is void."""
        if self.expected == update and bucket.index in self._attempts:
            return True
        self._void(bucket.index)
        return False

    def keep(self, bucket: Bucket, vectors: Vectors) -> Vectors:
        """Exchange the sets of a bucket that was stepped; the new vectors. In the crew's thread."""
        self._attempts[bucket.index].begun.result()
        new, self._spare[bucket.index] = self._spare[bucket.index], vectors
        return new

    def stepped(self) -> None:
        """The step is over, and whatever was foreseen has been kept: nothing is expected until the next."""
        self._attempts.clear()
        self._over()

    def dropped(self) -> None:
        """The step is over without having been taken."""
        for bucket in list(self._attempts):
            self._void(bucket)
        self._over()

    def _over(self) -> None:
        self.expected = None
        self.steps_taken_back += self._in_vain
        self._in_vain = False

    def _void(self, bucket: int) -> None:
        attempt = self._attempts.pop(bucket, None)
        if attempt is not None:
            attempt.void = self._in_vain = True

    @torch.no_grad()
    def _try(
        self, attempt: _Attempt, bucket: Bucket, vectors: Vectors, gradient: torch.Tensor, update: Update
    ) -> None:
        if attempt.void:
            return
        spare = self._spare[bucket.index]
        with self._clock.busy("optimizer"):
            for new, now in zip(_tensors_of(spare), _tensors_of(vectors), strict=True):
                new.copy_(now)
            adamw.step(spare, gradient, update, self._optimizer, decays=bucket.decays)


def _tensors_of(vectors: Vectors) -> list[torch.Tensor]:
    every = (vectors.weights, vectors.exp_avg, vectors.exp_avg_sq, vectors.average)
    return [vector for vector in every if vector is not None]
