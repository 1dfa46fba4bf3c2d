"""Which implementation of an operation runs, said once for each kind of device."""

from __future__ import annotations

import logging
from collections.abc import Collection

import torch

_log = logging.getLogger("foldase_kernels")
_reported: set[tuple[str, str]] = set()


def automatic(operation: str, device: torch.device) -> str:
    """What ``backend="auto"`` takes for tensors of a device; logged once per operation and device type."""
    chosen = "cpu" if device.type == "cpu" else "reference"
    if (operation, device.type) not in _reported:
        _reported.add((operation, device.type))
        _log.info("%s on %s uses backend %r", operation, device.type, chosen)
    return chosen


def chosen_backend(operation: str, asked: str, available: Collection[str], device: torch.device) -> str:
    """The backend that runs: the one asked for, or that of :func:`automatic`.

    Raises:
        ValueError: the backend does not exist, or not for this device.
    """
    if asked == "auto":
        return automatic(operation, device)
    if asked not in available:
        raise ValueError(f"backend {asked!r} is not available; expected auto, {', '.join(available)}")
    if asked == "cpu" and device.type != "cpu":
        raise ValueError(f"backend 'cpu' was asked for tensors on {device}; use auto or reference")
    return asked
