"""Mutual information of columns.

Source: Shannon (1948) for the measure; Dunn et al., Bioinformatics 24:333 (2008) for its use with the average
product correction (MI+APC, there called MIp).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from foldase_models.coevolution.statistics import pair_frequencies, with_pseudocount


def mutual_information(
    letters: NDArray[np.uint8],
    alphabet: int,
    weights: NDArray[np.floating] | None = None,
    *,
    pseudocount: float = 0.0,
    skip_letter: int | None = None,
) -> NDArray[np.float64]:
    """How much one column says about another, in nats.

    Args:
        letters: uint8 (S, N).
        alphabet: number of letters Q.
        weights: (S,), 1 each where not given.
        pseudocount: share of the uniform distribution mixed into the frequencies, 0 to below 1.
        skip_letter: index of the gap, whose terms are left out of the sum: gaps come in runs and would
            make neighbours look coupled.

    Returns:
        float64 (N, N), symmetric, diagonal 0; never negative unless a letter is skipped.

    Raises:
        ValueError: ``pseudocount`` out of range, or letters or weights that do not fit.
    """
    if not 0 <= pseudocount < 1:
        raise ValueError(f"pseudocount must be at least 0 and below 1, got {pseudocount}")
    single, joint = with_pseudocount(*pair_frequencies(letters, alphabet, weights), pseudocount)
    kept = [letter for letter in range(alphabet) if letter != skip_letter]
    N = len(single)
    information = np.zeros((N, N))
    for i in range(N):
        expected = single[i, :, None, None] * single[None]
        observed = joint[i]
        present = observed > 0
        ratio = np.divide(observed, expected, out=np.ones_like(observed), where=present)
        terms = observed * np.log(ratio)
        information[i] = terms[kept][:, :, kept].sum(axis=(0, 2))
    np.fill_diagonal(information, 0.0)
    return (information + information.T) / 2
