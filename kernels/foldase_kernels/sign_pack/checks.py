"""What arguments of packing and unpacking must be."""

from __future__ import annotations

import math

import torch

from foldase_kernels.sign_pack.problem import LANES, Decoding, Encoding, block_count
from foldase_kernels.vectors import check_apart, check_vector

STATE, PACKED = torch.float32, torch.uint8
LEAST_BLOCK, LARGEST_BLOCK = 256, 16384


def check_encoding(problem: Encoding, *, dtypes: tuple[torch.dtype, ...]) -> None:
    """Refuse vectors and numbers that do not fit together; ``dtypes`` are those that values may have.

    Raises:
        ValueError: names the argument, what it is and what was expected.
    """
    _check_number("alpha", problem.alpha)
    _check_block(problem.block)
    _check_coordinates("values", problem.values, dtypes)
    check_vector("error", problem.error, (problem.values.dtype,))
    _check_count("error", problem.error, problem.values.numel())
    _check_packed("values", problem.values, problem.bits, problem.scales, problem.mask, problem.block)
    _check_together(
        {
            "values": problem.values,
            "error": problem.error,
            "bits": problem.bits,
            "scales": problem.scales,
            "mask": problem.mask,
        }
    )


def check_decoding(problem: Decoding, *, dtypes: tuple[torch.dtype, ...]) -> None:
    """Refuse vectors and numbers that do not fit together; ``dtypes`` are those that the result may have.

    Raises:
        ValueError: names the argument, what it is and what was expected.
    """
    _check_number("weight", problem.weight)
    _check_block(problem.block)
    _check_coordinates("out", problem.out, dtypes)
    _check_packed("out", problem.out, problem.bits, problem.scales, problem.mask, problem.block)
    _check_together(
        {"out": problem.out, "bits": problem.bits, "scales": problem.scales, "mask": problem.mask}
    )


def check_mask(source: torch.Tensor, mask: torch.Tensor, *, dtypes: tuple[torch.dtype, ...]) -> None:
    """Refuse a mask that does not fit its source; ``dtypes`` are those that the source may have.

    Raises:
        ValueError: names the argument, what it is and what was expected.
    """
    _check_coordinates("source", source, dtypes)
    check_vector("mask", mask, (PACKED,))
    _check_count("mask", mask, source.numel() // LANES)
    _check_together({"source": source, "mask": mask})


def _check_number(name: str, value: float) -> None:
    if not math.isfinite(value):
        raise ValueError(f"{name} is {value}; expected a finite number")


def _check_block(block: int) -> None:
    if not LEAST_BLOCK <= block <= LARGEST_BLOCK or block & (block - 1):
        raise ValueError(f"block is {block}; expected a power of two, {LEAST_BLOCK} to {LARGEST_BLOCK}")


def _check_coordinates(name: str, vector: torch.Tensor, dtypes: tuple[torch.dtype, ...]) -> None:
    check_vector(name, vector, dtypes)
    if vector.numel() % LANES:
        raise ValueError(f"{name} has {vector.numel()} elements; expected a multiple of {LANES}")


def _check_packed(
    whole: str,
    vector: torch.Tensor,
    bits: torch.Tensor,
    scales: torch.Tensor,
    mask: torch.Tensor | None,
    block: int,
) -> None:
    """What belongs to a vector of coordinates, which is called ``whole``."""
    for name, packed in (("bits", bits), ("mask", mask)):
        if packed is not None:
            check_vector(name, packed, (PACKED,))
            _check_count(name, packed, vector.numel() // LANES, f", one for {LANES} of {whole}")
    check_vector("scales", scales, (vector.dtype,))
    _check_count("scales", scales, block_count(vector.numel(), block), f", one for {block} of {whole}")


def _check_count(name: str, vector: torch.Tensor, expected: int, why: str = "") -> None:
    if vector.numel() != expected:
        raise ValueError(f"{name} has {vector.numel()} elements; expected {expected}{why}")


def _check_together(vectors: dict[str, torch.Tensor | None]) -> None:
    """All on one device, the first one's, and none in the memory of another."""
    present = {name: vector for name, vector in vectors.items() if vector is not None}
    first, *others = present
    device = present[first].device
    for name in others:
        if present[name].device != device:
            raise ValueError(f"{name} is on {present[name].device}, {first} on {device}; expected one device")
    check_apart(present)
