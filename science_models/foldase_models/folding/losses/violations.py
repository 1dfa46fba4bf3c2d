"""Bonds, angles and distances that no protein has.

Source: Jumper et al. 2021, supplement 1.9.11, equations 44 to 47. Shapes: ``...`` batch, N residues, 14 atoms
of a residue. Lengths in A.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from foldase_models.folding.losses.grouped import masked_mean, sum_over_rows
from foldase_models.folding.losses.truth import by_type
from foldase_models.layers import residues
from foldase_models.layers.residue_bonds import distance_bounds

DEVIATIONS = 12.0
"""Standard deviations that bonds and angles may be off."""
OVERLAP = 1.5
"""Of van der Waals spheres, A."""
EPSILON = 1e-6
_FAR = 1e6
_N, _ALPHA, _C = 0, 1, 2
_SULPHUR = residues.ATOM14[residues.RESTYPES.index("C")].index("SG")


@dataclass(frozen=True, slots=True)
class Violations:
    """Parts of the loss ``[...]``; their sum is what is minimised.

    Attributes:
        bond: length of the peptide bond.
        angles: at its two ends, as cosines; their own spread counts at both (at C the authors' code has that
            of the bond length).
        between: overlap of atoms of different residues, summed, per atom.
        within: distances inside residues, likewise.
        residues: residues of which an atom is in violation, boolean ``[..., N]``.
    """

    bond: torch.Tensor
    angles: torch.Tensor
    between: torch.Tensor
    within: torch.Tensor
    residues: torch.Tensor

    @property
    def total(self) -> torch.Tensor:
        """Of all parts."""
        return self.bond + self.angles + self.between + self.within


def find_violations(
    positions: torch.Tensor,
    aatype: torch.Tensor,
    mask: torch.Tensor,
    residue_index: torch.Tensor,
    chain_index: torch.Tensor,
) -> Violations:
    """What is wrong with the geometry of a prediction; the truth is not needed.

    Args:
        positions: ``[..., N, 14, 3]``, A.
        aatype: ``[..., N]``; nothing is said of residues of unknown type.
        mask: residues that exist, boolean ``[..., N]``; their atoms are all looked at.
        residue_index: ``[..., N]``.
        chain_index: ``[..., N]``.
    """
    exists = by_type(residues.ATOM14_MASK, aatype) & mask.unsqueeze(-1)
    # A residue of unknown type has no atoms: models leave its places at the origin, bonded to nothing.
    whole = exists[..., [_N, _ALPHA, _C]].all(-1)
    joined = _joined(residue_index, chain_index) & whole[..., 1:] & whole[..., :-1]
    bond, angles, wrong_bond = _peptide(positions, aatype, joined)
    between, clashing = _between(positions, aatype, exists, joined)
    within, bent = _within(positions, aatype, exists)
    atoms = exists.sum((-1, -2)).clamp(min=1).to(positions.dtype)
    hurt = clashing.any(-1) | bent.any(-1)
    hurt[..., :-1] |= wrong_bond
    hurt[..., 1:] |= wrong_bond
    return Violations(bond, angles, between / atoms, within / atoms, hurt)


def _joined(residue_index: torch.Tensor, chain_index: torch.Tensor) -> torch.Tensor:
    """Residues that a peptide bond joins to the next, ``[..., N - 1]``."""
    following = residue_index[..., 1:] - residue_index[..., :-1] == 1
    return following & (chain_index[..., 1:] == chain_index[..., :-1])


def _peptide(
    positions: torch.Tensor, aatype: torch.Tensor, joined: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Flat-bottomed errors of length and of the cosines at both ends, and which bonds are wrong."""
    alpha, c = positions[..., :-1, _ALPHA, :], positions[..., :-1, _C, :]
    n, next_alpha = positions[..., 1:, _N, :], positions[..., 1:, _ALPHA, :]
    proline = aatype[..., 1:] == residues.RESTYPES.index("P")
    mean, deviation = (
        positions.new_tensor([residues.BOND_C_N[k], residues.BOND_C_N_PROLINE[k]])[proline.long()]
        for k in (0, 1)
    )
    length = _norm(n - c)
    along = (n - c) / length.unsqueeze(-1)
    at_c = (_unit(alpha - c) * along).sum(-1)
    at_n = (_unit(next_alpha - n) * -along).sum(-1)
    errors = [
        ((length - mean).abs(), deviation),
        ((at_c - residues.COS_CA_C_N[0]).abs(), torch.full_like(at_c, residues.COS_CA_C_N[1])),
        ((at_n - residues.COS_C_N_CA[0]).abs(), torch.full_like(at_n, residues.COS_C_N_CA[1])),
    ]
    beyond = [(error - DEVIATIONS * allowed).relu() for error, allowed in errors]
    wrong = torch.stack(beyond).gt(0).any(0) & joined
    bond, *angles = (masked_mean(part, joined, 1) for part in beyond)
    return bond, angles[0] + angles[1], wrong


