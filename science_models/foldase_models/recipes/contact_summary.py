"""Numbers per family become means, intervals, margins and the ablation.

Shapes: F families, N residues. Lengths in A.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foldase_models.metrics.contacts import CUTS, contact_precision
from foldase_models.metrics.lddt import lddt
from foldase_models.metrics.resampling import Interval, bootstrap_margin, bootstrap_mean, pearson, spearman
from foldase_models.metrics.superposition import mirror_rmsd
from foldase_models.metrics.template_score import tm_score

CLASSICAL = ("mi", "mi_apc", "couplings_mean_field", "couplings_pseudolikelihood", "prior")
"""The methods among which the best one is what the model has to beat."""
COUPLINGS = ("couplings_mean_field", "couplings_pseudolikelihood")

PerFamily = dict[str, dict[str, list[float]]]
"""Precision by cut, by method, one number a family."""


@dataclass(frozen=True, slots=True)
class Trace:
    """A predicted trace beside the true one: ``predicted``, ``true`` (N, 3); ``confidence`` (N,) or None."""

    predicted: NDArray[np.floating]
    true: NDArray[np.floating]
    confidence: NDArray[np.floating] | None


def precisions(
    maps: Mapping[str, NDArray[np.floating]], contacts: NDArray[np.uint8], *, min_separation: int
) -> dict[str, dict[str, float]]:
    """Precision of several maps (by method) of one family, by cut and method."""
    found = {
        method: contact_precision(scores, contacts, min_separation=min_separation)
        for method, scores in maps.items()
    }
    return {cut: {method: values[cut] for method, values in found.items()} for cut in CUTS}


def summarise(per_family: PerFamily, *, seed: int, samples: int) -> dict[str, Any]:
    """Means, intervals, the margin over the best classical method, and the ablation.

    Args:
        per_family: must hold ``model`` and all of :data:`CLASSICAL`; ``shuffled`` for the ablation.
        seed: of the bootstrap.
        samples: of the bootstrap.

    Returns:
        ``precision``, ``intervals``, ``bootstrap`` and ``ablation`` of the evaluation's table.
    """
    precision: dict[str, dict[str, float]] = {}
    intervals: dict[str, dict[str, dict[str, float]]] = {}
    margins: dict[str, dict[str, Any]] = {}
    ablation: dict[str, dict[str, Any]] = {}
    for cut, methods in per_family.items():
        values = {method: np.asarray(found) for method, found in methods.items()}
        means = {method: float(found.mean()) for method, found in values.items()}
        precision[cut] = {**means, "couplings": max(means[method] for method in COUPLINGS)}
        intervals[cut] = {
            method: bootstrap_mean(found, seed=seed, samples=samples).to_json()
            for method, found in values.items()
        }
        classical = np.stack([values[method] for method in CLASSICAL])
        margin = bootstrap_margin(values["model"], classical, seed=seed, samples=samples)
        best = max(CLASSICAL, key=lambda method: means[method])
        margins[cut] = {**margin.to_json(), "best": best}
        if "shuffled" in values:
            ablation[cut] = _ablation(values, seed=seed, samples=samples)
    return {
        "precision": precision,
        "intervals": intervals,
        "bootstrap": {"model_minus_best_classical": margins, "samples": samples, "level": 0.95},
        "ablation": ablation,
    }


def _ablation(values: Mapping[str, NDArray[np.float64]], *, seed: int, samples: int) -> dict[str, Any]:
    """Shuffled columns know nothing but the separation: how much more than the prior does the model find?"""
    rest: Interval = bootstrap_mean(values["shuffled"] - values["prior"], seed=seed, samples=samples)
    gain = float((values["model"] - values["prior"]).mean())
    return {
        "shuffled_minus_prior": rest.mean,
        "interval": [rest.low, rest.high],
        "model_minus_prior": gain,
        "ratio": rest.mean / gain if gain > 0 else None,
    }


def structure_scores(traces: Sequence[Trace], *, seed: int, samples: int) -> dict[str, Any]:
    """lDDT, RMSD and TM-score over the better mirror image, and what the confidence is worth.

    Returns:
        ``lddt``, ``rmsd`` and ``tm_score`` (means over families) with ``structure_intervals``, and
        ``confidence``: its correlation with the true lDDT over all residues; None where there is none.
    """
    quality = [lddt(trace.predicted, trace.true) for trace in traces]
    values = {
        "lddt": [found.overall for found in quality],
        "rmsd": [mirror_rmsd(trace.predicted, trace.true) for trace in traces],
        "tm_score": [_mirror_tm_score(trace) for trace in traces],
    }
    intervals = {
        name: bootstrap_mean(np.asarray(found), seed=seed, samples=samples) for name, found in values.items()
    }
    pairs = [
        (trace.confidence, found.per_residue)
        for trace, found in zip(traces, quality, strict=True)
        if trace.confidence is not None
    ]
    return {
        **{name: interval.mean for name, interval in intervals.items()},
        "structure_intervals": {name: interval.to_json() for name, interval in intervals.items()},
        "confidence": _confidence(pairs) if pairs else None,
    }


def _mirror_tm_score(trace: Trace) -> float:
    return max(tm_score(trace.predicted, trace.true), tm_score(-np.asarray(trace.predicted), trace.true))


def _confidence(pairs: Sequence[tuple[NDArray[np.floating], NDArray[np.float64]]]) -> dict[str, float]:
    said = np.concatenate([np.asarray(confidence, dtype=np.float64) for confidence, _ in pairs])
    true = np.concatenate([found for _, found in pairs])
    known = np.isfinite(true)
    said, true = said[known], true[known]
    return {
        "pearson": pearson(said, true),
        "spearman": spearman(said, true),
        "mean_absolute_error": float(np.abs(said / 100 - true).mean()),
        "residues": float(said.size),
    }


def largest_overlap(unseen: Sequence[NDArray[np.uint8]], seen: Sequence[NDArray[np.uint8]]) -> float:
    """The most that an unseen contact map shares with any seen one: contacts of both over contacts of either.

    Maps of other lengths share nothing. 1 means that a fold was seen.
    """
    by_length: dict[int, NDArray[np.float32]] = {}
    for length in {len(one) for one in seen}:
        upper = np.triu_indices(length, 1)
        by_length[length] = np.stack([one[upper] for one in seen if len(one) == length]).astype(np.float32)
    most = 0.0
    for one in unseen:
        others = by_length.get(len(one))
        if others is None:
            continue
        mine = one[np.triu_indices(len(one), 1)].astype(np.float32)
        common = others @ mine
        either = others.sum(axis=1) + mine.sum() - common
        most = max(most, float((common / np.maximum(either, 1)).max()))
    return most
