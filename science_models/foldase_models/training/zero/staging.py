"""Two vectors in which buckets of gradients travel, by turns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from foldase_models.training.collectives import Pending, Waitable
from foldase_models.training.ledger import Ledger
from foldase_models.training.zero.layout import Bucket

OWNER = "gradient buckets"


@dataclass(slots=True)
class _Slot:
    memory: torch.Tensor | None = None
    vector: torch.Tensor | None = None
    bucket: Bucket | None = None
    reduction: Pending | None = None
    taking: Waitable | None = None


class Staging:
    """Buckets that are filled, reduced and handed over, at most two at a time.

    One that is larger than usual, because it holds one large parameter, gets memory for as long as it takes.
    """

    def __init__(
        self, ledger: Ledger, usual_bytes: int, take: Callable[[Bucket, torch.Tensor], Waitable]
    ) -> None:
        """With what to do to a reduced vector; its result is waited for before the memory is used again."""
        self._ledger, self._usual, self._take = ledger, usual_bytes, take
        self._slots = [_Slot(), _Slot()]
        self._turn = 0

    def vector(self, bucket: Bucket) -> torch.Tensor:
        """A vector for a bucket, [size] of its dtype, of any content; waits for the one before the last."""
        self._turn = 1 - self._turn
        slot = self._slots[self._turn]
        self._settle(slot)
        slot.bucket, slot.vector = bucket, self._room(slot, bucket).view(bucket.dtype)
        return slot.vector

    def travels(self, reduction: Pending) -> None:
        """The reduction of the vector given last was started; what is reduced by now is handed over."""
        self._slots[self._turn].reduction = reduction
        for slot in (self._slots[1 - self._turn], self._slots[self._turn]):
            if slot.reduction is not None and slot.reduction.done:
                self._hand_over(slot)

    def settle(self) -> None:
        """Complete what is under way, the older one first."""
        self._settle(self._slots[1 - self._turn])
        self._settle(self._slots[self._turn])

    def close(self) -> None:
        """Give the memory back."""
        self._slots = [_Slot(), _Slot()]

    def _settle(self, slot: _Slot) -> None:
        self._hand_over(slot)
        if slot.taking is not None:
            slot.taking.wait()
        slot.taking = slot.bucket = slot.vector = None

    def _hand_over(self, slot: _Slot) -> None:
        if slot.reduction is None:
            return
        slot.reduction.wait()
        slot.reduction = None
        assert slot.bucket is not None
        assert slot.vector is not None
        slot.taking = self._take(slot.bucket, slot.vector)

    def _room(self, slot: _Slot, bucket: Bucket) -> torch.Tensor:
        if bucket.bytes > self._usual:
            return self._ledger.zeros("device", OWNER, bucket.bytes, torch.uint8)
        if slot.memory is None:
            slot.memory = self._ledger.zeros("device", OWNER, self._usual, torch.uint8)
        return slot.memory[: bucket.bytes]
