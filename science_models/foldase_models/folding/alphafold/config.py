"""Sizes of the model, and of what it is shown. Importable without torch.

Sources: Jumper et al. 2021, supplement 1.4 to 1.10 and tables 4 and 5 (models 1.1.1 to 1.2.3 are ``model_1``
to ``model_5``); the same figures are in OpenFold's configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from foldase_models.errors import ModelError
from foldase_models.layers.config_values import check_fields
from foldase_models.layers.dims import EvoformerDims
from foldase_models.layers.structure_dims import StructureDims

KIND = "alphafold"
EXTRA_MSA = EvoformerDims(c_m=64, c_hidden_msa_att=8)
TEMPLATE = EvoformerDims(
    c_z=64, c_hidden_mul=64, c_hidden_pair_att=16, no_heads_pair=4, transition_n=2, pair_dropout=0.25
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureSizes:
    """What the model is shown of an alignment and of templates.

    Attributes:
        clusters: rows that the Evoformer works on, the query among them.
        extra: further rows, which only inform the pairs.
        templates: at most so many.
        masked_fraction: of the letters of the clusters, hidden or replaced in each pass.
        profile_share, same_share, uniform_share: how hidden letters are replaced: by a letter drawn from the
            column, by itself, by any residue; else by the mask.
    """

    clusters: int = 512
    extra: int = 1024
    templates: int = 4
    masked_fraction: float = 0.15
    profile_share: float = 0.1
    same_share: float = 0.1
    uniform_share: float = 0.1

    def __post_init__(self) -> None:
        check_fields(self)
        shares = (self.profile_share, self.same_share, self.uniform_share)
        if self.clusters < 1 or self.extra < 1 or self.templates < 0:
            raise ModelError("clusters and extra rows must be 1 or more", code="bad_config")
        if not 0 <= self.masked_fraction <= 1 or min(shares) < 0 or sum(shares) > 1:
            raise ModelError("shares of masked letters must lie in 0 to 1", code="bad_config")


@dataclass(frozen=True, slots=True, kw_only=True)
class AlphaFoldConfig:
    """What is needed to build the model; the defaults are those of ``model_2_ptm``.

    Attributes:
        evoformer: widths; ``c_m`` and ``c_z`` are those of the whole model.
        extra_msa: widths of the blocks of extra rows.
        template: widths of the pairs of templates (``c_z`` is c_t); None for models without templates.
        template_attention_width, template_attention_heads: of the attention of pairs to templates.
        structure: widths of the structure module.
        plddt_width: hidden width of the lDDT head.
        tm: whether there is a head of aligned errors.
        max_offset: sequence offsets beyond it are seen as equal.
        recycle_first, recycle_last, recycle_bins: distances of the last pass, lower edges in A.
        recycles: passes before the last one.
        features: of alignment and templates.
    """

    evoformer: EvoformerDims = field(default_factory=EvoformerDims)
    evoformer_blocks: int = 48
    extra_msa: EvoformerDims = EXTRA_MSA
    extra_msa_blocks: int = 4
    template: EvoformerDims | None = TEMPLATE
    template_blocks: int = 2
    template_attention_width: int = 16
    template_attention_heads: int = 4
    structure: StructureDims = field(default_factory=StructureDims)
    plddt_width: int = 128
    tm: bool = True
    max_offset: int = 32
    recycle_first: float = 3.25
    recycle_last: float = 20.75
    recycle_bins: int = 15
    recycles: int = 3
    features: FeatureSizes = field(default_factory=FeatureSizes)

    def __post_init__(self) -> None:
        check_fields(
            self,
            positive=("template_attention_width", "template_attention_heads", "plddt_width", "recycle_last"),
        )
        c_z = self.evoformer.c_z
        if self.extra_msa.c_z != c_z or self.structure.c_z != c_z:
            raise ModelError(
                f"the Evoformer has c_z {c_z}, extra rows {self.extra_msa.c_z}, structure module "
                f"{self.structure.c_z}; expected the same",
                code="bad_config",
            )
        if min(self.evoformer_blocks, self.recycle_bins) < 1 or self.recycles < 0:
            raise ModelError("blocks and bins must be 1 or more, recycles 0 or more", code="bad_config")

    def to_json(self) -> dict[str, Any]:
        """Plain values, with the kind of the model."""
        return {"kind": KIND, **asdict(self)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> AlphaFoldConfig:
        """The inverse of :meth:`to_json`; ``preset`` names one of :data:`PRESETS` to start from.

        Raises:
            ModelError: another kind of model, an unknown preset, or unknown fields.
        """
        given = dict(values)
        kind = given.pop("kind", KIND)
        if kind != KIND:
            raise ModelError(f"expected kind {KIND!r}, found {kind!r}", code="wrong_model")
        name = given.pop("preset", None)
        start = cls() if name is None else preset(name)
        parts = {key: _part(start, key, value) for key, value in given.items()}
        return replace(start, **parts)


_PARTS: dict[str, type] = {
    "evoformer": EvoformerDims,
    "extra_msa": EvoformerDims,
    "template": EvoformerDims,
    "structure": StructureDims,
    "features": FeatureSizes,
}


def _part(start: AlphaFoldConfig, key: str, value: Any) -> Any:
    """A field of the configuration from plain values."""
    known = {item.name for item in fields(AlphaFoldConfig)}
    if key not in known:
        raise ModelError(f"not the configuration of an AlphaFold: unknown field {key!r}", code="bad_config")
    if key not in _PARTS or (key == "template" and value is None):
        return value
    own = {item.name for item in fields(_PARTS[key])}
    unknown = sorted(set(value) - own) if isinstance(value, Mapping) else [str(value)]
    if unknown:
        raise ModelError(f"unknown fields of {key!r}: {', '.join(unknown)}", code="bad_config")
    before = getattr(start, key)
    return _PARTS[key](**value) if before is None else replace(before, **value)


def _published(*, templates: bool, extra: int, tm: bool) -> AlphaFoldConfig:
    # Templates take their places among the clusters in the models that were trained with them.
    sizes = FeatureSizes(clusters=508 if templates else 512, extra=extra, templates=4 if templates else 0)
    return AlphaFoldConfig(template=TEMPLATE if templates else None, tm=tm, features=sizes)


_MODELS = {
    "model_1": (True, 5120),
    "model_2": (True, 1024),
    "model_3": (False, 5120),
    "model_4": (False, 5120),
    "model_5": (False, 1024),
}
PRESETS = {
    name + ending: _published(templates=templates, extra=extra, tm=tm)
    for ending, tm in (("", False), ("_ptm", True))
    for name, (templates, extra) in _MODELS.items()
}
"""The ten published models by name."""


def preset(name: str) -> AlphaFoldConfig:
    """One of :data:`PRESETS`.

    Raises:
        ModelError: there is none of that name.
    """
    if not isinstance(name, str) or name not in PRESETS:
        raise ModelError(
            f"there is no model {name!r}", code="unknown_preset", hint=f"one of {', '.join(PRESETS)}"
        )
    return PRESETS[name]


def reduced(name: str = "model_1_ptm", **changes: Any) -> AlphaFoldConfig:
    """A published model with everything narrow and two blocks deep, for tests and for learning by heart."""
    published = preset(name)
    narrow = EvoformerDims(
        c_m=24,
        c_z=16,
        c_hidden_msa_att=8,
        c_hidden_opm=6,
        c_hidden_mul=12,
        c_hidden_pair_att=8,
        no_heads_msa=2,
        no_heads_pair=2,
        transition_n=2,
    )
    small = replace(
        published,
        evoformer=narrow,
        evoformer_blocks=2,
        extra_msa=replace(narrow, c_m=12),
        extra_msa_blocks=1,
        template=None if published.template is None else replace(narrow, c_z=10),
        template_blocks=1,
        template_attention_width=8,
        template_attention_heads=2,
        structure=StructureDims(
            c_s=20, c_z=16, c_ipa=8, c_resnet=12, no_heads_ipa=2, no_qk_points=2, no_v_points=3, no_blocks=2
        ),
        plddt_width=12,
        features=FeatureSizes(clusters=6, extra=8, templates=published.features.templates),
    )
    return replace(small, **changes)
