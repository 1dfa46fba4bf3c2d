"""AlphaFold 2 for single chains, under OpenFold's key names; reads its weights and AlphaFold's."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from foldase_models.folding.alphafold.config import AlphaFoldConfig, preset
    from foldase_models.folding.alphafold.folder import AlphaFoldFolder
    from foldase_models.folding.alphafold.inputs import ModelInputs, inputs_of
    from foldase_models.folding.alphafold.model import AlphaFold, AlphaFoldOutput
    from foldase_models.folding.alphafold.weights import load_alphafold

_HOMES = {
    "AlphaFold": "model",
    "AlphaFoldConfig": "config",
    "AlphaFoldFolder": "folder",
    "AlphaFoldOutput": "model",
    "ModelInputs": "inputs",
    "inputs_of": "inputs",
    "load_alphafold": "weights",
    "preset": "config",
}

__all__ = [
    "AlphaFold",
    "AlphaFoldConfig",
    "AlphaFoldFolder",
    "AlphaFoldOutput",
    "ModelInputs",
    "inputs_of",
    "load_alphafold",
    "preset",
]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
