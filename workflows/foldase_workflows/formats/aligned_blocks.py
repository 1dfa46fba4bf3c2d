"""Stockholm and Clustal, the formats that may split rows into blocks; read by Biopython.

Biopython says what is wrong but not where. The lines pass through a reader that counts them, so its
complaints gain the line at which it stopped, and what it lets pass is checked here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from foldase_workflows.contracts.errors import BadInput
from foldase_workflows.formats.sequences import Record
from foldase_workflows.formats.text import LineReader

if TYPE_CHECKING:
    from Bio.Align import MultipleSeqAlignment

CLUSTAL_HEADERS = frozenset({"CLUSTAL", "PROBCONS", "MUSCLE", "MSAPROBS", "Kalign", "Biopython"})
"""First words of the programs whose Clustal output Biopython knows."""

_STOCKHOLM_HEADER = "# STOCKHOLM 1.0"
_PATIENCE = 8
"""Reads at the end of the file after which a parser is told to stop: Biopython's loop for Clustal waits for
ever for the first row of a file that has none."""


def read_stockholm(lines: LineReader, allowed: str) -> list[Record]:
    """Rows of the one alignment in a Stockholm file; ``allowed`` are the characters of rows, upper case.

    Raises:
        BadInput: ``stockholm_syntax``, ``stockholm_letters``, ``stockholm_truncated`` (no ``//``),
            ``alignment_several``.
    """
    from Bio.AlignIO.StockholmIO import StockholmIterator

    handle = _StockholmLines(lines)
    rows = _read("stockholm", StockholmIterator, handle, lines, allowed, handle.row_lines)
    if rows and not handle.ended:
        raise lines.error(
            "stockholm_truncated", "the alignment has no end (`//`)", hint="the file seems to be cut off"
        )
    return rows


def read_clustal(lines: LineReader, allowed: str) -> list[Record]:
    """Rows of the one alignment in a Clustal file; ``allowed`` are the characters of rows, upper case.

    Raises:
        BadInput: ``clustal_syntax``, ``clustal_letters``, ``alignment_several``.
    """
    from Bio.AlignIO.ClustalIO import ClustalIterator

    handle = _RowLines(lines)
    return _read("clustal", ClustalIterator, handle, lines, allowed, handle.row_lines)


class _RowLines:
    """The text handle Biopython reads from; remembers in which line each name came first."""

    def __init__(self, lines: LineReader) -> None:
        self._lines = lines
        self._started = False
        self._reads_past_end = 0
        self.row_lines: dict[str, int] = {}

    def readline(self) -> str:
        line = self._lines.readline()
        while line and not self._started and not line.strip():
            line = self._lines.readline()
        self._started = True
        if not line:
            self._reads_past_end += 1
            if self._reads_past_end > _PATIENCE:
                raise ValueError("the file ends too early")
        name = line.split(maxsplit=1)[:1] if line and not line[0].isspace() else []
        if name:
            self.row_lines.setdefault(name[0], self._lines.number)
        return line

    def __iter__(self) -> Iterator[str]:
        return iter(self.readline, "")


class _StockholmLines(_RowLines):
    """Evens out what Biopython is strict about (header, tabs, annotations) and notices the end mark."""

    def __init__(self, lines: LineReader) -> None:
        super().__init__(lines)
        self.ended = False

    def readline(self) -> str:
        line = super().readline()
        bare = line.strip()
        if bare == "//":
            self.ended = True
        if bare.startswith("# STOCKHOLM"):
            return _STOCKHOLM_HEADER + "\n"
        return "#\n" if bare.startswith("#") else line.replace("\t", " ")


def _read(
    kind: str,
    parser: Callable[[Any], Iterator[MultipleSeqAlignment]],
    handle: _RowLines,
    lines: LineReader,
    allowed: str,
    row_lines: dict[str, int],
) -> list[Record]:
    try:
        alignments = parser(handle)
        first = next(alignments, None)
        more = next(alignments, None) if first is not None else None
    except (ValueError, AssertionError, IndexError, KeyError, TypeError) as error:
        raise _explained(kind, error, lines) from error
    if first is None:
        return []
    if more is not None:
        raise lines.error(
            "alignment_several", "the file holds more than one alignment", hint="split it into one file each"
        )
    rows = []
    for record in first:
        sequence = str(record.seq)
        line = row_lines.get(record.id, 1)
        strangers = set(sequence.upper()) - set(allowed) if sequence.isascii() else set(sequence)
        if strangers:
            raise lines.error(
                f"{kind}_letters",
                f"{min(strangers)!r} in the row {record.id!r} is no residue",
                line=line,
                record=record.id,
                hint="allowed are the 20 residues, B, J, O, U, X, Z and gaps",
            )
        rows.append(Record(record.id, "", sequence, line))
    return rows


def _explained(kind: str, error: Exception, lines: LineReader) -> BadInput:
    text = " ".join(str(error).split())
    if "different lengths" in text:
        return lines.error(
            "alignment_unequal_rows",
            "the rows are not equally long, or a name is used twice in a block",
            hint="all rows of an alignment are equally long",
        )
    reason = f": {text[:200]}" if text else ""
    return lines.error(f"{kind}_syntax", f"this is not {kind.capitalize()}{reason}")
