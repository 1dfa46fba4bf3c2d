"""Letters in, token ids out.

Shapes: B sequences, L tokens of the longest with the two at its ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from foldase_models.errors import ModelError
from foldase_models.folding.esm2.config import VOCABULARY, Esm2Config

AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"
"""The twenty that mutations are scored for."""

_IDS = {token: number for number, token in enumerate(VOCABULARY) if len(token) == 1}


class Tokens(NamedTuple):
    """Sequences as the model takes them.

    Attributes:
        ids: int64 ``[B, L]``: cls, letters, eos, padding.
        mask: boolean ``[B, L]``, False on padding.
    """

    ids: NDArray[np.int64]
    mask: NDArray[np.bool_]


def letter_ids(letters: str) -> NDArray[np.int64]:
    """Token ids of letters, int64 ``[N]``.

    Raises:
        ModelError: a letter that the vocabulary lacks.
    """
    unknown = [(place, letter) for place, letter in enumerate(letters, 1) if letter not in _IDS]
    if unknown:
        place, letter = unknown[0]
        raise ModelError(
            f"letter {letter!r} at position {place} is none that ESM-2 knows",
            code="unknown_residue",
            hint="write X for an unknown residue, in capitals",
        )
    return np.array([_IDS[letter] for letter in letters], dtype=np.int64)


def tokenize(sequences: Sequence[str], config: Esm2Config) -> Tokens:
    """Sequences of any lengths, padded to the longest.

    Raises:
        ModelError: no sequence, an empty one, or a letter that the vocabulary lacks; ``location`` is the
            number of the sequence, from 1.
    """
    if not sequences:
        raise ModelError("there are no sequences", code="no_sequences")
    longest = max(len(letters) for letters in sequences)
    ids = np.full((len(sequences), longest + 2), config.pad_token_id, dtype=np.int64)
    for row, letters in enumerate(sequences):
        if not letters:
            raise ModelError("the sequence is empty", code="empty_sequence", location=str(row + 1))
        try:
            ids[row, 1 : len(letters) + 1] = letter_ids(letters)
        except ModelError as error:
            error.location = str(row + 1)
            raise
        ids[row, 0], ids[row, len(letters) + 1] = config.cls_token_id, config.eos_token_id
    lengths = np.array([len(letters) for letters in sequences])
    return Tokens(ids, np.arange(longest + 2) < lengths[:, None] + 2)
