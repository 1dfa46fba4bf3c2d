"""Flat buckets and slots on a disk without torch: sizes as ``training.zero.layout`` and ``offload.slots``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from foldase_models.planning.forms import WIDE
from foldase_models.planning.tensors import Tensor

ALIGNMENT_BYTES = 64
"""``training.zero.layout.ALIGNMENT_BYTES``"""
BLOCK = 4096
"""``training.offload.pinned.BLOCK``"""


@dataclass(frozen=True, slots=True)
class Bucket:
    """A flat vector: ``numel`` elements, ``size`` with padding, of which each rank has ``share``.

    ``item`` bytes each.
    """

    numel: int
    size: int
    share: int
    item: int

    @property
    def bytes(self) -> int:
        """With padding."""
        return self.item * self.size


@dataclass(frozen=True, slots=True)
class Slots:
    """Bytes of the file of an optimizer on the disk, of a buffer of any group, and of any one vector."""

    file: int
    buffer: int
    vector: int


def lay_out(tensors: Sequence[Tensor], item: int, ranks: int, bucket_bytes: int) -> list[Bucket]:
    """Buckets of tensors in the order of the model, ``item`` bytes a number but for wide ones."""
    filled: dict[tuple[int, bool], int] = {}
    sizes: list[tuple[int, int]] = []
    for tensor in reversed(tensors):
        kind = tensor.item(item), tensor.matrix
        now = filled.get(kind, 0)
        if now and (now + tensor.numel) * kind[0] > bucket_bytes:
            sizes.append((now, kind[0]))
            now = 0
        filled[kind] = now + tensor.numel
    sizes += [(now, width) for (width, _), now in filled.items()]
    return [_bucket(size, width, ranks) for size, width in sizes if size]


def lay_out_rows(tensors: Sequence[Tensor], item: int, ranks: int, bucket_bytes: int) -> list[Bucket]:
    """Buckets of whole rows, as ``training.zero.rows``; with ``bucket_bytes`` 0 one for each tensor."""
    filled: dict[tuple[int, bool], int] = {}
    shares: list[tuple[int, int]] = []
    for tensor in reversed(tensors):
        kind, more = (tensor.item(item), tensor.matrix), tensor.share(ranks)
        now = filled.get(kind, 0)
        if now and (now + more) * ranks * kind[0] > bucket_bytes:
            # What is opened anew comes last.
            shares.append((filled.pop(kind), kind[0]))
            now = 0
        filled[kind] = now + more
    found = []
    for now, width in [*shares, *((now, width) for (width, _), now in filled.items())]:
        unit = max(1, ALIGNMENT_BYTES // width) if bucket_bytes else 1
        share = -(-now // unit) * unit
        found.append(Bucket(share * ranks, share * ranks, share, width))
    return found


def _bucket(numel: int, item: int, ranks: int) -> Bucket:
    step = ranks * max(1, ALIGNMENT_BYTES // item)
    size = -(-numel // step) * step
    return Bucket(numel, size, size // ranks, item)


def arrange(
    buckets: Iterable[Bucket],
    *,
    gradient: int,
    state: int,
    gradients: int,
    shown: int,
    buffer_bytes: int,
) -> Slots:
    """Slots of groups of buckets' slices.

    Args:
        buckets: whose slices.
        gradient: bytes of a number of gradients.
        state: float32 vectors of a group.
        gradients: vectors of them.
        shown: copies of the weights, as wide as their buckets.
        buffer_bytes: of a buffer that holds one gradient and the state of a group, about.
    """
    least = BLOCK // WIDE
    most = max(least, buffer_bytes // (WIDE * state + gradient) // least * least)
    groups = [
        (min(most, bucket.share - start), bucket.item)
        for bucket in buckets
        for start in range(0, bucket.share, most)
    ]
    inside = [state * padded(WIDE * length) + padded(gradient * length) for length, _ in groups]
    more = [
        (gradients - 1) * padded(gradient * length) + shown * padded(item * length) for length, item in groups
    ]
    return Slots(
        file=sum(inside) + sum(more),
        buffer=max(inside, default=BLOCK),
        vector=max((padded(WIDE * length) for length, _ in groups), default=BLOCK),
    )


def padded(size: int) -> int:
    """Bytes rounded up to whole blocks."""
    return -(-size // BLOCK) * BLOCK
