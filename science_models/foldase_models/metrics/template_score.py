"""TM-score and GDT of two traces with known correspondence.

Sources: Zhang and Skolnick, Proteins 57:702 (2004) for TM-score and its search (superposing fragments of
halving lengths, then again on all residues that came close); Zemla, Nucleic Acids Res. 31:3370 (2003) for
GDT. The search is a heuristic, so both are lower bounds of the true maximum.

Shapes: N residues, M starting fragments. Lengths in A.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from foldase_models.metrics.superposition import Points, checked_pair, superpose

SHORTEST_FRAGMENT = 4
ROUNDS = 20
"""Superpositions from one fragment; the search mostly stands still before."""
BATCH = 512
"""Fragments superposed at a time, of long chains fewer: :data:`POINTS` residues of all of them together."""
POINTS = 2**20
GDT_TS = (1.0, 2.0, 4.0, 8.0)
GDT_HA = (0.5, 1.0, 2.0, 4.0)


def tm_scale(length: int) -> float:
    """d0 of the TM-score, A: 1.24 (N - 15)^(1/3) - 1.8, at least 0.5."""
    return max(0.5, 1.24 * float(np.cbrt(max(length - 15, 0))) - 1.8)


def tm_score(
    predicted: NDArray[np.floating], true: NDArray[np.floating], *, length: int | None = None
) -> float:
    """TM-score, 0 to 1.

    Args:
        predicted: (N, 3), A.
        true: (N, 3), A.
        length: what it is normalised by, the residues of the whole reference; None means N.

    Raises:
        ValueError: shapes that do not fit, or coordinates that are not finite.
    """
    length = len(true) if length is None else length
    d0 = tm_scale(length)
    best = max((1 / (1 + (d / d0) ** 2)).sum(axis=-1).max() for d in _search(predicted, true, d0))
    return float(best / length)


def gdt(
    predicted: NDArray[np.floating], true: NDArray[np.floating], *, cutoffs: tuple[float, ...] = GDT_TS
) -> float:
    """Mean over the cutoffs of the largest share of residues that can be brought within each; 0 to 1.

    Args:
        predicted: (N, 3), A.
        true: (N, 3), A.
        cutoffs: A; :data:`GDT_TS` or :data:`GDT_HA`.

    Raises:
        ValueError: shapes that do not fit, or coordinates that are not finite.
    """
    return float(gdt_shares(predicted, true, cutoffs=cutoffs).mean())


def gdt_shares(
    predicted: NDArray[np.floating], true: NDArray[np.floating], *, cutoffs: tuple[float, ...]
) -> NDArray[np.float64]:
    """The largest share of residues that can be brought within each of the growing cutoffs; 0 to 1.

    Arguments and errors as in :func:`gdt`.
    """
    best = np.zeros(len(cutoffs))
    for k, cutoff in enumerate(cutoffs):
        for distance in _search(predicted, true, cutoff):
            best = np.maximum(best, [(distance <= other).mean(axis=-1).max() for other in cutoffs])
        if best[k] == 1.0:
            break
    shares: NDArray[np.float64] = np.maximum.accumulate(best)
    return shares


def _search(
    predicted: NDArray[np.floating], true: NDArray[np.floating], radius: float
) -> Iterator[NDArray[np.float64]]:
    """Distances (M, N) after every superposition tried; residues within ``radius`` guide the search.

    One by one: those of a long chain together would take gigabytes.
    """
    a, b = checked_pair(predicted, true)
    starts = _fragments(len(b))
    step = min(BATCH, max(1, POINTS // len(b)))
    for first in range(0, len(starts), step):
        yield from _refine(a, b, starts[first : first + step], radius)


def _refine(
    predicted: Points, true: Points, chosen: NDArray[np.bool_], radius: float
) -> Iterator[NDArray[np.float64]]:
    """Superpose on the chosen residues (M, N), then on those that came close, until nothing changes."""
    a = np.broadcast_to(predicted, (len(chosen), *predicted.shape))
    b = np.broadcast_to(true, a.shape)
    for _ in range(ROUNDS):
        moved: Points = superpose(a, b, chosen.astype(np.float64)).apply(a)
        distance = np.linalg.norm(moved - b, axis=-1)
        yield distance
        close = _close(distance, radius)
        if np.array_equal(close, chosen):
            break
        chosen = close


def _close(distance: NDArray[np.float64], radius: float) -> NDArray[np.bool_]:
    """Residues within the radius, or within that of the third nearest where fewer than three are."""
    third = np.sort(distance, axis=-1)[:, min(2, distance.shape[1] - 1)]
    close: NDArray[np.bool_] = distance <= np.maximum(radius, third)[:, None]
    return close


def _fragments(length: int) -> NDArray[np.bool_]:
    """Starting sets (M, N): windows of N, N/2, N/4 ... residues, shifted by a quarter of their length."""
    sets = []
    size = length
    while True:
        step = max(1, size // 4)
        sets += [(start, size) for start in range(0, length - size + 1, step)]
        if size <= SHORTEST_FRAGMENT:
            break
        size = max(SHORTEST_FRAGMENT, size // 2)
    index = np.arange(length)
    return np.array([(index >= start) & (index < start + size) for start, size in sets])
