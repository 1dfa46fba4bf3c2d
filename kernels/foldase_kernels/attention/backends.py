"""Which implementations of attention there are, and which one ``auto`` takes."""

from __future__ import annotations

import logging

import torch

from foldase_kernels.attention.cpu import CPU
from foldase_kernels.attention.problem import Backend
from foldase_kernels.attention.reference import REFERENCE

_log = logging.getLogger("foldase_kernels")
_reported: set[str] = set()

_BACKENDS: dict[str, Backend] = {"reference": REFERENCE, "cpu": CPU}


def available_backends() -> tuple[str, ...]:
    """Names that ``backend`` takes on this machine, besides ``"auto"``."""
    return tuple(_BACKENDS)


def choose_backend(device: torch.device) -> str:
    """What ``backend="auto"`` takes for tensors of a device; logged once per device type."""
    chosen = "cpu" if device.type == "cpu" else "reference"
    if device.type not in _reported:
        _reported.add(device.type)
        _log.info("evoformer_attention on %s uses backend %r", device.type, chosen)
    return chosen


def check_backend(name: str, device: torch.device) -> None:
    """Check a name before anything runs.

    Raises:
        ValueError: there is no such backend, or not for tensors of this device.
    """
    if name == "auto":
        return
    if name not in _BACKENDS:
        raise ValueError(f"backend {name!r} is not available; expected auto, {', '.join(_BACKENDS)}")
    if name == "cpu" and device.type != "cpu":
        raise ValueError(f"backend 'cpu' was asked for tensors on {device}; use auto or reference")


def backend_for(name: str, device: torch.device) -> Backend:
    """The implementation behind a name; errors as :func:`check_backend`."""
    check_backend(name, device)
    return _BACKENDS[choose_backend(device) if name == "auto" else name]
