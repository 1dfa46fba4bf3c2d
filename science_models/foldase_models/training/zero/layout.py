"""Flat buckets: parameters one after the other in vectors that are shared out evenly. Pure arithmetic.

A bucket holds parameters of one dtype that decay alike. Its length is a multiple of ranks times an alignment,
so that every rank's slice is equally long and begins at a multiple of 64 bytes; the rest is padding, zeros
for ever. Parameters come in the reverse of the order in which a model names them, which is about the order in
which their gradients become ready.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

ALIGNMENT_BYTES = 64


@dataclass(frozen=True, slots=True)
class Entry:
    """A parameter in a bucket: elements ``start`` to ``start + numel`` of it."""

    name: str
    shape: tuple[int, ...]
    start: int

    @property
    def numel(self) -> int:
        """Elements; never 0."""
        return math.prod(self.shape)

    @property
    def stop(self) -> int:
        """The element after the last."""
        return self.start + self.numel


@dataclass(frozen=True, slots=True)
class Piece:
    """What a rank's slice holds of one parameter.

    ``length`` elements of it from element ``start`` on lie at ``offset`` in the slice.
    """

    name: str
    shape: tuple[int, ...]
    start: int
    length: int
    offset: int


@dataclass(frozen=True, slots=True)
class Bucket:
    """A flat vector of ``size`` elements, padding included.

    Attributes:
        index: its place among all buckets; the first ones hold what comes last in the model.
        decays: whether weight decay applies.
    """

    index: int
    entries: tuple[Entry, ...]
    dtype: torch.dtype
    decays: bool
    size: int
    ranks: int

    @property
    def share(self) -> int:
        """Elements of every rank's slice."""
        return self.size // self.ranks

    @property
    def bytes(self) -> int:
        """Of the whole vector."""
        return self.size * self.dtype.itemsize

    @property
    def payload_bytes(self) -> int:
        """Of the vector without its padding."""
        return self.numel * self.dtype.itemsize

    @property
    def numel(self) -> int:
        """Elements without padding."""
        return sum(entry.numel for entry in self.entries)

    def slice_of(self, rank: int) -> slice:
        """The elements that are a rank's own."""
        return slice(rank * self.share, (rank + 1) * self.share)

    def pieces(self, rank: int) -> tuple[Piece, ...]:
        """The parts of parameters in a rank's slice."""
        own = self.slice_of(rank)
        found = []
        for entry in self.entries:
            first, last = max(own.start, entry.start), min(own.stop, entry.stop)
            if first < last:
                found.append(
                    Piece(entry.name, entry.shape, first - entry.start, last - first, first - own.start)
                )
        return tuple(found)


def lay_out(
    parameters: Mapping[str, nn.Parameter],
    ranks: int,
    bucket_bytes: int,
    *,
    dtypes: Mapping[str, torch.dtype] | None = None,
    chunks: int = 1,
) -> tuple[Bucket, ...]:
    """Put parameters into buckets of about ``bucket_bytes``; one that is larger has a bucket of its own.

    Args:
        parameters: by name, in the order of the model; each tensor once. Those without elements are left out.
        ranks: that share a bucket.
        bucket_bytes: at which a bucket is full.
        dtypes: that parameters are going to have, by name; their own where it is left out.
        chunks: into which a bucket can be cut, each as well aligned as a slice.
    """
    open_ones: dict[tuple[torch.dtype, bool], list[tuple[str, tuple[int, ...]]]] = {}
    filled: dict[tuple[torch.dtype, bool], int] = {}
    buckets: list[Bucket] = []

    def close(kind: tuple[torch.dtype, bool]) -> None:
        if open_ones.get(kind):
            buckets.append(_bucket(len(buckets), open_ones[kind], kind, ranks, chunks))
        open_ones[kind], filled[kind] = [], 0

    for name, parameter in reversed(list(parameters.items())):
        if parameter.numel() == 0:
            continue
        kind = (dtypes[name] if dtypes else parameter.dtype, decays(parameter))
        size = parameter.numel() * kind[0].itemsize
        if filled.get(kind, 0) + size > bucket_bytes:
            close(kind)
        open_ones.setdefault(kind, []).append((name, tuple(parameter.shape)))
        filled[kind] = filled.get(kind, 0) + size
    for kind in list(open_ones):
        close(kind)
    return tuple(buckets)


def decays(parameter: nn.Parameter) -> bool:
    """Weight decay is for matrices; biases and the weights of layer norms are spared."""
    return parameter.dim() > 1


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that are trained, by their first name; a tied one once."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _bucket(
    index: int,
    members: Sequence[tuple[str, tuple[int, ...]]],
    kind: tuple[torch.dtype, bool],
    ranks: int,
    chunks: int,
) -> Bucket:
    dtype, decay = kind
    entries, start = [], 0
    for name, shape in members:
        entries.append(Entry(name, shape, start))
        start = entries[-1].stop
    unit = math.lcm(ranks, chunks) * max(1, ALIGNMENT_BYTES // dtype.itemsize)
    return Bucket(index, tuple(entries), dtype, decay, -(-start // unit) * unit, ranks)
