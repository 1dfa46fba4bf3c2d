"""Which implementations of the AdamW step there are, and which one ``auto`` takes."""

from __future__ import annotations

import logging

import torch

from foldase_kernels.adam import cpp
from foldase_kernels.adam.problem import Backend
from foldase_kernels.adam.reference import REFERENCE
from foldase_kernels.adam.torch_fused import TORCH

_log = logging.getLogger("foldase_kernels")
_reported: set[str] = set()
_why_no_cpp: list[str] = []

_BACKENDS: dict[str, Backend] = {"reference": REFERENCE, "torch": TORCH, "cpp": cpp.CPP}


def available_backends() -> tuple[str, ...]:
    """Names that ``backend`` takes on this machine, besides ``"auto"``."""
    return tuple(name for name in _BACKENDS if name != "cpp" or not cpp.why_not())


def choose_backend(device: torch.device) -> str:
    """What ``backend="auto"`` takes for vectors on a device; each choice is logged once.

    In main memory ``cpp`` where its library was built, else ``torch``. Whether there is a library is asked
    once, so that the choice does not change while a process runs.
    """
    why = ""
    if device.type == "cpu":
        if not _why_no_cpp:
            _why_no_cpp.append(cpp.why_not())
        why = _why_no_cpp[0]
    chosen = "cpp" if device.type == "cpu" and not why else "torch"
    choice = f"{device.type} {chosen}"
    if choice not in _reported:
        _reported.add(choice)
        _log.info("adamw_ on %s uses backend %r%s", device.type, chosen, f"; {why}" if why else "")
    return chosen


def backend_for(name: str, device: torch.device) -> Backend:
    """The implementation behind a name.

    Raises:
        ValueError: there is no such backend, or not for vectors on this device.
    """
    if name == "auto":
        return _BACKENDS[choose_backend(device)]
    if name not in _BACKENDS:
        raise ValueError(
            f"backend {name!r} is not available; expected auto, {', '.join(available_backends())}"
        )
    if name == "cpp":
        if device.type != "cpu":
            raise ValueError(f"backend 'cpp' was asked for vectors on {device}; use auto or torch")
        cpp.check_runs_here()
    return _BACKENDS[name]
