"""What a training holds, in bytes, by the tier it lies in and by what it is for."""

from __future__ import annotations

import gc
import threading
import weakref
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import torch

from foldase_models.errors import ModelError

Tier = Literal["device", "pinned", "host", "disk"]
TIERS: tuple[Tier, ...] = ("device", "pinned", "host", "disk")
"""``device`` computes; ``pinned`` buffers of main memory that the device copies from and to; ``host`` the
rest of main memory; ``disk`` the file of this rank. On a CPU the first three are the same memory, told apart
by their use."""

ACTIVATIONS = "activations"
"""The owner of whatever came without an owner: activations, batches, results of single operations."""

_REMEDIES: Mapping[str, str] = {
    ACTIVATIONS: "set offload.activations to recompute, cpu or nvme, or raise micro_batches",
    "optimizer": "set offload.optimizer to nvme, or stage to 1 or more on several ranks",
    "average": "set average_decay to 0, or offload.optimizer to nvme",
    "float32 weights": "set offload.optimizer to nvme, or stage to 1 or more on several ranks",
    "steps ahead": "leave offload.ahead out",
    "gradients": "set stage to 2, with offload.optimizer on nvme or on several ranks",
    "gradient buckets": "lower limits.bucket_bytes",
    "pending updates": "set optimizer.kind to one_bit_adam, or to adamw with stage 1 or more",
    "weights at the last exchange": "set optimizer.kind to one_bit_adam, or to adamw with stage 1 or more",
    "compression errors": "set optimizer.kind to adamw, with stage 1 or more",
    "weights": "set stage to 3 and offload.parameters to nvme, or stage to 3 on several ranks",
}


@dataclass(frozen=True, slots=True)
class Known:
    """A storage that has an owner: where it is counted, with how many bytes, and the storage itself."""

    tier: Tier
    owner: str
    size: int
    storage: weakref.ref[torch.UntypedStorage]