def _between(
    positions: torch.Tensor, aatype: torch.Tensor, exists: torch.Tensor, joined: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Overlap of atoms of different residues, each pair once for each of its atoms; which atoms clash."""
    count, places = exists.shape[-2:]
    radius = by_type(residues.ATOM14_RADII, aatype).to(positions.dtype)
    points, flat_exists, flat_radius = positions.flatten(-3, -2), exists.flatten(-2), radius.flatten(-2)
    # An atom that does not exist is far from everything.
    points = torch.where(flat_exists.unsqueeze(-1), points, _FAR)
    clashing = torch.zeros_like(exists)
    bonded = torch.nn.functional.pad(joined, (0, 1))
    cysteine = aatype == residues.RESTYPES.index("C")
    index = torch.arange(count, device=exists.device)

    def of_rows(rows: slice) -> torch.Tensor:
        own = positions[..., rows, :, :]
        distance = _norm(own.unsqueeze(-2) - points[..., None, None, :, :])
        least = radius[..., rows, :, None] + flat_radius[..., None, None, :] - OVERLAP
        pair = exists[..., rows, :, None] & flat_exists[..., None, None, :]
        pair = pair & (index[rows, None] != index).repeat_interleave(places, -1).unsqueeze(-2)
        pair = pair & ~_bond_pairs(rows, bonded, cysteine, places)
        overlap = (least - distance).relu() * pair
        clashing[..., rows, :] = overlap.detach().gt(0).any(-1)
        return overlap.sum((-1, -2, -3))

    row_bytes = 4 * places * points.numel() * positions.element_size()
    return sum_over_rows(of_rows, count, row_bytes), clashing


def _bond_pairs(rows: slice, bonded: torch.Tensor, cysteine: torch.Tensor, places: int) -> torch.Tensor:
    """Pairs ``[..., rows, 14, N * 14]`` that a peptide bond or a disulfide may join."""
    count = bonded.shape[-1]
    next_to = torch.diag_embed(bonded[..., :-1], offset=1) if count > 1 else bonded.unsqueeze(-1) & False
    pairs = torch.zeros(
        *bonded.shape[:-1],
        rows.stop - rows.start,
        places,
        count,
        places,
        dtype=torch.bool,
        device=bonded.device,
    )
    pairs[..., _C, :, _N] = next_to[..., rows, :]
    pairs[..., _N, :, _C] = next_to.mT[..., rows, :]
    pairs[..., _SULPHUR, :, _SULPHUR] = cysteine[..., rows, None] & cysteine[..., None, :]
    return pairs.flatten(-2)


def _within(
    positions: torch.Tensor, aatype: torch.Tensor, exists: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Distances inside residues that are out of bounds, and which atoms they are."""
    least, most = (
        torch.as_tensor(bound, dtype=positions.dtype, device=positions.device)[aatype] for bound in _bounds()
    )
    apart = positions.unsqueeze(-2) - positions.unsqueeze(-3)
    places = exists.shape[-1]
    pair = exists.unsqueeze(-1) & exists.unsqueeze(-2)
    pair = pair & ~torch.eye(places, dtype=torch.bool, device=exists.device)
    distance = _norm(torch.where(pair.unsqueeze(-1), apart, 1.0))
    error = ((least - distance).relu() + (distance - most).relu()) * pair
    # Each pair twice for each of its atoms, as in the code of the authors.
    return 2.0 * error.sum((-1, -2, -3)), error.detach().gt(0).any(-1)


@cache
def _bounds() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return distance_bounds(deviations=DEVIATIONS, overlap=OVERLAP)


def _norm(vectors: torch.Tensor) -> torch.Tensor:
    return (vectors.square().sum(-1) + EPSILON).sqrt()


def _unit(vectors: torch.Tensor) -> torch.Tensor:
    return vectors / _norm(vectors).unsqueeze(-1)
