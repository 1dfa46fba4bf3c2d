"""What a rank holds of a training's state, by tier and owner: weights, gradients, moments and buffers.

The tiers are those of a training's ledger: ``device`` computes, ``pinned`` is main memory that the device
copies from and to, ``host`` the rest of it, ``disk`` the file of this rank. Bytes of a model of P parameters
with AdamW over N ranks (Rajbhandari et al. 2020, arXiv:1910.02054, section 3): in mixed precision 16 P at
stage 0, 4 P + 12 P / N at stage 1, 2 P + 14 P / N at stage 2, 16 P / N at stage 3; in float32 16 P,
8 P + 8 P / N, 4 P + 12 P / N, 16 P / N. An average of the weights takes 4 P more, shared out as the moments
are. Buffers come on top. At stage 3 with offloaded weights these lie nowhere but with the optimizer. With an
optimizer that compresses what it sends it is otherwise, see ``compressed_training``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from foldase_models.planning.buckets import Bucket, arrange, lay_out, lay_out_rows, padded
from foldase_models.planning.compressed_training import compressed_states, held_for_moments
from foldase_models.planning.forms import ITEM, WIDE
from foldase_models.planning.tensors import Tensors, Unit, size
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
        stage: as the engine sees it: stage 3 in a single process, with weights on the device, is stage 0.
        units: at stage 3 the bytes of the buckets by unit, the root's last; else nothing.
        largest: bytes of the largest bucket that is reduced on its own at stage 3.
        local: bytes of this rank's shards on the device, at stage 3.
        frozen: bytes of weights that are not trained.
        ranks: that share them out.
        rounds: backward passes of a step.
    """

    training: TrainingConfig
    device: Device
    stage: int
    buckets: list[Bucket]
    units: list[int]
    largest: int
    local: int
    frozen: int
    ranks: int
    rounds: int

    @property
    def share(self) -> int:
        """Elements that are a rank's own."""
        return sum(bucket.share for bucket in self.buckets)

    @property
    def there(self) -> list[Bucket]:
        """Buckets whose optimizer state lies where the optimizer lies."""
        return self.buckets[: len(self.buckets) - len(self.here)]

    @property
    def here(self) -> list[Bucket]:
        """Buckets that keep their optimizer state on the device: all of them, or the last ones."""
        offload = self.training.offload
        if offload.optimizer == "none":
            return self.buckets
        return self.buckets[max(0, len(self.buckets) - offload.device_buckets) :]

    def gradient(self, bucket: Bucket) -> int:
        """Bytes of a number of gradients where they are added up."""
        return WIDE if self.rounds > 1 else bucket.item

    @property
    def aliased(self) -> bool:
        """Whether the parameters of ``fully_shard`` are the optimizer's own weights."""
        whole = self.training.precision == "float32" and self.training.offload.optimizer == "none"
        return self.stage == 3 and not self.streams and whole

    @property
    def streams(self) -> bool:
        """Whether weights lie outside the device."""
        return self.training.offload.parameters != "none"


def hold_states(
    units: Sequence[Unit], training: TrainingConfig, ranks: int, device: Device, *, frozen: bool = True
) -> Held:
    """All that a rank holds but activations; ``frozen`` where a second moment is that will be."""
    layout = _lay_out(units, training, ranks, device)
    held, stage = Held(), layout.stage
    if stage < 3:
        held.add("device", "frozen weights", layout.frozen)
        held.add("device", "weights", sum(bucket.bytes for bucket in layout.buckets))
    else:
        _hold_units(held, layout)
    if stage < 2:
        held.add("device", "gradients", sum(layout.gradient(one) * one.size for one in layout.buckets))
    else:
        # Where fully_shard has them, float32 gradients are those of its parameters, and go with the step.
        owner = UNDER_WAY if layout.aliased else "gradients"
        held.add("device", owner, sum(layout.gradient(bucket) * bucket.share for bucket in layout.here))
    if stage == 2:
        limit = training.limits.bucket_bytes
        sizes = [b.bytes for b in layout.buckets if b.item * b.numel <= limit]
        held.add("device", "gradient buckets", DOUBLE * max(sizes, default=0))
        held.arriving = max(bucket.bytes for bucket in layout.buckets)
    if training.optimizer.compresses:
        for owner, size in compressed_states(layout.buckets, training, frozen=frozen).items():
            held.add("device", owner, size)
        if frozen:
            held.arriving = max(held.arriving, held_for_moments(layout.buckets, training))
    elif layout.here:
        _hold_on_device(held, layout)
    if layout.there:
        (_hold_on_host if training.offload.optimizer == "cpu" else _hold_on_disk)(held, layout)
    return held


def stepped_on_device(units: Sequence[Unit], training: TrainingConfig, ranks: int) -> float:
    """Of the elements that a rank steps, the share that it steps on the device."""
    layout = _lay_out(units, training, ranks, "cpu")
    return sum(bucket.share for bucket in layout.here) / layout.share


def flat_buckets(units: Sequence[Unit], training: TrainingConfig, ranks: int) -> list[Bucket]:
    """The flat vectors of the trained parameters."""
    return _lay_out(units, training, ranks, "cpu").buckets


