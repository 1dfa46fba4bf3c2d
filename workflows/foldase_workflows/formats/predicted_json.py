"""Confidence as JSON: predicted aligned error in the form of the AlphaFold database, and rankings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foldase_workflows.contracts.errors import BadInput, Location

MAX_PAE = 31.75
"""A, the largest error that AlphaFold's files hold."""
RANKING_KIND = "fold.ranking"


def write_pae(path: Path, pae: NDArray[np.float32], *, maximum: float = MAX_PAE) -> None:
    """Write predicted aligned errors in the form of the AlphaFold database.

    A list of one object: ``predicted_aligned_error``, rows of whole A, row i for residue i aligned and column
    j for the residue whose error it is; ``max_predicted_aligned_error`` in A. Row by row, so that a long
    protein does not need its matrix as text in memory.

    Args:
        path: the file to write.
        pae: (N, N), A.
        maximum: larger errors are written as this.

    Raises:
        ValueError: not a square matrix of finite numbers that are not negative.
    """
    if pae.ndim != 2 or pae.shape[0] != pae.shape[1] or not pae.size:
        raise ValueError(f"aligned errors of shape {pae.shape} are no square matrix")
    if not np.isfinite(pae).all() or pae.min() < 0:
        raise ValueError("an aligned error is not finite or is negative")
    with path.open("w", encoding="ascii", newline="\n") as file:
        file.write('[{"predicted_aligned_error":[')
        for number, row in enumerate(pae):
            whole = np.rint(np.minimum(row, maximum)).astype(int).tolist()
            file.write(("," if number else "") + json.dumps(whole, separators=(",", ":")))
        file.write(f'],"max_predicted_aligned_error":{json.dumps(maximum)}}}]\n')


def read_pae(path: Path) -> NDArray[np.float32]:
    """(N, N) predicted aligned errors, A, from a file of the AlphaFold database.

    Raises:
        BadInput: ``pae_format``: not JSON of that form, or no square matrix of errors.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        found = document[0] if isinstance(document, list) else document
        pae = np.asarray(found["predicted_aligned_error"], dtype=np.float32)
    except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
        raise _no_pae(path, f"{type(error).__name__}: {error}") from error
    if pae.ndim != 2 or pae.shape[0] != pae.shape[1] or not pae.size or not (pae >= 0).all():
        raise _no_pae(path, f"the errors have the shape {pae.shape} or are negative")
    return pae


def _no_pae(path: Path, why: str) -> BadInput:
    return BadInput(
        f"no predicted aligned errors in the form of the AlphaFold database: {why[:200]}",
        code="pae_format",
        location=Location(file=path.name),
        hint='wanted is [{"predicted_aligned_error": [[...], ...], "max_predicted_aligned_error": 31.75}]',
    )


def write_ranking(path: Path, rule: str, records: Sequence[Mapping[str, Any]]) -> None:
    """Write a ranking; ``records`` in order, each with ``record``, ``order`` and ``models`` (best first).

    Raises:
        ValueError: a number that is not finite.
    """
    document = {"kind": RANKING_KIND, "version": 1, "rule": rule, "records": list(records)}
    path.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")