class Ledger:
    """Gives out the long-lived tensors of a training, and knows their bytes and the peak of each tier.

    A tensor counts until its memory is freed. Activations count only inside
    :class:`foldase_models.training.counted_memory.CountedMemory`.
    """

    def __init__(self, device: torch.device, *, cap: int | None = None) -> None:
        """Begin with nothing.

        Args:
            device: the one that computes.
            cap: bytes that all tiers but ``disk`` together may hold; None for no cap.
        """
        self.device, self.cap = device, cap
        self._lock = threading.RLock()
        self._held: dict[tuple[Tier, str], int] = {}
        self._now: dict[Tier, int] = dict.fromkeys(TIERS, 0)
        self._peak: dict[Tier, int] = dict.fromkeys(TIERS, 0)
        self._known: dict[int, Known] = {}
        # Storages may be freed in the middle of anything, also of what this class does.
        self._gone: deque[int] = deque()
        self._computing = False

    def zeros(self, tier: Tier, owner: str, numel: int, dtype: torch.dtype) -> torch.Tensor:
        """A vector of zeros, on the device or in main memory, pinned where there is a GPU to copy to.

        Raises:
            ModelError: ``out_of_memory``: there is no room in that tier; ``memory_cap``.
        """
        pinned = tier == "pinned" and self.device.type == "cuda"
        place = self.device if tier == "device" else torch.device("cpu")
        try:
            made = torch.zeros(numel, dtype=dtype, device=place, pin_memory=pinned)
        except RuntimeError as error:
            raise ModelError(
                f"no room for {numel * dtype.itemsize:,} bytes of {owner} in the {tier} tier: "
                + str(error).splitlines()[0],
                code="out_of_memory",
                location=owner,
                hint="look at the training's plan, and offload more or use more ranks",
            ) from error
        self.adopt(tier, owner, made)
        return made

    def adopt(self, tier: Tier, owner: str, tensor: torch.Tensor) -> None:
        """Count a tensor's memory, once, with the size it has now.

        What was adopted before, or noted as an activation, is measured anew and goes to its new owner.

        Raises:
            ModelError: ``memory_cap``.
        """
        storage = tensor.untyped_storage()
        with self._lock:
            self._bury()
            before = self._known.get(storage._cdata)
            if before is None:
                weakref.finalize(storage, self._gone.append, storage._cdata).atexit = False
            else:
                self._count(before.tier, before.owner, -before.size)
            self._known[storage._cdata] = Known(tier, owner, storage.nbytes(), weakref.ref(storage))
            self._count(tier, owner, storage.nbytes())
            self.check_cap()

    def note(self, tensor: torch.Tensor) -> Known:
        """Count a tensor as an activation, if it has no owner; tell what is known of it.

        Raises:
            ModelError: ``memory_cap``.
        """
        storage = tensor.untyped_storage()
        known = self._known.get(storage._cdata)
        if known is not None and not self._gone and known.size == storage.nbytes():
            return known
        with self._lock:
            self._bury()
            known = self._known.get(storage._cdata)
            if known is None:
                here = tensor.device.type == self.device.type
                self.adopt("device" if here else "host", ACTIVATIONS, tensor)
            elif known.size != storage.nbytes():
                self.adopt(known.tier, known.owner, tensor)
            return self._known[storage._cdata]

    def forget_activations(self) -> None:
        """Count no longer what was noted."""
        with self._lock:
            self._bury()
            for key in [key for key, known in self._known.items() if known.owner == ACTIVATIONS]:
                self._forget(key)

    def release(self, tensor: torch.Tensor) -> None:
        """Count a tensor no longer, although someone may still hold on to it."""
        with self._lock:
            self._bury()
            self._forget(tensor.untyped_storage()._cdata)

    def add(self, tier: Tier, owner: str, size: int) -> None:
        """Count bytes that come (or go, below 0) other than as tensors.

        Raises:
            ModelError: ``memory_cap``.
        """
        with self._lock:
            self._bury()
            self._count(tier, owner, size)
            if size > 0:
                self.check_cap()

    def held(self, tier: Tier | None = None) -> dict[str, int]:
        """Bytes now, by owner, of one tier or of all."""
        found: dict[str, int] = {}
        with self._lock:
            self._bury()
            for (where, owner), size in self._held.items():
                if tier in (None, where) and size:
                    found[owner] = found.get(owner, 0) + size
        return found

    def tiers(self) -> Mapping[Tier, int]:
        """Bytes now, by tier."""
        with self._lock:
            self._bury()
            return dict(self._now)

    def peaks(self) -> Mapping[Tier, int]:
        """The most that each tier held."""
        with self._lock:
            return dict(self._peak)

    def check_cap(self) -> None:
        """Raise where more is held than may be.

        Raises:
            ModelError: ``memory_cap``, naming the owner of the most and what makes it less.
        """
        with self._lock:
            self._bury()
            if self.cap is None or self._counted() <= self.cap:
                return
            gc.collect()
            self._measure()
            total = self._counted()
            if total <= self.cap:
                return
            held = {where: size for where, size in self._held.items() if where[0] != "disk"}
            tier, owner = max(held, key=held.__getitem__)
            raise ModelError(
                f"this rank holds {total:,} bytes, more than the cap of {self.cap:,}; most of it is "
                f"{owner}, {held[tier, owner]:,} bytes in the {tier} tier",
                code="memory_cap",
                location="limits.memory_bytes",
                hint=_REMEDIES.get(owner, "offload more, or use more ranks at a higher stage"),
            )

    @property
    def in_computation(self) -> bool:
        """Whether a forward or backward pass goes on, in which only the device tier may take part."""
        return self._computing

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Inside, a forward or backward pass goes on."""
        yield from self._as(True)

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Inside, what runs is no part of the pass around it: transfers, or the optimizer."""
        yield from self._as(False)

    def _as(self, computing: bool) -> Iterator[None]:
        before, self._computing = self._computing, computing
        try:
            yield
        finally:
            self._computing = before

    def _count(self, tier: Tier, owner: str, size: int) -> None:
        self._held[tier, owner] = self._held.get((tier, owner), 0) + size
        self._now[tier] += size
        self._peak[tier] = max(self._peak[tier], self._now[tier])

    def _counted(self) -> int:
        return sum(size for tier, size in self._now.items() if tier != "disk")

    def _measure(self) -> None:
        """Storages may have become smaller since they were counted."""
        self._bury()
        for key, known in list(self._known.items()):
            storage = known.storage()
            if storage is not None and storage.nbytes() != known.size:
                self._count(known.tier, known.owner, storage.nbytes() - known.size)
                self._known[key] = replace(known, size=storage.nbytes())

    def _bury(self) -> None:
        while self._gone:
            self._forget(self._gone.popleft())

    def _forget(self, key: int) -> None:
        known = self._known.pop(key, None)
        if known is not None:
            self._count(known.tier, known.owner, -known.size)
