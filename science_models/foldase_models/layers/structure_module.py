"""Where residues and their atoms are: eight times one block moves every residue (algorithms 20 to 24).

Shapes: B blocks, N residues, c_s and c_z channels of single and pair representation. Lengths in A, but for
translations inside, which count 10 A. Source: Jumper et al. 2021, supplement 1.8.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from foldase_kernels.operators import no_autocast
from foldase_models.layers.atoms import frames_to_atom14, torsions_to_frames
from foldase_models.layers.invariant_point_attention import InvariantPointAttention
from foldase_models.layers.primitives import Linear
from foldase_models.layers.rigid import Rigid
from foldase_models.layers.structure_dims import StructureDims


@dataclass(frozen=True, slots=True)
class StructureOutput:
    """What every block says; the last is the answer, the others serve the losses.

    Attributes:
        frames: of backbones ``[B, ..., N]``, A.
        sidechain_frames: of rigid groups ``[B, ..., N, 8]``, A.
        angles: torsions as sine and cosine ``[B, ..., N, 7, 2]``.
        unnormalized_angles: the same before their length was made 1.
        positions: of atoms ``[B, ..., N, 14, 3]``, A.
        states: of the single representation ``[B, ..., N, c_s]``.
    """

    frames: Rigid
    sidechain_frames: Rigid
    angles: torch.Tensor
    unnormalized_angles: torch.Tensor
    positions: torch.Tensor
    states: torch.Tensor

    @property
    def single(self) -> torch.Tensor:
        """The single representation after the last block ``[..., N, c_s]``."""
        return self.states[-1]


class BackboneUpdate(nn.Module):
    """Six numbers of each residue that say how it moves (algorithm 23). Key: ``linear``."""

    def __init__(self, c_s: int) -> None:
        super().__init__()
        self.linear = Linear(c_s, 6, init="final")

    def forward(self, single: torch.Tensor) -> torch.Tensor:
        """``[..., N, 6]``: imaginary parts of a quaternion, then a translation."""
        out: torch.Tensor = self.linear(single)
        return out


class TransitionLayer(nn.Module):
    """Three linear layers and their input. Keys: ``linear_1``, ``linear_2``, ``linear_3``."""

    def __init__(self, c_s: int) -> None:
        super().__init__()
        self.linear_1 = Linear(c_s, c_s, init="relu")
        self.linear_2 = Linear(c_s, c_s, init="relu")
        self.linear_3 = Linear(c_s, c_s, init="final")

    def forward(self, single: torch.Tensor) -> torch.Tensor:
        """New ``single`` ``[..., N, c_s]``."""
        hidden = self.linear_2(self.linear_1(single).relu()).relu()
        out: torch.Tensor = single + self.linear_3(hidden)
        return out


class StructureTransition(nn.Module):
    """Keys: ``layers``, ``layer_norm``."""

    def __init__(self, dims: StructureDims) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TransitionLayer(dims.c_s) for _ in range(dims.no_transition_layers))
        self.dropout = nn.Dropout(dims.dropout_rate)
        self.layer_norm = nn.LayerNorm(dims.c_s)

    def forward(self, single: torch.Tensor) -> torch.Tensor:
        """New ``single`` ``[..., N, c_s]``."""
        for layer in self.layers:
            single = layer(single)
        out: torch.Tensor = self.layer_norm(self.dropout(single))
        return out


class AngleResnetBlock(nn.Module):
    """Keys: ``linear_1``, ``linear_2``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear_1 = Linear(width, width, init="relu")
        self.linear_2 = Linear(width, width, init="final")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """New ``x`` ``[..., N, c_resnet]``."""
        out: torch.Tensor = x + self.linear_2(self.linear_1(x.relu()).relu())
        return out


