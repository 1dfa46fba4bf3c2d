"""Widths of the structure module; importable without torch, for configurations and planning."""

from __future__ import annotations

from dataclasses import dataclass

from foldase_models.errors import ModelError
from foldase_models.layers.config_values import check_fields

TORSIONS = 7
"""Omega, phi, psi, chi 1 to 4."""
_POSITIVE = (
    "c_s",
    "c_z",
    "c_ipa",
    "c_resnet",
    "no_heads_ipa",
    "no_qk_points",
    "no_v_points",
    "no_blocks",
    "trans_scale_factor",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StructureDims:
    """The defaults are those of AlphaFold 2 (Jumper et al. 2021, supplement 1.8).

    Attributes:
        c_s, c_z: channels of single and pair representation.
        c_ipa: channels of a head of invariant point attention.
        c_resnet: channels of the network for torsions.
        no_heads_ipa, no_qk_points, no_v_points: heads, and points of a head as queries and keys, as values.
        dropout_rate: after attention and transition.
        no_blocks: times the one block is applied.
        no_transition_layers, no_resnet_blocks, no_angles: of the networks behind the attention.
        trans_scale_factor: A in one unit of the module's translations.
        epsilon: floor of squared lengths.

    Raises:
        ModelError: ``bad_config``: a width that is no whole number above 0, or other torsions than seven.
    """

    c_s: int = 384
    c_z: int = 128
    c_ipa: int = 16
    c_resnet: int = 128
    no_heads_ipa: int = 12
    no_qk_points: int = 4
    no_v_points: int = 8
    dropout_rate: float = 0.1
    no_blocks: int = 8
    no_transition_layers: int = 1
    no_resnet_blocks: int = 2
    no_angles: int = 7
    trans_scale_factor: float = 10.0
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        check_fields(self, positive=_POSITIVE)
        if self.no_angles != TORSIONS:
            raise ModelError(
                f"no_angles must be {TORSIONS}, the torsions of a residue, got {self.no_angles}",
                code="bad_config",
            )
