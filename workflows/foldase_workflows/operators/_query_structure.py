"""A known structure laid onto the columns of a query."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foldase_workflows.contracts import BadInput, Location

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LEAST_IDENTITY = 0.9
LEAST_COVERAGE = 0.5


@dataclass(frozen=True, slots=True)
class Truth:
    """``contacts`` uint8 (N, N); ``known`` bool (N,): the columns whose residue the structure holds."""

    contacts: NDArray[np.uint8]
    known: NDArray[np.bool_]


def truth_of(path: Path, *, name: str, chain: str, query: str, cutoff: float, min_separation: int) -> Truth:
    """Contacts of C-beta atoms (C-alpha of glycine) nearer than ``cutoff`` A, in the query's columns.

    Raises:
        BadInput: the file cannot be read, or its chain is not the query's protein.
    """
    import numpy as np

    from foldase_workflows.formats.structures import read_chain

    found = read_chain(path, chain or None, name=name)
    columns, residues = _matching(query, found.sequence)
    same = sum(query[c] == found.sequence[r] for c, r in zip(columns, residues, strict=True))
    if len(columns) < LEAST_COVERAGE * len(query) or same < LEAST_IDENTITY * len(columns):
        raise BadInput(
            f"chain {found.name} is not the query's protein: {len(columns)} of {len(query)} residues "
            f"align, {same} of them equal",
            code="structure_not_of_query",
            location=Location(file=name, record=found.name),
            hint="name the right chain, or leave the structure out",
        )
    distance = np.linalg.norm(found.beta[residues][:, None] - found.beta[residues][None], axis=-1)
    column = np.asarray(columns)
    near = (distance < cutoff) & (np.abs(column[:, None] - column[None]) >= min_separation)
    contacts = np.zeros((len(query), len(query)), dtype=np.uint8)
    contacts[np.ix_(column, column)] = near
    known = np.zeros(len(query), dtype=bool)
    known[column] = True
    return Truth(contacts, known)


def _matching(query: str, sequence: str) -> tuple[list[int], list[int]]:
    """Indices of residues that belong together, by a global alignment with free ends."""
    from Bio.Align import PairwiseAligner

    aligner: Any = PairwiseAligner(  # type: ignore[no-untyped-call]
        mode="global", match_score=2, mismatch_score=-1, open_gap_score=-6, extend_gap_score=-0.5
    )
    aligner.end_gap_score = 0.0
    blocks = aligner.align(query, sequence)[0].aligned
    columns = [index for start, stop in blocks[0] for index in range(start, stop)]
    residues = [index for start, stop in blocks[1] for index in range(start, stop)]
    return columns, residues
