"""Protein chains from mmCIF and PDB files with all their heavy atoms, as folding models take them.

A modified residue is read as its parent: selenomethionine, MSE, as methionine with its selenium, SE, in the
place of SD; selenocysteine likewise as cysteine, pyrrolysine as lysine. Atoms that the residue does not have
by :mod:`atom_names`, hydrogens among them, are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from foldase_workflows.formats.atom_names import (
    ATOM37,
    ATOM37_INDEX,
    RESIDUE_ATOMS,
    THREE_LETTERS,
    UNKNOWN_ATOMS,
)
from foldase_workflows.formats.structure_residues import (
    ChainAtoms,
    StructureLimits,
    read_chains,
    read_one_chain,
)

_SELENIUM = "SE"
_SULFUR = {"M": "SD", "C": "SG"}
"""What selenium stands for in the modified residues of each letter."""
_PARENTS = {"U": "C", "O": "K"}
_NAMES = frozenset({*ATOM37, _SELENIUM})


@dataclass(frozen=True, slots=True)
class AllAtomChain:
    """The residues of one protein chain that have a C-alpha, N of them, in the order of the chain.

    Attributes:
        name: the author's name of the chain.
        sequence: one of the twenty letters a residue, that of the parent where it is modified, X where that
            is not known.
        residues: three-letter names as in the file.
        numbers: int32 (N,), the author's.
        insertion_codes: the author's.
        places: int32 (N,), counted from 1 in ``polymer``; 0 where the file does not tell.
        positions: float32 (N, 37, 3), A, atoms in the order of ``atom_names.ATOM37``, 0 where there is none.
        mask: bool (N, 37), which atoms there are.
        b_factors: float32 (N, 37), 0 where there is no atom; pLDDT in predictions.
        polymer: the whole sequence of the molecule with residues that were not observed, where known.
    """

    name: str
    sequence: str
    residues: tuple[str, ...]
    numbers: NDArray[np.int32]
    insertion_codes: tuple[str, ...]
    places: NDArray[np.int32]
    positions: NDArray[np.float32]
    mask: NDArray[np.bool_]
    b_factors: NDArray[np.float32]
    polymer: str | None = None

    @property
    def modified(self) -> int:
        """How many residues are not one of the twenty under their own name."""
        return sum(
            THREE_LETTERS.get(letter) != residue
            for letter, residue in zip(self.sequence, self.residues, strict=True)
        )


def read_all_atoms(
    path: Path, *, name: str | None = None, limits: StructureLimits | None = None
) -> list[AllAtomChain]:
    """The protein chains of the first model of an mmCIF or PDB file, in the order of the file.

    Of alternative locations the one with the highest occupancy is taken, the first of equals. ``name`` is
    what errors call the file.

    Raises:
        BadInput: as ``structures.read_structure``.
    """
    return [_chain(found) for found in read_chains(path, name=name, limits=limits, atoms=_NAMES)]


def read_all_atom_chain(
    path: Path, chain: str | None = None, *, name: str | None = None, limits: StructureLimits | None = None
) -> AllAtomChain:
    """One protein chain of a file: the one named, or the first.

    Raises:
        BadInput: ``structure_chain`` when there is none of that name, or as :func:`read_all_atoms`.
    """
    return _chain(read_one_chain(path, chain, name=name, limits=limits, atoms=_NAMES))


def _chain(found: ChainAtoms) -> AllAtomChain:
    length = len(found.residues)
    positions = np.zeros((length, len(ATOM37), 3), dtype=np.float32)
    mask = np.zeros((length, len(ATOM37)), dtype=bool)
    b_factors = np.zeros((length, len(ATOM37)), dtype=np.float32)
    sequence = "".join(_letter(letter) for letter in found.sequence)
    for row, (letter, residue) in enumerate(zip(sequence, found.residues, strict=True)):
        known = {*RESIDUE_ATOMS.get(letter, UNKNOWN_ATOMS), "OXT"}
        for written, atom in residue.items():
            atom_name = _SULFUR.get(letter, written) if written == _SELENIUM else written
            if atom_name in known:
                column = ATOM37_INDEX[atom_name]
                positions[row, column] = atom.xyz
                mask[row, column] = True
                b_factors[row, column] = atom.b_factor
    return AllAtomChain(
        name=found.name,
        sequence=sequence,
        residues=found.residue_names,
        numbers=found.numbers,
        insertion_codes=found.insertion_codes,
        places=found.places,
        positions=positions,
        mask=mask,
        b_factors=b_factors,
        polymer=found.polymer,
    )


def _letter(found: str) -> str:
    letter = _PARENTS.get(found, found)
    return letter if letter in RESIDUE_ATOMS else "X"
