"""The weights of a triangle multiplication."""

from __future__ import annotations

from typing import NamedTuple

import torch


class TriangleMultiplicationParameters(NamedTuple):
    """Weights and biases; each floating, in its own dtype. Every bias may be None.

    c_z channels of a pair, C hidden channels; names as in the layers of ``foldase_models``, without
    ``linear_`` and ``layer_``.
    """

    norm_in_weight: torch.Tensor
    """``[c_z]``"""
    norm_in_bias: torch.Tensor | None
    a_p_weight: torch.Tensor
    """``[C, c_z]``, like those of ``a_g``, ``b_p`` and ``b_g``; their biases ``[C]``."""
    a_p_bias: torch.Tensor | None
    a_g_weight: torch.Tensor
    a_g_bias: torch.Tensor | None
    b_p_weight: torch.Tensor
    b_p_bias: torch.Tensor | None
    b_g_weight: torch.Tensor
    b_g_bias: torch.Tensor | None
    norm_out_weight: torch.Tensor
    """``[C]``"""
    norm_out_bias: torch.Tensor | None
    z_weight: torch.Tensor
    """``[c_z, C]``; its bias ``[c_z]``."""
    z_bias: torch.Tensor | None
    g_weight: torch.Tensor
    """``[c_z, c_z]``; its bias ``[c_z]``."""
    g_bias: torch.Tensor | None

    def to(self, target: torch.dtype | torch.device) -> TriangleMultiplicationParameters:
        """All of them in a dtype or on a device."""
        moved = [None if tensor is None else tensor.to(target) for tensor in self]
        return TriangleMultiplicationParameters(*moved)  # type: ignore[arg-type]


EPSILON = 1e-5
"""Of both layer norms."""


def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype everything between is computed in: float32, or float64 for float64 inputs."""
    return torch.float64 if dtype == torch.float64 else torch.float32
