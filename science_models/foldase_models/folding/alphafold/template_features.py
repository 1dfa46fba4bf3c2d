"""Known structures as features: types, C-beta, torsions.

Shapes: T templates, N residues of all chains. Lengths in A. Source: Jumper et al. 2021, supplement 1.2.9,
table 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
import torch
from numpy.typing import NDArray

from foldase_models.errors import ModelError
from foldase_models.folding.prediction import Template
from foldase_models.layers.atoms import atom37_to_torsions
from foldase_models.layers.residues import ATOM37_INDEX, RESTYPES, UNKNOWN

NOTHING = 21
"""The type of a residue that the template lacks."""
_N, _CA, _C, _CB = (ATOM37_INDEX[name] for name in ("N", "CA", "C", "CB"))


@dataclass(frozen=True, slots=True)
class TemplateFeatures:
    """As :class:`foldase_models.folding.alphafold.templates.Templates`, without its mask, as arrays."""

    aatype: NDArray[np.int64]
    pseudo_beta: NDArray[np.float32]
    pseudo_beta_mask: NDArray[np.bool_]
    backbone_mask: NDArray[np.bool_]
    torsions: NDArray[np.float32]
    other_torsions: NDArray[np.float32]
    torsion_mask: NDArray[np.bool_]


def template_features(
    chains: Sequence[str], templates: Sequence[Sequence[Template]], most: int, *, location: str
) -> TemplateFeatures | None:
    """Features of the first ``most`` templates, or None where there is none.

    Those of several chains take turns; each lies on its own chain and says nothing of the others.

    Args:
        chains: of the record.
        templates: those of each chain, best first.
        most: templates that the model takes.
        location: the record, for errors.

    Raises:
        ModelError: ``template_mismatch`` where a template has not the length of its chain.
    """
    starts = np.cumsum([0, *(len(chain) for chain in chains)])
    turns = zip_longest(*([(number, own) for own in of] for number, of in enumerate(templates)))
    chosen = [pair for turn in turns for pair in turn if pair is not None][:most]
    if not chosen:
        return None
    placed = [
        _placed(own, len(chains[number]), int(starts[number]), int(starts[-1]), location)
        for number, own in chosen
    ]
    aatype, positions, mask = (np.stack(arrays) for arrays in zip(*placed, strict=True))
    beta, beta_mask = _pseudo_beta(aatype, positions, mask)
    # In float64: a torsion is a small difference of large coordinates.
    torsions, other, torsion_mask = (
        found.numpy()
        for found in atom37_to_torsions(
            torch.from_numpy(positions), torch.from_numpy(mask), torch.from_numpy(np.minimum(aatype, UNKNOWN))
        )
    )
    return TemplateFeatures(
        aatype=aatype,
        pseudo_beta=beta.astype(np.float32),
        pseudo_beta_mask=beta_mask,
        backbone_mask=mask[..., _N] & mask[..., _CA] & mask[..., _C],
        torsions=torsions.astype(np.float32),
        other_torsions=other.astype(np.float32),
        torsion_mask=torsion_mask,
    )


def _placed(
    template: Template, length: int, start: int, residues: int, location: str
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.bool_]]:
    """Types, positions and mask of one template among all residues; what is masked lies at 0."""
    atoms = len(ATOM37_INDEX)
    shapes = (len(template.sequence), np.shape(template.positions), np.shape(template.mask))
    if shapes != (length, (length, atoms, 3), (length, atoms)):
        raise ModelError(
            f"template {template.name} has {shapes[0]} letters, positions {shapes[1]}, mask {shapes[2]}; "
            f"expected those of {length} residues",
            code="template_mismatch",
            location=location,
        )
    index = {letter: place for place, letter in enumerate(RESTYPES)} | {"-": NOTHING}
    own = slice(start, start + length)
    aatype = np.full(residues, NOTHING, dtype=np.int64)
    positions = np.zeros((residues, atoms, 3))
    mask = np.zeros((residues, atoms), dtype=np.bool_)
    aatype[own] = [index.get(letter, UNKNOWN) for letter in template.sequence]
    mask[own] = template.mask & (aatype[own] != NOTHING)[:, None]
    positions[own] = np.where(mask[own][..., None], template.positions, 0.0)
    if not np.isfinite(positions).all():
        raise ModelError(
            f"template {template.name} has positions that are not finite",
            code="template_mismatch",
            location=location,
        )
    return aatype, positions, mask


def _pseudo_beta(
    aatype: NDArray[np.int64], positions: NDArray[np.float64], mask: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """C-beta, or C-alpha of glycine, ``[..., 3]``, and whether it is known, from ``atom37``."""
    glycine = aatype == RESTYPES.index("G")
    beta = np.where(glycine[..., None], positions[..., _CA, :], positions[..., _CB, :])
    return beta, np.where(glycine, mask[..., _CA], mask[..., _CB])
