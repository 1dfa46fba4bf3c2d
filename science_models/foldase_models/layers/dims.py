"""Widths of the Evoformer; importable without torch, for configurations and planning."""

from __future__ import annotations

from dataclasses import dataclass

from foldase_models.layers.config_values import check_fields

_WIDTHS = (
    "c_m",
    "c_z",
    "c_hidden_msa_att",
    "c_hidden_opm",
    "c_hidden_mul",
    "c_hidden_pair_att",
    "no_heads_msa",
    "no_heads_pair",
    "transition_n",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvoformerDims:
    """Widths of one block; the defaults are those of AlphaFold 2.

    Raises:
        ModelError: ``bad_config``: a width that is no whole number above 0, a rate that is no number.
    """

    c_m: int = 256
    c_z: int = 128
    c_hidden_msa_att: int = 32
    c_hidden_opm: int = 32
    c_hidden_mul: int = 128
    c_hidden_pair_att: int = 32
    no_heads_msa: int = 8
    no_heads_pair: int = 4
    transition_n: int = 4
    msa_dropout: float = 0.15
    pair_dropout: float = 0.25
    opm_first: bool = False
    opm_centred: bool = False

    def __post_init__(self) -> None:
        check_fields(self, positive=_WIDTHS)
