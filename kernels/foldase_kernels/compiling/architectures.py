"""Names of GPU architectures: which one to build for a GPU, and which libraries run on it."""

from __future__ import annotations

import re

from foldase_kernels.errors import KernelError

HOST = "host"
"""The architecture of a host build: the same sources as C++, run by the processor."""

OLDEST = 80
_NAME = re.compile(r"sm_(\d+)(\d)([af]?)")


def parse(name: str) -> tuple[int, int, str]:
    """``"sm_90a"`` to ``(9, 0, "a")``.

    Raises:
        KernelError: ``unknown_arch``, also for GPUs older than sm_80.
    """
    found = _NAME.fullmatch(name)
    if found is None or int(found[1] + found[2]) < OLDEST:
        raise KernelError(
            "unknown_arch", f"{name!r} is no architecture of a GPU from sm_{OLDEST} on", "name it as sm_90a"
        )
    return int(found[1]), int(found[2]), found[3]


def for_capability(capability: tuple[int, int]) -> str:
    """What to build for a GPU: on Hopper the letter form that its matrix instructions need, else plain.

    Raises:
        KernelError: ``unsupported_gpu``, older than sm_80.
    """
    major, minor = capability
    if major * 10 + minor < OLDEST:
        raise KernelError(
            "unsupported_gpu",
            f"compute capability {major}.{minor} is below 8.0, which the kernels need",
            "the triton or reference backend runs there",
        )
    return f"sm_{major}{minor}a" if capability == (9, 0) else f"sm_{major}{minor}"


def runs_on(name: str, capability: tuple[int, int]) -> bool:
    """Whether machine code for ``name`` runs on a GPU.

    Plain code runs on later members of its generation, ``f`` too, ``a`` on exactly its own (CUDA programming
    guide, binary compatibility and architecture-specific features).
    """
    major, minor, letter = parse(name)
    if letter == "a":
        return (major, minor) == capability
    return major == capability[0] and minor <= capability[1]


def suits(name: str) -> tuple[int, bool]:
    """How well it fits, to choose among those that run: the nearest, then the letter form."""
    _, minor, letter = parse(name)
    return minor, letter == "a"
