"""Models that predict structure: one folder a model, the same file names in each."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from foldase_models.folding.loading import load_folder

__all__ = ["load_folder"]


def __getattr__(name: str) -> object:
    if name == "load_folder":
        from foldase_models.folding.loading import load_folder

        return load_folder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
