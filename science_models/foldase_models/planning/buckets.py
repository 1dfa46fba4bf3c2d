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
    """A flat vector: ``numel`` elements, ``size`` with padding, of which each rank has ``share``."""

    numel: int
    size: int
    share: int


@dataclass(frozen=True, slots=True)
class Slots:
    """Bytes of the file of an optimizer on the disk, of a buffer of any group, and of any one vector."""

    file: int
    buffer: int
    vector: int


def lay_out(tensors: Sequence[Tensor], item: int, ranks: int, bucket_bytes: int) -> list[Bucket]:
    """Buckets of tensors in the order of the model, ``item`` bytes a number."""
    filled: dict[bool, int] = {}
    sizes: list[int] = []
    for tensor in reversed(tensors):
        now = filled.get(tensor.matrix, 0)
        if now and (now + tensor.numel) * item > bucket_bytes:
            sizes.append(now)
            now = 0
        filled[tensor.matrix] = now + tensor.numel
    return [_bucket(size, item, ranks) for size in [*sizes, *filled.values()] if size]


def lay_out_rows(tensors: Sequence[Tensor], item: int, ranks: int, bucket_bytes: int) -> list[Bucket]:
    """Buckets of whole rows, as ``training.zero.rows``; with ``bucket_bytes`` 0 one for each tensor."""
    unit = max(1, ALIGNMENT_BYTES // item) if bucket_bytes else 1
    shares: list[int] = []
    filled: dict[bool, int] = {}
    for tensor in reversed(tensors):
        now, more = filled.get(tensor.matrix, 0), tensor.share(ranks)
        if now and (now + more) * ranks * item > bucket_bytes:
            # What is opened anew comes last.
            shares.append(filled.pop(tensor.matrix))
            now = 0
        filled[tensor.matrix] = now + more
    padded_shares = (-(-share // unit) * unit for share in [*shares, *filled.values()] if share)
    return [Bucket(share * ranks, share * ranks, share) for share in padded_shares]


def _bucket(numel: int, item: int, ranks: int) -> Bucket:
    step = ranks * max(1, ALIGNMENT_BYTES // item)
    size = -(-numel // step) * step
    return Bucket(numel, size, size // ranks)


def arrange(
    buckets: Iterable[Bucket],
    *,
    item: int,
    gradient: int,
    state: int,
    gradients: int,
    shown: int,
    buffer_bytes: int,
) -> Slots:
    """Slots of groups of buckets' slices.

    Args:
        buckets: whose slices.
        item: bytes of a number of shown weights.
        gradient: bytes of a number of gradients.
        state: float32 vectors of a group.
        gradients: vectors of them.
        shown: copies of the weights.
        buffer_bytes: of a buffer that holds one gradient and the state of a group, about.
    """
    least = BLOCK // WIDE
    most = max(least, buffer_bytes // (WIDE * state + gradient) // least * least)
    lengths = [
        min(most, bucket.share - start) for bucket in buckets for start in range(0, bucket.share, most)
    ]
    inside = [state * padded(WIDE * length) + padded(gradient * length) for length in lengths]
    more = [(gradients - 1) * padded(gradient * length) + shown * padded(item * length) for length in lengths]
    return Slots(
        file=sum(inside) + sum(more),
        buffer=max(inside, default=BLOCK),
        vector=max((padded(WIDE * length) for length in lengths), default=BLOCK),
    )


def padded(size: int) -> int:
    """Bytes rounded up to whole blocks."""
    return -(-size // BLOCK) * BLOCK
