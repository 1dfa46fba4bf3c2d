"""Which implementations of packing and unpacking there are, and which one ``auto`` takes."""

from __future__ import annotations

import logging

import torch

from foldase_kernels.sign_pack.problem import Backend
from foldase_kernels.sign_pack.reference import REFERENCE
from foldase_kernels.sign_pack.torch_chunks import TORCH
from foldase_kernels.sign_pack.triton import TRITON
from foldase_kernels.triton_support import is_available

_log = logging.getLogger("foldase_kernels")
_reported: set[str] = set()

_BACKENDS: dict[str, Backend] = {"reference": REFERENCE, "torch": TORCH, "triton": TRITON}


def available_backends() -> tuple[str, ...]:
    """Names that ``backend`` takes on this machine, besides ``"auto"``."""
    return tuple(name for name in _BACKENDS if name != "triton" or is_available())


def choose_backend(device: torch.device) -> str:
    """What ``backend="auto"`` takes for vectors on a device; each choice is logged once.

    On a GPU ``triton`` where the package is installed, else ``torch``.
    """
    chosen = "triton" if device.type == "cuda" and is_available() else "torch"
    choice = f"{device.type} {chosen}"
    if choice not in _reported:
        _reported.add(choice)
        _log.info("encode_ on %s uses backend %r", device.type, chosen)
    return chosen


def backend_for(name: str, device: torch.device) -> Backend:
    """The implementation behind a name.

    Raises:
        ValueError: there is no such backend.
    """
    if name == "auto":
        return _BACKENDS[choose_backend(device)]
    if name not in _BACKENDS:
        raise ValueError(
            f"backend {name!r} is not available; expected auto, {', '.join(available_backends())}"
        )
    return _BACKENDS[name]
