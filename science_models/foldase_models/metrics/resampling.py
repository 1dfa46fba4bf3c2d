"""How sure one can be: bootstrap intervals and correlations.

Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), percentile intervals. Whole families
are drawn again, never residues or pairs, which are not independent of each other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SAMPLES = 10_000
LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with the percentile interval around it."""

    mean: float
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        """``{"mean", "low", "high"}``."""
        return {"mean": self.mean, "low": self.low, "high": self.high}


def bootstrap_mean(
    values: NDArray[np.floating], *, seed: int, samples: int = SAMPLES, level: float = LEVEL
) -> Interval:
    """The mean of ``values`` (F,), one a family, with its interval; for pairs, give the differences.

    Raises:
        ValueError: no values, or some that are not finite.
    """
    return bootstrap_margin(values, np.zeros((1, len(values))), seed=seed, samples=samples, level=level)


def bootstrap_margin(
    ours: NDArray[np.floating],
    others: NDArray[np.floating],
    *,
    seed: int,
    samples: int = SAMPLES,
    level: float = LEVEL,
) -> Interval:
    """By how much the mean of ``ours`` exceeds the largest mean among ``others``, with its interval.

    Families are drawn with replacement, the same for all methods (paired); which of the others is the best
    is decided anew in every sample, so that its choice on the same families flatters nobody.

    Args:
        ours: (F,), one a family.
        others: (M, F), one row a method.
        seed: of the drawing.
        samples: drawings.
        level: of the interval.

    Raises:
        ValueError: no values, shapes that do not fit, or values that are not finite.
    """
    mine, theirs = np.asarray(ours, dtype=np.float64), np.asarray(others, dtype=np.float64)
    if mine.ndim != 1 or mine.size == 0 or theirs.ndim != 2 or theirs.shape[1] != mine.size:
        raise ValueError(f"values (F,) and (M, F) are needed, got {mine.shape} and {theirs.shape}")
    if not (np.isfinite(mine).all() and np.isfinite(theirs).all()):
        raise ValueError("values must be finite")
    families = mine.size
    counts = np.random.default_rng(seed).multinomial(families, np.full(families, 1 / families), size=samples)
    margins = (counts @ mine - (counts @ theirs.T).max(axis=1)) / families
    low, high = np.quantile(margins, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(mine.mean() - theirs.mean(axis=1).max()), float(low), float(high))


def pearson(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Linear correlation of two vectors; 0 where one of them does not vary."""
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    x, y = x - x.mean(), y - y.mean()
    scale = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / scale if scale > 0 else 0.0


def spearman(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Correlation of the ranks of two vectors, equal values sharing their mean rank."""
    return pearson(_ranks(np.asarray(a)), _ranks(np.asarray(b)))


def _ranks(values: NDArray[np.floating]) -> NDArray[np.float64]:
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(count)
    ranks: NDArray[np.float64] = ((ends - count + ends - 1) / 2)[place]
    return ranks
