"""What the losses compare with: frames, atoms and torsions of the true structure.

Shapes: ``...`` batch, N residues, 14 or 37 places for atoms, 8 rigid groups, 4 torsions of the side chain.
Lengths in A. Source: Jumper et al. 2021, supplement 1.2.1 and 1.8.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from foldase_models.layers.atoms import (
    atom37_to_atom14,
    atom37_to_frames,
    atom37_to_torsions,
    atoms_of,
    pseudo_beta,
)
from foldase_models.layers.residues import ATOM37, ATOM37_INDEX, RESTYPES
from foldase_models.layers.rigid import Rigid


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """One batch of true structures; masks are boolean.

    Attributes:
        aatype: ``[..., N]``.
        residue_mask: residues that exist (not padding), ``[..., N]``.
        residue_index: ``[..., N]``, grows by one along a chain.
        chain_index: ``[..., N]``, equal in one chain.
        atom37, atom37_mask: ``[..., N, 37, 3]`` and ``[..., N, 37]``.
        atom14, atom14_mask: the same atoms by residue, ``[..., N, 14, 3]`` and ``[..., N, 14]``.
        groups, groups_mask: frames of the rigid groups ``[..., N, 8]``; omega and phi hold no atom: masked.
        other_groups: the same where symmetric side chains are named the other way.
        chi, chi_mask: sine and cosine ``[..., N, 4, 2]``, and which are known ``[..., N, 4]``.
        beta, beta_mask: C-beta, of glycine C-alpha, ``[..., N, 3]`` and ``[..., N]``.
        resolution: A, ``[...]``; None where unknown, and then everything counts.
    """

    aatype: torch.Tensor
    residue_mask: torch.Tensor
    residue_index: torch.Tensor
    chain_index: torch.Tensor
    atom37: torch.Tensor
    atom37_mask: torch.Tensor
    atom14: torch.Tensor
    atom14_mask: torch.Tensor
    groups: Rigid
    other_groups: Rigid
    groups_mask: torch.Tensor
    chi: torch.Tensor
    chi_mask: torch.Tensor
    beta: torch.Tensor
    beta_mask: torch.Tensor
    resolution: torch.Tensor | None = None

    @classmethod
    def from_atoms(
        cls,
        aatype: torch.Tensor,
        positions: torch.Tensor,
        mask: torch.Tensor,
        residue_index: torch.Tensor,
        *,
        chain_index: torch.Tensor | None = None,
        residue_mask: torch.Tensor | None = None,
        resolution: torch.Tensor | None = None,
    ) -> Truth:
        """From atoms ``[..., N, 37, 3]`` in A, those that are known ``[..., N, 37]`` and residue types.

        One chain where ``chain_index`` is None, no padding where ``residue_mask`` is.
        """
        mask = mask.bool() & atoms_of(aatype, len(ATOM37))
        positions = torch.where(mask.unsqueeze(-1), positions, 0.0)
        atom14_mask = atom37_to_atom14(mask.unsqueeze(-1).to(positions.dtype), aatype).squeeze(-1).bool()
        groups = atom37_to_frames(positions, mask, aatype)
        torsions = atom37_to_torsions(positions, mask, aatype)
        glycine = aatype == RESTYPES.index("G")
        return cls(
            aatype=aatype,
            residue_mask=torch.ones_like(aatype, dtype=torch.bool) if residue_mask is None else residue_mask,
            residue_index=residue_index,
            chain_index=torch.zeros_like(aatype) if chain_index is None else chain_index,
            atom37=positions,
            atom37_mask=mask,
            atom14=atom37_to_atom14(positions, aatype),
            atom14_mask=atom14_mask,
            groups=groups.frames,
            other_groups=groups.alternative,
            groups_mask=groups.mask,
            chi=torsions.sin_cos[..., 3:, :],
            chi_mask=torsions.mask[..., 3:],
            beta=pseudo_beta(positions, aatype),
            beta_mask=torch.where(glycine, mask[..., ATOM37_INDEX["CA"]], mask[..., ATOM37_INDEX["CB"]]),
            resolution=resolution,
        )

    @property
    def backbone(self) -> Rigid:
        """Frames of backbones ``[..., N]``."""
        return self.groups[..., 0]

    @property
    def backbone_mask(self) -> torch.Tensor:
        """Which backbones are known, boolean ``[..., N]``."""
        return self.groups_mask[..., 0]

    @property
    def counts(self) -> torch.Tensor:
        """1 where confidence is learned from the structure: resolution 0.1 to 3 A or unknown; ``[...]``."""
        if self.resolution is None:
            return self.atom37.new_ones(self.aatype.shape[:-1])
        return ((self.resolution >= 0.1) & (self.resolution <= 3.0)).to(self.atom37.dtype)


def by_type(table: NDArray[np.generic], aatype: torch.Tensor) -> torch.Tensor:
    """Rows ``[..., N, *]`` of a table ``[21, *]`` by residue type."""
    return torch.as_tensor(table, device=aatype.device)[aatype]
