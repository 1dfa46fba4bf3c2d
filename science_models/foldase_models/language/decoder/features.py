"""Text in, token ids out; sequences packed into blocks of one length.

Shapes: N tokens of a sequence, B blocks of L tokens.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from foldase_models.errors import ModelError
from foldase_models.language.decoder.config import AMINO_ACIDS, SEPARATOR, Tokens

IGNORED = -1
"""The target where there is nothing to predict."""
_UNKNOWN = 255
_LAPS_KEPT = 2


def _table() -> NDArray[np.uint8]:
    table = np.full(256, _UNKNOWN, dtype=np.uint8)
    for number, letter in enumerate(AMINO_ACIDS):
        table[ord(letter)] = number + 1
    return table


_IDS = _table()


def encode(text: str, tokens: Tokens = "amino_acids") -> NDArray[np.int64]:
    """Token ids of a sequence, int64 ``[N]``, without separators: letters, or the bytes of UTF-8 plus 1.

    Raises:
        ModelError: ``unknown_residue``: a letter that is no residue, with its position; ``bad_config``: the
            tokeniser is a foreign one.
    """
    _own(tokens)
    if tokens == "bytes":
        return np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int64) + 1
    letters = np.frombuffer(text.encode("ascii", errors="replace"), dtype=np.uint8)
    ids = _IDS[letters]
    unknown = np.flatnonzero(ids == _UNKNOWN)
    if unknown.size:
        place = int(unknown[0])
        raise ModelError(
            f"letter {text[place]!r} at position {place + 1} is no residue",
            code="unknown_residue",
            hint="write X for an unknown residue, in capitals",
        )
    return ids.astype(np.int64)


def decode(ids: NDArray[np.integer], tokens: Tokens = "amino_acids") -> str:
    """The text of token ids ``[N]``; bytes that are no UTF-8 become U+FFFD.

    Raises:
        ModelError: ``unknown_token``: an id that stands for no letter, a separator among them.
    """
    _own(tokens)
    count = len(AMINO_ACIDS) if tokens == "amino_acids" else 256
    wrong = np.flatnonzero((ids < 1) | (ids > count))
    if wrong.size:
        raise ModelError(f"token {int(ids[wrong[0]])} stands for no letter", code="unknown_token")
    if tokens == "bytes":
        return (ids - 1).astype(np.uint8).tobytes().decode(errors="replace")
    return "".join(AMINO_ACIDS[int(number) - 1] for number in ids)


class PackedBlocks:
    """An endless stream of sequences with a separator before each, cut into blocks.

    Every round through the sequences has an order of its own, drawn from the seed and the number of the
    round, and blocks run over the borders of sequences and of rounds: no token is left out, and none is
    padding. A block depends on the sequences, the seed and its number only.
    """

    def __init__(self, sequences: Sequence[NDArray[np.integer]], length: int, seed: int) -> None:
        """``sequences``: token ids ``[N]`` each; ``length``: inputs of a block, L.

        Raises:
            ModelError: ``no_sequences``: there is none, or all are empty.
        """
        if not any(len(ids) for ids in sequences):
            raise ModelError("there are no sequences to pack", code="no_sequences")
        self.sequences, self.length, self.seed = sequences, length, seed
        self._lengths = np.array([len(ids) + 1 for ids in sequences], dtype=np.int64)
        self._laps: OrderedDict[int, tuple[NDArray[np.int64], NDArray[np.int64]]] = OrderedDict()

    @property
    def tokens(self) -> int:
        """Of one round, separators counted."""
        return int(self._lengths.sum())

    def block(self, number: int) -> NDArray[np.int64]:
        """Tokens ``[L + 1]``: inputs are all but the last, targets all but the first."""
        found = np.empty(self.length + 1, dtype=np.int64)
        place, filled = number * self.length, 0
        while filled < len(found):
            lap, offset = divmod(place + filled, self.tokens)
            order, starts = self._lap(lap)
            slot = int(np.searchsorted(starts, offset, side="right")) - 1
            while filled < len(found) and slot < len(order):
                piece = self._piece(int(order[slot]), offset - int(starts[slot]), len(found) - filled)
                found[filled : filled + len(piece)] = piece
                filled += len(piece)
                slot += 1
                offset = int(starts[slot]) if slot < len(order) else 0
        return found

    def batch(self, first: int, count: int) -> NDArray[np.int64]:
        """Blocks from one on, ``[count, L + 1]``."""
        return np.stack([self.block(number) for number in range(first, first + count)])

    def _piece(self, sequence: int, offset: int, most: int) -> NDArray[np.int64]:
        ids = self.sequences[sequence]
        if offset == 0:
            return np.concatenate([[SEPARATOR], ids[: most - 1]]).astype(np.int64)
        return np.asarray(ids[offset - 1 : offset - 1 + most], dtype=np.int64)

    def _lap(self, number: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Order of the sequences in a round, and where each begins in it."""
        if number not in self._laps:
            order = np.random.default_rng([self.seed, number]).permutation(len(self._lengths))
            ends = np.cumsum(self._lengths[order])
            self._laps[number] = (order, ends - self._lengths[order])
            while len(self._laps) > _LAPS_KEPT:
                self._laps.popitem(last=False)
        return self._laps[number]


def windows(ids: NDArray[np.integer], length: int) -> list[NDArray[np.int64]]:
    """One sequence between separators, in pieces whose targets are each token of it once, the end included.

    Each piece, ``[2 to L + 1]``, begins with the last token of the one before: inputs are all but its last
    token, targets all but its first.
    """
    whole = np.concatenate([[SEPARATOR], ids, [SEPARATOR]]).astype(np.int64)
    return [whole[start : start + length + 1] for start in range(0, len(whole) - 1, length)]


def padded(pieces: Sequence[NDArray[np.int64]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Inputs and targets ``[B, L]`` of pieces of different lengths; :data:`IGNORED` behind their ends."""
    longest = max(len(piece) for piece in pieces) - 1
    inputs = np.full((len(pieces), longest), SEPARATOR, dtype=np.int64)
    targets = np.full((len(pieces), longest), IGNORED, dtype=np.int64)
    for row, piece in enumerate(pieces):
        inputs[row, : len(piece) - 1] = piece[:-1]
        targets[row, : len(piece) - 1] = piece[1:]
    return inputs, targets


def _own(tokens: Tokens) -> None:
    if tokens == "foreign":
        raise ModelError(
            "the model has a tokeniser of its own, which is not known here",
            code="bad_config",
            hint="models with tokens amino_acids or bytes take text",
        )
