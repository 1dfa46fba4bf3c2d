"""Best superposition of two sets of points.

Source: Kabsch, Acta Cryst. A32:922 (1976) and A34:827 (1978), by singular value decomposition.

Shapes: N points; leading axes ``...`` are superposed independently. Lengths in A.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Superposition:
    """``points @ rotation + translation`` puts the mobile points onto the target.

    ``rotation`` (..., 3, 3), proper; ``translation`` (..., 3).
    """

    rotation: Points
    translation: Points

    def apply(self, points: NDArray[np.floating]) -> Points:
        """Move points (..., N, 3)."""
        moved: Points = np.asarray(points, dtype=np.float64) @ self.rotation + self.translation[..., None, :]
        return moved


def superpose(
    mobile: NDArray[np.floating],
    target: NDArray[np.floating],
    weights: NDArray[np.floating] | None = None,
) -> Superposition:
    """The rotation and translation of least weighted square distance.

    Args:
        mobile: (..., N, 3).
        target: like ``mobile``.
        weights: (..., N), 1 each where not given; their sum must be positive.

    Raises:
        ValueError: shapes that do not fit, no points, or points that are not finite.
    """
    a, b = checked_pair(mobile, target)
    weight = np.ones(a.shape[:-1]) if weights is None else np.asarray(weights, dtype=np.float64)
    share = (weight / weight.sum(axis=-1, keepdims=True))[..., None]
    a_mean, b_mean = (share * a).sum(axis=-2), (share * b).sum(axis=-2)
    covariance = np.swapaxes(share * (a - a_mean[..., None, :]), -1, -2) @ (b - b_mean[..., None, :])
    u, _, vt = np.linalg.svd(covariance)
    handedness = np.sign(np.linalg.det(u @ vt))
    u[..., :, 2] *= np.where(handedness == 0, 1.0, handedness)[..., None]
    rotation = u @ vt
    return Superposition(rotation, b_mean - (a_mean[..., None, :] @ rotation)[..., 0, :])


def rmsd(mobile: NDArray[np.floating], target: NDArray[np.floating]) -> float:
    """Root mean square distance after the best superposition, A.

    Args:
        mobile: (N, 3), A.
        target: (N, 3), A.

    Raises:
        ValueError: see :func:`superpose`.
    """
    moved = superpose(mobile, target).apply(mobile)
    return float(np.sqrt(((moved - target) ** 2).sum(axis=-1).mean()))


def mirror_rmsd(mobile: NDArray[np.floating], target: NDArray[np.floating]) -> float:
    """RMSD of the better of ``mobile`` and its mirror image: contacts know no handedness.

    Arguments and errors as in :func:`rmsd`.
    """
    return min(rmsd(mobile, target), rmsd(-np.asarray(mobile), target))


def checked_pair(mobile: NDArray[np.floating], target: NDArray[np.floating]) -> tuple[Points, Points]:
    """Both as float64, after a check of shapes and values; raises like :func:`superpose`."""
    a, b = np.asarray(mobile, dtype=np.float64), np.asarray(target, dtype=np.float64)
    if a.shape != b.shape or a.ndim < 2 or a.shape[-1] != 3 or a.shape[-2] == 0:
        raise ValueError(f"two sets of points (N, 3) are needed, got {a.shape} and {b.shape}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("coordinates must be finite")
    return a, b
