"""One call from an alignment to corrected scores of pairs, by either method, and their reading as chances."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from foldase_models.coevolution.mean_field import PSEUDOCOUNT, mean_field_couplings
from foldase_models.coevolution.pseudolikelihood import COUPLING_PENALTY, TOLERANCE, fit_pseudolikelihood
from foldase_models.coevolution.scores import average_product_correction, frobenius_scores

Method = Literal["mean_field", "pseudolikelihood"]

SLOPE = 1.7
MIDPOINT = 2.4
"""Of the logistic in :func:`probability_of_scores`: the middle of what fits simulated families of 60 residues
and 20 letters with 120 to 1,000 sequences, weak and strong couplings, both methods (slopes 0.8 to 2.5,
midpoints 2.1 to 3.0; ``benchmarks/contacts_baselines.py calibration``)."""


@dataclass(frozen=True, slots=True)
class CouplingFit:
    """A fitted Potts model.

    Attributes:
        couplings: (N, Q, N, Q).
        converged: whether the fit reached its tolerance; always true for mean-field, which is solved exactly.
        details: numbers of the fit (gradient norm, iterations ...), for logs and tables.
    """

    couplings: NDArray[np.floating]
    converged: bool
    details: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CouplingScores:
    """What a method says of the pairs of an alignment.

    Attributes:
        scores: float64 (N, N), norms of the couplings with average product correction.
        raw: float64 (N, N), the norms themselves.
        converged: see :class:`CouplingFit`.
        details: see :class:`CouplingFit`.
    """

    scores: NDArray[np.float64]
    raw: NDArray[np.float64]
    converged: bool
    details: dict[str, float] = field(default_factory=dict)


def couple(
    letters: NDArray[np.uint8],
    alphabet: int,
    weights: NDArray[np.floating] | None = None,
    *,
    method: Method,
    skip_letter: int | None = None,
    pseudocount: float = PSEUDOCOUNT,
    coupling_penalty: float = COUPLING_PENALTY,
    tolerance: float = TOLERANCE,
    report: Callable[[int, float, float], None] | None = None,
) -> CouplingScores:
    """Fit a Potts model and score its pairs by their norms with average product correction.

    Args:
        letters: uint8 (S, N).
        alphabet: number of letters Q, the gap included.
        weights: (S,), 1 each where not given.
        method: mean-field or pseudolikelihood.
        skip_letter: index of the gap, left out of the norms.
        pseudocount: of the mean-field method.
        coupling_penalty: of the pseudolikelihood.
        tolerance: of the pseudolikelihood's gradient.
        report: see :func:`fit_pseudolikelihood`; the mean-field method has nothing to report.

    Raises:
        ValueError: parameters out of range, or letters or weights that do not fit.
    """
    fit = fit_couplings(
        letters,
        alphabet,
        weights,
        method=method,
        pseudocount=pseudocount,
        coupling_penalty=coupling_penalty,
        tolerance=tolerance,
        report=report,
    )
    raw = frobenius_scores(fit.couplings, skip_letter=skip_letter)
    return CouplingScores(average_product_correction(raw), raw, fit.converged, fit.details)


def fit_couplings(
    letters: NDArray[np.uint8],
    alphabet: int,
    weights: NDArray[np.floating] | None = None,
    *,
    method: Method,
    pseudocount: float = PSEUDOCOUNT,
    coupling_penalty: float = COUPLING_PENALTY,
    tolerance: float = TOLERANCE,
    report: Callable[[int, float, float], None] | None = None,
) -> CouplingFit:
    """Fit a Potts model by either method; arguments and errors as in :func:`couple`."""
    if method == "mean_field":
        couplings = mean_field_couplings(letters, alphabet, weights, pseudocount=pseudocount)
        return CouplingFit(couplings, converged=True)
    fit = fit_pseudolikelihood(
        letters,
        alphabet,
        weights,
        coupling_penalty=coupling_penalty,
        tolerance=tolerance,
        report=report,
    )
    details = {
        "gradient_norm": fit.gradient_norm,
        "relative_gradient": fit.relative_gradient,
        "objective": fit.objective,
        "iterations": float(fit.iterations),
        "evaluations": float(fit.evaluations),
    }
    return CouplingFit(fit.couplings, fit.converged, details)


def probability_of_scores(scores: NDArray[np.floating], *, min_separation: int) -> NDArray[np.float64]:
    """Scores of couplings as numbers from 0 to 1 that can be drawn beside probabilities.

    The rule: z = (score - median) / (1.4826 median absolute deviation) over the pairs at least
    ``min_separation`` apart, then 1 / (1 + exp(-SLOPE (z - MIDPOINT))). The order of the pairs is kept; the
    constants come from simulated families, so on natural ones the numbers are a guide, not frequencies.

    Args:
        scores: (N, N), symmetric.
        min_separation: pairs nearer than this get 0.

    Returns:
        float64 (N, N).
    """
    N = len(scores)
    index = np.arange(N)
    apart = np.abs(index[:, None] - index[None]) >= max(min_separation, 1)
    probability = np.zeros((N, N))
    if not apart.any():
        return probability
    values = np.asarray(scores, dtype=np.float64)[apart]
    middle = np.median(values)
    spread = 1.4826 * np.median(np.abs(values - middle))
    z = (values - middle) / spread if spread > 0 else np.zeros_like(values)
    probability[apart] = 1.0 / (1.0 + np.exp(-np.clip(SLOPE * (z - MIDPOINT), -700, 700)))
    return probability
