"""Sizes of ESMFold, read from a Hugging Face ``config.json``. Importable without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from foldase_models.errors import ModelError
from foldase_models.folding.esm2.config import VOCABULARY, Esm2Config
from foldase_models.layers.config_values import check_fields
from foldase_models.layers.structure_dims import StructureDims

TOKENS = 23
"""The twenty residue types, X, the mask, and one without use, as the trunk and its language head know
them. The published model looks a residue's type up without the shift by one that its padding would need."""
MASK_TOKEN = 22

LDDT_WIDTH = 128
PASSES = 4

_STRUCTURE_NAMES = {
    "c_s": "sequence_dim",
    "c_z": "pairwise_dim",
    "c_ipa": "ipa_dim",
    "c_resnet": "resnet_dim",
    "no_heads_ipa": "num_heads_ipa",
    "no_qk_points": "num_qk_points",
    "no_v_points": "num_v_points",
    "dropout_rate": "dropout_rate",
    "no_blocks": "num_blocks",
    "no_transition_layers": "num_transition_layers",
    "no_resnet_blocks": "num_resnet_blocks",
    "no_angles": "num_angles",
    "trans_scale_factor": "trans_scale_factor",
    "epsilon": "epsilon",
}
"""Fields of :class:`StructureDims` by their names in the file."""

_TRUNK_NAMES = {
    "c_s": "sequence_state_dim",
    "c_z": "pairwise_state_dim",
    "sequence_head_width": "sequence_head_width",
    "pair_head_width": "pairwise_head_width",
    "no_blocks": "num_blocks",
    "position_bins": "position_bins",
    "dropout": "dropout",
}

_NOT_KNOWN = ("use_esm_attn_map", "esm_ablate_sequence", "bypass_lm")
"""Settings of experiments that no published checkpoint has on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrunkDims:
    """Widths of the folding trunk; the defaults are those of the published model.

    Attributes:
        c_s, c_z: channels of sequence and pair representation.
        sequence_head_width, pair_head_width: channels of one head of attention.
        no_blocks: blocks.
        position_bins: offsets along the sequence beyond it are seen as equal.
        dropout: rate on the sequence, twice that on pairs.
    """

    c_s: int = 1024
    c_z: int = 128
    sequence_head_width: int = 32
    pair_head_width: int = 32
    no_blocks: int = 48
    position_bins: int = 32
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_fields(self, positive=("c_s", "c_z", "sequence_head_width", "pair_head_width", "position_bins"))
        if self.c_s % self.sequence_head_width or self.c_z % self.pair_head_width or self.c_z % 2:
            raise ModelError(
                f"heads of {self.sequence_head_width} and {self.pair_head_width} channels do not divide "
                f"{self.c_s} and {self.c_z}",
                code="bad_config",
            )

    @property
    def sequence_heads(self) -> int:
        """Heads of attention along the sequence."""
        return self.c_s // self.sequence_head_width

    @property
    def pair_heads(self) -> int:
        """Heads of attention along triangles."""
        return self.c_z // self.pair_head_width


@dataclass(frozen=True, slots=True, kw_only=True)
class EsmFoldConfig:
    """What is needed to build the model; the defaults of trunk and structure are the published ones.

    Attributes:
        language: of the language model whose states the trunk starts from.
        trunk: widths of the folding trunk.
        structure: widths of the structure module.
        lddt_width: channels inside the head of per-atom confidence.
        embed_aa: whether residue types are embedded beside the language model's states.
        passes: of the trunk, as trained; one more than recycles.
    """

    language: Esm2Config
    trunk: TrunkDims = field(default_factory=TrunkDims)
    structure: StructureDims = field(default_factory=StructureDims)
    lddt_width: int = LDDT_WIDTH
    embed_aa: bool = True
    passes: int = PASSES

    def __post_init__(self) -> None:
        check_fields(self, positive=("lddt_width", "passes"))

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> EsmFoldConfig:
        """From a Hugging Face ``config.json`` of ``EsmForProteinFolding``; what it lacks has the default.

        Raises:
            ModelError: the configuration of another model (``wrong_model``), or one that is not known here
                (``bad_config``).
        """
        own = values.get("esmfold_config")
        if not values.get("is_folding_model") or not isinstance(own, Mapping):
            raise ModelError(
                "not the configuration of ESMFold: it has no esmfold_config",
                code="wrong_model",
                hint="give the folder of a checkpoint of EsmForProteinFolding",
            )
        for name in _NOT_KNOWN:
            if own.get(name):
                raise ModelError(f"{name} is {own[name]!r}, which is not known here", code="bad_config")
        trunk = _object(own, "trunk")
        passes = trunk.get("max_recycles")
        return cls(
            language=Esm2Config.from_json(values),
            trunk=TrunkDims(**_renamed(trunk, _TRUNK_NAMES)),
            structure=StructureDims(**_renamed(_object(trunk, "structure_module"), _STRUCTURE_NAMES)),
            lddt_width=own.get("lddt_head_hid_dim") or LDDT_WIDTH,
            embed_aa=own.get("embed_aa", True),
            # Their model makes one pass at least.
            passes=1 if passes == 0 else PASSES if passes is None else passes,
        )

    def to_json(self) -> dict[str, Any]:
        """As in the file: the inverse of :meth:`from_json`."""
        structure = {theirs: getattr(self.structure, ours) for ours, theirs in _STRUCTURE_NAMES.items()}
        trunk = {theirs: getattr(self.trunk, ours) for ours, theirs in _TRUNK_NAMES.items()}
        own = {
            "embed_aa": self.embed_aa,
            "lddt_head_hid_dim": self.lddt_width,
            "trunk": {**trunk, "max_recycles": self.passes, "structure_module": structure},
        }
        return {
            "architectures": ["EsmForProteinFolding"],
            "model_type": "esm",
            "is_folding_model": True,
            "vocab_list": list(VOCABULARY),
            **asdict(self.language),
            "esmfold_config": own,
        }


def _object(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = values.get(name)
    if found is None:
        return {}
    if not isinstance(found, Mapping):
        raise ModelError(f"{name} is {type(found).__name__}; expected an object", code="bad_config")
    return found


def _renamed(values: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {ours: values[theirs] for ours, theirs in names.items() if values.get(theirs) is not None}
