"""Alignments as letter indices, and what one pass is shown of them: clusters and extra rows.

Shapes: S rows of the whole alignment, C clusters, E extra rows, N residues. Letters: 20 residue types in the
order of ``residues.RESTYPES``, 20 unknown, 21 gap, 22 masked (Jumper et al. 2021, supplement 1.2.5 to 1.2.9).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foldase_models.errors import ModelError
from foldase_models.folding.alphafold.config import FeatureSizes
from foldase_models.folding.prediction import Alignment
from foldase_models.layers.residues import RESTYPES, UNKNOWN

GAP, MASKED = 21, 22
LETTERS = 23
_AS_ANOTHER = {"B": "D", "U": "C", "Z": "E"}
"""Letters of alignments for one of two residues, or for a rare one."""
_NO_LETTER = 255
_PIECE_BYTES = 2**26
"""Of rows whose agreement with the clusters is counted at once."""


def _places() -> NDArray[np.uint8]:
    places = np.full(256, _NO_LETTER, dtype=np.uint8)
    for place, letter in enumerate(RESTYPES):
        places[ord(letter)] = place
    for letter, other in _AS_ANOTHER.items():
        places[ord(letter)] = RESTYPES.index(other)
    for letter in "XJO":
        places[ord(letter)] = UNKNOWN
    places[ord("-")] = GAP
    return places


_PLACES = _places()


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of an alignment, the query first.

    Attributes:
        letters: uint8 ``[S, N]``.
        deletions: residues left out before each column, int32 ``[S, N]``.
    """

    letters: NDArray[np.uint8]
    deletions: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.letters)

    def take(self, chosen: NDArray[np.intp]) -> Rows:
        """Some rows, in that order."""
        return Rows(self.letters[chosen], self.deletions[chosen])


def rows_of_chain(chain: str, alignment: Alignment | None, *, location: str) -> Rows:
    """The rows of one chain, each once; without an alignment the query alone.

    Args:
        chain: the letters of the query.
        alignment: in the columns of the query.
        location: the record and chain, for errors.

    Raises:
        ModelError: ``alignment_mismatch`` where the first row is not the chain, a row has another length, or
            deletions another shape; ``unknown_letter`` for what is no letter of an alignment.
    """
    if alignment is None:
        alignment = Alignment(letters=(chain,), deletions=np.zeros((1, len(chain)), dtype=np.int32))
    _check_alignment(chain, alignment, location)
    text = "".join(alignment.letters)
    letters = _PLACES[np.frombuffer(text.encode("latin-1", errors="replace"), dtype=np.uint8)]
    letters = letters.reshape(len(alignment.letters), len(chain))
    bad = np.argwhere(letters == _NO_LETTER)
    if len(bad):
        row, column = (int(place) for place in bad[0])
        raise ModelError(
            f"row {row + 1} of the alignment has {alignment.letters[row][column]!r} in column {column + 1}",
            code="unknown_letter",
            location=location,
            hint="rows hold capitals and '-'; insertions are given as deletion counts",
        )
    first: dict[bytes, int] = {}
    for number, row_letters in enumerate(letters):
        first.setdefault(row_letters.tobytes(), number)
    chosen = np.fromiter(first.values(), dtype=np.intp)
    return Rows(letters, np.asarray(alignment.deletions, dtype=np.int32)).take(chosen)


def _check_alignment(chain: str, alignment: Alignment, location: str) -> None:
    rows = alignment.letters
    fault = None
    if not rows:
        fault = "the alignment has no rows"
    elif rows[0] != chain:
        place = next((i for i, (a, b) in enumerate(zip(rows[0], chain, strict=False)) if a != b), None)
        where = (
            f"lengths {len(rows[0])} and {len(chain)}" if place is None else f"first at residue {place + 1}"
        )
        fault = f"the first row of the alignment is not the chain ({where})"
    else:
        uneven = next((number for number, row in enumerate(rows) if len(row) != len(chain)), None)
        if uneven is not None:
            fault = f"row {uneven + 1} has {len(rows[uneven])} columns; expected {len(chain)}"
        elif np.shape(alignment.deletions) != (len(rows), len(chain)):
            fault = f"deletions are {np.shape(alignment.deletions)}; expected {(len(rows), len(chain))}"
    if fault is not None:
        raise ModelError(
            fault,
            code="alignment_mismatch",
            location=location,
            hint="the query must be the first row, without gaps, and the same as in the FASTA file",
        )


def join_chains(chains: Sequence[Rows]) -> Rows:
    """One alignment of all chains: the queries side by side, then the rows of each chain among gaps."""
    if len(chains) == 1:
        return chains[0]
    widths = [rows.letters.shape[1] for rows in chains]
    count = 1 + sum(len(rows) - 1 for rows in chains)
    letters = np.full((count, sum(widths)), GAP, dtype=np.uint8)
    deletions = np.zeros((count, sum(widths)), dtype=np.int32)
    row = 1
    for start, rows in zip(np.cumsum([0, *widths[:-1]]), chains, strict=True):
        columns = slice(int(start), int(start) + rows.letters.shape[1])
        below = slice(row, row + len(rows) - 1)
        letters[0, columns], deletions[0, columns] = rows.letters[0], rows.deletions[0]
        letters[below, columns], deletions[below, columns] = rows.letters[1:], rows.deletions[1:]
        row = below.stop
    return Rows(letters, deletions)


