"""The AdamW step of flat vectors in main memory, low-precision gradients and weights included."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from foldase_kernels.adam.api import adamw_, square_sum
    from foldase_kernels.adam.backends import available_backends, choose_backend

__all__ = ["adamw_", "available_backends", "choose_backend", "square_sum"]

_HOMES = {
    "adamw_": "api",
    "available_backends": "backends",
    "choose_backend": "backends",
    "square_sum": "api",
}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
