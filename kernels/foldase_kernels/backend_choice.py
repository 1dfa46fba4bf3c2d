"""Which implementation of an operation runs, said once for each kind of device."""

from __future__ import annotations

import logging
from collections.abc import Collection

import torch

from foldase_kernels.preferred import wished
from foldase_kernels.triton_support import is_available

_log = logging.getLogger("foldase_kernels")
_reported: set[tuple[str, str, str]] = set()


def automatic(operation: str, device: torch.device, *, suits_triton: bool = False) -> str:
    """What ``backend="auto"`` takes for tensors of a device.

    Each choice is logged once for an operation, except while a graph is traced, which logging would break.

    Args:
        operation: its name.
        device: of the tensors.
        suits_triton: whether the operation's Triton kernels take these tensors; then they run on a GPU, since
            the reference holds there what they exist to avoid.
    """
    if device.type == "cpu":
        chosen = "cpu"
    elif device.type == "cuda" and suits_triton and is_available():
        chosen = "triton"
    else:
        chosen = "reference"
    choice = (operation, device.type, chosen)
    if choice not in _reported and not torch.compiler.is_compiling():
        _reported.add(choice)
        _log.info("%s on %s uses backend %r", operation, device.type, chosen)
    return chosen


def chosen_backend(
    operation: str,
    asked: str,
    available: Collection[str],
    device: torch.device,
    *,
    suits_triton: bool = False,
) -> str:
    """The backend that runs: the one asked for, the one wished for, or that of :func:`automatic`.

    Raises:
        ValueError: the backend does not exist, or not for this device.
    """
    asked = wished(asked, available)
    if asked == "auto":
        return automatic(operation, device, suits_triton=suits_triton)
    if asked not in available:
        raise ValueError(f"backend {asked!r} is not available; expected auto, {', '.join(available)}")
    if asked == "cpu" and device.type != "cpu":
        raise ValueError(f"backend 'cpu' was asked for tensors on {device}; use auto or reference")
    return asked
