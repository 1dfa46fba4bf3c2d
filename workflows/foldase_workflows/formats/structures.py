"""Protein chains from mmCIF and PDB: sequence, numbering, C-alpha and C-beta coordinates.

Only residues of a polymer that have a C-alpha count. A modified residue (selenomethionine, MSE) is a residue
like any other, although PDB files keep it among the HETATM records with waters and ligands; its letter is
that of its parent. Lengths are in Angstrom.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from foldase_workflows.contracts.errors import BadInput, Location
from foldase_workflows.formats.structure_atoms import Atom, AtomTable, read_cif_atoms, read_pdb_atoms
from foldase_workflows.formats.text import LineReader, TextLimits

_PEPTIDE_BOND = 2.0
"""Longest distance from C to the next N, in A, that counts as a bond (ideal 1.33)."""


@dataclass(frozen=True, slots=True)
class StructureLimits:
    """How much a reader accepts: atoms of the file, and the text itself."""

    atoms: int = 2_000_000
    text: TextLimits = field(default_factory=lambda: TextLimits(file_bytes=1 << 28, line_bytes=1 << 20))


@dataclass(frozen=True, slots=True)
class Chain:
    """The residues of one protein chain that have a C-alpha, N of them, in the order of the chain.

    ``name`` is the author's chain, ``sequence`` has one letter per residue (``X`` for an unknown one) and
    ``residues`` its three-letter name. ``numbers`` int32 (N,) and ``insertion_codes`` are the author's
    numbering; ``positions`` int32 (N,) count from 1 in ``polymer``, the whole sequence of the molecule with
    residues that were not observed, and are 0 where the file does not tell. ``alpha`` and ``beta`` are
    float32 (N, 3) in A; where there is no C-beta (glycine), ``beta`` is the C-alpha. ``b_factors`` float32
    (N,) is the B column of the C-alpha: pLDDT in predictions.
    """

    name: str
    sequence: str
    residues: tuple[str, ...]
    numbers: NDArray[np.int32]
    insertion_codes: tuple[str, ...]
    positions: NDArray[np.int32]
    alpha: NDArray[np.float32]
    beta: NDArray[np.float32]
    b_factors: NDArray[np.float32]
    polymer: str | None = None


def read_structure(
    path: Path, *, name: str | None = None, limits: StructureLimits | None = None
) -> list[Chain]:
    """The protein chains of the first model of an mmCIF or PDB file, in the order of the file.

    Of alternative locations the one with the highest occupancy is taken, the first of equals.

    Raises:
        BadInput: ``structure_empty``, ``structure_format``, ``structure_too_large``, ``cif_syntax``,
            ``cif_unterminated``, ``cif_loop`` (cut off), ``cif_several_blocks``, ``cif_columns``,
            ``cif_coordinates``, ``cif_no_atoms``, ``cif_no_protein``, the same with ``pdb_``, or what
            :class:`LineReader` raises; with the line where there is one.
    """
    limits = limits or StructureLimits()
    kind = _detect(path, name, limits)
    with LineReader(path, name=name, limits=limits.text) as lines:
        read = read_cif_atoms if kind == "cif" else read_pdb_atoms
        table = read(lines, limits.atoms)
        chains = [
            chain
            for key, atoms in _by_chain(table.atoms).items()
            if (chain := _chain(key[1], atoms, table, check_bonds=kind == "pdb")) is not None
        ]
        if not chains:
            raise BadInput(
                "the file has atoms, but no protein chain with C-alpha atoms",
                code=f"{kind}_no_protein",
                location=Location(file=lines.name),
            )
        return chains


def read_chain(
    path: Path, chain: str | None = None, *, name: str | None = None, limits: StructureLimits | None = None
) -> Chain:
    """One protein chain of a file: the one named, or the first.

    Raises:
        BadInput: ``structure_chain`` when there is none of that name, or as :func:`read_structure`.
    """
    chains = read_structure(path, name=name, limits=limits)
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


@dataclass(slots=True)
class _Residue:
    """The atoms of one place in a chain by component (alternatives) and atom name."""

    first: Atom
    variants: dict[str, dict[str, Atom]]

    def chosen(self) -> dict[str, Atom] | None:
        """The atoms of the variant whose C-alpha has the highest occupancy; None where none has one."""
        with_alpha = [atoms for atoms in self.variants.values() if "CA" in atoms]
        return max(with_alpha, key=lambda atoms: atoms["CA"].occupancy) if with_alpha else None


def _chain(name: str, atoms: Sequence[Atom], table: AtomTable, *, check_bonds: bool) -> Chain | None:
    places: dict[tuple[int, str, int], _Residue] = {}
    for atom in atoms:
        place = places.setdefault((atom.number, atom.insertion_code, atom.position), _Residue(atom, {}))
        known = place.variants.setdefault(atom.residue, {})
        if atom.name not in known or atom.occupancy > known[atom.name].occupancy:
            known[atom.name] = atom
    residues = [chosen for place in places.values() if (chosen := place.chosen()) is not None]
    if check_bonds:
        residues = _bonded(residues)
    if not residues:
        return None
    alphas = [residue["CA"] for residue in residues]
    betas = [residue.get("CB", residue["CA"]) for residue in residues]
    return Chain(
        name=name,
        sequence="".join(table.letter(atom.residue) for atom in alphas),
        residues=tuple(atom.residue for atom in alphas),
        numbers=np.array([atom.number for atom in alphas], dtype=np.int32),
        insertion_codes=tuple(atom.insertion_code for atom in alphas),
        positions=np.array([atom.position for atom in alphas], dtype=np.int32),
        alpha=np.array([atom.xyz for atom in alphas], dtype=np.float32),
        beta=np.array([atom.xyz for atom in betas], dtype=np.float32),
        b_factors=np.array([atom.b_factor for atom in alphas], dtype=np.float32),
        polymer=table.polymers.get(alphas[0].entity),
    )


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
