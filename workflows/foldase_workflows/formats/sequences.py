"""Sequences in FASTA: ``>name description`` lines, each followed by lines of residues."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from foldase_workflows.contracts.errors import BadInput
from foldase_workflows.formats.letters import PROTEIN_LETTERS
from foldase_workflows.formats.text import LineReader, TextLimits

Gaps = Literal["refuse", "remove", "keep"]

_STOP = "*"


@dataclass(frozen=True, slots=True)
class FastaLimits:
    """How much a FASTA reader accepts: records of the file, residues of one record, and the text itself."""

    records: int = 1_000_000
    residues: int = 100_000
    text: TextLimits = field(default_factory=TextLimits)


@dataclass(frozen=True, slots=True)
class Record:
    """One named sequence. ``line`` is that of its header; ``name`` is the header's first word."""

    name: str
    description: str
    sequence: str
    line: int


def read_fasta(
    path: Path,
    *,
    name: str | None = None,
    gaps: Gaps = "refuse",
    letters: str = PROTEIN_LETTERS,
    limits: FastaLimits | None = None,
) -> list[Record]:
    """All records of a FASTA file, in order, letters in upper case.

    A ``*`` at the end of a sequence (the stop codon of a translation) is accepted and dropped, white space
    inside a sequence too. ``gaps`` says what ``-`` and ``.`` get; ``name`` is what errors call the file;
    ``letters`` are those allowed, in upper case.

    Raises:
        BadInput: ``fasta_empty``, ``fasta_no_header``, ``fasta_no_name``, ``fasta_empty_record``,
            ``fasta_letters``, ``fasta_duplicate_id``, ``fasta_too_many_records``, ``fasta_too_long``, or what
            :class:`LineReader` raises; with line and record.
    """
    limits = limits or FastaLimits()
    allowed = letters + _STOP if gaps == "refuse" else letters + _STOP + "-."
    with LineReader(path, name=name, limits=limits.text) as lines:
        records: dict[str, Record] = {}
        for raw in raw_records(lines, lines, limits, allowed):
            if not raw.name:
                raise lines.error(
                    "fasta_no_name", "a header without a name", line=raw.line, hint="write `>name` there"
                )
            if raw.name in records:
                raise lines.error(
                    "fasta_duplicate_id",
                    f"the name {raw.name!r} was used in line {records[raw.name].line} already",
                    line=raw.line,
                    record=raw.name,
                    hint="give every sequence a name of its own",
                )
            records[raw.name] = _without_stop_and_gaps(raw, lines, gaps)
        if not records:
            raise lines.error("fasta_empty", "the file holds no sequence")
        return list(records.values())


def write_fasta(records: Iterable[Record], path: Path, *, width: int = 80) -> None:
    """Write records as FASTA with lines of ``width`` residues."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for record in records:
            file.write(f">{record.name} {record.description}".rstrip() + "\n")
            for start in range(0, len(record.sequence), width):
                file.write(record.sequence[start : start + width] + "\n")


def raw_records(
    lines: Iterable[str], reader: LineReader, limits: FastaLimits, allowed: str
) -> Iterator[Record]:
    """Records as they stand, case and gaps kept, white space removed, none empty.

    ``reader`` is the source of ``lines`` and knows the line number: an alignment reader hands over lines
    from which it has taken a head. ``allowed`` are the characters of sequences, in upper case.

    Raises:
        BadInput: as :func:`read_fasta`, but for names and stops.
    """
    known = (allowed + allowed.lower()).encode()
    header: str | None = None
    start, count, length = 0, 0, 0
    parts: list[str] = []
    for line in lines:
        if line.startswith(">"):
            if header is not None:
                yield _finished(reader, header, start, parts)
            count += 1
            if count > limits.records:
                raise reader.error("fasta_too_many_records", f"more than {limits.records:,} sequences")
            header, start, length, parts = line[1:].strip(), reader.number, 0, []
            continue
        text = "".join(line.split())
        if not text:
            continue
        if header is None:
            raise reader.error(
                "fasta_no_header",
                f"a FASTA file begins with `>name`, this one with {line.strip()[:40]!r}",
                hint="put a line such as `>my_protein` above the sequence",
            )
        length += len(text)
        if length > limits.residues:
            raise reader.error(
                "fasta_too_long",
                f"the sequence is longer than the limit of {limits.residues:,} residues",
                record=_name_of(header) or None,
            )
        if text.encode().translate(None, known):
            raise _stranger(reader, header, line, known.decode())
        parts.append(text)
    if header is not None:
        yield _finished(reader, header, start, parts)


def _name_of(header: str) -> str:
    words = header.split(maxsplit=1)
    return words[0] if words else ""


def _finished(reader: LineReader, header: str, start: int, parts: list[str]) -> Record:
    name = _name_of(header)
    if not parts:
        raise _empty_record(reader, name, start)
    return Record(name, header[len(name) :].strip(), "".join(parts), start)


def _empty_record(reader: LineReader, name: str, line: int) -> BadInput:
    return reader.error(
        "fasta_empty_record",
        f"the record {name!r} has no residues",
        line=line,
        record=name or None,
        hint="remove the header or add its sequence",
    )


def _stranger(reader: LineReader, header: str, line: str, known: str) -> BadInput:
    column = next(i for i, letter in enumerate(line) if letter not in known and not letter.isspace())
    letter = line[column]
    hint = "allowed are the 20 residues and B, J, O, U, X, Z, in either case"
    if letter.isdigit():
        hint = "position numbers are no part of FASTA; remove them"
    elif letter in "-.":
        hint = "this looks like a row of an alignment; a sequence has no gaps"
    return reader.error(
        "fasta_letters",
        f"{letter!r} is no residue",
        column=column + 1,
        record=_name_of(header) or None,
        hint=hint,
    )


def _without_stop_and_gaps(raw: Record, reader: LineReader, gaps: Gaps) -> Record:
    sequence = raw.sequence.upper().removesuffix(_STOP)
    if gaps == "remove":
        sequence = sequence.replace("-", "").replace(".", "")
    if _STOP in sequence:
        raise reader.error(
            "fasta_letters",
            f"a stop ('*') after residue {sequence.index(_STOP)} of {raw.name!r}, inside the sequence",
            line=raw.line,
            record=raw.name,
            hint="cut the sequence there; a stop is accepted at the end only",
        )
    if not sequence:
        raise _empty_record(reader, raw.name, raw.line)
    return Record(raw.name, raw.description, sequence, raw.line)
