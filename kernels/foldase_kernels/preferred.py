"""Which backend ``auto`` shall mean to a caller that has a wish, for example a model and all its layers.

A wish holds within its block, of this thread or task only. It does not reach into a traced graph, nor into a
backward pass that runs outside of the block.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

NAMES = ("auto", "reference", "cpu", "triton", "cuda")

_wish: ContextVar[str] = ContextVar("foldase_kernels_backend", default="auto")


@contextmanager
def preferred_backend(name: str) -> Iterator[None]:
    """Let ``backend="auto"`` mean ``name`` in every operation that has it; others choose as ever.

    Raises:
        ValueError: there is no operation with such a backend.
    """
    if name not in NAMES:
        raise ValueError(f"backend {name!r} does not exist; expected one of {', '.join(NAMES)}")
    before = _wish.set(name)
    try:
        yield
    finally:
        _wish.reset(before)


def wished(asked: str, known: Collection[str]) -> str:
    """The backend that was asked for; where that is ``auto``, the caller's wish if the operation has it."""
    if asked != "auto" or torch.compiler.is_compiling():
        return asked
    wish = _wish.get()
    return wish if wish in known else asked
