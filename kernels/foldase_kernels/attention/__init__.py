"""Attention with any number of trainable biases, a mask, a gate, and the log-sum-exp of its scores."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from foldase_kernels.attention.api import evoformer_attention
    from foldase_kernels.attention.backends import available_backends, choose_backend
    from foldase_kernels.attention.merge import merge_attention

__all__ = ["available_backends", "choose_backend", "evoformer_attention", "merge_attention"]

_HOMES = {
    "available_backends": "backends",
    "choose_backend": "backends",
    "evoformer_attention": "api",
    "merge_attention": "merge",
}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
