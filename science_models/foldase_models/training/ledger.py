"""What a training holds, in bytes, by the tier it lies in and by what it is for."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Literal

import torch

from foldase_models.errors import ModelError

Tier = Literal["device", "pinned", "host", "disk"]
TIERS: tuple[Tier, ...] = ("device", "pinned", "host", "disk")
"""``device`` computes; ``pinned`` buffers of main memory that the device copies from and to; ``host`` the
rest
of main memory; ``disk`` the file of this rank. On a CPU the first three are the same memory, told apart by
their use."""


class Ledger:
    """Gives out the long-lived tensors of a training, and knows their bytes and the peak of each tier.

    Activations are not among them: see :mod:`foldase_models.training.counted_memory`.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._lock = threading.Lock()
        self._held: dict[tuple[Tier, str], int] = {}
        self._peak: dict[Tier, int] = {}

    def zeros(self, tier: Tier, owner: str, numel: int, dtype: torch.dtype) -> torch.Tensor:
        """A vector of zeros, on the device or in main memory, pinned where there is a GPU to copy to.

        Raises:
            ModelError: ``out_of_memory``: there is no room in that tier.
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
        self.add(tier, owner, numel * dtype.itemsize)
        return made

    def add(self, tier: Tier, owner: str, size: int) -> None:
        """Count bytes that come (or go, below 0) other than by :meth:`zeros`."""
        with self._lock:
            key = (tier, owner)
            self._held[key] = self._held.get(key, 0) + size
            now = sum(held for (where, _), held in self._held.items() if where == tier)
            self._peak[tier] = max(self._peak.get(tier, 0), now)

    def held(self, tier: Tier | None = None) -> dict[str, int]:
        """Bytes now, by owner, of one tier or of all."""
        found: dict[str, int] = {}
        with self._lock:
            for (where, owner), size in self._held.items():
                if tier in (None, where) and size:
                    found[owner] = found.get(owner, 0) + size
        return found

    def tiers(self) -> Mapping[Tier, int]:
        """Bytes now, by tier."""
        return {tier: sum(self.held(tier).values()) for tier in TIERS}

    def peaks(self) -> Mapping[Tier, int]:
        """The most that each tier held."""
        with self._lock:
            return {tier: self._peak.get(tier, 0) for tier in TIERS}
