"""What a rank holds of a training's state, by tier and owner: weights, gradients, moments and buffers.

The tiers are those of a training's ledger: ``device`` computes, ``pinned`` is main memory that the device
copies from and to, ``host`` the rest of it, ``disk`` the file of this rank. Bytes of a model of P parameters
with AdamW over N ranks (Rajbhandari et al. 2020, arXiv:1910.02054, section 3): in mixed precision 16 P at
stage 0, 4 P + 12 P / N at stage 1, 2 P + 14 P / N at stage 2, 16 P / N at stage 3; in float32 16 P,
8 P + 8 P / N, 4 P + 12 P / N, 16 P / N. An average of the weights takes 4 P more, shared out as the moments
are. Buffers come on top. At stage 3 weights lie nowhere but with the optimizer: in mixed precision that is
2 P / N less.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from foldase_models.planning.buckets import Bucket, arrange, lay_out, padded
from foldase_models.planning.forms import ITEM, WIDE
from foldase_models.planning.tensors import Tensors, Unit
from foldase_models.planning.trainees import Device
from foldase_models.training.config import TrainingConfig

ROTATING = 3
"""Groups of an optimizer on the disk in memory at once: one is read, one computed, one written."""
DISK_STAGING, HOST_STAGING = 5, 3
"""Vectors on their way between the device and the disk, or the device and main memory."""
DOUBLE = 2
GATHERED, UNDER_WAY = "gathered weights", "gradients of units"
"""Owners of what comes and goes within a step."""


@dataclass(slots=True)
class Held:
    """Bytes by tier and owner.

    Attributes:
        tiers: at the peak of a step.
        arriving: gradients or copies that are there when activations are not, bytes on the device.
    """

    tiers: dict[str, dict[str, int]] = field(
        default_factory=lambda: {"device": {}, "pinned": {}, "host": {}, "disk": {}}
    )
    arriving: int = 0

    def add(self, tier: str, owner: str, size: int) -> None:
        """Count bytes."""
        if size:
            self.tiers[tier][owner] = self.tiers[tier].get(owner, 0) + size

    def sum(self, tier: str) -> int:
        """Of one tier."""
        return sum(self.tiers[tier].values())

    def resting(self, tier: str) -> int:
        """Of one tier between two steps."""
        return sum(size for owner, size in self.tiers[tier].items() if owner not in (GATHERED, UNDER_WAY))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """Of the trained parameters.

    Attributes:
        buckets: all of them.
        units: at stage 3 the buckets by unit, the root's last; else nothing.
        item: bytes of a number of weights.
        ranks: that share them out.
        rounds: backward passes of a step.
    """

    training: TrainingConfig
    device: Device
    buckets: list[Bucket]
    units: list[list[Bucket]]
    frozen: int
    item: int
    ranks: int
    rounds: int

    @property
    def share(self) -> int:
        """Elements that are a rank's own."""
        return sum(bucket.share for bucket in self.buckets)

    @property
    def whole(self) -> int:
        """Elements of all buckets."""
        return sum(bucket.size for bucket in self.buckets)

    @property
    def gradient(self) -> int:
        """Bytes of a number of gradients where they are added up."""
        return WIDE if self.rounds > 1 else self.item

    @property
    def streams(self) -> bool:
        """Whether weights lie outside the device."""
        return self.training.offload.parameters != "none"


def hold_states(units: Sequence[Unit], training: TrainingConfig, ranks: int, device: Device) -> Held:
    """All that a rank holds but activations."""
    layout = _lay_out(units, training, ranks, device)
    held = Held()
    if training.stage < 3:
        held.add("device", "frozen weights", layout.item * layout.frozen)
        held.add("device", "weights", layout.item * layout.whole)
    else:
        _hold_units(held, layout)
    if training.stage < 2:
        held.add("device", "gradients", layout.gradient * layout.whole)
    elif training.offload.optimizer == "none":
        held.add(
            "device", "gradients", (layout.gradient if training.stage == 2 else layout.item) * layout.share
        )
    if training.stage == 2:
        limit = training.limits.bucket_bytes
        sizes = [layout.item * b.size for b in layout.buckets if layout.item * b.numel <= limit]
        held.add("device", "gradient buckets", DOUBLE * max(sizes, default=0))
        held.arriving = layout.item * max(bucket.size for bucket in layout.buckets)
    {"none": _hold_on_device, "cpu": _hold_on_host, "nvme": _hold_on_disk}[training.offload.optimizer](
        held, layout
    )
    return held


