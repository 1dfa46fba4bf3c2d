"""Protein chains from mmCIF and PDB: sequence, numbering, C-alpha and C-beta coordinates.

Only residues of a polymer that have a C-alpha count. A modified residue (selenomethionine, MSE) is a residue
like any other, although PDB files keep it among the HETATM records with waters and ligands; its letter is
that of its parent. Lengths are in Angstrom.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from foldase_workflows.formats.structure_residues import (
    ChainAtoms,
    StructureLimits,
    read_chains,
    read_one_chain,
)

__all__ = ["Chain", "StructureLimits", "read_chain", "read_structure"]


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
            ``cif_unterminated``, ``cif_loop`` and ``cif_truncated`` (cut off), ``cif_several_blocks``,
            ``cif_columns``, ``cif_coordinates``, ``cif_no_atoms``, ``cif_no_protein``, the same with
            ``pdb_``, ``pdb_twice``, or what :class:`LineReader` raises; with the line where there is one.
    """
    return [_chain(found) for found in read_chains(path, name=name, limits=limits)]


def read_chain(
    path: Path, chain: str | None = None, *, name: str | None = None, limits: StructureLimits | None = None
) -> Chain:
    """One protein chain of a file: the one named, or the first.

    Raises:
        BadInput: ``structure_chain`` when there is none of that name, or as :func:`read_structure`.
    """
    return _chain(read_one_chain(path, chain, name=name, limits=limits))


def _chain(found: ChainAtoms) -> Chain:
    alphas = found.alphas
    betas = [residue.get("CB", residue["CA"]) for residue in found.residues]
    return Chain(
        name=found.name,
        sequence=found.sequence,
        residues=found.residue_names,
        numbers=found.numbers,
        insertion_codes=found.insertion_codes,
        positions=found.places,
        alpha=np.array([atom.xyz for atom in alphas], dtype=np.float32),
        beta=np.array([atom.xyz for atom in betas], dtype=np.float32),
        b_factors=np.array([atom.b_factor for atom in alphas], dtype=np.float32),
        polymer=found.polymer,
    )
