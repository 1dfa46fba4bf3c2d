"""Which implementations of attention there are, and which one ``auto`` takes."""

from __future__ import annotations

import logging

import torch

from foldase_kernels.attention.cpu import CPU
from foldase_kernels.attention.problem import Backend
from foldase_kernels.attention.reference import REFERENCE
from foldase_kernels.attention.triton import DTYPES as TRITON_DTYPES
from foldase_kernels.attention.triton import TRITON, check_runs_here, is_available
from foldase_kernels.loader import require

_log = logging.getLogger("foldase_kernels")
_reported: set[str] = set()

_BACKENDS: dict[str, Backend] = {"reference": REFERENCE, "cpu": CPU, "triton": TRITON}


def available_backends() -> tuple[str, ...]:
    """Names that ``backend`` takes on this machine, besides ``"auto"``."""
    return tuple(name for name in _BACKENDS if name != "triton" or is_available())


def choose_backend(device: torch.device, dtype: torch.dtype = torch.float32) -> str:
    """What ``backend="auto"`` takes for tensors of a device and dtype; each choice is logged once."""
    if device.type == "cpu":
        chosen = "cpu"
    elif device.type == "cuda" and dtype in TRITON_DTYPES and is_available():
        chosen = "triton"
    else:
        chosen = "reference"
    choice = f"{device.type} {chosen}"
    if choice not in _reported:
        _reported.add(choice)
        _log.info("evoformer_attention on %s uses backend %r", device.type, chosen)
    return chosen


def check_backend(name: str, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
    """Check a name before anything runs.

    Raises:
        ValueError: there is no such backend, or not for tensors of this device or dtype.
    """
    if name == "auto":
        return
    if name == "cuda":
        require("cuda", "attention", device)
    if name not in _BACKENDS:
        raise ValueError(
            f"backend {name!r} is not available; expected auto, {', '.join(available_backends())}"
        )
    if name == "cpu" and device.type != "cpu":
        raise ValueError(f"backend 'cpu' was asked for tensors on {device}; use auto or reference")
    if name == "triton":
        check_runs_here(device, dtype)


def backend_for(name: str, device: torch.device, dtype: torch.dtype = torch.float32) -> Backend:
    """The implementation behind a name; errors as :func:`check_backend`."""
    check_backend(name, device, dtype)
    return _BACKENDS[choose_backend(device, dtype) if name == "auto" else name]
