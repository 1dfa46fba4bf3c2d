"""The mean over sequences of outer products of two columns, projected to the pair channels."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from foldase_kernels.outer_product_mean.api import available_backends, outer_product_mean

__all__ = ["available_backends", "outer_product_mean"]

_HOMES = {"available_backends": "api", "outer_product_mean": "api"}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
