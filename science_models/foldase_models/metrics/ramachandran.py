"""Backbone torsions, and whether they lie where those of well determined structures do.

Source: Ramachandran et al., J. Mol. Biol. 7:95 (1963); classes and levels as in Lovell et al., Proteins
50:437 (2003), regions in :mod:`~foldase_models.metrics.ramachandran_maps`. Isoleucine and valine count as
general, cis and trans prolines share a map, and a cell is 10 degrees wide: finer tools differ on few residues
at the rim.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from foldase_models.metrics.all_atoms import AllAtoms
from foldase_models.metrics.ramachandran_maps import GENERAL, GLYCINE, PRE_PROLINE, PROLINE

CELLS = 36
LEVELS = " .#"
"""Outlier, allowed, favoured."""
BOND = 2.0
"""Longest C to N of the next residue, A, across which torsions are taken (ideal 1.33)."""


@dataclass(frozen=True, slots=True)
class Ramachandran:
    """Residues with both torsions, by where these lie.

    Attributes:
        level: ``(N,)``: 2 favoured, 1 allowed, 0 outlier, -1 where a torsion is missing.
    """

    level: NDArray[np.int8]

    @property
    def counted(self) -> int:
        """Residues with both torsions."""
        return int((self.level >= 0).sum())

    def share(self, level: int) -> float | None:
        """Of the counted residues, 0 to 1; None where none is counted."""
        return float((self.level == level).sum() / self.counted) if self.counted else None


def ramachandran(structure: AllAtoms) -> Ramachandran:
    """Where the backbone torsions of a structure lie; residues of unknown type count as general."""
    phi, psi = backbone_torsions(structure)
    known = np.isfinite(phi) & np.isfinite(psi)
    column, row = _cell(np.where(known, phi, 0.0)), CELLS - 1 - _cell(np.where(known, psi, 0.0))
    maps = _maps()
    following = structure.sequence[1:] + " "
    kinds = [_kind(letter, after) for letter, after in zip(structure.sequence, following, strict=True)]
    level = np.array([maps[kind, r, c] for kind, r, c in zip(kinds, row, column, strict=True)], dtype=np.int8)
    return Ramachandran(np.where(known, level, np.int8(-1)))


def backbone_torsions(structure: AllAtoms) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Phi and psi ``(N,)`` in degrees, NaN where an atom or the bond to the neighbour is missing."""
    n, alpha, c = (structure.points(name).astype(np.float64) for name in ("N", "CA", "C"))
    with np.errstate(invalid="ignore"):
        bonded = np.linalg.norm(n[1:] - c[:-1], axis=-1) < BOND
    bonded &= structure.chain_index[1:] == structure.chain_index[:-1]
    phi, psi = np.full(len(n), np.nan), np.full(len(n), np.nan)
    phi[1:] = np.where(bonded, dihedral(c[:-1], n[1:], alpha[1:], c[1:]), np.nan)
    psi[:-1] = np.where(bonded, dihedral(n[:-1], alpha[:-1], c[:-1], n[1:]), np.nan)
    return phi, psi


def dihedral(
    a: NDArray[np.float64], b: NDArray[np.float64], c: NDArray[np.float64], d: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Torsions (...) about the bonds from ``b`` to ``c`` (..., 3), degrees in (-180, 180], IUPAC sign."""
    axis = c - b
    left, right = np.cross(b - a, axis), np.cross(axis, d - c)
    along = np.linalg.norm(axis, axis=-1) * ((b - a) * right).sum(axis=-1)
    angle: NDArray[np.float64] = np.degrees(np.arctan2(along, (left * right).sum(axis=-1)))
    return angle


def _cell(degrees: NDArray[np.float64]) -> NDArray[np.intp]:
    cells: NDArray[np.intp] = np.floor((degrees + 180.0) / (360.0 / CELLS)).astype(np.intp) % CELLS
    return cells


def _kind(letter: str, following: str) -> int:
    """Which map: 0 general, 1 glycine, 2 proline, 3 before proline."""
    if letter in "GP":
        return "GP".index(letter) + 1
    return 3 if following == "P" else 0


@cache
def _maps() -> NDArray[np.int8]:
    pictures = (GENERAL, GLYCINE, PROLINE, PRE_PROLINE)
    levels = [[LEVELS.index(mark) for mark in picture] for picture in pictures]
    return np.array(levels, dtype=np.int8).reshape(len(pictures), CELLS, CELLS)
