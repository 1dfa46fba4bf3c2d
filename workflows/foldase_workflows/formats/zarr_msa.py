"""The ``msa`` tree: one alignment as arrays.

``/msa`` uint8 (S, N) letter indices, row 0 the query; ``/deletions`` uint16 (S, N) insertions of the row
before each column; ``/weights`` float32 (S,). Root attributes: ``letters``, ``query``, ``names`` (the first
:data:`NAMES_KEPT`), ``rows``, ``neff`` (the sum of the weights), ``identity`` (the threshold of the weights).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foldase_workflows.contracts import BadInput, Location
from foldase_workflows.formats.zarr_tree import TreeReader, TreeWriter

KIND = "msa"
NAMES_KEPT = 1000
"""Row names kept in the attributes; the others can be read in the alignment file itself."""


@dataclass(frozen=True, slots=True)
class StoredMsa:
    """An alignment as stored; shapes and types as in the module's docstring."""

    msa: NDArray[np.uint8]
    deletions: NDArray[np.uint16]
    weights: NDArray[np.float32]
    letters: str
    query: str
    names: list[str]
    attributes: Mapping[str, Any]

    @property
    def sequence(self) -> str:
        """The query's letters in the columns, gaps included."""
        return "".join(self.letters[index] for index in self.msa[0])


def write_msa(
    path: Path,
    *,
    msa: NDArray[np.uint8],
    deletions: NDArray[np.uint16],
    weights: NDArray[np.float32],
    letters: str,
    names: Sequence[str],
    identity: float,
    attributes: Mapping[str, Any] | None = None,
) -> None:
    """Write an alignment into an empty folder; ``names[0]`` is the query's."""
    tree = TreeWriter(path, KIND)
    tree.array("msa", np.asarray(msa, dtype=np.uint8))
    tree.array("deletions", np.asarray(deletions, dtype=np.uint16))
    tree.array("weights", np.asarray(weights, dtype=np.float32))
    tree.complete(
        {
            **(attributes or {}),
            "letters": letters,
            "query": names[0],
            "names": list(names[:NAMES_KEPT]),
            "rows": len(names),
            "neff": float(np.sum(weights, dtype=np.float64)),
            "identity": identity,
        }
    )


def read_msa(path: Path) -> StoredMsa:
    """Read and check an alignment.

    Raises:
        BadInput: not an msa tree, or arrays that do not fit together.
        Damaged: a part is missing or was changed.
    """
    tree = TreeReader(path, KIND)
    letters = tree.attribute("letters", str)
    msa = tree.array("msa", np.uint8, (None, None))
    deletions = tree.array("deletions", np.uint16, msa.shape)
    weights = tree.array("weights", np.float32, (len(msa),))
    if msa.max() >= len(letters):
        raise BadInput(
            f"letter {msa.max()} is outside the alphabet of {len(letters)}",
            code="bad_array",
            location=Location(record="msa"),
        )
    if not (np.isfinite(weights).all() and (weights > 0).all()):
        raise BadInput("weights must be positive", code="bad_array", location=Location(record="weights"))
    names = [str(name) for name in tree.attribute("names", list)]
    query = tree.attribute("query", str)
    return StoredMsa(msa, deletions, weights, letters, query, names, tree.attributes)
