"""Direct couplings by the mean-field approximation.

Source: Morcos et al., PNAS 108:E1293 (2011): the couplings are minus the inverse of the correlations of
letters, regularised by a pseudocount. Scored by the norm in the zero-sum gauge with average product
correction, as is usual since Ekeberg et al. (2013).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from foldase_models.coevolution.statistics import pair_frequencies, with_pseudocount

PSEUDOCOUNT = 0.5
"""Share of the uniform distribution, the value of the paper."""


def mean_field_couplings(
    letters: NDArray[np.uint8],
    alphabet: int,
    weights: NDArray[np.floating] | None = None,
    *,
    pseudocount: float = PSEUDOCOUNT,
) -> NDArray[np.float64]:
    """Couplings of a Potts model in the gauge where those of the last letter are 0.

    Args:
        letters: uint8 (S, N).
        alphabet: number of letters Q.
        weights: (S,), 1 each where not given.
        pseudocount: share of the uniform distribution, above 0 and below 1.

    Returns:
        float64 (N, Q, N, Q), symmetric under the exchange of (i, a) and (j, b), 0 for i = j.

    Raises:
        ValueError: ``pseudocount`` out of range, or letters or weights that do not fit.
    """
    if not 0 < pseudocount < 1:
        raise ValueError(f"pseudocount must lie between 0 and 1, got {pseudocount}")
    single, joint = with_pseudocount(*pair_frequencies(letters, alphabet, weights), pseudocount)
    N, Q = single.shape
    free = Q - 1
    flat = single[:, :free].reshape(-1)
    correlation = torch.from_numpy(joint[:, :free, :, :free].reshape(N * free, N * free).copy())
    del joint
    correlation -= torch.from_numpy(np.outer(flat, flat))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(correlation)).numpy()
    couplings = np.zeros((N, Q, N, Q))
    couplings[:, :free, :, :free] = -inverse.reshape(N, free, N, free)
    for i in range(N):
        couplings[i, :, i, :] = 0.0
    return couplings
