"""What folding models are trained on: errors of frames, torsions, distances, confidence and geometry."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from foldase_models.folding.losses.total import HiddenLetters, Predicted, folding_losses
    from foldase_models.folding.losses.truth import Truth
    from foldase_models.folding.losses.violations import Violations, find_violations
    from foldase_models.folding.losses.weights import LossWeights

_HOMES = {
    "HiddenLetters": "total",
    "LossWeights": "weights",
    "Predicted": "total",
    "Truth": "truth",
    "Violations": "violations",
    "find_violations": "violations",
    "folding_losses": "total",
}

__all__ = [
    "HiddenLetters",
    "LossWeights",
    "Predicted",
    "Truth",
    "Violations",
    "find_violations",
    "folding_losses",
]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