def root_and_blocks(units: Sequence[Unit]) -> list[Tensors]:
    """Trained parameters by what is gathered together: blocks, then the rest of the model as one."""
    blocks = [unit.tensors for unit in units if unit.trained and unit.repeats]
    rest = tuple(t for unit in units if unit.trained and not unit.repeats for t in unit.tensors)
    return [*blocks, rest]


def _lay_out(units: Sequence[Unit], training: TrainingConfig, ranks: int, device: Device) -> _Layout:
    item, limit = ITEM[training.precision], training.limits.bucket_bytes
    streams = training.offload.parameters != "none"
    stage = 0 if training.stage == 3 and ranks == 1 and not streams else training.stage
    shared_by = ranks if stage or training.optimizer.compresses else 1
    groups = root_and_blocks(units)
    tensors = tuple(tensor for unit in units if unit.trained for tensor in unit.tensors)
    gathered: list[int] = []
    largest = local = 0
    if stage == 3 and streams:
        made = [lay_out(group, item, shared_by, limit) for group in groups]
        buckets = [bucket for group in made for bucket in group]
        gathered = [sum(bucket.bytes for bucket in group) for group in made]
        largest = max(bucket.bytes for bucket in buckets)
    elif stage == 3:
        alias = training.offload.optimizer == "none" and training.precision == "float32"
        buckets = lay_out_rows(tensors, item, ranks, 0 if alias else limit)
        shares = [sum(t.item(item) * t.share(ranks) for t in group) for group in groups]
        gathered = [ranks * share for share in shares]
        largest, local = max(gathered), sum(shares)
    else:
        buckets = lay_out(tensors, item, shared_by, limit)
    return _Layout(
        training=training,
        device=device,
        stage=stage,
        buckets=buckets,
        units=gathered,
        largest=largest,
        local=local,
        frozen=sum(size(unit.tensors, item) for unit in units if not unit.trained),
        ranks=shared_by,
        rounds=-(-training.micro_batches // ranks),
    )


def _hold_units(held: Held, layout: _Layout) -> None:
    """At stage 3: the root's unit while a part goes through the model, two more, and gradients of two."""
    tier = "pinned" if layout.streams else "device"
    held.add(tier, "frozen weights", -(-layout.frozen // layout.ranks))
    held.add("device", "weights", layout.local)
    blocks = layout.units[:-1]
    gathered = layout.units[-1] + (DOUBLE if len(blocks) > 1 else 1) * max(blocks, default=0)
    if layout.ranks > 1 and len(blocks) > DOUBLE:
        gathered += max(blocks) // layout.ranks
    held.add("device", GATHERED, gathered)
    held.add("device", UNDER_WAY, DOUBLE * layout.largest)


def _hold_on_device(held: Held, layout: _Layout) -> None:
    training, share = layout.training, sum(bucket.share for bucket in layout.here)
    beside = layout.stage == 3 and not layout.aliased
    apart = share if beside else sum(bucket.share for bucket in layout.here if bucket.item != WIDE)
    held.add("device", "float32 weights", WIDE * apart)
    held.add("device", "optimizer", 2 * WIDE * share)
    if training.average_decay:
        held.add("device", "average", WIDE * share)
    widened = [WIDE * bucket.share for bucket in layout.here if layout.gradient(bucket) != WIDE]
    held.arriving = max(held.arriving, *widened, 0)


def _hold_on_host(held: Held, layout: _Layout) -> None:
    training, share = layout.training, sum(bucket.share for bucket in layout.there)
    held.add("host", "float32 weights", WIDE * share)
    held.add("host", "optimizer", 2 * WIDE * share)
    if training.average_decay:
        held.add("host", "average", WIDE * share)
    if training.offload.ahead:
        held.add("host", "steps ahead", (4 if training.average_decay else 3) * WIDE * share)
    turns = 2 if training.offload.delayed else 1
    slices = [layout.gradient(bucket) * bucket.share for bucket in layout.there]
    if layout.device == "cpu":
        held.add("host", "gradients", turns * sum(slices))
    else:
        held.add("pinned", "gradients", turns * sum(padded(size) for size in slices))
        held.add("pinned", "staging", HOST_STAGING * padded(max(slices)))
    if training.offload.delayed and layout.streams:
        held.add("host", "weights", DOUBLE * sum(bucket.item * bucket.share for bucket in layout.there))


def _hold_on_disk(held: Held, layout: _Layout) -> None:
    training = layout.training
    delayed = training.offload.delayed
    smaller = int(any(bucket.item != WIDE for bucket in layout.there))
    gradients = {layout.gradient(bucket) for bucket in layout.there}
    slots = arrange(
        layout.there,
        gradient=gradients.pop() if len(gradients) == 1 else WIDE,
        state=4 if training.average_decay else 3,
        gradients=2 if delayed else 1,
        shown=(2 if delayed else smaller) if layout.streams else 0,
        buffer_bytes=training.limits.bucket_bytes,
    )
    held.add("disk", "optimizer", padded(slots.file))
    held.add("pinned", "groups of the optimizer", ROTATING * slots.buffer)
    held.add("pinned", "staging", DISK_STAGING * slots.vector)
    if not layout.streams:
        largest = max(bucket.item * bucket.share for bucket in layout.there)
        held.add("pinned", "weights to publish", padded(largest))