def profile_of(rows: Rows) -> NDArray[np.float32]:
    """Share of each letter but the mask in each column, ``[N, 22]``."""
    columns = np.arange(rows.letters.shape[1])
    flat = columns * (LETTERS - 1) + rows.letters
    counts = np.zeros(rows.letters.shape[1] * (LETTERS - 1))
    for piece in _pieces(len(rows), rows.letters.shape[1] * 8):
        counts += np.bincount(flat[piece].ravel(), minlength=len(counts))
    return (counts.reshape(-1, LETTERS - 1) / len(rows)).astype(np.float32)


def delete_blocks(rows: Rows, rng: np.random.Generator, *, share: float = 0.3, blocks: int = 5) -> Rows:
    """The alignment without some runs of neighbouring rows; for training (algorithm 1). The query stays."""
    size = int(len(rows) * share)
    if size == 0 or len(rows) == 1:
        return rows
    starts = rng.integers(1, len(rows), size=blocks)
    gone = np.minimum(starts[:, None] + np.arange(size), len(rows) - 1)
    kept = np.setdiff1d(np.arange(len(rows)), gone)
    return rows.take(kept)


def choose_clusters(rows: Rows, clusters: int, rng: np.random.Generator) -> tuple[Rows, Rows]:
    """The query and rows drawn at random, and all others."""
    order = np.concatenate((np.zeros(1, dtype=np.intp), 1 + rng.permutation(len(rows) - 1)))
    return rows.take(order[:clusters]), rows.take(order[clusters:])


def mask_letters(
    letters: NDArray[np.uint8], profile: NDArray[np.float32], sizes: FeatureSizes, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Hide or replace letters at random, as the model was trained to expect (supplement 1.2.7).

    Args:
        letters: of clusters, ``[C, N]``.
        profile: of the whole alignment, ``[N, 22]``.
        sizes: what share of the letters, and how.
        rng: draws.

    Returns:
        New letters, and which places were drawn, boolean ``[C, N]``.
    """
    drawn = rng.random(letters.shape) < sizes.masked_fraction
    columns = np.nonzero(drawn)[1]
    own = letters[drawn]
    limits = np.cumsum([sizes.profile_share, sizes.same_share, sizes.uniform_share])
    way = np.searchsorted(limits, rng.random(len(own)), side="right")
    running = np.cumsum(profile, axis=1, dtype=np.float64)[columns]
    from_profile = (running < rng.random((len(own), 1)) * running[:, -1:]).sum(1)
    any_residue = rng.integers(len(RESTYPES), size=len(own))
    masked = np.full(len(own), MASKED)
    out = letters.copy()
    out[drawn] = np.choose(way, [from_profile, own, any_residue, masked]).astype(np.uint8)
    return out, drawn


def nearest_clusters(clusters: NDArray[np.uint8], others: NDArray[np.uint8]) -> NDArray[np.intp]:
    """For each other row the first cluster it shares most residues with; gaps and masks do not count.

    Args:
        clusters: ``[C, N]``.
        others: ``[E, N]``.

    Returns:
        ``[E]``. Counts are exact, so that the answer does not depend on the order of sums.
    """
    residues = GAP
    centre = _one_hot(clusters, residues).reshape(len(clusters), -1).T
    found = np.zeros(len(others), dtype=np.intp)
    for piece in _pieces(len(others), others.shape[1] * residues * 4):
        own = _one_hot(others[piece], residues).reshape(piece.stop - piece.start, -1)
        found[piece] = (own @ centre).argmax(1)
    return found


def summarise_clusters(
    clusters: Rows, others: Rows, nearest: NDArray[np.intp]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Profiles ``[C, N, 23]`` and mean deletions ``[C, N]`` of clusters, each with its own row."""
    residues = clusters.letters.shape[1]
    columns = np.arange(residues) * LETTERS
    profiles = np.empty((len(clusters), residues, LETTERS), dtype=np.float32)
    means = np.empty((len(clusters), residues), dtype=np.float32)
    order = np.argsort(nearest, kind="stable")
    ends = np.searchsorted(nearest[order], np.arange(len(clusters) + 1))
    for number in range(len(clusters)):
        members = order[ends[number] : ends[number + 1]]
        letters = np.concatenate((clusters.letters[number : number + 1], others.letters[members]))
        counts = np.bincount((columns + letters).ravel(), minlength=residues * LETTERS)
        deletions = clusters.deletions[number] + others.deletions[members].sum(0)
        # The published form adds 1e-6 to the count; one part in a million is kept for equality.
        profiles[number] = counts.reshape(residues, LETTERS) / (1e-6 + 1 + len(members))
        means[number] = deletions / (1e-6 + 1 + len(members))
    return profiles, means


def _one_hot(letters: NDArray[np.uint8], count: int) -> NDArray[np.float32]:
    equal: NDArray[np.bool_] = letters[..., None] == np.arange(count, dtype=np.uint8)
    return equal.astype(np.float32)


def _pieces(rows: int, row_bytes: int) -> Iterator[slice]:
    step = max(1, _PIECE_BYTES // max(1, row_bytes))
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))
