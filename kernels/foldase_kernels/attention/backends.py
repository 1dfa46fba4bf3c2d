"""Which implementations of attention there are, and which one ``auto`` takes."""

from __future__ import annotations

import logging

import torch

from foldase_kernels.attention import cuda, triton
from foldase_kernels.attention.cpu import CPU
from foldase_kernels.attention.problem import Backend
from foldase_kernels.attention.reference import REFERENCE

_log = logging.getLogger("foldase_kernels")
_reported: set[str] = set()
_no_cuda: dict[tuple[torch.device, torch.dtype], str] = {}

_BACKENDS: dict[str, Backend] = {
    "reference": REFERENCE,
    "cpu": CPU,
    "triton": triton.TRITON,
    "cuda": cuda.CUDA,
}


def available_backends() -> tuple[str, ...]:
    """Names that ``backend`` takes on this machine, besides ``"auto"``."""
    there = {"triton": triton.is_available, "cuda": cuda.is_available}
    return tuple(name for name in _BACKENDS if name not in there or there[name]())


def choose_backend(device: torch.device, dtype: torch.dtype = torch.float32) -> str:
    """What ``backend="auto"`` takes for tensors of a device and dtype; each choice is logged once.

    On a GPU: ``cuda`` where a library was built for it, else ``triton``, else ``reference``. Whether there is
    a library is asked once, so that the choice does not change while a process runs.
    """
    why = ""
    if device.type == "cpu":
        chosen = "cpu"
    elif device.type != "cuda":
        chosen = "reference"
    else:
        why = _why_no_cuda(device, dtype)
        if not why:
            chosen = "cuda"
        else:
            chosen = "triton" if dtype in triton.DTYPES and triton.is_available() else "reference"
    choice = f"{device.type} {chosen}"
    if choice not in _reported:
        _reported.add(choice)
        reason = f"; {why}" if why else ""
        _log.info("evoformer_attention on %s uses backend %r%s", device.type, chosen, reason)
    return chosen


def _why_no_cuda(device: torch.device, dtype: torch.dtype) -> str:
    if (device, dtype) not in _no_cuda:
        _no_cuda[device, dtype] = cuda.why_not(device, dtype)
    return _no_cuda[device, dtype]


def check_backend(name: str, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
    """Check a name before anything runs.

    Raises:
        ValueError: there is no such backend, or not for tensors of this device or dtype.
    """
    if name == "auto":
        return
    if name not in _BACKENDS:
        raise ValueError(
            f"backend {name!r} is not available; expected auto, {', '.join(available_backends())}"
        )
    if name == "cpu" and device.type != "cpu":
        raise ValueError(f"backend 'cpu' was asked for tensors on {device}; use auto or reference")
    if name == "triton":
        triton.check_runs_here(device, dtype)
    # A library cannot be loaded while a graph is traced; the operator asks again when it runs.
    if name == "cuda" and not torch.compiler.is_compiling():
        cuda.check_runs_here(device, dtype)


def known_backends() -> tuple[str, ...]:
    """All names, whether they can run on this machine or not."""
    return tuple(_BACKENDS)


def backend_for(name: str, device: torch.device, dtype: torch.dtype = torch.float32) -> Backend:
    """The implementation behind a name; errors as :func:`check_backend`."""
    check_backend(name, device, dtype)
    return _BACKENDS[choose_backend(device, dtype) if name == "auto" else name]
