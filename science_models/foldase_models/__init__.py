"""Models of structural biology, and how they are trained, tuned, compressed and served."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from foldase_models.injection.inject import inject

__all__ = ["inject"]


def __getattr__(name: str) -> object:
    if name == "inject":
        return import_module("foldase_models.injection.inject").inject
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
