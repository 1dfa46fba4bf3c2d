"""ESM-2, a language model of proteins, with its contact head and masked scoring."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from foldase_models.folding.esm2.config import Esm2Config
    from foldase_models.folding.esm2.model import Esm2, Esm2Encoder
    from foldase_models.folding.esm2.predict import predict_contacts
    from foldase_models.folding.esm2.scoring import (
        masked_log_probabilities,
        pseudo_perplexity,
        score_mutations,
        wild_type_log_probabilities,
    )
    from foldase_models.folding.esm2.weights import load_esm2

_HOMES = {
    "Esm2": "model",
    "Esm2Config": "config",
    "Esm2Encoder": "model",
    "load_esm2": "weights",
    "masked_log_probabilities": "scoring",
    "predict_contacts": "predict",
    "pseudo_perplexity": "scoring",
    "score_mutations": "scoring",
    "wild_type_log_probabilities": "scoring",
}

__all__ = [
    "Esm2",
    "Esm2Config",
    "Esm2Encoder",
    "load_esm2",
    "masked_log_probabilities",
    "predict_contacts",
    "pseudo_perplexity",
    "score_mutations",
    "wild_type_log_probabilities",
]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