def root_and_blocks(units: Sequence[Unit]) -> list[Tensors]:
    """Trained parameters by what is gathered together: blocks, then the rest of the model as one."""
    blocks = [unit.tensors for unit in units if unit.trained and unit.repeats]
    rest = tuple(t for unit in units if unit.trained and not unit.repeats for t in unit.tensors)
    return [*blocks, rest]


def _lay_out(units: Sequence[Unit], training: TrainingConfig, ranks: int, device: Device) -> _Layout:
    item, limit = ITEM[training.precision], training.limits.bucket_bytes
    shared_by = ranks if training.stage else 1
    by_unit: list[list[Bucket]] = []
    if training.stage == 3:
        by_unit = [lay_out(tensors, item, shared_by, limit) for tensors in root_and_blocks(units)]
        buckets = [bucket for group in by_unit for bucket in group]
    else:
        tensors = tuple(tensor for unit in units if unit.trained for tensor in unit.tensors)
        buckets = lay_out(tensors, item, shared_by, limit)
    return _Layout(
        training=training,
        device=device,
        buckets=buckets,
        units=by_unit,
        frozen=sum(unit.numel for unit in units if not unit.trained),
        item=item,
        ranks=shared_by,
        rounds=-(-training.micro_batches // ranks),
    )


def _hold_units(held: Held, layout: _Layout) -> None:
    """At stage 3: the root's unit while a part goes through the model, two more, and gradients of two."""
    tier = "pinned" if layout.streams else "device"
    held.add(tier, "frozen weights", layout.item * -(-layout.frozen // layout.ranks))
    sizes = [layout.item * sum(bucket.size for bucket in group) for group in layout.units]
    blocks = sizes[:-1]
    gathered = sizes[-1] + (DOUBLE if len(blocks) > 1 else 1) * max(blocks, default=0)
    if layout.ranks > 1 and len(blocks) > DOUBLE:
        gathered += max(blocks) // layout.ranks
    held.add("device", GATHERED, gathered)
    largest = max((layout.item * bucket.size for group in layout.units for bucket in group), default=0)
    held.add("device", UNDER_WAY, DOUBLE * largest)


def _hold_on_device(held: Held, layout: _Layout) -> None:
    training = layout.training
    if training.stage == 3 or training.precision != "float32":
        held.add("device", "float32 weights", WIDE * layout.share)
    held.add("device", "optimizer", 2 * WIDE * layout.share)
    if training.average_decay:
        held.add("device", "average", WIDE * layout.share)
    if layout.gradient != WIDE:
        held.arriving = max(held.arriving, WIDE * max(bucket.share for bucket in layout.buckets))


def _hold_on_host(held: Held, layout: _Layout) -> None:
    training = layout.training
    held.add("host", "float32 weights", WIDE * layout.share)
    held.add("host", "optimizer", 2 * WIDE * layout.share)
    if training.average_decay:
        held.add("host", "average", WIDE * layout.share)
    turns = 2 if training.offload.delayed else 1
    slices = [layout.gradient * bucket.share for bucket in layout.buckets]
    if layout.device == "cpu":
        held.add("host", "gradients", turns * sum(slices))
    else:
        held.add("pinned", "gradients", turns * sum(padded(size) for size in slices))
        held.add("pinned", "staging", HOST_STAGING * padded(max(slices)))
    if training.offload.delayed and layout.streams:
        held.add("host", "weights", DOUBLE * layout.item * layout.share)


def _hold_on_disk(held: Held, layout: _Layout) -> None:
    training = layout.training
    delayed = training.offload.delayed
    smaller = int(training.precision != "float32")
    slots = arrange(
        layout.buckets,
        item=layout.item,
        gradient=layout.gradient,
        state=4 if training.average_decay else 3,
        gradients=2 if delayed else 1,
        shown=(2 if delayed else smaller) if layout.streams else 0,
        buffer_bytes=training.limits.bucket_bytes,
    )
    held.add("disk", "optimizer", padded(slots.file))
    held.add("pinned", "groups of the optimizer", ROTATING * slots.buffer)
    held.add("pinned", "staging", DISK_STAGING * slots.vector)
    if not layout.streams:
        largest = max(bucket.share for bucket in layout.buckets)
        held.add("pinned", "weights to publish", padded(layout.item * largest))
