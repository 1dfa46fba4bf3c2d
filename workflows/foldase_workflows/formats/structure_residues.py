"""Residues of protein chains with their atoms, from mmCIF and PDB alike.

Decides what counts as a residue of a chain, which of several alternatives is taken, and what a ligand is.
Two views are made of it: ``structures``, the trace, and ``all_atoms``, arrays of all heavy atoms.

Shapes: N residues of a chain.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from foldase_workflows.contracts.errors import BadInput, Location
from foldase_workflows.formats.structure_atoms import (
    BACKBONE,
    Atom,
    AtomTable,
    read_cif_atoms,
    read_pdb_atoms,
)
from foldase_workflows.formats.text import LineReader, TextLimits

_PEPTIDE_BOND = 2.0
"""Longest distance from C to the next N, in A, that counts as a bond (ideal 1.33)."""


@dataclass(frozen=True, slots=True)
class StructureLimits:
    """How much a reader accepts: atoms of the file, and the text itself."""

    atoms: int = 2_000_000
    text: TextLimits = field(default_factory=lambda: TextLimits(file_bytes=1 << 28, line_bytes=1 << 20))


@dataclass(frozen=True, slots=True)
class ChainAtoms:
    """The residues of one chain that have a C-alpha, in order; each maps names of atoms to atoms."""

    name: str
    residues: list[dict[str, Atom]]
    table: AtomTable

    @property
    def alphas(self) -> list[Atom]:
        """The C-alpha of each residue."""
        return [residue["CA"] for residue in self.residues]

    @property
    def sequence(self) -> str:
        """One letter a residue."""
        return "".join(self.table.letter(atom.residue) for atom in self.alphas)

    @property
    def residue_names(self) -> tuple[str, ...]:
        """As in the file, of three letters mostly."""
        return tuple(atom.residue for atom in self.alphas)

    @property
    def numbers(self) -> NDArray[np.int32]:
        """int32 (N,), the author's."""
        return np.array([atom.number for atom in self.alphas], dtype=np.int32)

    @property
    def insertion_codes(self) -> tuple[str, ...]:
        """The author's."""
        return tuple(atom.insertion_code for atom in self.alphas)

    @property
    def places(self) -> NDArray[np.int32]:
        """int32 (N,), counted from 1 in :attr:`polymer`; 0 where the file does not tell."""
        return np.array([atom.position for atom in self.alphas], dtype=np.int32)

    @property
    def polymer(self) -> str | None:
        """The whole sequence of the molecule, where the file has it."""
        return self.table.polymers.get(self.residues[0]["CA"].entity)


def read_chains(
    path: Path,
    *,
    name: str | None = None,
    limits: StructureLimits | None = None,
    atoms: frozenset[str] = BACKBONE,
) -> list[ChainAtoms]:
    """The protein chains of the first model, in the order of the file.

    Of alternative locations the one with the highest occupancy is taken, the first of equals. ``atoms`` are
    the names that are kept; they include those of the backbone. ``name`` is what errors call the file.

    Raises:
        BadInput: as ``structures.read_structure``.
    """
    limits = limits or StructureLimits()
    kind = _detect(path, name, limits)
    with LineReader(path, name=name, limits=limits.text) as lines:
        read = read_cif_atoms if kind == "cif" else read_pdb_atoms
        table = read(lines, limits.atoms, atoms | BACKBONE)
        chains = [
            ChainAtoms(key[1], residues, table)
            for key, found in _by_chain(table.atoms).items()
            if (residues := _residues(found, check_bonds=kind == "pdb"))
        ]
        if not chains:
            raise BadInput(
                "the file has atoms, but no protein chain with C-alpha atoms",
                code=f"{kind}_no_protein",
                location=Location(file=lines.name),
            )
        return chains


def read_one_chain(
    path: Path,
    chain: str | None,
    *,
    name: str | None = None,
    limits: StructureLimits | None = None,
    atoms: frozenset[str] = BACKBONE,
) -> ChainAtoms:
    """One protein chain of a file: the one named, or the first; the rest as :func:`read_chains`.

    Raises:
        BadInput: ``structure_chain`` when there is none of that name, or as :func:`read_chains`.
    """
    chains = read_chains(path, name=name, limits=limits, atoms=atoms)
    for candidate in chains:
        if chain is None or candidate.name == chain:
            return candidate
    raise BadInput(
        f"there is no protein chain {chain!r}",
        code="structure_chain",
        location=Location(file=name or path.name),
        hint=f"the chains are {', '.join(candidate.name for candidate in chains)}",
    )


def _detect(path: Path, name: str | None, limits: StructureLimits) -> str:
    with LineReader(path, name=name, limits=limits.text) as lines:
        said = (line for line in lines if line.strip() and not line.startswith("#"))
        first = next(said, None)
        if first is None:
            raise lines.error("structure_empty", "the file is empty")
        if first.lower().startswith("data_"):
            return "cif"
        for _, line in zip(range(10_000), _chain_lines(first, said), strict=False):
            if line.startswith(("ATOM  ", "HETATM", "HEADER ", "MODEL ")):
                return "pdb"
        raise lines.error(
            "structure_format",
            f"no structure begins with {first.strip()[:40]!r}",
            line=1,
            hint="known are mmCIF (begins with `data_`) and PDB (has ATOM records)",
        )


def _chain_lines(first: str, rest: Iterable[str]) -> Iterable[str]:
    yield first
    yield from rest


def _by_chain(atoms: Iterable[Atom]) -> dict[tuple[str, str], list[Atom]]:
    chains: dict[tuple[str, str], list[Atom]] = {}
    for atom in atoms:
        chains.setdefault((atom.molecule, atom.chain), []).append(atom)
    return chains


def _residues(atoms: Sequence[Atom], *, check_bonds: bool) -> list[dict[str, Atom]]:
    """Per place the variant (component) whose C-alpha has the highest occupancy; none without C-alpha."""
    places: dict[tuple[int, str, int], dict[str, dict[str, Atom]]] = {}
    for atom in atoms:
        variants = places.setdefault((atom.number, atom.insertion_code, atom.position), {})
        known = variants.setdefault(atom.residue, {})
        if atom.name not in known or atom.occupancy > known[atom.name].occupancy:
            known[atom.name] = atom
    residues = []
    for variants in places.values():
        with_alpha = [found for found in variants.values() if "CA" in found]
        if with_alpha:
            residues.append(max(with_alpha, key=lambda found: found["CA"].occupancy))
    return _bonded(residues) if check_bonds else residues


def _bonded(residues: Sequence[dict[str, Atom]]) -> list[dict[str, Atom]]:
    """Leaves out amino acids that are ligands: HETATM without a peptide bond to a neighbour."""

    def bound(left: dict[str, Atom], right: dict[str, Atom]) -> bool:
        if "C" not in left or "N" not in right:
            return False
        return float(np.linalg.norm(np.subtract(left["C"].xyz, right["N"].xyz))) < _PEPTIDE_BOND

    kept = []
    for index, residue in enumerate(residues):
        joined = (index > 0 and bound(residues[index - 1], residue)) or (
            index + 1 < len(residues) and bound(residue, residues[index + 1])
        )
        if joined or not residue["CA"].is_hetero:
            kept.append(residue)
    return kept
