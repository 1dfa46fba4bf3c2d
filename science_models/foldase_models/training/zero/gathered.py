"""The weights of one unit: shards somewhere, whole vectors on the device while the unit is at work.

A whole vector keeps its storage object all its life; what comes and goes is the memory of the storage. What
autograd saved of the weights in the forward pass therefore finds them again in the backward pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from foldase_models.training.collectives import Collectives, Pending, Waitable
from foldase_models.training.ledger import Ledger
from foldase_models.training.zero.layout import Bucket
from foldase_models.training.zero.third import explained
from foldase_models.training.zero.units import Unit

WORKING = "gathered weights"
"""In the ledger, the owner of whole vectors and of slices on their way."""

Fetch = Callable[[torch.Tensor], Waitable]
"""Copies this rank's slice of a bucket into a vector on the device, [share]."""
Operation = Callable[[str, str], AbstractContextManager[str]]


@dataclass(slots=True)
class _Vector:
    """A bucket: how its slice is fetched, and its whole vector, [size]."""

    bucket: Bucket
    fetch: Fetch
    whole: torch.Tensor
    own: torch.Tensor | None = None
    fetching: Waitable | None = None
    gathering: Pending | None = None


class Gathered:
    """Brings the weights of a unit and lets them go.

    Attributes:
        number: of the unit in the model.
        unit: whose.
        users: calls, forward or backward, that need them now.
        stage: ``away``, ``fetching``, ``gathering`` or ``here``.
    """

    def __init__(
        self,
        number: int,
        unit: Unit,
        buckets: Sequence[tuple[Bucket, Fetch]],
        collectives: Collectives,
        ledger: Ledger,
        operation: Operation,
    ) -> None:
        self.number, self.unit = number, unit
        self.users = 0
        self.stage = "away"
        self._collectives, self._ledger, self._operation = collectives, ledger, operation
        self._alone = collectives.ranks.size == 1
        self._vectors = [_Vector(bucket, fetch, self._empty(bucket)) for bucket, fetch in buckets]

    @property
    def nbytes(self) -> int:
        """Of the vectors when they are whole."""
        return sum(vector.bucket.bytes for vector in self._vectors)

    @property
    def held_bytes(self) -> int:
        """What the vectors hold now."""
        return sum(vector.whole.untyped_storage().nbytes() for vector in self._vectors)

    def fetch(self) -> None:
        """Begin to bring this rank's slices; nothing where that began before."""
        if self.stage != "away":
            return
        self.stage = "fetching"
        for vector in self._vectors:
            bucket = vector.bucket
            if self._alone:
                self._fill(vector)
                vector.own = vector.whole
            else:
                vector.own = torch.empty(bucket.share, dtype=bucket.dtype, device=vector.whole.device)
                self._ledger.adopt("device", WORKING, vector.own)
            with self._ledger.apart():
                vector.fetching = vector.fetch(vector.own)

    def gather(self) -> None:
        """Begin to gather the slices of all ranks, once this rank's are here. Collective."""
        self.fetch()
        if self.stage != "fetching":
            return
        self.stage = "gathering"
        for number, vector in enumerate(self._vectors):
            assert vector.fetching is not None
            assert vector.own is not None
            vector.fetching.wait()
            vector.fetching = None
            if self._alone:
                vector.own = None
                continue
            self._fill(vector)
            share = vector.bucket.slice_of(self._collectives.ranks.rank)
            # From inside the whole vector, so that the slice is not there twice.
            vector.whole[share].copy_(vector.own)
            vector.own = None
            name = f"weights of {self.unit.name}" + (f", part {number + 1}" if number else "")
            with self._operation(self.unit.name, name) as named:
                vector.gathering = self._collectives.all_gather(named, vector.whole, vector.whole[share])

    def ready(self) -> None:
        """Return when the vectors are whole."""
        self.gather()
        for vector in self._vectors:
            if vector.gathering is not None:
                pending, vector.gathering = vector.gathering, None
                with explained(self.unit.name):
                    pending.wait()
        self.stage = "here"

    def free(self) -> None:
        """Let the memory go; waits for what is under way."""
        if self.stage == "away":
            return
        if self.stage == "gathering":
            self.ready()
        for vector in self._vectors:
            if vector.fetching is not None:
                vector.fetching.wait()
                vector.fetching = None
        self._forget()

    def abandon(self) -> None:
        """The same after an error. What is under way may still write to the old vectors: they stay to it."""
        self.users = 0
        for vector in self._vectors:
            vector.fetching = vector.gathering = vector.own = None
            vector.whole = self._empty(vector.bucket)
        self.stage = "away"

    def tensors(self) -> dict[str, torch.Tensor]:
        """New tensors by parameter that lie in the vectors; they are of use while the unit is ``here``."""
        return {
            entry.name: torch.empty(0, dtype=vector.whole.dtype, device=vector.whole.device).set_(
                vector.whole.untyped_storage(), entry.start, entry.shape, _strides(entry.shape)
            )
            for vector in self._vectors
            for entry in vector.bucket.entries
        }

    def _forget(self) -> None:
        for vector in self._vectors:
            vector.own = None
            vector.whole.untyped_storage().resize_(0)
            self._ledger.adopt("device", WORKING, vector.whole)
        self.stage = "away"

    def _fill(self, vector: _Vector) -> None:
        vector.whole.untyped_storage().resize_(vector.bucket.bytes)
        self._ledger.adopt("device", WORKING, vector.whole)

    def _empty(self, bucket: Bucket) -> torch.Tensor:
        made = torch.empty(bucket.size, dtype=bucket.dtype, device=self._ledger.device)
        made.untyped_storage().resize_(0)
        return made


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
