"""Where the state of every part of every bucket lies in the file and in the buffers that it passes through.

A slice of a bucket is cut into groups so small that a group's vectors fit into one buffer. A group's slot in
the file holds, each padded to whole blocks::

    gradient 0 | weights | exp_avg | exp_avg_sq | average | gradient 1 | shown 0 | shown 1

and a buffer ``gradient | weights | exp_avg | exp_avg_sq | average``, so that what a step needs comes in one
read and what it changes goes in one write.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from foldase_models.training.offload.pinned import BLOCK, padded
from foldase_models.training.shards import AVERAGE, FIRST_MOMENT, SECOND_MOMENT, WEIGHTS
from foldase_models.training.zero.layout import Bucket

GRADIENT = "gradient"
FLOAT_BYTES = 4
_LEAST_ELEMENTS = BLOCK // FLOAT_BYTES


@dataclass(frozen=True, slots=True)
class Kinds:
    """What is kept besides weights and moments.

    Attributes:
        average: whether the weights' average is.
        gradients: 2 where one step's are written while the one before is still computed, else 1.
        gradient_dtype: in which they are added up.
        shown: copies of the weights in the bucket's dtype, to fetch from: 2 where a step may not change what
            is fetched, 1 where only the dtype differs, else 0.
    """

    average: bool
    gradients: int
    gradient_dtype: torch.dtype
    shown: int

    @property
    def state(self) -> tuple[str, ...]:
        """Names of the float32 vectors."""
        return (WEIGHTS, FIRST_MOMENT, SECOND_MOMENT, *((AVERAGE,) if self.average else ()))


@dataclass(frozen=True, slots=True)
class Group:
    """Elements ``start`` to ``start + length`` of a bucket's slice.

    Attributes:
        bucket: index.
        dtype: of shown weights.
        gradient_dtype: of gradients.
        last: whether it ends the slice.
        places: byte at which each vector begins in the file.
        inside: byte at which each vector begins in a buffer.
        sizes: bytes of each vector, padded.
    """

    bucket: int
    dtype: torch.dtype
    gradient_dtype: torch.dtype
    decays: bool
    start: int
    length: int
    last: bool
    places: dict[str, int]
    inside: dict[str, int]
    sizes: dict[str, int]

    @property
    def part(self) -> slice:
        """Its elements of the slice."""
        return slice(self.start, self.start + self.length)

    def dtype_of(self, name: str) -> torch.dtype:
        """Of a vector in the file."""
        if name.startswith(GRADIENT):
            return self.gradient_dtype
        return torch.float32 if name in self.inside else self.dtype

    def view(self, buffer: torch.Tensor, name: str) -> torch.Tensor:
        """A vector in a buffer: ``gradient`` or one of the state."""
        dtype = self.dtype_of(name)
        start = self.inside[name]
        return buffer[start : start + self.length * dtype.itemsize].view(dtype)

    def low(self, buffer: torch.Tensor) -> torch.Tensor:
        """Weights of the bucket's dtype, where the gradient was."""
        start = self.inside[GRADIENT]
        return buffer[start : start + self.length * self.dtype.itemsize].view(self.dtype)


@dataclass(frozen=True, slots=True)
class Slots:
    """All groups in order, and what they need.

    Attributes:
        groups: of one bucket after the other.
        file_bytes: of the file.
        buffer_bytes: of a buffer that holds any group.
        vector_bytes: of a buffer that holds any one vector of a group.
    """

    groups: tuple[Group, ...]
    file_bytes: int
    buffer_bytes: int
    vector_bytes: int

    def of(self, bucket: int) -> tuple[Group, ...]:
        """A bucket's groups."""
        return tuple(group for group in self.groups if group.bucket == bucket)


def arrange(buckets: Sequence[Bucket], kinds: Kinds, buffer_bytes: int) -> Slots:
    """Cut slices into groups whose vectors fit into about ``buffer_bytes``, and give each its slot."""
    groups: list[Group] = []
    at = 0
    for bucket in buckets:
        each = FLOAT_BYTES * len(kinds.state) + kinds.gradient_dtype.itemsize
        most = max(_LEAST_ELEMENTS, buffer_bytes // each // _LEAST_ELEMENTS * _LEAST_ELEMENTS)
        for start in range(0, bucket.share, most):
            group = _group(bucket, start, min(most, bucket.share - start), kinds, at)
            groups.append(group)
            at += sum(group.sizes.values())
    inside = (sum(group.sizes[name] for name in group.inside) for group in groups)
    return Slots(
        tuple(groups),
        at,
        max(inside, default=BLOCK),
        max((max(group.sizes.values()) for group in groups), default=BLOCK),
    )


def _group(bucket: Bucket, start: int, length: int, kinds: Kinds, at: int) -> Group:
    gradient, low = kinds.gradient_dtype.itemsize, bucket.dtype.itemsize
    more = {f"{GRADIENT}{turn}": gradient for turn in range(1, kinds.gradients)}
    more |= {f"shown{generation}": low for generation in range(kinds.shown)}
    items = {GRADIENT: gradient} | dict.fromkeys(kinds.state, FLOAT_BYTES) | more
    sizes = {name: padded(length * itemsize) for name, itemsize in items.items()}
    places, inside = {}, {}
    behind = 0
    for name, size in sizes.items():
        places[name] = at + behind
        if name not in more:
            inside[name] = behind
        behind += size
    last = start + length == bucket.share
    dtypes = bucket.dtype, kinds.gradient_dtype
    return Group(bucket.index, *dtypes, bucket.decays, start, length, last, places, inside, sizes)


def gradient_name(turn: int) -> str:
    """Of the gradient that is taken in a turn."""
    return GRADIENT if turn == 0 else f"{GRADIENT}{turn}"


def runs(group: Group, names: Sequence[tuple[str, str]]) -> list[tuple[int, int, int]]:
    """Bytes to move together, as place in the file, place in a buffer, and size.

    Args:
        group: whose vectors.
        names: of the vectors in the file and in the buffer; what is neighbours in both is joined.
    """
    found: list[tuple[int, int, int]] = []
    for there, here in names:
        place, inside, size = group.places[there], group.inside[here], group.sizes[there]
        if found and (found[-1][0] + found[-1][2], found[-1][1] + found[-1][2]) == (place, inside):
            found[-1] = (found[-1][0], found[-1][1], found[-1][2] + size)
        else:
            found.append((place, inside, size))
    return found
