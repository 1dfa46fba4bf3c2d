"""Maps over pairs of residues as bytes: scales, and smaller copies for an overview."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

PAE_STEP = 0.125
"""A in one step of a byte; 254 steps are 31.75 A, the largest error of AlphaFold's files."""
MISSING = 255
_LARGEST = 254
LODS = {"lod1": 4, "lod2": 16}
"""Smaller copies by name, and how many rows and columns become one."""
CHUNK = 256
SHARD = 2048
_BAND = 1024
DISTANCE_BINS = 64
DISTANCE_EDGES = tuple(2.3125 + 0.3125 * step for step in range(DISTANCE_BINS - 1))
"""Between the bins of a distogram, A; the first and the last bin are open."""
DEEP_CHUNK, DEEP_SHARD = 64, 512
"""Rows and columns of a tile and of a file where each pair has a value for every bin."""


def pae_bytes(pae: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Errors in A as uint8 steps of 0.125 A of the same shape; what is larger than 31.75 becomes that.

    NaN becomes 255, missing.

    Raises:
        ValueError: a negative error.
    """
    packed = np.empty(pae.shape, dtype=np.uint8)
    for rows in _bands(len(pae)):
        part = np.asarray(pae[rows], dtype=np.float32)
        missing = np.isnan(part)
        if (part[~missing] < 0).any():
            raise ValueError("an aligned error is negative")
        steps = np.rint(np.minimum(np.where(missing, 0, part) / PAE_STEP, _LARGEST))
        packed[rows] = np.where(missing, MISSING, steps)
    return packed


def pae_of_bytes(packed: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The inverse of :func:`pae_bytes`: float32 of the same shape, A, NaN where errors are missing."""
    pae = packed.astype(np.float32) * np.float32(PAE_STEP)
    pae[packed == MISSING] = np.nan
    return pae


def probability_bytes(probability: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Probabilities, 0 to 1, as uint8 of the same shape in steps of 1/255."""
    packed = np.empty(probability.shape, dtype=np.uint8)
    for rows in _bands(len(probability)):
        packed[rows] = np.rint(np.clip(probability[rows], 0, 1) * 255)
    return packed


def block_means(packed: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """The mean of each block of ``size`` rows and columns, (N, N) to (ceil(N / size), ceil(N / size)).

    Blocks at the edge are smaller. Missing values do not count; a block of nothing else is missing.
    """
    length = len(packed)
    starts = np.arange(0, length, size)
    means = np.empty((len(starts), len(starts)), dtype=np.uint8)
    for rows in _bands(length, size):
        band = packed[rows]
        known = band != MISSING
        firsts = np.arange(0, len(band), size)
        total, count = (
            np.add.reduceat(np.add.reduceat(values, firsts, axis=0), starts, axis=1)
            for values in (np.where(known, band, 0).astype(np.uint32), known.astype(np.uint32))
        )
        mean = np.rint(total / np.maximum(count, 1))
        means[rows.start // size : rows.start // size + len(firsts)] = np.where(count, mean, MISSING)
    return means


def tile_shapes(length: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Chunk and shard of a square map: tiles of 256 in files of up to 2048 rows and columns."""
    shard = min(SHARD, -(-length // CHUNK) * CHUNK)
    return (CHUNK, CHUNK), (shard, shard)


def deep_tile_shapes(length: int, depth: int) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Chunk and shard of a map with ``depth`` values a pair: tiles of 64 in files of up to 512."""
    shard = min(DEEP_SHARD, -(-length // DEEP_CHUNK) * DEEP_CHUNK)
    return (DEEP_CHUNK, DEEP_CHUNK, depth), (shard, shard, depth)


def _bands(length: int, multiple: int = 1) -> Iterator[slice]:
    step = max(_BAND // multiple, 1) * multiple
    return (slice(start, min(start + step, length)) for start in range(0, length, step))
