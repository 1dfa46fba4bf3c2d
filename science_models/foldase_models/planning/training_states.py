"""What a rank holds of a training's state, by tier and owner: weights, gradients, moments and buffers.

The tiers are those of a training's ledger: ``device`` computes, ``pinned`` is main memory that the device
copies from and to, ``host`` the rest of it, ``disk`` the file of this rank. Bytes of a parameter in mixed
precision with AdamW over N ranks (Rajbhandari et al. 2020, section 3; Psi parameters): 4 Psi + 12 Psi / N at
stage 1, 2 Psi + 14 Psi / N at stage 2, 16 Psi / N at stage 3. In float32: 8 Psi + 8 Psi / N, 4 Psi +
12 Psi / N, 16 Psi / N. Buffers come on top, and an average of the weights takes 4 Psi more, shared out alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from foldase_models.planning.forms import ITEM, WIDE
from foldase_models.planning.tensors import Unit
from foldase_models.training.config import TrainingConfig

ALIGNMENT_BYTES = 64
"""``training.zero.layout.ALIGNMENT_BYTES``"""
ROTATING = 3
"""Buffers of an optimizer on the disk: one is read, one computed, one written."""
DOUBLE = 2


@dataclass(slots=True)
class Held:
    """Bytes by tier and owner."""

    tiers: dict[str, dict[str, int]] = field(
        default_factory=lambda: {"device": {}, "pinned": {}, "host": {}, "disk": {}}
    )

    def add(self, tier: str, owner: str, size: int) -> None:
        """Count bytes."""
        if size:
            self.tiers[tier][owner] = self.tiers[tier].get(owner, 0) + size

    def sum(self, tier: str) -> int:
        """Of one tier."""
        return sum(self.tiers[tier].values())


def bucket_sizes(units: Sequence[Unit], item: int, ranks: int, bucket_bytes: int) -> list[int]:
    """Elements of the flat buckets, padding included; as ``training.zero.layout.lay_out``."""
    full: list[int] = []
    filling = {True: 0, False: 0}
    for unit in reversed(units):
        for tensor in reversed(unit.tensors if unit.trained else ()):
            if filling[tensor.matrix] and (filling[tensor.matrix] + tensor.numel) * item > bucket_bytes:
                full.append(filling[tensor.matrix])
                filling[tensor.matrix] = 0
            filling[tensor.matrix] += tensor.numel
    step = ranks * max(1, ALIGNMENT_BYTES // item)
    return [-(-size // step) * step for size in [*full, *filling.values()] if size]


def hold_states(units: Sequence[Unit], training: TrainingConfig, ranks: int) -> Held:
    """All that a rank holds as long as the training goes on; activations apart."""
    held = Held()
    item = ITEM[training.precision]
    frozen = sum(unit.numel for unit in units if not unit.trained)
    held.add("device", "frozen weights", item * frozen)
    shared_by = ranks if training.stage else 1
    sizes = bucket_sizes(units, item, shared_by, training.limits.bucket_bytes)
    whole = sum(sizes)
    share = whole // shared_by
    _hold_weights(held, units, training, whole=whole, share=share, item=item)
    _hold_gradients(held, training, sizes, share=share, item=item)
    _hold_optimizer(held, training, sizes, share=share, shared_by=shared_by)
    return held


def _hold_weights(
    held: Held, units: Sequence[Unit], training: TrainingConfig, *, whole: int, share: int, item: int
) -> None:
    place = training.offload.parameters
    if training.stage < 3:
        held.add("device", "weights", item * whole)
        return
    largest = max(unit.numel for unit in units if unit.trained)
    if place == "none":
        held.add("device", "weights", item * share)
    held.add("device", "gathered units", DOUBLE * item * largest)


def _hold_gradients(
    held: Held, training: TrainingConfig, sizes: Sequence[int], *, share: int, item: int
) -> None:
    place, largest = training.offload.optimizer, max(sizes)
    if training.stage < 2:
        held.add("device", "gradients", item * sum(sizes))
        return
    held.add("device", "gradient buckets", DOUBLE * item * largest)
    if place == "none":
        held.add("device", "gradients", item * share)


def _hold_optimizer(
    held: Held, training: TrainingConfig, sizes: Sequence[int], *, share: int, shared_by: int
) -> None:
    place, average = training.offload.optimizer, training.average_decay > 0
    tier = {"none": "device", "cpu": "host", "nvme": "disk"}[place]
    if place != "none" or training.precision != "float32":
        held.add(tier, "float32 weights", WIDE * share)
    held.add(tier, "optimizer", 2 * WIDE * share)
    held.add(tier, "average", WIDE * share if average else 0)
    if place == "none":
        return
    slot = max(sizes) // shared_by
    held.add("host" if place == "cpu" else "disk", "gradients", WIDE * share)
    held.add("pinned", "transfer buffers", DOUBLE * WIDE * slot)
    if place == "nvme":
        vectors = 5 if average else 4
        held.add("pinned", "rotating buffers", ROTATING * vectors * WIDE * slot)
