"""What a learned contact map has to beat: classical scores, converged, each tuned on families of its own.

Shapes: S sequences, N columns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from foldase_models.coevolution.couplings import fit_couplings
from foldase_models.coevolution.mutual_information import mutual_information
from foldase_models.coevolution.scores import (
    average_product_correction,
    frobenius_scores,
    weighted_scores,
)
from foldase_models.coevolution.statistics import single_frequencies
from foldase_models.coevolution.weights import sequence_weights
from foldase_models.metrics.contacts import contact_precision

Baseline = Literal["mi", "mi_apc", "couplings_mean_field", "couplings_pseudolikelihood"]
BASELINES: tuple[Baseline, ...] = ("mi", "mi_apc", "couplings_mean_field", "couplings_pseudolikelihood")

Scoring = Literal["plain", "apc", "norm_apc", "weighted_norm", "weighted_norm_apc"]

GRIDS: dict[Baseline, tuple[float, ...]] = {
    "mi": (0.0, 0.05, 0.15, 0.3, 0.5, 0.7),
    "mi_apc": (0.0, 0.05, 0.15, 0.3, 0.5, 0.7, 0.85, 0.95),
    "couplings_mean_field": (0.03, 0.1, 0.3, 0.5, 0.7, 0.85, 0.95),
    "couplings_pseudolikelihood": (2.0, 6.0, 20.0, 60.0, 180.0, 540.0, 1600.0),
}
"""Strengths tried for each: the share of the uniform distribution, or the penalty of squared couplings."""
SCORINGS: dict[Baseline, tuple[Scoring, ...]] = {
    "mi": ("plain",),
    "mi_apc": ("apc",),
    "couplings_mean_field": ("norm_apc", "weighted_norm", "weighted_norm_apc"),
    "couplings_pseudolikelihood": ("norm_apc", "weighted_norm", "weighted_norm_apc"),
}
"""Ways tried to make scores of pairs out of each fit."""

IDENTITY = 0.8


@dataclass(frozen=True, slots=True)
class KnownFamily:
    """An alignment whose contacts are known: ``letters`` uint8 (S, N), ``contacts`` uint8 (N, N)."""

    name: str
    letters: NDArray[np.uint8]
    contacts: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Setting:
    """How a method is run.

    Attributes:
        strength: pseudocount or penalty.
        weighted: whether close relatives share their weight.
        scoring: how the fit becomes scores of pairs.
    """

    strength: float
    weighted: bool
    scoring: Scoring


@dataclass(frozen=True, slots=True)
class Tuned:
    """The best setting of a method, its mean precision over L, L/2 and L/5, and that of all tried."""

    setting: Setting
    precision: float
    tried: dict[Setting, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, float | bool | str]:
        """What the evaluation's table says of it."""
        return {
            "strength": self.setting.strength,
            "weighted": self.setting.weighted,
            "scoring": self.setting.scoring,
            "precision_when_tuned": self.precision,
        }


@dataclass(frozen=True, slots=True)
class Scored:
    """Scores (N, N) by way of scoring, and how the fit ended: converged where nothing is iterated."""

    scores: dict[Scoring, NDArray[np.float64]]
    converged: bool = True
    relative_gradient: float = 0.0


def score(family: KnownFamily, method: Baseline, alphabet: int, *, strength: float, weighted: bool) -> Scored:
    """Scores of the pairs of one family, in all ways that the method knows.

    Args:
        family: its alignment is read, its contacts are not.
        method: which.
        alphabet: number of letters.
        strength: see :class:`Setting`.
        weighted: see :class:`Setting`.

    Raises:
        ValueError: letters outside the alphabet, or a strength out of range.
    """
    weights = sequence_weights(family.letters, IDENTITY) if weighted else None
    if method in ("mi", "mi_apc"):
        found = mutual_information(family.letters, alphabet, weights, pseudocount=strength)
        return Scored({"plain": found} if method == "mi" else {"apc": average_product_correction(found)})
    if method == "couplings_mean_field":
        fit = fit_couplings(family.letters, alphabet, weights, method="mean_field", pseudocount=strength)
    else:
        fit = fit_couplings(
            family.letters, alphabet, weights, method="pseudolikelihood", coupling_penalty=strength
        )
    single = single_frequencies(family.letters, alphabet, weights)
    norm = frobenius_scores(fit.couplings)
    weighted_norm = weighted_scores(fit.couplings, single)
    scores: dict[Scoring, NDArray[np.float64]] = {
        "norm_apc": average_product_correction(norm),
        "weighted_norm": weighted_norm,
        "weighted_norm_apc": average_product_correction(weighted_norm),
    }
    return Scored(scores, fit.converged, fit.details.get("relative_gradient", 0.0))


def tune(
    method: Baseline,
    families: Sequence[KnownFamily],
    alphabet: int,
    *,
    min_separation: int,
    check: Callable[[], None] | None = None,
) -> Tuned:
    """The setting with the best mean precision on families that are not those to be scored.

    All strengths and scorings are tried without weights, then the best strength with them.

    Args:
        method: which.
        families: to tune on.
        alphabet: number of letters.
        min_separation: |i - j| of the nearest pairs that count.
        check: called after each family; may raise to stop.

    Raises:
        ValueError: no families.
    """
    if not families:
        raise ValueError("tuning needs at least one family")
    tried: dict[Setting, float] = {}

    def attempt(strength: float, *, weighted: bool) -> None:
        reached: dict[Scoring, float] = dict.fromkeys(SCORINGS[method], 0.0)
        for family in families:
            found = score(family, method, alphabet, strength=strength, weighted=weighted).scores
            for scoring, scores in found.items():
                precision = contact_precision(scores, family.contacts, min_separation=min_separation)
                reached[scoring] += float(np.mean(list(precision.values()))) / len(families)
            if check is not None:
                check()
        tried.update({Setting(strength, weighted, scoring): value for scoring, value in reached.items()})

    for strength in GRIDS[method]:
        attempt(strength, weighted=False)
    attempt(_best(tried).strength, weighted=True)
    best = _best(tried)
    return Tuned(best, tried[best], tried)


def _best(tried: Mapping[Setting, float]) -> Setting:
    return max(tried, key=lambda setting: tried[setting])


def fits_to_tune(families: int) -> int:
    """How often ``check`` will be called when all methods are tuned on so many families."""
    return sum(len(grid) + 1 for grid in GRIDS.values()) * families
