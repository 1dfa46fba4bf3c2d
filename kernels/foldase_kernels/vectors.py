"""What operations on flat vectors ask of their arguments."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch


def check_vector(name: str, vector: torch.Tensor, dtypes: Sequence[torch.dtype]) -> None:
    """Refuse what is no contiguous vector of one of the dtypes.

    Raises:
        ValueError: names the argument, what it is and what was expected.
    """
    if vector.dtype not in dtypes:
        wanted = " or ".join(str(dtype) for dtype in dict.fromkeys(dtypes))
        raise ValueError(f"{name} is {vector.dtype}; expected {wanted}")
    if vector.dim() != 1 or not vector.is_contiguous():
        raise ValueError(
            f"{name} has shape {tuple(vector.shape)} and strides {vector.stride()}; "
            "expected a contiguous vector"
        )
    if vector.data_ptr() % vector.element_size():
        raise ValueError(f"{name} lies at an address that is no multiple of its elements' size")


def check_apart(vectors: dict[str, torch.Tensor], *, replaced: frozenset[str] = frozenset()) -> None:
    """Refuse vectors of which two share memory.

    Args:
        vectors: by the name of their argument.
        replaced: two of the names, of which one may be exactly the memory of the other.

    Raises:
        ValueError: names both.
    """
    spans = sorted(
        (vector.data_ptr(), vector.data_ptr() + vector.numel() * vector.element_size(), name)
        for name, vector in vectors.items()
        if vector.numel()
    )
    for (begin, end, name), (following, last, other) in itertools.pairwise(spans):
        same = (begin, end) == (following, last)
        if following < end and not (same and replaced == {name, other}):
            raise ValueError(f"{name} and {other} share memory")
