"""Weights of sequences: close relatives count as one.

Source: Morcos et al., PNAS 108:E1293 (2011), equation 4 of the supplement: the weight of a sequence is one
over the number of sequences (itself included) that agree with it in at least a share of all columns; a gap
is a letter like the others.

Shapes: S sequences, N columns, Q letters, B sequences of a block.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

BLOCK_BYTES = 64 * 2**20
"""Memory of one one-hot block; two are held at a time."""


def sequence_weights(
    letters: NDArray[np.uint8],
    identity: float = 0.8,
    *,
    check: Callable[[float], None] | None = None,
) -> NDArray[np.float32]:
    """One over the number of sequences at least ``identity`` alike.

    Time grows with S^2 N Q, memory is bounded by :data:`BLOCK_BYTES` whatever S is.

    Args:
        letters: uint8 (S, N), letter indices.
        identity: share of equal columns, above 0 and at most 1.
        check: called with the share done after each block; may raise to stop.

    Returns:
        float32 (S,), each in (0, 1]; their sum is the effective number of sequences.

    Raises:
        ValueError: ``identity`` out of range or an empty alignment.
    """
    if not 0 < identity <= 1:
        raise ValueError(f"identity must be above 0 and at most 1, got {identity}")
    if letters.ndim != 2 or letters.size == 0:
        raise ValueError(f"an alignment of shape (sequences, columns) is needed, got {letters.shape}")
    S, N = letters.shape
    Q = int(letters.max()) + 1
    block = max(1, BLOCK_BYTES // (N * Q * 4))
    needed = np.ceil(identity * N - 1e-9)
    relatives = np.zeros(S, dtype=np.int64)
    for start in range(0, S, block):
        rows = one_hot(letters[start : start + block], Q)
        for other in range(start, S, block):
            columns = rows if other == start else one_hot(letters[other : other + block], Q)
            alike = rows @ columns.T >= needed
            relatives[start : start + block] += alike.sum(axis=1)
            if other != start:
                relatives[other : other + block] += alike.sum(axis=0)
        if check is not None:
            check(min(1.0, (start + block) / S))
    return (1.0 / relatives).astype(np.float32)


def one_hot(letters: NDArray[np.uint8], alphabet: int) -> NDArray[np.float32]:
    """Float32 (B, N * Q): 1 where a column holds a letter."""
    B, N = letters.shape
    hot = np.zeros((B, N * alphabet), dtype=np.float32)
    hot[np.arange(B)[:, None], np.arange(N) * alphabet + letters] = 1.0
    return hot
