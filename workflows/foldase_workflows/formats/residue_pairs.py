"""Which residue of one sequence is which of another."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray


@lru_cache(maxsize=1)
def _aligner() -> Any:
    """Residues by BLOSUM62, gaps as BLAST costs them, free at the ends: structures are parts of chains."""
    from Bio.Align import PairwiseAligner, substitution_matrices

    aligner: Any = PairwiseAligner(mode="global", open_gap_score=-11, extend_gap_score=-1)  # type: ignore[no-untyped-call]
    aligner.substitution_matrix = substitution_matrices.load("BLOSUM62")  # type: ignore[no-untyped-call]
    aligner.end_gap_score = 0.0
    return aligner


def aligned_residues(one: str, other: str) -> NDArray[np.int64]:
    """Places in two sequences that the best global alignment puts together, from 0, rising.

    Args:
        one: of the twenty letters and X, not empty.
        other: likewise.

    Returns:
        int64 (P, 2); P is 0 where nothing is alike.
    """
    if one == other:
        return np.repeat(np.arange(len(one), dtype=np.int64)[:, None], 2, axis=1)
    blocks = np.asarray(_aligner().align(one, other)[0].aligned, dtype=np.int64)
    stretches = [
        np.stack([np.arange(start, stop), np.arange(there, there + stop - start)], axis=1)
        for (start, stop), (there, _) in zip(*blocks, strict=True)
    ]
    return np.concatenate([np.zeros((0, 2), dtype=np.int64), *stretches])
