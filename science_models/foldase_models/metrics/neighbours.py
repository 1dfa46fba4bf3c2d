"""Pairs of atoms that lie near each other, found without the matrix of all distances.

Shapes: N residues, 37 places for atoms a residue; an atom is a place in the flat ``(N * 37)`` array.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_BLOCK = 32
"""Residues whose atoms are compared with those near them at a time."""


@dataclass(frozen=True, slots=True)
class AtomPairs:
    """Pairs (P,) of atoms ``rows`` and ``columns``, the residues they belong to, and their distance, A."""

    rows: NDArray[np.intp]
    columns: NDArray[np.intp]
    row_residue: NDArray[np.intp]
    column_residue: NDArray[np.intp]
    distance: NDArray[np.float64]


def near_pairs(
    positions: NDArray[np.floating],
    rows: NDArray[np.bool_],
    columns: NDArray[np.bool_],
    cutoff: float,
) -> Iterator[AtomPairs]:
    """Every pair of two atoms nearer than the cutoff, the rows of some residues at a time.

    Args:
        positions: ``(N, 37, 3)``, A, finite where ``rows`` or ``columns`` is true.
        rows: boolean ``(N, 37)``, atoms that come first in a pair.
        columns: likewise, atoms that come second; never the same atom.
        cutoff: A.
    """
    places = rows.shape[1]
    flat = positions.reshape(-1, 3).astype(np.float64)
    candidates = np.flatnonzero(columns)
    points = flat[candidates]
    for first in range(0, len(rows), _BLOCK):
        own = np.flatnonzero(rows[first : first + _BLOCK]) + first * places
        if not own.size:
            continue
        low, high = flat[own].min(axis=0), flat[own].max(axis=0)
        outside = np.maximum(np.maximum(low - points, points - high), 0.0)
        near = candidates[(outside**2).sum(axis=-1) < cutoff**2]
        distance = np.linalg.norm(flat[own][:, None] - flat[near][None], axis=-1)
        i, j = np.nonzero((distance < cutoff) & (own[:, None] != near[None]))
        yield AtomPairs(own[i], near[j], own[i] // places, near[j] // places, distance[i, j])
