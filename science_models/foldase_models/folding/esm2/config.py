"""Sizes and tokens of an ESM-2 model. Importable without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from foldase_models.errors import ModelError
from foldase_models.layers.config_values import check_fields

Positions = Literal["rotary", "absolute"]

VOCABULARY = (
    *("<cls>", "<pad>", "<eos>", "<unk>"),
    *"LAGVSERTIDPKQNFYMHWCXBUZO.-",
    *("<null_1>", "<mask>"),
)
"""Of all published ESM-2 models, by token id."""

_POSITIVE = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
_MUST_BE_ABSENT = ("is_decoder", "add_cross_attention", "rope_scaling")
"""Settings that make another model of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Esm2Config:
    """The fields of a Hugging Face ``EsmConfig`` that decide what the model computes, by their names there.

    Attributes:
        vocab_size: tokens.
        hidden_size: channels, D.
        num_hidden_layers, num_attention_heads: layers and heads.
        intermediate_size: channels between the two linear layers of a transition.
        layer_norm_eps: of every layer norm.
        mask_token_id, pad_token_id, eos_token_id, cls_token_id: special tokens.
        token_dropout: embeddings of masked tokens are zero, and all are scaled as if 12 % were.
        position_embedding_type: rotary (ESM-2) or learned absolute ones (ESM-1b).
        max_position_embeddings: rows of the table of absolute positions.
        rope_theta: base of the rotary wave lengths.
        emb_layer_norm_before: whether embeddings are normed.
        tie_word_embeddings: whether the decoder's matrix is the embedding's.
    """

    vocab_size: int = len(VOCABULARY)
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    layer_norm_eps: float = 1e-12
    mask_token_id: int = 32
    pad_token_id: int = 1
    eos_token_id: int = 2
    cls_token_id: int = 0
    token_dropout: bool = False
    position_embedding_type: Positions = "absolute"
    max_position_embeddings: int = 1026
    rope_theta: float = 10000.0
    emb_layer_norm_before: bool = False
    tie_word_embeddings: bool = True

    def __post_init__(self) -> None:
        check_fields(self, positive=_POSITIVE)
        if self.hidden_size % self.num_attention_heads:
            raise ModelError(
                f"hidden_size {self.hidden_size} is no multiple of {self.num_attention_heads} heads",
                code="bad_config",
            )
        if self.position_embedding_type not in get_args(Positions):
            raise ModelError(
                f"position_embedding_type {self.position_embedding_type!r} is not known",
                code="bad_config",
                hint=f"models with one of {', '.join(get_args(Positions))} can be read",
            )
        if self.position_embedding_type == "rotary" and self.head_width % 2:
            raise ModelError(f"rotary heads need an even width, got {self.head_width}", code="bad_config")

    @property
    def head_width(self) -> int:
        """Channels of one head."""
        return self.hidden_size // self.num_attention_heads

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Esm2Config:
        """From a Hugging Face ``config.json``, also one of ESMFold; what it lacks has their default.

        Raises:
            ModelError: no configuration of an ESM model, or one of a kind that is not known here.
        """
        if values.get("model_type", "esm") != "esm":
            raise ModelError(f"expected model_type 'esm', found {values['model_type']!r}", code="wrong_model")
        for name in _MUST_BE_ABSENT:
            if values.get(name):
                raise ModelError(f"{name} is {values[name]!r}, which is not known here", code="bad_config")
        vocabulary = values.get("vocab_list")
        if vocabulary is not None and (
            not isinstance(vocabulary, list | tuple) or tuple(vocabulary) != VOCABULARY
        ):
            raise ModelError("vocab_list is not the vocabulary of ESM-2", code="bad_config")
        known = {name: values[name] for name in cls.__slots__ if values.get(name) is not None}
        return cls(**known)
