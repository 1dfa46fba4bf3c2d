"""Attention and the few other operations that decide time and memory."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from foldase_kernels.attention import evoformer_attention, merge_attention

__all__ = ["evoformer_attention", "merge_attention"]

_HOMES = {
    "evoformer_attention": "foldase_kernels.attention",
    "merge_attention": "foldase_kernels.attention",
}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
