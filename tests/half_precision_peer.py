"""Attention as it is usually run in half precision, for an error to measure against."""

from __future__ import annotations

from collections.abc import Sequence

import torch

ERROR_RATIO = 2.0
"""Most that our error may be of the peer's."""


def usual_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    biases: Sequence[torch.Tensor],
    mask: torch.Tensor | None,
) -> torch.Tensor:
    """Scores and weights in the dtype of q ``[rows, positions, heads, width]``, the softmax in float32."""
    q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))
    scores = (q * q.shape[-1] ** -0.5) @ k.mT
    for bias in biases:
        scores = scores + bias.to(scores.dtype)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    upcast = torch.float64 if q.dtype == torch.float64 else torch.float32
    return (scores.to(upcast).softmax(-1).to(q.dtype) @ v).transpose(1, 2)


def error_norm(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Of the difference, relative to that of what is wanted."""
    return ((found.double() - wanted.double()).norm() / wanted.double().norm()).item()
