"""Sums of squares that are exact enough to be summed up over ranks."""

from __future__ import annotations

import torch

_ELEMENTS = 2**18
"""Converted at once: 2 MiB of float64."""


def square_sum(vector: torch.Tensor) -> float:
    """Of a flat vector of any floating dtype, in float64; not finite where an element is not."""
    found = torch.zeros((), dtype=torch.float64, device=vector.device)
    for start in range(0, vector.numel(), _ELEMENTS):
        wide = vector[start : start + _ELEMENTS].double()
        found += torch.dot(wide, wide)
    return float(found)
