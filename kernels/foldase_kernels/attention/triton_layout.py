"""How Triton's kernels see the tensors of a call: strides of merged batch dimensions, tile sizes, groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

SMALLEST_WIDTH = 16
"""Matrix instructions sum over at least this many channels; narrower heads are padded with zeros."""

ENOUGH_PROGRAMS = 512
"""Programs that keep a large GPU busy. A constant, so that sums come out alike on every machine."""

Operand = tuple[Any, ...]
"""Tensor, batch strides innermost first, then own strides."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """Sizes of the tiles of one kernel, and how Triton is to run it."""

    queries: int
    keys: int
    width: int
    warps: int = 4
    stages: int = 2


def choose_blocks(width: int, dtype: torch.dtype, *, backward: bool) -> Blocks:
    """Tile sizes by head width and dtype.

    Guesses after the size of registers and shared memory, not yet measured on a GPU. Fixed rather than
    tuned at run time: tuning delays first calls by minutes, and another choice is another order of sums.
    """
    padded = max(SMALLEST_WIDTH, 1 << (width - 1).bit_length())
    if dtype == torch.float32:
        return Blocks(32, 32 if padded <= 64 else 16, padded, warps=8, stages=1)
    if padded <= 64:
        return Blocks(64, 64, padded)
    return Blocks(64, 32 if backward else 64, padded, warps=8)


def merge_dims(
    sizes: Sequence[int], strides: Sequence[Sequence[int]]
) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """Join neighbouring dimensions where every tensor may step through both by one stride.

    Args:
        sizes: outermost first.
        strides: for each tensor, one stride per dimension.

    Returns:
        The merged sizes and, for each tensor, strides; innermost first, at least one dimension.
    """
    merged: list[int] = []
    steps: list[list[int]] = [[] for _ in strides]
    for dim in reversed(range(len(sizes))):
        if sizes[dim] == 1:
            continue
        joins = bool(merged) and all(
            own[dim] == taken[-1] * merged[-1] for own, taken in zip(strides, steps, strict=True)
        )
        if joins:
            merged[-1] *= sizes[dim]
            continue
        merged.append(sizes[dim])
        for own, taken in zip(strides, steps, strict=True):
            taken.append(own[dim])
    if not merged:
        return (1,), [(0,) for _ in strides]
    return tuple(merged), [tuple(taken) for taken in steps]


def operands(
    sizes: Sequence[int], views: Sequence[torch.Tensor | None], order: Sequence[int] | None = None
) -> tuple[tuple[int, ...], list[Operand | None]]:
    """Merged batch sizes and the operands of one launch.

    Args:
        sizes: the batch dimensions, outermost first; every view begins with them, broadcast ones expanded.
        views: the tensors, None where an optional one is absent.
        order: batch dimensions in the order in which the kernel counts them, outermost first.
    """
    order = range(len(sizes)) if order is None else order
    present = [view for view in views if view is not None]
    strides = [[view.stride(dim) for dim in order] for view in present]
    merged, steps = merge_dims([sizes[dim] for dim in order], strides)
    rest = iter(steps)
    own = range(len(sizes), max(view.dim() for view in present))
    found = [
        None if view is None else (view, next(rest), *(view.stride(dim) for dim in own if dim < view.dim()))
        for view in views
    ]
    return merged, found


def form(term: torch.Tensor, batch_dims: int) -> int:
    """In what a bias or mask differs behind its batch dimensions: 1 queries, 2 keys, 3 both, 0 neither."""
    queries, keys = (
        int(term.shape[dim] > 1 and term.stride(dim) != 0) for dim in (batch_dims, batch_dims + 1)
    )
    return queries + 2 * keys


@dataclass(frozen=True, slots=True)
class BiasPlan:
    """How the gradient of one bias is cut into programs.

    Attributes:
        order: batch dimensions, those that the bias is broadcast over last.
        own: batch indices with a gradient of their own.
        repeats: batch indices that share it.
        query_tiles: tiles of queries owned by programs; 1 where the bias does not differ between them.
        key_tiles: likewise for keys.
        query_steps: tiles of queries summed over by every program; 1 where they are owned.
        key_steps: likewise for keys.
        groups: parts into which each sum is cut.
    """

    order: tuple[int, ...]
    own: int
    repeats: int
    query_tiles: int
    key_tiles: int
    query_steps: int
    key_steps: int
    groups: int

    @classmethod
    def make(cls, shape: Sequence[int], full: Sequence[int], blocks: Blocks) -> BiasPlan:
        """For a bias of ``shape``, padded with ones to the rank of ``full``, the shape of the scores."""
        batch = range(len(full) - 2)
        owned = [dim for dim in batch if shape[dim] > 1]
        shared = [dim for dim in batch if shape[dim] == 1]
        tiles = (-(-full[-2] // blocks.queries), -(-full[-1] // blocks.keys))
        query_tiles, query_steps = (tiles[0], 1) if shape[-2] > 1 else (1, tiles[0])
        key_tiles, key_steps = (tiles[1], 1) if shape[-1] > 1 else (1, tiles[1])
        plan = cls(
            (*owned, *shared),
            _product(full[dim] for dim in owned),
            _product(full[dim] for dim in shared),
            query_tiles,
            key_tiles,
            query_steps,
            key_steps,
            1,
        )
        groups = max(1, min(plan.steps, ENOUGH_PROGRAMS // plan.programs))
        # Whole groups of equal size; none may be left without a step.
        return replace(plan, groups=-(-plan.steps // -(-plan.steps // groups)))

    @property
    def programs(self) -> int:
        """Tiles of the bias."""
        return self.own * self.query_tiles * self.key_tiles

    @property
    def steps(self) -> int:
        """Tiles of scores that are summed into one tile of the bias."""
        return self.repeats * self.query_steps * self.key_steps

    @property
    def group_steps(self) -> int:
        """How many of the steps one program takes."""
        return -(-self.steps // self.groups)


def _product(sizes: Any) -> int:
    total = 1
    for size in sizes:
        total *= size
    return total
