"""From frames and torsions to atoms, and back (Jumper et al. 2021, supplement 1.8.4 and algorithm 24).

Shapes: N residues, 37 or 14 places of atoms (:mod:`foldase_models.layers.residues`), 8 rigid groups, 7
torsions in the order omega, phi, psi, chi 1 to 4. Torsions are pairs (sine, cosine). Lengths in A.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from foldase_models.layers import residues
from foldase_models.layers.rigid import Rigid
from foldase_models.layers.structure_dims import TORSIONS

_N, _CA, _C, _O = (residues.ATOM37_INDEX[name] for name in ("N", "CA", "C", "O"))


class Torsions(NamedTuple):
    """Torsions of known structures.

    Attributes:
        sin_cos: ``[..., N, 7, 2]``, of length 1 wherever atoms are not on one spot.
        alternative: the same where symmetric side chains are named the other way.
        mask: ``[..., N, 7]``, boolean: all four atoms are known, and the residue has this torsion.
    """

    sin_cos: torch.Tensor
    alternative: torch.Tensor
    mask: torch.Tensor


class GroupFrames(NamedTuple):
    """Frames of the rigid groups of known structures.

    Attributes:
        frames: ``[..., N, 8]``.
        alternative: the same where symmetric side chains are named the other way.
        mask: ``[..., N, 8]``, boolean: the residue has this group and its three atoms are known.
        ambiguous: ``[..., N, 8]``, boolean: the two frames differ.
    """

    frames: Rigid
    alternative: Rigid
    mask: torch.Tensor
    ambiguous: torch.Tensor


def torsions_to_frames(backbone: Rigid, torsions: torch.Tensor, aatype: torch.Tensor) -> Rigid:
    """Frames of all rigid groups (algorithm 24).

    Args:
        backbone: frames ``[..., N]``, A.
        torsions: ``[..., N, 7, 2]``, sine and cosine, of length 1.
        aatype: residue types ``[..., N]``, int64.

    Returns:
        ``[..., N, 8]``: backbone, omega, phi, psi, chi 1 to 4.
    """
    at_rest = Rigid.from_tensor_4x4(_table(residues.GROUP_FRAMES, torsions)[aatype])
    turned = at_rest.compose(_turns_around_x(torsions))
    groups = [turned[..., group] for group in range(residues.GROUPS)]
    for group in range(5, residues.GROUPS):
        groups[group] = groups[group - 1].compose(groups[group])
    in_backbone = Rigid.cat([group.unsqueeze(-1) for group in groups], dim=-1)
    return backbone.unsqueeze(-1).compose(in_backbone)


def frames_to_atom14(frames: Rigid, aatype: torch.Tensor) -> torch.Tensor:
    """Atoms at their ideal places in the frames ``[..., N, 8]`` of their groups: ``[..., N, 14, 3]``, A.

    Places without an atom are 0.
    """
    like = frames.translation
    group = _table(residues.ATOM14_GROUP, like, integer=True)[aatype]
    wide = group[..., None].expand(*group.shape, 3)
    own = Rigid(
        frames.rotation.gather(-3, wide[..., None].expand(*wide.shape, 3)),
        frames.translation.gather(-2, wide),
    )
    atoms = own.apply(_table(residues.ATOM14_POSITIONS, like)[aatype])
    return atoms * _table(residues.ATOM14_MASK, like)[aatype][..., None]


def atom14_to_atom37(values: torch.Tensor, aatype: torch.Tensor) -> torch.Tensor:
    """What is known of the 14 places ``[..., N, 14, c]``, at the 37; 0 where the residue has no atom."""
    return _at_other_places(values, aatype, residues.ATOM37_TO_ATOM14, residues.ATOM37_MASK)


def atom37_to_atom14(values: torch.Tensor, aatype: torch.Tensor) -> torch.Tensor:
    """What is known of the 37 places ``[..., N, 37, c]``, at the 14; 0 where the residue has no atom."""
    return _at_other_places(values, aatype, residues.ATOM14_TO_ATOM37, residues.ATOM14_MASK)


def atoms_of(aatype: torch.Tensor, places: int) -> torch.Tensor:
    """Which atoms residues have, boolean ``[..., N, places]``, of 14 or 37 places."""
    mask = {14: residues.ATOM14_MASK, 37: residues.ATOM37_MASK}[places]
    return torch.as_tensor(mask, device=aatype.device)[aatype]


def pseudo_beta(positions: torch.Tensor, aatype: torch.Tensor) -> torch.Tensor:
    """C-beta of ``[..., N, 37, 3]``, C-alpha where the residue is glycine: ``[..., N, 3]``."""
    glycine = (aatype == residues.RESTYPES.index("G"))[..., None]
    beta = residues.ATOM37_INDEX["CB"]
    return torch.where(glycine, positions[..., _CA, :], positions[..., beta, :])


def atom37_to_torsions(positions: torch.Tensor, mask: torch.Tensor, aatype: torch.Tensor) -> Torsions:
    """Torsions of known structures, as the tables define them.

    Psi is taken from the oxygen, which lies opposite the nitrogen of the next residue. Omega and phi need the
    residue before, which is the one before in the tensor: mask its atoms where a chain begins or is broken.

    Args:
        positions: ``[..., N, 37, 3]``, A.
        mask: of atoms that are known, boolean ``[..., N, 37]``.
        aatype: residue types ``[..., N]``, int64.
    """
    before = torch.cat([torch.zeros_like(positions[..., :1, :, :]), positions[..., :-1, :, :]], -3)
    known_before = torch.cat([torch.zeros_like(mask[..., :1, :]), mask[..., :-1, :]], -2)
    chi_atoms = torch.as_tensor(residues.CHI_ATOMS, device=aatype.device)[aatype]
    chi_exists = torch.as_tensor(residues.CHI_MASK, device=aatype.device)[aatype]

    def quartets_of(own: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
        """Of omega, phi and psi, ``[..., N, 3, 4, c]``, from atoms ``[..., N, 37, c]``."""
        paths = (
            ((last, _CA), (last, _C), (own, _N), (own, _CA)),
            ((last, _C), (own, _N), (own, _CA), (own, _C)),
            ((own, _N), (own, _CA), (own, _C), (own, _O)),
        )
        atoms = [values[..., place, :] for path in paths for values, place in path]
        return torch.stack(atoms, -2).reshape(*own.shape[:-2], 3, 4, own.shape[-1])

    chi = _gather_atoms(positions, chi_atoms)
    quartets = torch.cat([quartets_of(positions, before), chi], -3)
    wide = mask.unsqueeze(-1)
    backbone = quartets_of(wide, known_before.unsqueeze(-1)).squeeze(-1).all(-1)
    chi_known = _gather_atoms(wide, chi_atoms).squeeze(-1).all(-1) & chi_exists
    exists = torch.cat([backbone, chi_known], -1)
    frame = Rigid.from_three_points(quartets[..., 1, :], quartets[..., 2, :], quartets[..., 0, :])
    end = frame.apply_inverse(quartets[..., 3, :])
    sin_cos = torch.stack([end[..., 2], end[..., 1]], -1)
    sin_cos = sin_cos / (sin_cos.square().sum(-1, keepdim=True) + 1e-8).sqrt()
    sin_cos = sin_cos * sin_cos.new_tensor([1, 1, -1, 1, 1, 1, 1])[:, None] * exists[..., None]
    return Torsions(sin_cos, sin_cos * _mirror_signs(aatype, sin_cos), exists)


def atom37_to_frames(positions: torch.Tensor, mask: torch.Tensor, aatype: torch.Tensor) -> GroupFrames:
    """Frames of the rigid groups of known structures; arguments as of :func:`atom37_to_torsions`.

    Frames where ``mask`` of the result is False are finite and mean nothing.
    """
    base = torch.as_tensor(residues.GROUP_BASE_ATOMS, device=aatype.device)[aatype]
    exists = torch.as_tensor(residues.GROUP_MASK, device=aatype.device)[aatype]
    points = _gather_atoms(positions, base)
    known = _gather_atoms(mask.unsqueeze(-1), base).squeeze(-1).all(-1)
    frames = Rigid.from_three_points(points[..., 0, :], points[..., 1, :], points[..., 2, :])
    # The backbone's first atom lies on the positive x axis: half a turn around y.
    flip = frames.rotation.new_ones(residues.GROUPS, 3)
    flip[0] = flip.new_tensor([-1.0, 1.0, -1.0])
    frames = Rigid(frames.rotation * flip[:, None, :], frames.translation)
    turned = np.zeros((residues.TYPES, residues.GROUPS), dtype=np.bool_)
    turned[:, 4:] = residues.CHI_PI_PERIODIC
    ambiguous = torch.as_tensor(turned, device=aatype.device)[aatype]
    half_turn = frames.rotation.new_tensor([1.0, -1.0, -1.0])
    signs = torch.where(ambiguous[..., None], half_turn, torch.ones_like(half_turn))
    other = Rigid(frames.rotation * signs[..., None, :], frames.translation)
    return GroupFrames(frames, other, exists & known, ambiguous)


def _table(array: NDArray[np.generic], like: torch.Tensor, *, integer: bool = False) -> torch.Tensor:
    dtype = torch.int64 if integer else like.dtype
    return torch.as_tensor(array, dtype=dtype, device=like.device)


def _turns_around_x(torsions: torch.Tensor) -> Rigid:
    """Of the eight groups; the backbone's is none."""
    none = torsions.new_tensor([[0.0, 1.0]]).expand(*torsions.shape[:-2], 1, 2)
    sine, cosine = torch.cat([none, torsions], -2).unbind(-1)
    zero, one = torch.zeros_like(sine), torch.ones_like(sine)
    entries = [one, zero, zero, zero, cosine, -sine, zero, sine, cosine]
    rotation = torch.stack(entries, -1).reshape(*sine.shape, 3, 3)
    return Rigid(rotation, rotation.new_zeros(*sine.shape, 3))


def _at_other_places(
    values: torch.Tensor, aatype: torch.Tensor, places: NDArray[np.int64], mask: NDArray[np.bool_]
) -> torch.Tensor:
    index = torch.as_tensor(places, device=aatype.device)[aatype]
    exists = torch.as_tensor(mask, device=aatype.device)[aatype]
    batch = values.shape[:-2]
    wide = index[..., None].expand(*batch, index.shape[-1], values.shape[-1])
    return values.gather(-2, wide) * exists[..., None].to(values.dtype)


def _gather_atoms(values: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Of ``[..., N, 37, c]`` what stands at ``[..., N, a, b]``: ``[..., N, a, b, c]``."""
    flat = places.flatten(-2)[..., None].expand(*values.shape[:-2], -1, values.shape[-1])
    return values.gather(-2, flat).reshape(*places.shape, values.shape[-1])


def _mirror_signs(aatype: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    signs = np.ones((residues.TYPES, TORSIONS, 1))
    signs[:, 3:, 0] = 1 - 2 * residues.CHI_PI_PERIODIC
    return _table(signs, like)[aatype]
