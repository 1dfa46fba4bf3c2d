"""What an alignment says of its pairs without saying which letters do: the input of a model without letters.

Every score is brought to one scale, z = (score - median) / (1.4826 median absolute deviation) over the pairs
far apart in the chain, and then asinh(z), which keeps the order and shortens the tail. A permutation of the
letters but the gap, in the whole alignment or in one column, changes nothing.

Shapes: S rows, N residues, Q letters.
"""

from __future__ import annotations

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

FAR = 6
"""Pairs at least this far apart set the scale; all, in chains too short for that."""


def pair_features(
    letters: NDArray[np.uint8],
    alphabet: int,
    weights: NDArray[np.floating] | None = None,
    *,
    gap: int | None = None,
) -> NDArray[np.float32]:
    """Features of all pairs of one alignment; about a second for 128 residues, growing with N^3 Q^3.

    Args:
        letters: uint8 (S, N).
        alphabet: number of letters Q, the gap included.
        weights: of the rows (S,); those of rows 80 % alike where not given.
        gap: its letter, left out of all scores.

    Returns:
        float32 (N, N, 8), symmetric in the two residues: couplings with and without correction, couplings
        weighted by frequency, mutual information; sum and difference of the entropies of both columns, sum of
        their gaps; effective sequences a residue.

    Raises:
        ValueError: letters or weights that do not fit.
    """
    if weights is None:
        weights = sequence_weights(letters)
    couplings = fit_couplings(letters, alphabet, weights, method="mean_field").couplings
    single = single_frequencies(letters, alphabet, weights)
    norm = frobenius_scores(couplings, skip_letter=gap)
    scores = (
        average_product_correction(norm),
        norm,
        average_product_correction(weighted_scores(couplings, single, skip_letter=gap)),
        average_product_correction(mutual_information(letters, alphabet, weights, skip_letter=gap)),
    )
    entropy = -np.where(single > 0, single * np.log(np.maximum(single, 1e-12)), 0.0).sum(axis=1)
    gaps = np.zeros(len(single)) if gap is None else single[:, gap]
    depth = np.log(weights.sum() / len(single))
    of_columns = (
        entropy[:, None] + entropy[None] - 4.0,
        np.abs(entropy[:, None] - entropy[None]),
        gaps[:, None] + gaps[None],
        np.full_like(norm, depth - 1.0),
    )
    return np.stack([*map(_scaled, scores), *of_columns], axis=-1).astype(np.float32)


def _scaled(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    N = len(scores)
    values = scores[np.triu_indices(N, FAR if N > FAR else 1)]
    middle = np.median(values) if values.size else 0.0
    spread = 1.4826 * np.median(np.abs(values - middle)) if values.size else 0.0
    scaled: NDArray[np.float64] = np.arcsinh((scores - middle) / spread) if spread > 0 else 0.0 * scores
    np.fill_diagonal(scaled, 0.0)
    return scaled
