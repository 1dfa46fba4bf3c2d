"""What this machine offers to the kernels, and what is missing. Standard library and torch only."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import subprocess
from dataclasses import dataclass

from foldase_kernels.operations import source_folder

COMMAND_SECONDS = 20


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. ``fine`` is None where its absence only limits what can be chosen."""

    topic: str
    fine: bool | None
    text: str


def examine() -> list[Finding]:
    """Look at torch, the processor, accelerators, compilers, Triton and the sources."""
    return [
        _torch(),
        _processor(),
        _accelerator(),
        _compiler("nvcc"),
        _compiler("g++"),
        _triton(),
        _sources(),
    ]


def _torch() -> Finding:
    try:
        import torch
    except ImportError as error:
        return Finding("torch", False, f"cannot be imported: {error}")
    return Finding("torch", True, f"{torch.__version__}, {torch.get_num_threads()} threads")


def _processor() -> Finding:
    import torch

    capability = torch.backends.cpu.get_cpu_capability()
    return Finding("processor", True, f"{platform.machine()}, vector instructions {capability}")


def _accelerator() -> Finding:
    import torch

    if not torch.cuda.is_available():
        return Finding("gpu", None, "none that torch can use; attention runs on the cpu backend")
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return Finding("gpu", True, ", ".join(names))


def _compiler(name: str) -> Finding:
    path = shutil.which(name)
    if path is None:
        return Finding(name, None, "not on PATH")
    try:
        answer = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=COMMAND_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        return Finding(name, False, f"{path} does not answer: {error}")
    lines = [line for line in answer.stdout.splitlines() if "release" in line] or answer.stdout.splitlines()
    return Finding(name, True, f"{path}: {lines[0].strip() if lines else 'no version given'}")


def _triton() -> Finding:
    if importlib.util.find_spec("triton") is None:
        return Finding("triton", None, "not installed")
    from importlib.metadata import version

    return Finding("triton", True, version("triton"))


def _sources() -> Finding:
    folder = source_folder()
    if folder is None:
        return Finding("sources", False, "the folder csrc is missing; the installation is not whole")
    return Finding("sources", True, str(folder))
