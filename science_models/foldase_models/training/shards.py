"""Which part of a tensor lies here: the form in which engines give their state to checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from foldase_models.training.kinds import AVERAGE, BUFFERS, FIRST_MOMENT, SECOND_MOMENT, WEIGHTS

__all__ = [
    "AVERAGE",
    "BUFFERS",
    "FIRST_MOMENT",
    "SECOND_MOMENT",
    "WEIGHTS",
    "FlatShard",
    "absent",
    "part",
    "whole",
]


@dataclass(frozen=True, slots=True)
class FlatShard:
    """Elements ``start`` to ``start + length`` of a tensor in row-major order.

    Ranks that share a tensor out hold one such part each, together all of it; what every rank holds whole is
    given whole by every rank, and is the same there.

    Attributes:
        shape: of the whole tensor.
        dtype: of what ``read`` gives and ``write`` takes.
        start, length: in elements; length 0 where this rank has no part.
        read: gives the part, 1-D, on the CPU or the device, as long as it is not changed by a step.
        write: takes a part of the same length in its place.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    start: int
    length: int
    read: Callable[[], torch.Tensor]
    write: Callable[[torch.Tensor], None]

    @property
    def numel(self) -> int:
        """Elements of the whole tensor."""
        return math.prod(self.shape)


def whole(tensor: torch.Tensor) -> FlatShard:
    """A tensor that lies here whole; contiguous, and written in place."""

    def write(values: torch.Tensor) -> None:
        with torch.no_grad():
            tensor.copy_(values.view(tensor.shape))

    return FlatShard(
        tuple(tensor.shape), tensor.dtype, 0, tensor.numel(), lambda: tensor.detach().reshape(-1), write
    )


def part(view: torch.Tensor, shape: tuple[int, ...], start: int) -> FlatShard:
    """A 1-D view that holds the elements from ``start`` on of a tensor of ``shape``; written in place."""

    def write(values: torch.Tensor) -> None:
        with torch.no_grad():
            view.copy_(values)

    return FlatShard(shape, view.dtype, start, view.numel(), view.detach, write)


def with_absent(
    shards: Mapping[str, FlatShard], shapes: Mapping[str, tuple[int, ...]], *, averaged: bool
) -> dict[str, FlatShard]:
    """Add an empty shard for every parameter with elements of which this rank holds no part.

    Args:
        shards: of weights, moments and averages, by key.
        shapes: of all trained parameters by name, in the order that the keys are to have.
        averaged: whether averages are kept.
    """
    kinds = (WEIGHTS, FIRST_MOMENT, SECOND_MOMENT, *((AVERAGE,) if averaged else ()))
    found: dict[str, FlatShard] = {}
    for name, shape in shapes.items():
        if math.prod(shape):
            for key in (f"{kind}/{name}" for kind in kinds):
                found[key] = shards[key] if key in shards else absent(shape)
    return found


def absent(shape: tuple[int, ...]) -> FlatShard:
    """Of a tensor of which this rank has no part."""

    def write(values: torch.Tensor) -> None:
        assert values.numel() == 0

    return FlatShard(shape, torch.float32, 0, 0, lambda: torch.empty(0), write)
