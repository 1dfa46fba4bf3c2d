"""Everything that is said of one predicted structure beside its reference.

Shapes: N residues of the reference, M of the prediction, all chains together. Lengths in A.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from foldase_models.layers.residues import ATOM37, ATOM37_INDEX
from foldase_models.metrics.all_atoms import BACKBONE, AllAtoms, atom_rmsd, lddt_all_atoms
from foldase_models.metrics.clashes import clashes
from foldase_models.metrics.lddt import Lddt
from foldase_models.metrics.ramachandran import ramachandran
from foldase_models.metrics.template_score import gdt_shares, tm_score

FEWEST = 3
"""Matched residues below which nothing can be superposed."""
_CUTOFFS = (0.5, 1.0, 2.0, 4.0, 8.0)
_SHARED = np.isin(np.array(ATOM37), (*BACKBONE, "CB"))
"""Atoms that residues of two types have in common."""


def laid_over(predicted: AllAtoms, reference: AllAtoms, pairs: NDArray[np.integer]) -> AllAtoms:
    """The prediction on the residues of the reference; what is not matched has no atom.

    Args:
        predicted: M residues.
        reference: N residues.
        pairs: ``(P, 2)``, residues of the prediction and of the reference. Where their types differ, only
            backbone and C-beta are compared.
    """
    ours, theirs = pairs[:, 0], pairs[:, 1]
    positions = np.zeros_like(reference.positions, dtype=np.float64)
    mask = np.zeros_like(reference.mask)
    same = np.array([predicted.sequence[i] == reference.sequence[j] for i, j in pairs], dtype=bool)
    positions[theirs] = predicted.positions[ours]
    mask[theirs] = predicted.mask[ours] & (same[:, None] | _SHARED)
    return replace(reference, positions=np.where(mask[..., None], positions, 0.0), mask=mask)


def compare_structures(
    predicted: AllAtoms, reference: AllAtoms, pairs: NDArray[np.integer]
) -> tuple[dict[str, float | int | None], Lddt]:
    """All scores; residues of the reference that the prediction lacks lower all of them but RMSD.

    TM-score, GDT and lDDT are normalised by the reference; of several chains all C-alpha together are
    superposed. Clashes and Ramachandran regions are those of the prediction alone.

    Args:
        predicted: M residues.
        reference: N residues, each with a C-alpha that counts.
        pairs: as in :func:`laid_over`.

    Returns:
        Scores by name, shares from 0 to 1, None where there is nothing to count; and lDDT of all atoms.

    Raises:
        ValueError: fewer than :data:`FEWEST` residues are matched, or no two atoms of the reference are near.
    """
    ours = laid_over(predicted, reference, pairs)
    place = ATOM37_INDEX["CA"]
    both, known = ours.mask[:, place] & reference.mask[:, place], int(reference.mask[:, place].sum())
    if both.sum() < FEWEST:
        raise ValueError(f"only {both.sum()} residues are matched; at least {FEWEST} are needed")
    a, b = ours.positions[both, place], reference.positions[both, place]
    shares = gdt_shares(a, b, cutoffs=_CUTOFFS) * both.sum() / known
    lddt, distances = lddt_all_atoms(ours, reference), atom_rmsd(ours, reference)
    touching, angles = clashes(predicted), ramachandran(predicted)
    scores: dict[str, float | int | None] = {
        "residues": known,
        "matched": int(both.sum()),
        "identical": sum(predicted.sequence[i] == reference.sequence[j] for i, j in pairs),
        "tm_score": tm_score(a, b, length=known),
        "lddt": lddt.overall,
        "lddt_alpha": _alpha_lddt(ours, reference),
        "gdt_ts": float(shares[1:].mean()),
        "gdt_ha": float(shares[:-1].mean()),
        **{f"rmsd_{name}": value for name, value in distances.items()},
        "clashes": touching.pairs,
        "clash_score": touching.score,
        "ramachandran_favoured": angles.share(2),
        "ramachandran_outliers": angles.share(0),
    }
    return scores, lddt


def _alpha_lddt(predicted: AllAtoms, reference: AllAtoms) -> float:
    alpha = np.array(ATOM37) == "CA"
    only = (replace(one, mask=one.mask & alpha) for one in (predicted, reference))
    return lddt_all_atoms(*only).overall
