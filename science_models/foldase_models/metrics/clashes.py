"""Atoms that lie closer than their size allows.

Source: the clash score of Word et al., J. Mol. Biol. 285:1711 (1999) and Chen et al., Acta Cryst. D66:12
(2010), on heavy atoms only: hydrogens are neither needed nor added, so scores are lower than those of tools
that add them. Radii after Bondi, J. Phys. Chem. 68:441 (1964).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from foldase_models.layers.residue_bonds import bonds_between
from foldase_models.layers.residues import ATOM37, ATOM37_INDEX, RESTYPES, UNKNOWN, VAN_DER_WAALS
from foldase_models.metrics.all_atoms import AllAtoms
from foldase_models.metrics.neighbours import AtomPairs, near_pairs

OVERLAP = 0.4
"""Of two spheres, A, beyond which they clash."""
BONDS = 3
"""Atoms joined by so many bonds or fewer never clash."""
PEPTIDE_BOND = 2.0
DISULFIDE_BOND = 2.5
"""Longest C to N and sulphur to sulphur, A, that are taken for bonds (ideal 1.33 and 2.05)."""


@dataclass(frozen=True, slots=True)
class Clashes:
    """Pairs of clashing atoms, the heavy atoms there are, and which residues take part, boolean ``(N,)``."""

    pairs: int
    atoms: int
    residues: NDArray[np.bool_]

    @property
    def score(self) -> float:
        """Clashing pairs per 1000 atoms."""
        return 1000.0 * self.pairs / max(1, self.atoms)


def clashes(structure: AllAtoms, *, overlap: float = OVERLAP) -> Clashes:
    """Count pairs of heavy atoms whose van der Waals spheres overlap by more than ``overlap``, A.

    Pairs joined by at most :data:`BONDS` bonds do not count; bonds are those of the residues, of the peptide
    and of disulfides. Atoms of residues of unknown type are taken for bonded to each other.
    """
    radii = _radii()
    found, hit = 0, np.zeros(len(structure.sequence), dtype=bool)
    for pairs in near_pairs(structure.positions, structure.mask, structure.mask, 2 * float(radii.max())):
        row, column = pairs.rows % len(ATOM37), pairs.columns % len(ATOM37)
        once = pairs.rows < pairs.columns
        deep = radii[row] + radii[column] - pairs.distance > overlap
        chosen = once & deep & (_bonds_apart(structure, pairs) > BONDS)
        found += int(chosen.sum())
        hit[pairs.row_residue[chosen]] = True
        hit[pairs.column_residue[chosen]] = True
    return Clashes(found, int(structure.mask.sum()), hit)


def _bonds_apart(structure: AllAtoms, pairs: AtomPairs) -> NDArray[np.int64]:
    """Bonds between the atoms of each pair, along peptide and disulfide bonds; large where not joined."""
    steps, kinds = _steps(), _kinds(structure.sequence)
    i, j = pairs.row_residue, pairs.column_residue
    row, column = pairs.rows % len(ATOM37), pairs.columns % len(ATOM37)
    same = i == j
    apart = np.where(same, steps[kinds[i], row, column], 99)
    joins = (("C", "N", PEPTIDE_BOND), ("SG", "SG", DISULFIDE_BOND))
    for one, other, longest in joins:
        left, right = ATOM37_INDEX[one], ATOM37_INDEX[other]
        for here, there, a, b in ((i, j, row, column), (j, i, column, row)):
            bonded = ~same & _joined(structure, here, there, left, right, longest)
            if one == "C":
                chain = structure.chain_index
                bonded &= (there == here + 1) & (chain[here] == chain[there])
            through = steps[kinds[here], a, left] + 1 + steps[kinds[there], right, b]
            apart = np.where(bonded, np.minimum(apart, through), apart)
    return apart


def _joined(
    structure: AllAtoms,
    here: NDArray[np.intp],
    there: NDArray[np.intp],
    left: int,
    right: int,
    longest: float,
) -> NDArray[np.bool_]:
    both = structure.mask[here, left] & structure.mask[there, right]
    apart = structure.positions[here, left] - structure.positions[there, right]
    near: NDArray[np.bool_] = np.linalg.norm(np.where(both[:, None], apart, np.inf), axis=-1) < longest
    return near


def _kinds(sequence: str) -> NDArray[np.intp]:
    return np.array([RESTYPES.find(letter) % (UNKNOWN + 1) for letter in sequence], dtype=np.intp)


@cache
def _steps() -> NDArray[np.int64]:
    steps = bonds_between()
    steps[UNKNOWN] = 0
    return steps


@cache
def _radii() -> NDArray[np.float64]:
    return np.array([VAN_DER_WAALS[name[0]] for name in ATOM37])
