"""Precision of predicted contacts, as in CASP: the share of true contacts among the best scored pairs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CUTS = {"L": 1, "L/2": 2, "L/5": 5}
"""How many pairs are taken: the length over the divisor, at least one."""


def precision_at(
    scores: NDArray[np.floating],
    contacts: NDArray[np.integer],
    count: int,
    *,
    min_separation: int,
    mask: NDArray[np.bool_] | None = None,
) -> float:
    """Share of contacts among the ``count`` best pairs.

    Pairs of equal score at the border count with the share of contacts among them, so the order in which
    they happen to lie makes no difference.

    Args:
        scores: (N, N); the upper triangle is read.
        contacts: (N, N), non-zero = contact.
        count: pairs to take; all, where there are fewer.
        min_separation: |i - j| of the nearest pairs that count.
        mask: (N, N), the pairs whose truth is known; all, where not given.

    Returns:
        0 to 1.

    Raises:
        ValueError: shapes that do not fit, scores that are not finite, or no pair at that separation.
    """
    if scores.ndim != 2 or scores.shape[0] != scores.shape[1] or scores.shape != contacts.shape:
        raise ValueError(f"scores {scores.shape} and contacts {contacts.shape} must be one square shape")
    i, j = np.triu_indices(len(scores), max(min_separation, 1))
    if mask is not None:
        i, j = i[mask[i, j]], j[mask[i, j]]
    score, truth = np.asarray(scores[i, j], dtype=np.float64), contacts[i, j] != 0
    if score.size == 0:
        raise ValueError(f"no pair is {min_separation} apart in {len(scores)} residues")
    if not np.isfinite(score).all():
        raise ValueError("scores must be finite")
    taken = min(max(count, 1), score.size)
    border = np.partition(score, score.size - taken)[score.size - taken]
    above, level = score > border, score == border
    found = truth[above].sum() + (taken - above.sum()) * truth[level].mean()
    return float(found / taken)


def contact_precision(
    scores: NDArray[np.floating],
    contacts: NDArray[np.integer],
    *,
    min_separation: int,
    mask: NDArray[np.bool_] | None = None,
) -> dict[str, float]:
    """Precision at L, L/2 and L/5; arguments and errors as in :func:`precision_at`."""
    return {
        name: precision_at(scores, contacts, len(scores) // divisor, min_separation=min_separation, mask=mask)
        for name, divisor in CUTS.items()
    }
