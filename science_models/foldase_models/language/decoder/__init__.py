"""A plain causal decoder with the keys and settings of Llama, on amino acids or bytes."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from foldase_models.language.decoder.config import DecoderConfig
    from foldase_models.language.decoder.features import PackedBlocks, decode, encode
    from foldase_models.language.decoder.model import Decoder
    from foldase_models.language.decoder.weights import load_decoder, save_decoder

_HOMES = {
    "Decoder": "model",
    "DecoderConfig": "config",
    "PackedBlocks": "features",
    "decode": "features",
    "encode": "features",
    "load_decoder": "weights",
    "save_decoder": "weights",
}

__all__ = [
    "Decoder",
    "DecoderConfig",
    "PackedBlocks",
    "decode",
    "encode",
    "load_decoder",
    "save_decoder",
]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
