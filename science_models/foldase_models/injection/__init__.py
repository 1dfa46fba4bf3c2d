"""Our modules in the models of other libraries, sharing their parameters."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from foldase_models.injection.inject import inject
    from foldase_models.injection.report import InjectionReport, Replacement

_HOMES = {"InjectionReport": "report", "Replacement": "report", "inject": "inject"}

__all__ = ["InjectionReport", "Replacement", "inject"]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
