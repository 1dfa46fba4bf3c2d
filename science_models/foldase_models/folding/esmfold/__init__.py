"""ESMFold: structure from one sequence by a language model and a folding trunk (Lin et al. 2023)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from foldase_models.folding.esmfold.config import EsmFoldConfig, TrunkDims
    from foldase_models.folding.esmfold.folder import EsmFoldFolder
    from foldase_models.folding.esmfold.model import EsmFold, EsmFoldOutput
    from foldase_models.folding.esmfold.weights import load_esmfold

_HOMES = {
    "EsmFold": "model",
    "EsmFoldConfig": "config",
    "EsmFoldFolder": "folder",
    "EsmFoldOutput": "model",
    "TrunkDims": "config",
    "load_esmfold": "weights",
}

__all__ = ["EsmFold", "EsmFoldConfig", "EsmFoldFolder", "EsmFoldOutput", "TrunkDims", "load_esmfold"]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
