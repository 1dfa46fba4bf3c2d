"""Structures with all their heavy atoms, and how well one reproduces another.

Shapes: N residues, 37 places for atoms a residue (``residues.ATOM37``). Lengths in A.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from foldase_models.layers.residues import ATOM37
from foldase_models.metrics.lddt import LDDT_CUTOFF, LDDT_THRESHOLDS, Lddt
from foldase_models.metrics.neighbours import AtomPairs, near_pairs
from foldase_models.metrics.superposition import rmsd

BACKBONE = ("N", "CA", "C", "O")
SYMMETRIC = {
    "D": (("OD1", "OD2"),),
    "E": (("OE1", "OE2"),),
    "F": (("CD1", "CD2"), ("CE1", "CE2")),
    "R": (("NH1", "NH2"),),
    "Y": (("CD1", "CD2"), ("CE1", "CE2")),
}
"""Atoms of one residue whose names may be exchanged, all pairs of a residue at once. Those of leucine and
valine may not: their names say on which side they lie. The program of lDDT's authors (OpenStructure)
exchanges these too, so that it scores a model with methyl groups named the other way higher."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AllAtoms:
    """Heavy atoms of one structure, of all its chains.

    Attributes:
        sequence: one letter a residue, N of them.
        positions: ``(N, 37, 3)``, A; anything where there is no atom.
        mask: boolean ``(N, 37)``, which atoms there are.
        chain_index: ``(N,)``, equal in one chain.
        residue_index: ``(N,)``, numbers that grow by one along a chain without gaps.

    Raises:
        ValueError: shapes that do not fit, or atoms whose coordinates are not finite.
    """

    sequence: str
    positions: NDArray[np.floating]
    mask: NDArray[np.bool_]
    chain_index: NDArray[np.integer]
    residue_index: NDArray[np.integer]

    def __post_init__(self) -> None:
        count = len(self.sequence)
        shapes = {
            "positions": (count, len(ATOM37), 3),
            "mask": (count, len(ATOM37)),
            "chain_index": (count,),
            "residue_index": (count,),
        }
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name} must be {shape}, got {getattr(self, name).shape}")
        if self.mask.dtype != np.bool_:
            raise ValueError(f"mask must be boolean, got {self.mask.dtype}")
        if not np.isfinite(self.positions[self.mask]).all():
            raise ValueError("coordinates must be finite")

    def take(self, residues: NDArray[np.integer] | NDArray[np.bool_]) -> AllAtoms:
        """Some of the residues, chosen as numpy does."""
        chosen = np.arange(len(self.sequence))[residues]
        return AllAtoms(
            sequence="".join(self.sequence[i] for i in chosen),
            positions=self.positions[chosen],
            mask=self.mask[chosen],
            chain_index=self.chain_index[chosen],
            residue_index=self.residue_index[chosen],
        )

    def points(self, name: str) -> NDArray[np.floating]:
        """Coordinates ``(N, 3)`` of the atom of that name, NaN where there is none."""
        place = ATOM37.index(name)
        return np.where(self.mask[:, place, None], self.positions[:, place], np.nan)


def lddt_all_atoms(
    predicted: AllAtoms,
    true: AllAtoms,
    *,
    cutoff: float = LDDT_CUTOFF,
    thresholds: tuple[float, ...] = LDDT_THRESHOLDS,
) -> Lddt:
    """Local distance difference test on all heavy atoms (Mariani et al., Bioinformatics 29:2722, 2013).

    Pairs of atoms of different residues count when the truth has them within the cutoff; a pair of which
    the prediction lacks an atom counts as lost. Names of symmetric atoms are exchanged where that suits
    the truth better, residue by residue (:func:`with_better_names`). Without stereochemistry checks.

    Args:
        predicted: the same residues as ``true``, in the same order.
        true: the reference.
        cutoff: inclusion radius, A.
        thresholds: tolerances, A.

    Returns:
        Scores from 0 to 1, per residue over the pairs of its atoms.

    Raises:
        ValueError: other residues, or no pair within the radius.
    """
    predicted = with_better_names(predicted, true, cutoff=cutoff, thresholds=thresholds)
    kept, counted = np.zeros(len(true.sequence)), np.zeros(len(true.sequence))
    for pairs in _pairs(true, true.mask, true.mask, cutoff):
        share = _kept(predicted.positions, predicted.mask, pairs, thresholds)
        kept += np.bincount(pairs.row_residue, share, minlength=kept.size)
        counted += np.bincount(pairs.row_residue, minlength=kept.size)
    if not counted.any():
        raise ValueError(f"no two atoms of different residues lie within {cutoff} A")
    with np.errstate(invalid="ignore"):
        return Lddt(float(kept.sum() / counted.sum()), kept / counted)


