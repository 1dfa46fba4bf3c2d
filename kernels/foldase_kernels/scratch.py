"""How much scratch the kernels of the CPU may take where they have a choice.

Every size that a kernel may choose has a constant in its module, found by measuring. A caller short of
memory, or with plenty, scales all of them at once; results change by rounding only, since sums are cut
elsewhere. What an operation cannot do without, for example the hidden products of a triangle multiplication,
stays.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

_scale: ContextVar[float] = ContextVar("foldase_kernels_scratch_scale", default=1.0)


@contextmanager
def scratch_scale(factor: float) -> Iterator[None]:
    """Multiply the kernels' choices of scratch by ``factor`` within the block, of this thread or task only.

    A backward pass takes what holds while it runs, not what held in the forward pass.

    Raises:
        ValueError: ``factor`` is not above 0.
    """
    if not 0 < factor < float("inf"):
        raise ValueError(f"factor of scratch is {factor}; expected a number above 0")
    before = _scale.set(factor)
    try:
        yield
    finally:
        _scale.reset(before)


def scaled(size: int) -> int:
    """A size that a kernel chooses, in bytes or elements, as the caller wants it.

    Under ``torch.compile`` it is the kernel's own choice: a compiled graph outlives what holds for a caller.
    """
    if torch.compiler.is_compiling():
        return size
    factor = _scale.get()
    return size if factor == 1.0 else int(size * factor)
