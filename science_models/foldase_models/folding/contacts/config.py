"""Sizes of the contact model. Importable without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from foldase_models.errors import ModelError
from foldase_models.layers.dims import EvoformerDims

PAIR_FEATURES = 8
"""Of a pair, where the inputs are couplings: those of :mod:`foldase_models.coevolution.pair_features`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContactModelConfig:
    """What is needed to build the model and to read its output.

    Attributes:
        letters: the alphabet, one character a letter; alignments must hold indices into it.
        inputs: ``letters``: the model sees rows and their covariance, and learns what letters mean;
            ``couplings``: it sees scores of pairs in which letters no longer occur
            (:mod:`foldase_models.coevolution.pair_features`), so ``heads`` are those of pairs only and
            ``sequences`` and ``outer_width`` count for nothing.
        convolutions: before the pair stack of each block, where the inputs are couplings.
        width: channels of alignment and pair representation (c_m, c_z).
        blocks: Evoformer blocks.
        heads: attention heads; a head has ``head_width`` channels.
        recycles: times the output is fed back before the last pass.
        sequences: rows the Evoformer works on; the pairs see all rows by an outer product.
        max_offset: sequence offsets beyond it are seen as equal.
        distance_first, distance_last, distance_bins: bins of the distogram, A; the first and the last bin
            are open.
        contact_cutoff, min_separation: what counts as a contact in the training data, A and residues.
    """

    letters: str
    width: int = 32
    blocks: int = 2
    heads: int = 4
    head_width: int = 8
    outer_width: int = 8
    transition_n: int = 2
    recycles: int = 1
    sequences: int = 32
    max_offset: int = 32
    dropout: float = 0.05
    distance_first: float = 4.0
    distance_last: float = 26.0
    distance_bins: int = 24
    contact_cutoff: float = 7.0
    min_separation: int = 4
    inputs: Literal["letters", "couplings"] = "letters"
    convolutions: int = 0

    def __post_init__(self) -> None:
        if len(self.letters) < 2 or len(set(self.letters)) != len(self.letters):
            raise ModelError(
                f"letters must be at least two different characters, got {self.letters!r}", code="bad_config"
            )
        for name in ("width", "blocks", "heads", "head_width", "outer_width", "sequences"):
            if getattr(self, name) < 1:
                raise ModelError(f"{name} must be at least 1, got {getattr(self, name)}", code="bad_config")
        if self.distance_bins < 3 or not 0 < self.distance_first < self.distance_last:
            raise ModelError("the distogram needs 3 or more bins and rising limits", code="bad_config")
        if self.inputs not in ("letters", "couplings"):
            raise ModelError(
                f"inputs must be 'letters' or 'couplings', got {self.inputs!r}", code="bad_config"
            )
        if self.convolutions < 0 or (self.convolutions and self.inputs == "letters"):
            raise ModelError("convolutions must not be negative, and need couplings", code="bad_config")
        if self.recycles < 0:
            raise ModelError(f"recycles must not be negative, got {self.recycles}", code="bad_config")

    @property
    def gap(self) -> int | None:
        """The letter that stands for a gap, where the alphabet has one."""
        index = self.letters.find("-")
        return index if index >= 0 else None

    @property
    def evoformer(self) -> EvoformerDims:
        """Widths of the blocks."""
        return EvoformerDims(
            c_m=self.width,
            c_z=self.width,
            c_hidden_msa_att=self.head_width,
            c_hidden_opm=self.outer_width,
            c_hidden_mul=self.width,
            c_hidden_pair_att=self.head_width,
            no_heads_msa=self.heads,
            no_heads_pair=self.heads,
            transition_n=self.transition_n,
            msa_dropout=self.dropout,
            pair_dropout=self.dropout,
            opm_first=True,
            opm_centred=True,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ContactModelConfig:
        """The inverse of :meth:`to_json`.

        Raises:
            ModelError: unknown or missing fields.
        """
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown or "letters" not in values:
            fault = f"unknown fields {unknown}" if unknown else "no field 'letters'"
            raise ModelError(f"not the configuration of a contact model: {fault}", code="bad_config")
        return cls(**values)