def with_better_names(
    predicted: AllAtoms,
    true: AllAtoms,
    *,
    cutoff: float = LDDT_CUTOFF,
    thresholds: tuple[float, ...] = LDDT_THRESHOLDS,
) -> AllAtoms:
    """The prediction, with symmetric atoms (:data:`SYMMETRIC`) named as suits the truth better.

    A residue's names are exchanged where its symmetric atoms keep more of their distances to atoms that are
    not symmetric, of other residues (Mariani et al. 2013, Methods). Arguments and errors as in
    :func:`lddt_all_atoms`.
    """
    if predicted.sequence != true.sequence:
        raise ValueError("the two structures must have the same residues in the same order")
    order = _exchanged(true.sequence)
    symmetric = order != np.arange(len(ATOM37))
    rows = np.arange(len(order))[:, None]
    other = predicted.positions[rows, order], predicted.mask[rows, order]
    gain = np.zeros(len(order))
    for pairs in _pairs(true, true.mask & symmetric, true.mask & ~symmetric, cutoff):
        now = _kept(predicted.positions, predicted.mask, pairs, thresholds)
        then = _kept(*other, pairs, thresholds)
        gain += np.bincount(pairs.row_residue, then - now, minlength=gain.size)
    better = gain > 0
    return replace(
        predicted,
        positions=np.where(better[:, None, None], other[0], predicted.positions),
        mask=np.where(better[:, None], other[1], predicted.mask),
    )


def atom_rmsd(predicted: AllAtoms, true: AllAtoms) -> dict[str, float]:
    """Root mean square distances of ``alpha``, ``backbone`` (N, CA, C, O) and ``all`` atoms, A.

    Each after its own best superposition, over the atoms that both have, symmetric ones named as suits
    better.

    Raises:
        ValueError: other residues, or no atom in common.
    """
    predicted = with_better_names(predicted, true)
    both = predicted.mask & true.mask
    sets = {"alpha": ("CA",), "backbone": BACKBONE, "all": ATOM37}
    found = {}
    for name, atoms in sets.items():
        chosen = both & np.isin(np.array(ATOM37), atoms)
        if not chosen.any():
            raise ValueError(f"the two structures have no {name} atom in common")
        found[name] = rmsd(predicted.positions[chosen], true.positions[chosen])
    return found


def _pairs(
    structure: AllAtoms, rows: NDArray[np.bool_], columns: NDArray[np.bool_], cutoff: float
) -> Iterator[AtomPairs]:
    """Pairs of atoms of different residues within the cutoff."""
    for pairs in near_pairs(structure.positions, rows, columns, cutoff):
        apart = pairs.row_residue != pairs.column_residue
        yield AtomPairs(*(getattr(pairs, field.name)[apart] for field in fields(pairs)))


def _kept(
    positions: NDArray[np.floating], mask: NDArray[np.bool_], pairs: AtomPairs, thresholds: tuple[float, ...]
) -> NDArray[np.float64]:
    """Share of the thresholds within which each pair keeps its distance."""
    flat, there = positions.reshape(-1, 3).astype(np.float64), mask.reshape(-1)
    found = there[pairs.rows] & there[pairs.columns]
    apart = np.where(found[:, None], flat[pairs.rows] - flat[pairs.columns], np.inf)
    error = np.abs(np.linalg.norm(apart, axis=-1) - pairs.distance)
    kept: NDArray[np.float64] = np.mean([error < threshold for threshold in thresholds], axis=0)
    return kept


def _exchanged(sequence: str) -> NDArray[np.intp]:
    """For each residue, the places of atoms (N, 37) with symmetric names exchanged."""
    return np.array([_exchanged_places(letter) for letter in sequence], dtype=np.intp).reshape(
        -1, len(ATOM37)
    )


@cache
def _exchanged_places(letter: str) -> tuple[int, ...]:
    names = list(ATOM37)
    for left, right in SYMMETRIC.get(letter, ()):
        i, j = ATOM37.index(left), ATOM37.index(right)
        names[i], names[j] = right, left
    return tuple(ATOM37.index(name) for name in names)
