"""Chains in, one sequence with linkers out, as ESMFold folds complexes.

Shapes: N residues of all chains, M with linkers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from foldase_models.errors import ModelError
from foldase_models.folding.prediction import FoldInput
from foldase_models.layers.residues import encode

LINKER = "G" * 25
"""Laid between chains, for the model has learned single ones only (Lin et al. 2023, supplement A.3.4)."""
GAP = 512
"""By how much residue numbers jump at the start of each further chain."""


class Features(NamedTuple):
    """One record as the model takes it.

    Attributes:
        aatype: residue types with linkers, int64 ``[M]``.
        residue_index: numbers with jumps between chains, int64 ``[M]``.
        real: False on linkers, boolean ``[M]``.
        chain_index: of the residues without linkers, int16 ``[N]``, from 0.
        numbers: of the residues without linkers in their chain, int32 ``[N]``, from 1.
    """

    aatype: NDArray[np.int64]
    residue_index: NDArray[np.int64]
    real: NDArray[np.bool_]
    chain_index: NDArray[np.int16]
    numbers: NDArray[np.int32]


def encode_record(record: FoldInput) -> Features:
    """One record.

    Raises:
        ModelError: ``empty_sequence``, ``unknown_residue``; ``location`` names record and chain.
    """
    if not record.chains:
        raise ModelError("the record has no chain", code="empty_sequence", location=record.name)
    types, jumps, real = [], [], []
    for number, chain in enumerate(record.chains):
        location = record.name if len(record.chains) == 1 else f"{record.name}, chain {number + 1}"
        if not chain:
            raise ModelError(
                "the chain is empty",
                code="empty_sequence",
                location=location,
                hint="leave it out, or give its sequence",
            )
        linker = LINKER if number < len(record.chains) - 1 else ""
        types.append(encode(chain, location=location))
        types.append(encode(linker))
        jumps.append(np.full(len(chain) + len(linker), number * GAP))
        real.append(np.arange(len(chain) + len(linker)) < len(chain))
    jump = np.concatenate(jumps).astype(np.int64)
    lengths = [len(chain) for chain in record.chains]
    return Features(
        np.concatenate(types),
        np.arange(len(jump)) + jump,
        np.concatenate(real),
        np.repeat(np.arange(len(lengths), dtype=np.int16), lengths),
        np.concatenate([np.arange(1, length + 1, dtype=np.int32) for length in lengths]),
    )
