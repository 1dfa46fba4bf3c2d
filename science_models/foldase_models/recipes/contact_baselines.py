"""What a learned contact map has to beat: classical scores, converged, each tuned on families of its own.

Shapes: S sequences, N columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from foldase_models.coevolution.couplings import couple
from foldase_models.coevolution.mutual_information import mutual_information
from foldase_models.coevolution.scores import average_product_correction
from foldase_models.coevolution.weights import sequence_weights
from foldase_models.metrics.contacts import contact_precision

Baseline = Literal["mi", "mi_apc", "couplings_mean_field", "couplings_pseudolikelihood"]
BASELINES: tuple[Baseline, ...] = ("mi", "mi_apc", "couplings_mean_field", "couplings_pseudolikelihood")

GRIDS: dict[Baseline, tuple[float, ...]] = {
    "mi": (0.0, 0.05, 0.15, 0.3, 0.5),
    "mi_apc": (0.0, 0.05, 0.15, 0.3, 0.5),
    "couplings_mean_field": (0.1, 0.3, 0.5, 0.7, 0.85, 0.95),
    "couplings_pseudolikelihood": (2.0, 6.0, 20.0, 60.0, 180.0),
}
"""Tried for each: the share of the uniform distribution, or the penalty of squared couplings."""

IDENTITY = 0.8


@dataclass(frozen=True, slots=True)
class KnownFamily:
    """An alignment whose contacts are known: ``letters`` uint8 (S, N), ``contacts`` uint8 (N, N)."""

    name: str
    letters: NDArray[np.uint8]
    contacts: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Setting:
    """``strength``: pseudocount or penalty; ``weighted``: whether close relatives share their weight."""

    strength: float
    weighted: bool


@dataclass(frozen=True, slots=True)
class Tuned:
    """The best setting of a method, its mean precision over L, L/2 and L/5, and that of all tried."""

    setting: Setting
    precision: float
    tried: dict[Setting, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, float | bool]:
        """What the evaluation's table says of it."""
        return {
            "strength": self.setting.strength,
            "weighted": self.setting.weighted,
            "precision_when_tuned": self.precision,
        }


@dataclass(frozen=True, slots=True)
class Scored:
    """Scores (N, N), and how the fit ended: always converged where there is nothing to iterate."""

    scores: NDArray[np.float64]
    converged: bool = True
    relative_gradient: float = 0.0


def score(family: KnownFamily, method: Baseline, setting: Setting, alphabet: int) -> Scored:
    """Scores of the pairs of one family.

    Raises:
        ValueError: letters outside the alphabet, or a setting out of range.
    """
    weights = sequence_weights(family.letters, IDENTITY) if setting.weighted else None
    if method in ("mi", "mi_apc"):
        found = mutual_information(family.letters, alphabet, weights, pseudocount=setting.strength)
        return Scored(average_product_correction(found) if method == "mi_apc" else found)
    if method == "couplings_mean_field":
        fit = couple(family.letters, alphabet, weights, method="mean_field", pseudocount=setting.strength)
        return Scored(fit.scores)
    fit = couple(
        family.letters, alphabet, weights, method="pseudolikelihood", coupling_penalty=setting.strength
    )
    return Scored(fit.scores, fit.converged, fit.details["relative_gradient"])


def tune(
    method: Baseline,
    families: Sequence[KnownFamily],
    alphabet: int,
    *,
    min_separation: int,
    check: Callable[[], None] | None = None,
) -> Tuned:
    """The setting with the best mean precision on families that are not those to be scored.

    All strengths are tried without weights, then the best one with them.

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

    def attempt(setting: Setting) -> None:
        reached = []
        for family in families:
            found = score(family, method, setting, alphabet).scores
            precision = contact_precision(found, family.contacts, min_separation=min_separation)
            reached.append(np.mean(list(precision.values())))
            if check is not None:
                check()
        tried[setting] = float(np.mean(reached))

    for strength in GRIDS[method]:
        attempt(Setting(strength, weighted=False))
    attempt(Setting(max(tried, key=lambda setting: tried[setting]).strength, weighted=True))
    best = max(tried, key=lambda setting: tried[setting])
    return Tuned(best, tried[best], tried)


def fits_to_tune(families: int) -> int:
    """How often ``check`` will be called when all methods are tuned on so many families."""
    return sum(len(grid) + 1 for grid in GRIDS.values()) * families
