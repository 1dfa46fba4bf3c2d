"""Weighted frequencies of letters and of pairs of letters.

Shapes: S sequences, N columns, Q letters.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from foldase_models.coevolution.weights import one_hot

BLOCK_BYTES = 64 * 2**20
"""Memory of one one-hot block of sequences."""


def check_alignment(
    letters: NDArray[np.uint8], alphabet: int, weights: NDArray[np.floating] | None
) -> NDArray[np.float64]:
    """The weights as float64, after a check that everything fits together.

    Raises:
        ValueError: the alignment is empty, holds a letter outside the alphabet, or the weights do not fit.
    """
    if letters.ndim != 2 or letters.size == 0:
        raise ValueError(f"an alignment of shape (sequences, columns) is needed, got {letters.shape}")
    if int(letters.max()) >= alphabet:
        raise ValueError(f"letter {int(letters.max())} is outside the alphabet of {alphabet}")
    if weights is None:
        return np.ones(len(letters))
    if weights.shape != (len(letters),) or not (np.asarray(weights) > 0).all():
        raise ValueError(f"one positive weight a sequence is needed, got shape {weights.shape}")
    return np.asarray(weights, dtype=np.float64)


def single_frequencies(
    letters: NDArray[np.uint8], alphabet: int, weights: NDArray[np.floating] | None = None
) -> NDArray[np.float64]:
    """Frequencies of letters, float64 (N, Q); arguments and errors as in :func:`pair_frequencies`."""
    weight = check_alignment(letters, alphabet, weights)
    N = letters.shape[1]
    single = np.zeros((N, alphabet))
    for i in range(N):
        single[i] = np.bincount(letters[:, i], weights=weight, minlength=alphabet)
    single /= weight.sum()
    return single


def pair_frequencies(
    letters: NDArray[np.uint8], alphabet: int, weights: NDArray[np.floating] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Single and pair frequencies without a pseudocount.

    Args:
        letters: uint8 (S, N).
        alphabet: number of letters Q.
        weights: (S,), 1 each where not given.

    Returns:
        float64 (N, Q) and float64 (N, Q, N, Q); the second holds the first on its diagonal blocks.

    Raises:
        ValueError: see :func:`check_alignment`.
    """
    weight = check_alignment(letters, alphabet, weights)
    S, N = letters.shape
    width = N * alphabet
    joint = np.zeros((width, width))
    block = max(1, BLOCK_BYTES // (width * 8))
    for start in range(0, S, block):
        hot = one_hot(letters[start : start + block], alphabet).astype(np.float64)
        joint += (hot * weight[start : start + block, None]).T @ hot
    joint /= weight.sum()
    single = np.diagonal(joint).reshape(N, alphabet).copy()
    return single, joint.reshape(N, alphabet, N, alphabet)


def with_pseudocount(
    single: NDArray[np.float64], joint: NDArray[np.float64], share: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mix a share of the uniform distribution into the frequencies, letters and pairs alike.

    Source: Morcos et al. (2011), equation 1: pairs of different columns get share / Q^2, a column with
    itself share / Q on the diagonal.

    Args:
        single: (N, Q).
        joint: (N, Q, N, Q).
        share: theta = pseudocount / (pseudocount + effective sequences), 0 to 1.

    Returns:
        New arrays of the same shapes.
    """
    N, Q = single.shape
    mixed_single = (1 - share) * single + share / Q
    mixed = (1 - share) * joint + share / Q**2
    for i in range(N):
        mixed[i, :, i, :] = np.diag(mixed_single[i])
    return mixed_single, mixed
