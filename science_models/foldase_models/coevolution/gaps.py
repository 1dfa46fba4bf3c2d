"""Gaps as alignments of natural families have them: ends that a row does not reach, and runs inside it.

Shapes: S sequences, N columns.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

RUN = 5.0
"""Mean length of a run inside a row, columns."""
ENDS = 0.5
"""Share of all gaps that lie at the ends."""
PREFERRED = 0.7
"""Share of runs that begin at one of the family's own places, since loops lose residues more readily."""
COLUMNS_PER_PLACE = 25


def put_gaps(
    letters: NDArray[np.uint8], gap: int, share: float, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """A copy of an alignment in which about ``share`` of the letters are gaps.

    Args:
        letters: uint8 (S, N).
        gap: the letter that stands for a gap.
        share: of gaps, 0 to below 1; runs overlap, so large shares are missed by a little.
        rng: draws the family's places, and the gaps of every row.
    """
    N = letters.shape[1]
    places = rng.integers(0, N, size=max(1, N // COLUMNS_PER_PLACE))
    columns = np.arange(N)
    gapped = letters.copy()
    for row in gapped:
        start, end = rng.exponential(share * ENDS * N / 2, size=2)
        missing = (columns < round(start)) | (columns >= N - round(end))
        for _ in range(rng.poisson(share * (1 - ENDS) * N / RUN)):
            at = int(rng.choice(places)) if rng.random() < PREFERRED else int(rng.integers(N))
            at += int(rng.integers(-1, 2))
            missing |= (columns >= at) & (columns < at + rng.geometric(1 / RUN))
        if not missing.all():
            row[missing] = gap
    return gapped
