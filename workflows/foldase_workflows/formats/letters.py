"""The letters of alignments and what becomes of those that stand for several residues or for none.

Rule: an ambiguous or rare letter becomes the residue it most likely is or chemically resembles: B (Asx) D,
Z (Glx) E, J (Leu or Ile) L, U (selenocysteine) C, O (pyrrolysine) K. X says nothing and becomes a gap, as
does ``.``. B, Z and U are mapped as in AlphaFold's residue tables.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LETTERS = "ARNDCQEGHILKMFPSTWYV-"
"""Index of a letter in every ``msa`` array: twenty residues in the order of AlphaFold, then the gap."""

GAP = LETTERS.index("-")

AMBIGUOUS = {"B": "D", "Z": "E", "J": "L", "U": "C", "O": "K", "X": "-"}
"""What each letter beyond the twenty becomes."""

PROTEIN_LETTERS = LETTERS[:GAP] + "".join(AMBIGUOUS)
"""Letters that a protein sequence may hold, in upper case."""

_UNKNOWN = 255


def _code_table() -> NDArray[np.uint8]:
    table = np.full(256, _UNKNOWN, dtype=np.uint8)
    for index, letter in enumerate(LETTERS):
        table[ord(letter)] = table[ord(letter.lower())] = index
    for letter, stand_in in AMBIGUOUS.items():
        table[ord(letter)] = table[ord(letter.lower())] = LETTERS.index(stand_in)
    table[ord(".")] = GAP
    return table


_CODES = _code_table()


def encode(row: str) -> NDArray[np.uint8]:
    """Indices into :data:`LETTERS`, one per character, upper and lower case alike; shape (len(row),), uint8.

    Raises:
        ValueError: a character is no residue and no gap.
    """
    codes = _CODES[np.frombuffer(row.encode("latin-1", "replace"), dtype=np.uint8)]
    if (codes == _UNKNOWN).any():
        position = int(np.argmax(codes == _UNKNOWN))
        raise ValueError(f"{row[position]!r} at position {position + 1} is no residue")
    return codes


def decode(codes: NDArray[np.uint8]) -> str:
    """The text of a row of indices, the inverse of :func:`encode` up to case and ambiguous letters.

    Raises:
        IndexError: an index is larger than the gap's.
    """
    return np.frombuffer(LETTERS.encode(), dtype=np.uint8)[codes].tobytes().decode()
