"""Local distance difference test on C-alpha atoms.

Source: Mariani et al., Bioinformatics 29:2722 (2013): the share of true distances below an inclusion radius
that are kept within 0.5, 1, 2 and 4 A. Needs no superposition; a mirror image scores as well as the original.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LDDT_CUTOFF = 15.0
"""Inclusion radius, A."""
LDDT_THRESHOLDS = (0.5, 1.0, 2.0, 4.0)
"""Tolerances, A."""


@dataclass(frozen=True, slots=True)
class Lddt:
    """``overall``: over all pairs; ``per_residue`` (N,): over those of a residue, NaN where it has none."""

    overall: float
    per_residue: NDArray[np.float64]


def lddt(
    predicted: NDArray[np.floating],
    true: NDArray[np.floating],
    *,
    cutoff: float = LDDT_CUTOFF,
    thresholds: tuple[float, ...] = LDDT_THRESHOLDS,
) -> Lddt:
    """Compare two traces.

    Args:
        predicted: (N, 3), A.
        true: (N, 3), A.
        cutoff: inclusion radius, A.
        thresholds: tolerances, A.

    Returns:
        Scores from 0 to 1.

    Raises:
        ValueError: shapes that do not fit, coordinates that are not finite, or no pair within the radius.
    """
    a, b = np.asarray(predicted, dtype=np.float64), np.asarray(true, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 2 or a.shape[1] != 3:
        raise ValueError(f"two traces (N, 3) are needed, got {a.shape} and {b.shape}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("coordinates must be finite")
    true_distance = _distances(b)
    counted = (true_distance < cutoff) & ~np.eye(len(b), dtype=bool)
    if not counted.any():
        raise ValueError(f"no two residues lie within {cutoff} A")
    error = np.abs(_distances(a) - true_distance)
    kept = np.mean([error < threshold for threshold in thresholds], axis=0)
    with np.errstate(invalid="ignore"):
        per_residue = (kept * counted).sum(axis=1) / counted.sum(axis=1)
    return Lddt(float(kept[counted].mean()), per_residue)


def _distances(points: NDArray[np.float64]) -> NDArray[np.float64]:
    distances: NDArray[np.float64] = np.linalg.norm(points[:, None] - points[None], axis=-1)
    return distances
