"""Predicted contact maps and traces scored beside the classical methods, on families never seen.

Shapes: N residues. Lengths in A.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foldase_models.coevolution.scores import SeparationPrior, random_scores
from foldase_models.errors import ModelError
from foldase_models.recipes.contact_baselines import (
    BASELINES,
    Baseline,
    KnownFamily,
    Tuned,
    fits_to_tune,
    score,
    tune,
)
from foldase_models.recipes.contact_summary import (
    PerFamily,
    Trace,
    largest_overlap,
    precisions,
    structure_scores,
    summarise,
)

Report = Callable[[float, str], None]


@dataclass(frozen=True, slots=True)
class Target:
    """One family and what was predicted of it.

    Attributes:
        family: its alignment and contacts.
        coords: (N, 3), the true trace, A.
        predicted: (N, N), contact probabilities.
        shuffled: (N, N), the same with the columns of the alignment shuffled.
        trace: (N, 3), the predicted trace, A.
        confidence: (N,), 0 to 100.
    """

    family: KnownFamily
    coords: NDArray[np.float32]
    predicted: NDArray[np.float32]
    shuffled: NDArray[np.float32] | None = None
    trace: NDArray[np.float32] | None = None
    confidence: NDArray[np.float32] | None = None


def evaluate(
    targets: Sequence[Target],
    training: Sequence[KnownFamily],
    alphabet: int,
    *,
    min_separation: int,
    tuning_families: int,
    samples: int,
    seed: int,
    report: Report,
) -> dict[str, Any]:
    """Tune the classical methods on training families, score everything on the targets, resample.

    Args:
        targets: families never seen; all or none have ``shuffled``.
        training: families of training: the prior is learned from all, the methods are tuned on the first.
        alphabet: number of letters.
        min_separation: |i - j| of the nearest pairs that count.
        tuning_families: how many the methods are tuned on.
        samples: of the bootstrap.
        seed: of the bootstrap and the random scores.
        report: called with the share done and a few words; may raise to stop.

    Returns:
        Plain numbers: ``precision``, ``intervals``, ``bootstrap``, ``ablation``, ``baselines``,
        ``per_family`` and, where traces were predicted, ``lddt``, ``rmsd``, ``tm_score``, ``confidence``.

    Raises:
        ModelError: a target's map has another length, or its contacts were seen in training.
    """
    overlap = _check(targets, training)
    tuned = _tune_all(training[:tuning_families], alphabet, min_separation, report)
    per_family, fits = _score_all(targets, training, tuned, alphabet, min_separation, seed, report)
    numbers = summarise(per_family, seed=seed, samples=samples)
    traces = [
        Trace(target.trace, target.coords, target.confidence)
        for target in targets
        if target.trace is not None
    ]
    if traces:
        numbers |= structure_scores(traces, seed=seed, samples=samples)
    report(1.0, "scored")
    return {
        **numbers,
        "families": len(targets),
        "targets": [target.family.name for target in targets],
        "min_separation": min_separation,
        "training_families": len(training),
        "tuning_families": min(tuning_families, len(training)),
        "largest_overlap_with_training": overlap,
        "baselines": {method: {**one.to_json(), **fits[method]} for method, one in tuned.items()},
        "per_family": per_family,
    }


def _check(targets: Sequence[Target], training: Sequence[KnownFamily]) -> float:
    """How like a target the most similar fold of training is."""
    seen = [family.contacts for family in training]
    most = 0.0
    for target in targets:
        name, contacts = target.family.name, target.family.contacts
        for found in (target.predicted, target.shuffled):
            if found is not None and found.shape != contacts.shape:
                raise ModelError(
                    f"the map of {name!r} has {len(found)} residues, its family {len(contacts)}",
                    code="target_length",
                    location=name,
                )
        overlap = largest_overlap([contacts], seen)
        if overlap == 1.0:
            raise ModelError(
                f"family {name!r} has the contacts of a family of training",
                code="family_was_trained_on",
                location=name,
                hint="simulate the families to be scored with another seed",
            )
        most = max(most, overlap)
    return most


def _tune_all(
    families: Sequence[KnownFamily], alphabet: int, min_separation: int, report: Report
) -> dict[Baseline, Tuned]:
    done, total = 0, fits_to_tune(len(families))

    def check() -> None:
        nonlocal done
        done += 1
        report(0.6 * done / total, "tuning the classical methods on training families")

    return {
        method: tune(method, families, alphabet, min_separation=min_separation, check=check)
        for method in BASELINES
    }


def _score_all(
    targets: Sequence[Target],
    training: Sequence[KnownFamily],
    tuned: Mapping[Baseline, Tuned],
    alphabet: int,
    min_separation: int,
    seed: int,
    report: Report,
) -> tuple[PerFamily, dict[Baseline, dict[str, float]]]:
    """Precision of every method on every target, and how the fits of each method ended."""
    prior = SeparationPrior([family.contacts for family in training])
    per_family: PerFamily = {}
    fits = {method: {"converged": 0.0, "largest_relative_gradient": 0.0} for method in tuned}
    for number, target in enumerate(targets):
        family = target.family
        maps: dict[str, NDArray[np.floating]] = {"model": target.predicted}
        if target.shuffled is not None:
            maps["shuffled"] = target.shuffled
        maps["prior"] = prior.scores(len(family.contacts))
        maps["random"] = random_scores(len(family.contacts), seed + number)
        for method, one in tuned.items():
            setting = one.setting
            scored = score(family, method, alphabet, strength=setting.strength, weighted=setting.weighted)
            maps[method] = scored.scores[setting.scoring]
            ended = fits[method]
            ended["converged"] += scored.converged
            ended["largest_relative_gradient"] = max(
                ended["largest_relative_gradient"], scored.relative_gradient
            )
        found = precisions(maps, family.contacts, min_separation=min_separation)
        for cut, values in found.items():
            for name, value in values.items():
                per_family.setdefault(cut, {}).setdefault(name, []).append(value)
        report(0.6 + 0.35 * (number + 1) / len(targets), f"{number + 1} of {len(targets)} families scored")
    return per_family, fits