class AngleResnet(nn.Module):
    """Torsions from a residue's state and what it was at first (algorithm 20, lines 11 to 14).

    Keys: ``linear_in``, ``linear_initial``, ``layers``, ``linear_out``. Inputs pass a ReLU first, as in the
    published code and not in its text.
    """

    def __init__(self, dims: StructureDims) -> None:
        super().__init__()
        self.epsilon = dims.epsilon
        self.linear_in = Linear(dims.c_s, dims.c_resnet)
        self.linear_initial = Linear(dims.c_s, dims.c_resnet)
        self.layers = nn.ModuleList(AngleResnetBlock(dims.c_resnet) for _ in range(dims.no_resnet_blocks))
        self.linear_out = Linear(dims.c_resnet, 2 * dims.no_angles)

    def forward(self, single: torch.Tensor, initial: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Torsions ``[..., N, 7, 2]``: as they come, and of length 1."""
        x = self.linear_in(single.relu()) + self.linear_initial(initial.relu())
        for layer in self.layers:
            x = layer(x)
        raw = self.linear_out(x.relu())
        raw = raw.reshape(*raw.shape[:-1], -1, 2)
        return raw, raw / raw.square().sum(-1, keepdim=True).clamp(min=self.epsilon).sqrt()


class StructureModule(nn.Module):
    """See the module's text.

    Keys: ``layer_norm_s``, ``layer_norm_z``, ``linear_in``, ``ipa``, ``layer_norm_ipa``, ``transition``,
    ``bb_update``, ``angle_resnet``: those of OpenFold and of Hugging Face's ESMFold.

    Attributes:
        computes_in_float32: told to whoever trains in a narrower dtype.
    """

    computes_in_float32: ClassVar[bool] = True

    def __init__(self, dims: StructureDims) -> None:
        super().__init__()
        self.dims = dims
        self.layer_norm_s = nn.LayerNorm(dims.c_s)
        self.layer_norm_z = nn.LayerNorm(dims.c_z)
        self.linear_in = Linear(dims.c_s, dims.c_s)
        self.ipa = InvariantPointAttention(dims)
        self.ipa_dropout = nn.Dropout(dims.dropout_rate)
        self.layer_norm_ipa = nn.LayerNorm(dims.c_s)
        self.transition = StructureTransition(dims)
        self.bb_update = BackboneUpdate(dims.c_s)
        self.angle_resnet = AngleResnet(dims)

    def forward(
        self,
        single: torch.Tensor,
        pair: torch.Tensor,
        aatype: torch.Tensor,
        mask: torch.Tensor | None = None,
    ) -> StructureOutput:
        """Fold.

        All is computed in the dtype of the weights, in an autocast region too: frames and distances would not
        survive half precision. Rotations pass no gradient from block to block.

        Args:
            single: ``[..., N, c_s]``.
            pair: ``[..., N, N, c_z]``; read in groups of rows, how many
                :func:`foldase_models.layers.row_groups.working_set` says, and never copied whole.
            aatype: residue types ``[..., N]``, int64.
            mask: of residues, boolean ``[..., N]``, True = real.
        """
        with no_autocast(single.device):
            return self._fold(single.to(self.linear_in.weight.dtype), pair, aatype, mask)

    def _fold(
        self, single: torch.Tensor, pair: torch.Tensor, aatype: torch.Tensor, mask: torch.Tensor | None
    ) -> StructureOutput:
        initial = self.layer_norm_s(single)
        state = self.linear_in(initial)
        frames = Rigid.identity(state.shape[:-1], like=state)
        said: list[tuple[torch.Tensor, ...]] = []
        for _ in range(self.dims.no_blocks):
            state = state + self.ipa(state, pair, frames, mask, pair_norm=self.layer_norm_z)
            state = self.transition(self.layer_norm_ipa(self.ipa_dropout(state)))
            frames = frames.compose_update(self.bb_update(state))
            raw, angles = self.angle_resnet(state, initial)
            backbone = frames.scale_translation(self.dims.trans_scale_factor)
            groups = torsions_to_frames(backbone, angles, aatype)
            atoms = frames_to_atom14(groups, aatype)
            motions = (backbone.rotation, backbone.translation, groups.rotation, groups.translation)
            said.append((*motions, angles, raw, atoms, state))
            frames = frames.stop_rotation_gradient()
        turn, shift, group_turn, group_shift, *rest = (torch.stack(of, 0) for of in zip(*said, strict=True))
        return StructureOutput(Rigid(turn, shift), Rigid(group_turn, group_shift), *rest)
