"""Vectors as one sign bit a coordinate and one scale a block, with what is lost kept as an error."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from foldase_kernels.sign_pack.api import decode_, encode_, pack_mask_
    from foldase_kernels.sign_pack.backends import available_backends, choose_backend
    from foldase_kernels.sign_pack.problem import block_count

__all__ = ["available_backends", "block_count", "choose_backend", "decode_", "encode_", "pack_mask_"]

_HOMES = {
    "available_backends": "backends",
    "block_count": "problem",
    "choose_backend": "backends",
    "decode_": "api",
    "encode_": "api",
    "pack_mask_": "api",
}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
