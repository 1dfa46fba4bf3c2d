"""From couplings to scores of pairs, and the scores that need no sequences.

Shapes: N columns, Q letters.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

FloatMatrix = NDArray[np.float64]


def average_product_correction(scores: FloatMatrix) -> FloatMatrix:
    """Take out what a pair owes to its two columns alone.

    Source: Dunn, Wahl and Gloor, Bioinformatics 24:333 (2008): S_ij - S_i. S_.j / S_.., means without the
    diagonal.

    Args:
        scores: (N, N), symmetric; the diagonal is ignored.

    Returns:
        float64 (N, N), symmetric, diagonal 0.
    """
    bare = np.array(scores, dtype=np.float64)
    np.fill_diagonal(bare, 0.0)
    N = len(bare)
    if N < 2:
        return bare
    column = bare.sum(axis=0) / (N - 1)
    mean = column.mean()
    corrected: FloatMatrix = bare - np.outer(column, column) / mean if mean != 0 else bare
    np.fill_diagonal(corrected, 0.0)
    return corrected


def frobenius_scores(couplings: NDArray[np.floating], *, skip_letter: int | None = None) -> FloatMatrix:
    """Norm of each pair's coupling block in the zero-sum gauge.

    Source: Ekeberg et al., Phys. Rev. E 87:012707 (2013), equations 25 to 27: each block is centred over both
    letters first, and the gap is left out of the norm.

    Args:
        couplings: (N, Q, N, Q).
        skip_letter: index of the gap, where there is one.

    Returns:
        float64 (N, N), symmetric, diagonal 0.
    """
    N, Q = couplings.shape[:2]
    kept = [letter for letter in range(Q) if letter != skip_letter]
    scores = np.empty((N, N))
    for i in range(N):
        block = np.asarray(couplings[i], dtype=np.float64).transpose(1, 0, 2)
        centred = (
            block - block.mean(axis=1, keepdims=True) - block.mean(axis=2, keepdims=True)
        ) + block.mean(axis=(1, 2), keepdims=True)
        scores[i] = np.sqrt((centred[:, kept][:, :, kept] ** 2).sum(axis=(1, 2)))
    scores = (scores + scores.T) / 2
    np.fill_diagonal(scores, 0.0)
    return scores


def weighted_scores(
    couplings: NDArray[np.floating], single: NDArray[np.floating], *, skip_letter: int | None = None
) -> FloatMatrix:
    """Norm of each pair's coupling block, every entry weighted by how often its letters occur.

    With f the frequencies of the letters and J centred so that its means under f vanish, the score is
    sqrt(sum f_i(a) f_j(b) J(a, b)^2): to second order in J its square is twice the mutual information that
    this coupling alone would cause. What is poorly known, the couplings of rare letters, hardly counts.
    Weighted norms of this kind: Haldane et al., Protein Sci. 25:1378 (2016).

    Args:
        couplings: (N, Q, N, Q).
        single: (N, Q), frequencies.
        skip_letter: index of the gap, left out of the sum.

    Returns:
        float64 (N, N), symmetric, diagonal 0.
    """
    N, Q = couplings.shape[:2]
    kept = [letter for letter in range(Q) if letter != skip_letter]
    f = np.asarray(single, dtype=np.float64)
    scores = np.empty((N, N))
    for i in range(N):
        block = np.asarray(couplings[i], dtype=np.float64).transpose(1, 0, 2)
        over_own = np.einsum("a,jab->jb", f[i], block)
        over_other = np.einsum("jb,jab->ja", f, block)
        over_both = np.einsum("jb,jb->j", f, over_own)
        centred = block - over_own[:, None] - over_other[:, :, None] + over_both[:, None, None]
        weight = f[i][kept][None, :, None] * f[:, None, kept]
        scores[i] = np.sqrt((weight * centred[:, kept][:, :, kept] ** 2).sum(axis=(1, 2)))
    scores = (scores + scores.T) / 2
    np.fill_diagonal(scores, 0.0)
    return scores


class SeparationPrior:
    """How often pairs of a separation are in contact, learned from known maps; knows no sequences.

    Scores are smoothed over neighbouring separations and fall back to the overall rate where nothing was
    seen.
    """

    def __init__(self, contacts: Sequence[NDArray[np.uint8]], *, smoothing: float = 1.0) -> None:
        """Learn from contact maps.

        Args:
            contacts: uint8 (N, N) each, lengths may differ.
            smoothing: standard deviation of the Gaussian over separations, in residues; 0 for none.

        Raises:
            ValueError: no maps.
        """
        if not contacts:
            raise ValueError("a separation prior needs at least one known contact map")
        longest = max(len(one) for one in contacts)
        seen, found = np.zeros(longest), np.zeros(longest)
        for one in contacts:
            i, j = np.triu_indices(len(one), 1)
            seen += np.bincount(j - i, minlength=longest)
            found += np.bincount(j - i, weights=one[i, j], minlength=longest)
        self._rate = found.sum() / max(seen.sum(), 1.0)
        offsets = np.arange(longest)
        if smoothing > 0:
            kernel = np.exp(-0.5 * ((offsets[:, None] - offsets[None]) / smoothing) ** 2)
            seen, found = kernel @ seen, kernel @ found
        self._probability = (found + self._rate) / (seen + 1.0)

    def scores(self, length: int) -> FloatMatrix:
        """Contact probability of each pair of a chain of ``length``; float64 (N, N), symmetric."""
        index = np.arange(length)
        separation = np.abs(index[:, None] - index[None])
        known = len(self._probability)
        probability: FloatMatrix = np.where(
            separation < known, self._probability[np.minimum(separation, known - 1)], self._rate
        )
        return probability


def random_scores(length: int, seed: int) -> FloatMatrix:
    """Scores without information: float64 (N, N), symmetric, uniform."""
    raw = np.triu(np.random.default_rng(seed).random((length, length)), 1)
    scores: FloatMatrix = raw + raw.T
    return scores
