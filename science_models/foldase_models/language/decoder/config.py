"""Sizes and tokens of a decoder. Importable without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from foldase_models.errors import ModelError
from foldase_models.layers.config_values import check_fields

Tokens = Literal["amino_acids", "bytes", "foreign"]

AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWYBJOUXZ"
"""Letters by token id less 1: the twenty, then what is ambiguous or rare."""
SEPARATOR = 0
"""The token between sequences: it ends one and begins the next."""
VOCABULARY: Mapping[str, int] = {"amino_acids": len(AMINO_ACIDS) + 1, "bytes": 257}
"""Tokens of our own tokenisers, the separator counted."""
MODEL_TYPE = "llama"

_POSITIVE = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_theta",
)
_MUST_BE: Mapping[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "pretraining_tp": (1,),
}
"""Settings of Llama that can be read, where they are given: others make another model of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderConfig:
    """The fields of a Hugging Face ``LlamaConfig`` that decide what the model computes, by their names there.

    Attributes:
        vocab_size: tokens, V.
        hidden_size: channels, D.
        intermediate_size: channels inside of a transition, F.
        num_hidden_layers: blocks.
        num_attention_heads: heads of queries, H.
        num_key_value_heads: heads of keys and values, G, each shared by H / G heads of queries
            (Ainslie et al. 2023, arXiv:2305.13245).
        head_dim: channels of a head, W; 0 for D / H.
        max_position_embeddings: longest sequence that the model is meant for, in tokens.
        rms_norm_eps: of every norm.
        rope_theta: base of the rotary wave lengths.
        tie_word_embeddings: whether the head's matrix is the embedding's.
        initializer_range: standard deviation of matrices at the start; those that end a residual branch
            begin smaller by the root of twice the number of blocks (Radford et al. 2019, section 2.3).
        tokens: the tokeniser of :mod:`foldase_models.language.decoder.features` whose tokens these are;
            ``foreign`` for a model with one of its own.

    Raises:
        ModelError: ``bad_config``: a field that makes no sense, or two that contradict each other.
    """

    vocab_size: int = VOCABULARY["amino_acids"]
    hidden_size: int = 256
    intermediate_size: int = 688
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int = 4
    head_dim: int = 0
    max_position_embeddings: int = 1024
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    tie_word_embeddings: bool = False
    initializer_range: float = 0.02
    tokens: Tokens = "amino_acids"

    def __post_init__(self) -> None:
        check_fields(self, positive=_POSITIVE)
        if self.num_attention_heads % self.num_key_value_heads:
            raise ModelError(
                f"num_attention_heads {self.num_attention_heads} is no multiple of num_key_value_heads "
                f"{self.num_key_value_heads}",
                code="bad_config",
                location="num_attention_heads",
            )
        if not self.head_dim and self.hidden_size % self.num_attention_heads:
            raise ModelError(
                f"hidden_size {self.hidden_size} is no multiple of {self.num_attention_heads} heads",
                code="bad_config",
                location="hidden_size",
                hint="or give head_dim",
            )
        if self.head_width % 2:
            raise ModelError(
                f"rotary heads need an even width, got {self.head_width}",
                code="bad_config",
                location="hidden_size",
            )
        if self.tokens not in get_args(Tokens):
            raise ModelError(
                f"tokens must be one of {', '.join(get_args(Tokens))}, got {self.tokens!r}", code="bad_config"
            )
        if self.tokens != "foreign" and self.vocab_size < VOCABULARY[self.tokens]:
            raise ModelError(
                f"vocab_size {self.vocab_size} is less than the {VOCABULARY[self.tokens]} of {self.tokens}",
                code="bad_config",
            )

    @property
    def head_width(self) -> int:
        """Channels of one head, W."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    def to_json(self) -> dict[str, Any]:
        """A ``config.json`` that Hugging Face's library reads too, with our tokeniser's name."""
        plain = asdict(self)
        plain["head_dim"] = self.head_width
        theta = plain["rope_theta"]
        return plain | {
            "model_type": MODEL_TYPE,
            "architectures": ["LlamaForCausalLM"],
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": theta},
            **({} if self.tokens == "foreign" else {"bos_token_id": SEPARATOR, "eos_token_id": SEPARATOR}),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> DecoderConfig:
        """From a Llama ``config.json``, ours or a foreign one; what it lacks has the default.

        Raises:
            ModelError: ``wrong_model``: of another kind; ``bad_config``: a setting that is not known here.
        """
        if values.get("model_type") != MODEL_TYPE:
            raise ModelError(
                f"expected model_type {MODEL_TYPE!r}, found {values.get('model_type')!r}", code="wrong_model"
            )
        for name, known in _MUST_BE.items():
            if name in values and values[name] not in known:
                raise ModelError(f"{name} is {values[name]!r}, which is not known here", code="bad_config")
        given = {name: values[name] for name in cls.__slots__ if values.get(name) is not None}
        given["rope_theta"] = _rope_theta(values)
        if "num_attention_heads" in given:
            given.setdefault("num_key_value_heads", given["num_attention_heads"])
        given.setdefault("rms_norm_eps", 1e-6)
        given.setdefault("tokens", "foreign")
        return cls(**given)


def _rope_theta(values: Mapping[str, Any]) -> Any:
    """The base, wherever it is written: older files have it at the top, newer ones among the settings."""
    settings = values.get("rope_parameters") or values.get("rope_scaling") or {}
    if not isinstance(settings, Mapping):
        raise ModelError(f"rope_parameters is {settings!r}, expected an object", code="bad_config")
    kind = settings.get("rope_type", settings.get("type", "default"))
    if kind != "default":
        raise ModelError(
            f"rotary positions of the kind {kind!r} are not known here",
            code="bad_config",
            hint="checkpoints with plain rotary positions can be read",
        )
    return settings.get("rope_theta", values.get("rope_theta") or 10000.0)
