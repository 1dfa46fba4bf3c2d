"""Encoding and decoding as the backends see them: checked vectors and numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

LANES = 8
"""Bits of a byte: coordinates come in groups of so many."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """Signs and scales to be taken of one vector.

    Attributes:
        values, error: ``[n]``, float32 (float64 too for the reference); the error is replaced.
        bits: ``[n / 8]``, uint8, written.
        scales: ``[blocks]``, of the dtype of the values, written.
        mask: ``[n / 8]``, uint8, which coordinates travel; None for all.
        alpha: what the values are multiplied with.
        block: coordinates that share a scale.
    """

    values: torch.Tensor
    error: torch.Tensor
    bits: torch.Tensor
    scales: torch.Tensor
    mask: torch.Tensor | None
    alpha: float
    block: int


@dataclass(frozen=True, slots=True)
class Decoding:
    """A vector to be made of signs and scales.

    Attributes:
        bits: ``[n / 8]``, uint8.
        scales: ``[blocks]``, of the dtype of the result.
        out: ``[n]``, float32 (float64 too for the reference), written or added to.
        mask: ``[n / 8]``, uint8, which coordinates travel; None for all.
        weight: what the scales are multiplied with.
        add: whether the result is added to.
        block: coordinates that share a scale.
    """

    bits: torch.Tensor
    scales: torch.Tensor
    out: torch.Tensor
    mask: torch.Tensor | None
    weight: float
    add: bool
    block: int


@dataclass(frozen=True, slots=True)
class Backend:
    """How signs are packed and unpacked; ``pack_mask`` takes the vector and the mask to be written."""

    encode: Callable[[Encoding], None]
    decode: Callable[[Decoding], None]
    pack_mask: Callable[[torch.Tensor, torch.Tensor], None]


def block_count(count: int, block: int) -> int:
    """How many scales a vector of ``count`` coordinates has; the last block may be shorter."""
    return -(-count // block)
