"""Alignments in aligned FASTA, A3M, Stockholm and Clustal, read to arrays whose columns are the query's.

Shapes: S rows (sequences), N columns, one per residue of the query, which is row 0.

In A3M a lower-case letter is an insertion relative to the query; ``.`` pads insertions (A2M) and is skipped.
In the other formats case means nothing, ``-`` and ``.`` are gaps, and a column in which the query has a gap
is an insertion in the rows that have a residue there. Either way insertions leave the columns and are
counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from foldase_workflows.formats.aligned_blocks import CLUSTAL_HEADERS, read_clustal, read_stockholm
from foldase_workflows.formats.letters import PROTEIN_LETTERS, decode, encode
from foldase_workflows.formats.sequences import FastaLimits, Record, raw_records
from foldase_workflows.formats.text import LineReader, TextLimits

AlignmentFormat = Literal["fasta", "a3m", "stockholm", "clustal"]

_ROW_LETTERS = PROTEIN_LETTERS + "-."
_LOWER = bytes(range(ord("a"), ord("z") + 1))
_INSERTED = _LOWER + b"."
_GAPS = np.frombuffer(b"-.", dtype=np.uint8)
_MOST_DELETIONS = np.iinfo(np.uint16).max
_ANNOTATIONS = frozenset({"ss_pred", "ss_conf", "ss_dssp", "sa_dssp", "sa_pred", "aa_dssp", "aa_pred"})
"""Records of HH-suite that are no sequences but describe the query."""


@dataclass(frozen=True, slots=True)
class AlignmentLimits:
    """How much a reader accepts: rows, characters of one row, cells of the result, and the text itself."""

    rows: int = 1_000_000
    row_length: int = 200_000
    cells: int = 1 << 29
    text: TextLimits = field(default_factory=TextLimits)


@dataclass(frozen=True, slots=True)
class Alignment:
    """An alignment whose columns are the residues of the query, row 0.

    ``letters`` is uint8 (S, N), indices into ``letters.LETTERS``; ``deletions`` is uint16 (S, N), how many
    residues the row has between the residue of the previous column and that of this one (AlphaFold's
    ``deletion_matrix``: insertions after the last column are not counted); ``names`` may repeat.
    """

    names: tuple[str, ...]
    letters: NDArray[np.uint8]
    deletions: NDArray[np.uint16]
    format: AlignmentFormat

    @property
    def query(self) -> str:
        """The sequence of the query, N letters."""
        return decode(self.letters[0])


def read_alignment(
    path: Path,
    *,
    name: str | None = None,
    format: AlignmentFormat | None = None,  # noqa: A002  the word of the field
    query: str | None = None,
    limits: AlignmentLimits | None = None,
) -> Alignment:
    """Read an alignment of proteins, its format found from the content unless given.

    FASTA and A3M are told apart so: with lower-case letters or dots, and as many upper-case letters and
    dashes in each row, it is A3M; with rows of one length it is FASTA. ``query`` names the row that gives the
    columns (not in A3M, where it is the first); ``name`` is what errors call the file.

    Raises:
        BadInput: ``alignment_empty``, ``alignment_format``, ``alignment_unequal_rows``,
            ``alignment_query`` (no such row), ``alignment_too_large``, ``a3m_length``, ``a3m_query_gaps``,
            ``fasta_no_header``, ``fasta_letters``, ``fasta_empty_record``, ``stockholm_syntax``,
            ``stockholm_letters``, ``stockholm_truncated``, ``clustal_syntax``, ``clustal_letters``,
            ``alignment_several``, or what :class:`LineReader` raises; with line and record.
    """
    limits = limits or AlignmentLimits()
    found = format or _detect(path, name, limits)
    with LineReader(path, name=name, limits=limits.text) as lines:
        if found == "stockholm":
            rows = read_stockholm(lines, _ROW_LETTERS)
        elif found == "clustal":
            rows = read_clustal(lines, _ROW_LETTERS)
        else:
            rows = list(_fasta_rows(lines, limits))
        if not rows:
            raise lines.error("alignment_empty", "the file holds no sequence")
        if format is None and found == "fasta" and _looks_like_a3m(rows, lines):
            found = "a3m"
        if found == "a3m":
            return _from_a3m(rows, lines, limits)
        return _from_columns(_query_first(rows, query, lines), lines, limits, found)


def _detect(path: Path, name: str | None, limits: AlignmentLimits) -> AlignmentFormat:
    """The format by the first line that says anything; ``fasta`` may still turn out to be A3M."""
    with LineReader(path, name=name, limits=limits.text) as lines:
        first = next((line.strip() for line in lines if line.strip()), None)
        if first is None:
            raise lines.error("alignment_empty", "the file is empty")
        if first.startswith(("# STOCKHOLM", "#=G")):
            return "stockholm"
        if first.split()[0] in CLUSTAL_HEADERS:
            return "clustal"
        if first.startswith((">", "#")):
            return "fasta"
        if not first.upper().strip(_ROW_LETTERS):
            raise lines.error(
                "fasta_no_header",
                f"a sequence without a header: {first[:40]!r}",
                hint="put a line such as `>my_protein` above each sequence",
            )
        raise lines.error(
            "alignment_format",
            f"no known alignment begins with {first[:40]!r}",
            hint="known are FASTA, A3M, Stockholm and Clustal",
        )


def _fasta_rows(reader: LineReader, limits: AlignmentLimits) -> Iterator[Record]:
    fasta = FastaLimits(records=limits.rows, residues=limits.row_length, text=limits.text)
    for number, record in enumerate(raw_records(_sequences_only(reader), reader, fasta, _ROW_LETTERS), 1):
        named = record.name or f"row {number}"
        yield Record(named, record.description, record.sequence, record.line)


def _sequences_only(lines: LineReader) -> Iterator[str]:
    """Leaves out the head of ColabFold's A3M (``#length<TAB>copies``) and HH-suite's annotation records."""
    skipping = False
    for line in lines:
        if line.startswith(">"):
            words = line[1:].split(maxsplit=1)
            skipping = bool(words) and words[0] in _ANNOTATIONS
        if not skipping and not line.startswith("#"):
            yield line


def _looks_like_a3m(rows: Sequence[Record], lines: LineReader) -> bool:
    raw = [row.sequence.encode() for row in rows]
    by_name = lines.name.lower().endswith(".a3m")
    has_insertions = any(len(row.translate(None, _INSERTED)) < len(row) for row in raw)
    if not has_insertions:
        return by_name
    columns = {len(row.translate(None, _INSERTED)) for row in raw}
    if len(columns) == 1 and columns != {0}:
        return True
    return by_name or len({len(row) for row in raw}) > 1


def _from_a3m(rows: Sequence[Record], lines: LineReader, limits: AlignmentLimits) -> Alignment:
    first = rows[0]
    if "-" in first.sequence:
        raise lines.error(
            "a3m_query_gaps",
            f"the query, the first row, has a gap at column {first.sequence.index('-') + 1}",
            line=first.line,
            record=first.name,
            hint="the first row of an A3M file is the query itself; reformat the alignment around it",
        )
    columns = len(first.sequence.encode().translate(None, _INSERTED))
    _check_cells(len(rows), columns, lines, limits)
    letters = np.empty((len(rows), columns), dtype=np.uint8)
    deletions = np.empty((len(rows), columns), dtype=np.uint16)
    for index, row in enumerate(rows):
        raw = np.frombuffer(row.sequence.encode(), dtype=np.uint8)
        is_column = (raw < ord("a")) & (raw != ord("."))
        if (found := int(is_column.sum())) != columns:
            raise lines.error(
                "a3m_length",
                f"row {index + 1} has {found} columns (upper-case letters and dashes), the query {columns}",
                line=row.line,
                record=row.name,
                hint="in A3M only insertions are in lower case; every row has as many columns as the query",
            )
        letters[index] = encode(raw[is_column].tobytes().decode())
        deletions[index] = _inserted_before(raw >= ord("a"), is_column)
    return Alignment(tuple(row.name for row in rows), letters, deletions, "a3m")


def _from_columns(
    rows: Sequence[Record], lines: LineReader, limits: AlignmentLimits, found: AlignmentFormat
) -> Alignment:
    width = len(rows[0].sequence)
    for index, row in enumerate(rows):
        if len(row.sequence) != width:
            raise lines.error(
                "alignment_unequal_rows",
                f"row {index + 1} has {len(row.sequence)} characters, the first row {width}",
                line=row.line,
                record=row.name,
                hint="all rows of an alignment are equally long; are these sequences aligned?",
            )
    in_query = ~np.isin(np.frombuffer(rows[0].sequence.encode(), dtype=np.uint8), _GAPS)
    columns = int(in_query.sum())
    if not columns:
        raise lines.error(
            "alignment_query", "the query is nothing but gaps", line=rows[0].line, record=rows[0].name
        )
    _check_cells(len(rows), columns, lines, limits)
    letters = np.empty((len(rows), columns), dtype=np.uint8)
    deletions = np.zeros((len(rows), columns), dtype=np.uint16)
    for index, row in enumerate(rows):
        letters[index] = encode(row.sequence)[in_query]
        if columns < width:
            residue = ~np.isin(np.frombuffer(row.sequence.encode(), dtype=np.uint8), _GAPS)
            deletions[index] = _inserted_before(residue & ~in_query, in_query)
    return Alignment(tuple(row.name for row in rows), letters, deletions, found)


def _inserted_before(inserted: NDArray[np.bool_], is_column: NDArray[np.bool_]) -> NDArray[np.uint16]:
    """Insertions between each column and the one before; both arguments (length,), result (N,)."""
    counts = np.diff(np.cumsum(inserted)[is_column], prepend=0)
    return np.minimum(counts, _MOST_DELETIONS).astype(np.uint16)


def _query_first(rows: list[Record], query: str | None, lines: LineReader) -> list[Record]:
    if query is None:
        return rows
    for index, row in enumerate(rows):
        if row.name == query:
            return [row, *rows[:index], *rows[index + 1 :]]
    raise lines.error(
        "alignment_query",
        f"no row is called {query!r}",
        line=rows[0].line,
        hint=f"the first is {rows[0].name!r}",
    )


def _check_cells(rows: int, columns: int, lines: LineReader, limits: AlignmentLimits) -> None:
    if rows * columns > limits.cells:
        raise lines.error(
            "alignment_too_large",
            f"{rows:,} rows of {columns:,} columns are more than the limit of {limits.cells:,} cells",
            hint="take fewer rows, for example those below 90 % identity",
        )
