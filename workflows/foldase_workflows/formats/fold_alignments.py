"""Alignments given for folding, matched with the chains that they are of.

A file is of one chain, or of a complex as ColabFold writes it: a first line
``#length,length<TAB>copies,copies`` and rows over all different chains side by side.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from foldase_workflows.contracts.errors import BadInput, Location
from foldase_workflows.formats.alignments import AlignmentLimits, read_alignment
from foldase_workflows.formats.letters import GAP, LETTERS, encode
from foldase_workflows.formats.text import LineReader

_HEAD = re.compile(r"#\s*(\d{1,9}(?:,\d{1,9})*)\s+(\d{1,9}(?:,\d{1,9})*)\s*\Z")


@dataclass(frozen=True, slots=True)
class ChainRows:
    """The alignment of one chain, query first.

    ``letters`` is uint8 (S, N), indices into ``letters.LETTERS``; ``deletions`` int32 (S, N), residues left
    out before each column.
    """

    letters: NDArray[np.uint8]
    deletions: NDArray[np.int32]

    def texts(self) -> tuple[str, ...]:
        """The rows as letters with ``-`` for gaps."""
        table = np.frombuffer(LETTERS.encode(), dtype=np.uint8)
        return tuple(row.tobytes().decode() for row in table[self.letters])


@dataclass(frozen=True, slots=True)
class GivenAlignment:
    """One file: the sequences that its columns are of, in order, and how often each is in the complex."""

    file: str
    chains: tuple[str, ...]
    copies: tuple[int, ...]
    rows: ChainRows

    def of_chain(self, number: int) -> ChainRows:
        """The columns of one of :attr:`chains`, without the rows that have no residue there."""
        start = sum(map(len, self.chains[:number]))
        columns = slice(start, start + len(self.chains[number]))
        letters, deletions = self.rows.letters[:, columns], self.rows.deletions[:, columns]
        kept = (letters != GAP).any(axis=1)
        kept[0] = True
        return ChainRows(letters[kept], deletions[kept])


def read_given_alignment(
    path: Path, *, name: str | None = None, limits: AlignmentLimits | None = None
) -> GivenAlignment:
    """Read an alignment to fold from; A3M, or any format that ``alignments`` reads.

    Raises:
        BadInput: ``a3m_head`` (lengths that do not add up to the columns), ``alignment_several`` and what
            ``read_alignment`` raises; with line and record.
    """
    head = _head(path, name)
    found = read_alignment(path, name=name, limits=limits)
    rows = ChainRows(found.letters, found.deletions.astype(np.int32))
    file, query = name or path.name, found.query
    if head is None:
        return GivenAlignment(file, (query,), (1,), rows)
    lengths, copies = head
    if sum(lengths) != len(query) or len(copies) != len(lengths) or 0 in (*lengths, *copies):
        raise BadInput(
            f"the first line tells of chains of {lengths} residues in {copies} copies, the query has "
            f"{len(query)} columns",
            code="a3m_head",
            location=Location(file=file, line=1, record=found.names[0]),
            hint="it reads `#length,length<TAB>copies,copies`, one of each for every different chain",
        )
    bounds = np.cumsum([0, *lengths])
    chains = tuple(query[start:stop] for start, stop in pairwise(bounds))
    return GivenAlignment(file, chains, tuple(copies), rows)


def _head(path: Path, name: str | None) -> tuple[list[int], list[int]] | None:
    with LineReader(path, name=name) as lines:
        for line in lines:
            if line.strip():
                match = _HEAD.match(line.strip())
                if match is None:
                    return None
                lengths, copies = ([int(n) for n in part.split(",")] for part in match.groups())
                return lengths, copies
    return None


def alignments_of_record(
    record: str, chains: Sequence[str], given: Sequence[GivenAlignment]
) -> tuple[list[ChainRows | None], set[str]]:
    """The alignment of each chain, None where no file is of it; and the files that were used.

    A file of the whole complex comes first, then files of single chains. Of two files of one chain the first
    counts. An unknown residue of the chain, X, agrees with any column.

    Raises:
        BadInput: ``alignment_query``: a file has the record's name, and its query is another sequence.
    """
    used: set[str] = set()
    rows: list[ChainRows | None] = [None] * len(chains)
    wanted = list(dict.fromkeys(chains))
    counts = [list(chains).count(chain) for chain in wanted]
    for alignment in given:
        whole = len(alignment.chains) == len(wanted) and list(alignment.copies) == counts
        if whole and all(map(_agree, wanted, alignment.chains)):
            by_chain = {chain: alignment.of_chain(number) for number, chain in enumerate(wanted)}
            return [by_chain[chain] for chain in chains], {alignment.file}
    for number, chain in enumerate(chains):
        for alignment in given:
            if len(alignment.chains) == 1 and _agree(chain, alignment.chains[0]):
                rows[number] = alignment.of_chain(0)
                used.add(alignment.file)
                break
    named = [one for one in given if one.file.rpartition("/")[2].partition(".")[0] == record]
    for alignment in named:
        if alignment.file not in used:
            raise _other_query(record, chains, alignment)
    return rows, used


def _agree(chain: str, query: str) -> bool:
    """Whether the columns are those of the chain: X, read as a gap, agrees with all."""
    if len(chain) != len(query):
        return False
    return not differences(chain, query)


def differences(chain: str, query: str) -> list[int]:
    """Places, from 0, at which two sequences of one length have different residues that are both known."""
    left, right = encode(chain), encode(query)
    return np.flatnonzero((left != right) & (left != GAP) & (right != GAP)).tolist()


def _other_query(record: str, chains: Sequence[str], alignment: GivenAlignment) -> BadInput:
    query, chain = "".join(alignment.chains), "".join(chains)
    if len(query) != len(chain):
        what = f"its query has {len(query)} residues, the record {len(chain)}"
    else:
        place = differences(chain, query)
        what = (
            f"its query differs from the record in residue {place[0] + 1}: {query[place[0]]} instead of "
            f"{chain[place[0]]}"
            if place
            else "its chains have other lengths or copies than the record's"
        )
    return BadInput(
        f"this alignment is not of the record {record!r}: {what}",
        code="alignment_query",
        location=Location(file=alignment.file, record=record),
        hint="make the alignment of the very sequence that is to be folded",
    )


def missing_alignment(record: str, number: int, chain: str, given: Sequence[GivenAlignment]) -> BadInput:
    """What to say of a chain that no file is of: the file that comes nearest is named."""
    single = [one for one in given if len(one.chains) == 1]
    near = min(single, key=lambda one: _distance(chain, one.chains[0]), default=None)
    said = ""
    if near is not None:
        query = near.chains[0]
        if len(query) == len(chain):
            place = differences(chain, query)[0]
            said = (
                f"; nearest is {near.file}, which differs in residue {place + 1}: {query[place]} instead of "
            )
            said += chain[place]
        else:
            said = f"; nearest is {near.file}, whose query has {len(query)} residues instead of {len(chain)}"
    return BadInput(
        f"no alignment is of chain {number} of {record!r}{said}",
        code="alignment_missing",
        location=Location(record=record),
        hint="give one, or set missing_alignment to single_sequence",
    )


def _distance(chain: str, query: str) -> tuple[int, int]:
    if len(chain) != len(query):
        return abs(len(chain) - len(query)), len(chain)
    return 0, len(differences(chain, query))


class SideBySide(NamedTuple):
    """Rows S over the residues N of all chains.

    Attributes:
        letters: uint8 (S, N), indices into ``letters.LETTERS``.
        deletions: int32 (S, N), residues left out before each column.
        mask: bool (S, N), where a row is of the residue's chain; elsewhere its gaps say nothing.
    """

    letters: NDArray[np.uint8]
    deletions: NDArray[np.int32]
    mask: NDArray[np.bool_]


def rows_side_by_side(chains: Sequence[str], rows: Sequence[ChainRows | None]) -> SideBySide | None:
    """Alignments of chains as one over all of them, for keeping.

    The queries are one row; each chain's rows follow, with gaps elsewhere. None where no chain has any.
    """
    if not any(one is not None for one in rows):
        return None
    length = sum(map(len, chains))
    depth = 1 + sum(len(one.letters) - 1 for one in rows if one is not None)
    letters = np.full((depth, length), GAP, dtype=np.uint8)
    deletions = np.zeros((depth, length), dtype=np.int32)
    mask = np.zeros((depth, length), dtype=bool)
    letters[0], mask[0] = encode("".join(chains)), True
    row, column = 1, 0
    for chain, one in zip(chains, rows, strict=True):
        if one is not None:
            extra = len(one.letters) - 1
            place = (slice(row, row + extra), slice(column, column + len(chain)))
            letters[place], deletions[place], mask[place] = one.letters[1:], one.deletions[1:], True
            row += extra
        column += len(chain)
    return SideBySide(letters, deletions, mask)
