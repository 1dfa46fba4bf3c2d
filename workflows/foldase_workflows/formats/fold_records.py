"""FASTA for folding: one record a structure, ``:`` between its chains, as ColabFold writes it.

A record that cannot be folded does not take the others with it: what is wrong is kept beside those that can.

Letters: the twenty residues. X and the letters for several or rare residues (B, J, O, U, Z) are refused, or
become X, an unknown residue, where that is asked for. A ``*`` at the end of a chain is dropped.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from foldase_workflows.contracts.errors import BadInput
from foldase_workflows.formats.atom_names import RESTYPES
from foldase_workflows.formats.sequences import FastaLimits
from foldase_workflows.formats.text import LineReader

Unknown = Literal["refuse", "x"]

CHAIN_BREAK = ":"
_UNKNOWN = "BJOUXZ"


@dataclass(frozen=True, slots=True)
class FoldRecord:
    """What to fold together: ``chains`` of the twenty letters and X; ``line`` is that of the header."""

    name: str
    description: str
    chains: tuple[str, ...]
    line: int

    @property
    def residues(self) -> int:
        """Of all chains."""
        return sum(map(len, self.chains))


@dataclass(frozen=True, slots=True)
class RecordFault:
    """A record that cannot be folded, and why."""

    name: str
    line: int
    error: BadInput


@dataclass(frozen=True, slots=True)
class FoldRecords:
    """The records of a file in order, and those that cannot be folded."""

    records: list[FoldRecord] = field(default_factory=list)
    faults: list[RecordFault] = field(default_factory=list)


@dataclass(slots=True)
class _Raw:
    """One record as it stands; ``lines`` are numbered."""

    name: str
    description: str
    line: int
    lines: list[tuple[int, str]] = field(default_factory=list)


def read_fold_records(
    path: Path, *, name: str | None = None, unknown: Unknown = "refuse", limits: FastaLimits | None = None
) -> FoldRecords:
    """Every record of a FASTA file; ``name`` is what errors call the file.

    A record is at fault with ``fasta_no_name``, ``fasta_duplicate_id`` (the first of a name is kept),
    ``fasta_empty_record``, ``fasta_empty_chain``, ``fasta_letters``, ``unknown_residue`` or
    ``fasta_too_long``; each error has line and record, and a hint.

    Raises:
        BadInput: the file as a whole: ``fasta_empty``, ``fasta_no_header``, ``fasta_too_many_records``, or
            what :class:`LineReader` raises.
    """
    limits = limits or FastaLimits()
    found = FoldRecords()
    first_lines: dict[str, int] = {}
    with LineReader(path, name=name, limits=limits.text) as lines:
        for number, raw in enumerate(_raw_records(lines, limits), 1):
            label = raw.name or f"record {number}"
            try:
                record = _checked(raw, lines, unknown, limits)
                if raw.name in first_lines:
                    raise lines.error(
                        "fasta_duplicate_id",
                        f"the name {raw.name!r} was used in line {first_lines[raw.name]} already",
                        line=raw.line,
                        record=raw.name,
                        hint="give every record a name of its own",
                    )
                found.records.append(record)
            except BadInput as error:
                found.faults.append(RecordFault(label, raw.line, error))
            first_lines.setdefault(raw.name, raw.line)
        if not first_lines:
            raise lines.error("fasta_empty", "the file holds no sequence")
    return found


def _raw_records(lines: LineReader, limits: FastaLimits) -> Iterator[_Raw]:
    current: _Raw | None = None
    count = length = 0
    for line in lines:
        if line.startswith(">"):
            if current is not None:
                yield current
            count, length = count + 1, 0
            if count > limits.records:
                raise lines.error("fasta_too_many_records", f"more than {limits.records:,} sequences")
            name, _, description = line[1:].strip().partition(" ")
            current = _Raw(name, description.strip(), lines.number)
        elif line.strip():
            if current is None:
                raise lines.error(
                    "fasta_no_header",
                    f"a FASTA file begins with `>name`, this one with {line.strip()[:40]!r}",
                    hint="put a line such as `>my_protein` above the sequence",
                )
            length += len(line)
            if length <= 2 * limits.residues:  # enough to see that it is too long
                current.lines.append((lines.number, line))
    if current is not None:
        yield current


def _checked(raw: _Raw, lines: LineReader, unknown: Unknown, limits: FastaLimits) -> FoldRecord:
    if not raw.name:
        raise lines.error(
            "fasta_no_name", "a header without a name", line=raw.line, hint="write `>name` there"
        )
    for number, line in raw.lines:
        _check_letters(raw, lines, number, line, unknown)
    sequence = "".join("".join(line.split()) for _, line in raw.lines).upper()
    if not sequence:
        raise lines.error(
            "fasta_empty_record",
            f"the record {raw.name!r} has no residues",
            line=raw.line,
            record=raw.name,
            hint="remove the header or add its sequence",
        )
    chains = [chain.removesuffix("*") for chain in sequence.split(CHAIN_BREAK)]
    for number, chain in enumerate(chains, 1):
        _check_chain(raw, lines, number, chain)
    residues = sum(map(len, chains))
    if residues > limits.residues:
        raise lines.error(
            "fasta_too_long",
            f"{residues:,} residues are more than the limit of {limits.residues:,}",
            line=raw.line,
            record=raw.name,
            hint="fold a domain or fewer chains",
        )
    table = str.maketrans(_UNKNOWN, "X" * len(_UNKNOWN))
    return FoldRecord(raw.name, raw.description, tuple(chain.translate(table) for chain in chains), raw.line)


def _check_chain(raw: _Raw, lines: LineReader, number: int, chain: str) -> None:
    if not chain:
        raise lines.error(
            "fasta_empty_chain",
            f"chain {number} of {raw.name!r} is empty",
            line=raw.line,
            record=raw.name,
            hint="write `:` between two chains only",
        )
    if "*" in chain:
        raise lines.error(
            "fasta_letters",
            f"a stop ('*') after residue {chain.index('*')} of chain {number}, inside it",
            line=raw.line,
            record=raw.name,
            hint="cut the sequence there; a stop is accepted at the end only",
        )


def _check_letters(raw: _Raw, lines: LineReader, number: int, line: str, unknown: Unknown) -> None:
    known = RESTYPES + CHAIN_BREAK + "*" + (_UNKNOWN if unknown == "x" else "")
    allowed = known + known.lower()
    if not line.encode("utf-8").translate(None, allowed.encode() + b" \t\v\f"):
        return
    column = next(
        (i for i, letter in enumerate(line) if letter not in allowed and not letter.isspace()), None
    )
    if column is None:
        return
    letter = line[column]
    if letter.upper() in _UNKNOWN:
        code, what = "unknown_residue", "is an unknown, rare or ambiguous residue"
        hint = "write the residue that it is, or set unknown_residues to x to fold it as an unknown one"
    else:
        code, what, hint = (
            "fasta_letters",
            "is no residue",
            "allowed are the 20 residues, and `:` between chains",
        )
        if letter in "-.":
            hint = "this looks like a row of an alignment; a sequence to fold has no gaps"
        elif letter.isdigit():
            hint = "position numbers are no part of FASTA; remove them"
    raise lines.error(code, f"{letter!r} {what}", line=number, column=column + 1, record=raw.name, hint=hint)
