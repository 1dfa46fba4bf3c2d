"""What every Triton backend asks of the machine. Nothing here imports Triton unless kernels are asked for."""

from __future__ import annotations

import os
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import torch

DTYPES = (torch.float32, torch.bfloat16, torch.float16)

ENOUGH_PROGRAMS = 264
"""Programs that keep a large GPU busy where each holds sums of its own: two for each of 132 processors. A
constant, so that sums come out alike on every machine."""


def interpreted() -> bool:
    """Whether the environment asks Triton to interpret kernels on the CPU."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes")


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def is_available() -> bool:
    """Whether Triton is installed and has something to run on: a GPU, or its interpreter."""
    return find_spec("triton") is not None and (interpreted() or torch.cuda.is_available())


def check_runs_here(name: str, tensor: torch.Tensor) -> None:
    """Refuse tensors that Triton cannot work on; ``name`` is the argument's.

    Raises:
        ValueError: Triton is missing, the tensor is neither on a GPU nor interpreted, or of another dtype.
    """
    if find_spec("triton") is None:
        raise ValueError("backend 'triton' needs the package triton; install foldase[gpu]")
    if tensor.dtype not in DTYPES:
        raise ValueError(f"{name} is {tensor.dtype}; backend 'triton' takes float32, bfloat16 and float16")
    if tensor.device.type != "cuda" and not interpreted():
        raise ValueError(
            f"backend 'triton' was asked for tensors on {tensor.device}; expected cuda, "
            "or TRITON_INTERPRET=1 in the environment before triton is imported"
        )


def kernels(module: str, probe: str, device: torch.device) -> ModuleType:
    """A module of kernels, imported now; ``probe`` is the name of one of them.

    Raises:
        ValueError: the interpreter was asked for after Triton had been imported.
    """
    found = import_module(module)
    if device.type != "cuda" and type(getattr(found, probe)).__name__ == "JITFunction":
        raise ValueError("TRITON_INTERPRET was set after triton had been imported; set it at the start")
    return found


def padded(width: int, least: int = 16) -> int:
    """The next power of two, at least ``least``; matrix products take no fewer than 16."""
    return max(least, 1 << (width - 1).bit_length())
