"""Triangle multiplication: a gated update of every pair from all triangles that it closes."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from foldase_kernels.triangle_multiplication.api import (
        available_backends,
        choose_backend,
        triangle_multiplication,
    )
    from foldase_kernels.triangle_multiplication.parameters import TriangleMultiplicationParameters

__all__ = [
    "TriangleMultiplicationParameters",
    "available_backends",
    "choose_backend",
    "triangle_multiplication",
]

_HOMES = {
    "TriangleMultiplicationParameters": "parameters",
    "available_backends": "api",
    "choose_backend": "api",
    "triangle_multiplication": "api",
}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
