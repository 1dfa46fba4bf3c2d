"""Buckets of what ``fully_shard`` leaves on a rank: whole rows of each parameter. Pure arithmetic.

Of a parameter with n rows (elements of its first dimension) each of N ranks holds ceil(n / N), the last ones
fewer or none; in memory all have room for as many.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from foldase_models.training.zero.layout import ALIGNMENT_BYTES, Bucket, Entry, Piece


@dataclass(frozen=True, slots=True)
class RowBucket(Bucket):
    """The rows of some parameters, one parameter after the other; an entry starts there in a rank's share."""

    def pieces(self, rank: int) -> tuple[Piece, ...]:
        """The rows that a rank has."""
        found = []
        for entry in self.entries:
            rest = math.prod(entry.shape[1:])
            start = min(rank * row_share(entry.shape, self.ranks), entry.numel)
            length = min(row_share(entry.shape, self.ranks), entry.numel - start)
            if length and rest:
                found.append(Piece(entry.name, entry.shape, start, length, entry.start))
        return tuple(found)


def row_share(shape: tuple[int, ...], ranks: int) -> int:
    """Elements that every rank has room for, of a parameter of at least one dimension."""
    return -(-shape[0] // ranks) * math.prod(shape[1:])


def lay_out_rows(
    parameters: Mapping[str, torch.Tensor],
    ranks: int,
    bucket_bytes: int,
) -> tuple[RowBucket, ...]:
    """Put parameters into buckets of about ``bucket_bytes``; with 0 each has a bucket of exactly its rows.

    Args:
        parameters: by name, in the order of the model, with elements.
        ranks: that share rows out.
        bucket_bytes: of all ranks' shares together, at which a bucket is full.
    """
    buckets: list[RowBucket] = []
    open_ones: dict[tuple[torch.dtype, bool], list[Entry]] = {}

    def end(kind: tuple[torch.dtype, bool]) -> int:
        entries = open_ones[kind]
        return entries[-1].start + row_share(entries[-1].shape, ranks)

    def close(kind: tuple[torch.dtype, bool]) -> None:
        share = end(kind)
        if bucket_bytes:
            unit = max(1, ALIGNMENT_BYTES // kind[0].itemsize)
            share = -(-share // unit) * unit
        buckets.append(
            RowBucket(len(buckets), tuple(open_ones.pop(kind)), kind[0], kind[1], share * ranks, ranks)
        )

    for name, parameter in reversed(list(parameters.items())):
        shape, kind = tuple(parameter.shape), (parameter.dtype, parameter.dim() > 1)
        start = end(kind) if kind in open_ones else 0
        if start and (start + row_share(shape, ranks)) * ranks * kind[0].itemsize > bucket_bytes:
            close(kind)
            start = 0
        open_ones.setdefault(kind, []).append(Entry(name, shape, start))
    for kind in list(open_ones):
        close(kind)
    return tuple(buckets)
