"""The two-layer network applied to every position of a representation, its hidden layer in tiles."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from foldase_kernels.transition.api import available_backends, transition
    from foldase_kernels.transition.parameters import TransitionParameters

__all__ = ["TransitionParameters", "available_backends", "transition"]

_HOMES = {
    "TransitionParameters": "parameters",
    "available_backends": "api",
    "transition": "api",
}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
