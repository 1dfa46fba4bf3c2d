"""The atoms of proteins in mmCIF and PDB files, read by Biopython and checked.

Biopython's dictionary reader takes a file that was cut off for a whole one and does not say in which line a
fault lies; both are made good here.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

from foldase_workflows.contracts.errors import BadInput
from foldase_workflows.formats.text import LineReader

BACKBONE = frozenset({"N", "CA", "C", "CB"})
"""What is read where no other names are asked for; C-beta counts with them."""
FARTHEST = 1e6
"""A; beyond it float32, in which coordinates are kept, is coarser than a sixteenth of an A."""
_UNSET = frozenset({".", "?"})


class Atom(NamedTuple):
    """One atom, ``xyz`` in A.

    ``molecule`` tells apart chains of one name (label_asym_id in mmCIF); ``position`` counts from 1 in the
    polymer, 0 where unknown.
    """

    molecule: str
    chain: str
    entity: str
    number: int
    insertion_code: str
    position: int
    residue: str
    name: str
    is_hetero: bool
    occupancy: float
    b_factor: float
    xyz: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class AtomTable:
    """The atoms of the first model.

    ``parents`` maps modified residues to standard ones, where the file tells; ``polymers`` maps an entity to
    its whole sequence in one-letter names.
    """

    atoms: list[Atom]
    parents: Mapping[str, str] = field(default_factory=dict)
    polymers: Mapping[str, str] = field(default_factory=dict)

    def letter(self, residue: str) -> str:
        """The one-letter name of a residue, by its parent where it is modified; X where nothing is known."""
        return _letter(residue, self.parents)


@lru_cache(maxsize=1)
def _one_letter() -> dict[str, str]:
    from Bio.Data.PDBData import protein_letters_3to1_extended

    return {name.strip(): letter.strip() for name, letter in protein_letters_3to1_extended.items()}


def _letter(residue: str, parents: Mapping[str, str]) -> str:
    letters = _one_letter()
    return letters.get(residue) or letters.get(parents.get(residue, ""), "X")


class _CifLines:
    """The text handle Biopython reads from: notes where atoms, text fields and data blocks begin."""

    def __init__(self, lines: LineReader) -> None:
        self._lines = lines
        self._in_text = False
        self.text_start = 0
        self.atom_lines = array("L")
        self._keeps_to_dictionary = False
        self._separators = 0
        self._last = ""

    def check_end(self) -> None:
        """Refuse a file of a dictionary that ends without the ``#`` that closes each of its categories.

        Raises:
            BadInput: ``cif_truncated``.
        """
        if self._keeps_to_dictionary and self._separators > 1 and not self._last.startswith("#"):
            raise self._lines.error(
                "cif_truncated",
                "the last category is not closed by `#`, as all others are",
                hint="the file seems to be cut off; fetch it again",
            )

    def __iter__(self) -> Iterator[str]:
        seen_block = False
        for line in self._lines:
            if line.startswith(";"):
                self._in_text = not self._in_text
                self.text_start = self._lines.number
            elif not self._in_text and line[:5].lower() == "data_":
                if seen_block:
                    raise self._lines.error(
                        "cif_several_blocks",
                        "a second data block begins here",
                        hint="split the file; one structure is read from one block",
                    )
                seen_block = True
            elif not self._in_text and line.startswith(("ATOM", "HETATM")):
                self.atom_lines.append(self._lines.number)
            elif not self._in_text:
                self._keeps_to_dictionary |= line.startswith("_audit_conform.")
                self._separators += line.strip() == "#"
            self._last = line.strip() or self._last
            yield line


def read_cif_atoms(lines: LineReader, most_atoms: int, names: frozenset[str] = BACKBONE) -> AtomTable:
    """Atoms of polymers in an mmCIF file, those with the ``names``; raises BadInput with codes ``cif_*``."""
    from Bio.PDB.MMCIF2Dict import MMCIF2Dict

    handle = _CifLines(lines)
    parser: Any = MMCIF2Dict
    try:
        values: dict[str, list[str]] = parser(_Restartable(handle))
    except (ValueError, ZeroDivisionError, IndexError, KeyError, TypeError, AttributeError) as error:
        if "semicolon" in str(error):
            raise lines.error(
                "cif_unterminated",
                "a text field (`;`) begins here and does not end",
                line=handle.text_start,
                hint="the file seems to be cut off",
            ) from error
        raise lines.error("cif_syntax", f"this is not mmCIF: {' '.join(str(error).split())[:200]}") from error
    atoms = _CifAtoms(values, lines, handle.atom_lines, most_atoms, names)
    handle.check_end()
    return atoms.table()


class _Restartable:
    """Hands out one iterator for all loops over it, as a file does."""

    def __init__(self, lines: _CifLines) -> None:
        self._iterator = iter(lines)

    def __iter__(self) -> Iterator[str]:
        return self._iterator


class _CifAtoms:
    """Reads the categories of one data block."""

    def __init__(
        self,
        values: Mapping[str, Any],
        lines: LineReader,
        atom_lines: Sequence[int],
        most_atoms: int,
        names: frozenset[str],
    ) -> None:
        self._values = values
        self._names = names
        self._lines = lines
        self._atom_lines = atom_lines
        self._check_loops()
        self._count = len(values.get("_atom_site.Cartn_x", ()))
        if not any(key.startswith("_atom_site.") for key in values):
            raise lines.error("cif_no_atoms", "the file has no atoms (no `_atom_site` loop)")
        if self._count > most_atoms:
            raise lines.error("structure_too_large", f"more than {most_atoms:,} atoms")

    def table(self) -> AtomTable:
        parents = self._pairs(
            "_pdbx_struct_mod_residue.label_comp_id", "_pdbx_struct_mod_residue.parent_comp_id"
        )
        parents |= self._pairs("_chem_comp.id", "_chem_comp.mon_nstd_parent_comp_id")
        polymers: dict[str, list[str]] = {}
        seen: set[tuple[str, str]] = set()
        entities, places, residues = (
            self._values.get(f"_entity_poly_seq.{key}", ()) for key in ("entity_id", "num", "mon_id")
        )
        for entity, place, residue in zip(entities, places, residues, strict=False):
            if (entity, place) not in seen:
                seen.add((entity, place))
                polymers.setdefault(entity, []).append(_letter(residue, parents))
        joined = {entity: "".join(letters) for entity, letters in polymers.items()}
        return AtomTable(list(self._atoms()), parents, joined)

    def _check_loops(self) -> None:
        """A loop that was cut off leaves its last columns one value short."""
        lengths: dict[str, int] = {}
        for key, column in self._values.items():
            category = key.partition(".")[0]
            if isinstance(column, list) and lengths.setdefault(category, len(column)) != len(column):
                raise self._lines.error(
                    "cif_loop",
                    f"the last row of the loop {category} has too few or too many values",
                    line=self._atom_lines[-1] if category == "_atom_site" and self._atom_lines else None,
                    hint="the file seems to be cut off",
                )

    def _pairs(self, key: str, value: str) -> dict[str, str]:
        pairs = zip(self._values.get(key, ()), self._values.get(value, ()), strict=False)
        return {left: right for left, right in pairs if right not in _UNSET}

    def _column(self, *names: str, default: str | None = None) -> Sequence[str]:
        for name in names:
            if f"_atom_site.{name}" in self._values:
                column: list[str] = self._values[f"_atom_site.{name}"]
                return column
        if default is None:
            raise self._lines.error(
                "cif_columns", f"the atoms have no column `_atom_site.{names[0]}`", line=1
            )
        return [default] * self._count

    def _atoms(self) -> Iterator[Atom]:
        x, y, z = (self._column(f"Cartn_{axis}") for axis in "xyz")
        if not self._count:
            raise self._lines.error("cif_no_atoms", "the loop `_atom_site` has no rows")
        names = self._column("label_atom_id", "auth_atom_id")
        residues = self._column("label_comp_id", "auth_comp_id")
        molecules = self._column("label_asym_id", "auth_asym_id")
        chains = self._column("auth_asym_id", "label_asym_id")
        entities = self._column("label_entity_id", default="?")
        positions = self._column("label_seq_id", default="?")
        numbers = self._column("auth_seq_id", "label_seq_id")
        codes = self._column("pdbx_PDB_ins_code", default="?")
        groups = self._column("group_PDB", default="ATOM")
        occupancies = self._column("occupancy", default="1")
        b_factors = self._column("B_iso_or_equiv", default="0")
        models = self._column("pdbx_PDB_model_num", default="1")
        has_positions = any(position not in _UNSET for position in positions)
        for i in range(self._count):
            xyz = (self._coordinate(x, i), self._coordinate(y, i), self._coordinate(z, i))
            hetero = groups[i] == "HETATM"
            in_polymer = positions[i] not in _UNSET if has_positions else not hetero
            if models[i] != models[0] or not in_polymer or names[i] not in self._names:
                continue
            yield Atom(
                molecules[i],
                chains[i],
                entities[i],
                self._whole(numbers, i),
                "" if codes[i] in _UNSET else codes[i],
                self._whole(positions, i) if has_positions else 0,
                residues[i],
                names[i],
                hetero,
                self._number(occupancies, i, 1.0),
                self._number(b_factors, i, 0.0),
                xyz,
            )

    def _error(self, code: str, message: str, row: int) -> BadInput:
        exact = len(self._atom_lines) == self._count
        where = "" if exact else f" (row {row + 1} of the atoms)"
        return self._lines.error(code, message + where, line=self._atom_lines[row] if exact else None)

    def _coordinate(self, column: Sequence[str], row: int) -> float:
        try:
            value = float(column[row])
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise self._error(
                "cif_coordinates", f"the coordinate {column[row][:20]!r} is no finite number", row
            )
        if abs(value) > FARTHEST:
            raise self._error(
                "cif_coordinates", f"the coordinate {column[row][:20]!r} is more than {FARTHEST:,.0f} A", row
            )
        return value

    def _whole(self, column: Sequence[str], row: int) -> int:
        try:
            return int(column[row])
        except ValueError:
            raise self._error(
                "cif_syntax", f"the residue number {column[row][:20]!r} is no whole number", row
            ) from None

    def _number(self, column: Sequence[str], row: int, unset: float) -> float:
        if column[row] in _UNSET:
            return unset
        try:
            return float(column[row])
        except ValueError:
            raise self._error("cif_syntax", f"{column[row][:20]!r} is no number", row) from None


def read_pdb_atoms(lines: LineReader, most_atoms: int, names: frozenset[str] = BACKBONE) -> AtomTable:
    """Atoms in a PDB file, those with the ``names``; raises BadInput with codes ``pdb_*``."""
    from Bio.PDB.PDBExceptions import PDBConstructionException, PDBConstructionWarning
    from Bio.PDB.PDBParser import PDBParser

    text = [line + "\n" for line in lines]
    _check_pdb_lines(text, lines, most_atoms)
    reader: Any = PDBParser
    parser = reader(QUIET=False)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", PDBConstructionWarning)
            structure = parser.get_structure("", io.StringIO("".join(text)))
    except (PDBConstructionException, ValueError, IndexError, KeyError, TypeError) as error:
        line = parser.structure_builder.line_counter
        message = " ".join(str(error).split())[:200]
        code = "pdb_coordinates" if "coordinate" in message else "pdb_syntax"
        raise lines.error(code, f"not a valid atom: {message}", line=line) from error
    _check_nothing_left_out([str(one.message) for one in caught], lines, names)
    model = next(iter(structure))
    return AtomTable([_pdb_atom(atom, lines, text) for atom in _unpacked(model) if atom.name in names])


_COORDINATES_END, _B_FACTOR_END = 54, 66
"""Columns that every ATOM record has, and those that all have where the first one has them."""


def _check_pdb_lines(text: Sequence[str], lines: LineReader, most_atoms: int) -> None:
    """Count the atoms, and refuse a file that was cut off: a short line would be read as other numbers."""
    records = {line[:6].rstrip() for line in text}
    atoms = [
        (number, line.rstrip()) for number, line in enumerate(text, 1) if line[:6] in ("ATOM  ", "HETATM")
    ]
    if len(atoms) > most_atoms:
        raise lines.error("structure_too_large", f"more than {most_atoms:,} atoms")
    if not atoms:
        raise lines.error("pdb_no_atoms", "the file has no atoms (no ATOM records)")
    columns = max(_COORDINATES_END, min(_B_FACTOR_END, len(atoms[0][1])))
    for number, line in atoms:
        if len(line) < columns:
            raise lines.error(
                "pdb_syntax",
                f"not a valid atom: the line ends in column {len(line)}, before column {columns}",
                line=number,
                hint="the file seems to be cut off",
            )
    if {"HEADER", "SEQRES"} <= records and not records & {"END", "ENDMDL"}:
        raise lines.error(
            "pdb_truncated",
            "an entry with HEADER and SEQRES ends without END",
            hint="the file seems to be cut off; fetch it again",
        )


_TWICE = re.compile(
    r"(?:Atom (?P<atom>\S+) defined twice|Blank altlocs in duplicate).* at line (?P<line>\d+)"
)


def _check_nothing_left_out(warned: Sequence[str], lines: LineReader, names: frozenset[str]) -> None:
    """Refuse what Biopython leaves out with a warning: a second atom of a name, mostly of a second chain.

    Raises:
        BadInput: ``pdb_twice``.
    """
    for warning in warned:
        found = _TWICE.search(warning.replace("\n", " "))
        if found and (found["atom"] is None or found["atom"] in names):
            raise lines.error(
                "pdb_twice",
                "an atom of this residue of this chain stands in the file before",
                line=int(found["line"]),
                hint="give every chain a letter of its own, and put models between MODEL and ENDMDL",
            )


def _unpacked(model: Any) -> Iterator[Any]:
    """All atoms of a Biopython model, alternatives included, without calcium ions."""
    for chain in model:
        for residue in chain.get_unpacked_list():
            for atom in residue.get_unpacked_list():
                if atom.element != "CA":
                    yield atom


def _pdb_atom(atom: Any, lines: LineReader, text: Sequence[str]) -> Atom:
    residue = atom.get_parent()
    hetero, number, code = residue.id
    chain = residue.get_parent().id.strip()
    xyz = tuple(float(value) for value in atom.coord)
    if not all(math.isfinite(value) for value in xyz):
        line = next(
            (i for i, row in enumerate(text, 1) if row[6:11].strip() == str(atom.serial_number)), None
        )
        raise lines.error(
            "pdb_coordinates",
            f"atom {atom.serial_number} has a coordinate that is no finite number",
            line=line,
        )
    return Atom(
        chain,
        chain,
        "",
        number,
        code.strip(),
        0,
        residue.resname.strip(),
        atom.name,
        hetero != " ",
        1.0 if atom.occupancy is None else float(atom.occupancy),
        float(atom.bfactor),
        (xyz[0], xyz[1], xyz[2]),
    )
