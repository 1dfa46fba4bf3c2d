"""Sums over pairs, taken some rows at a time, so that memory grows with one group of rows only."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.utils.checkpoint import checkpoint

from foldase_models.layers.row_groups import rows_at_once


def sum_over_rows(compute: Callable[[slice], torch.Tensor], rows: int, row_bytes: int) -> torch.Tensor:
    """The sum of ``compute(rows)`` over groups of rows; the backward pass computes each group anew.

    Args:
        compute: what some rows add, a tensor of one shape ``[...]`` for all; it draws nothing at random. It
            may reach tensors that need gradients.
        rows: how many there are, at least one.
        row_bytes: of the largest tensor that one row makes.
    """
    step = rows_at_once(rows, row_bytes)
    if step >= rows:
        return compute(slice(0, rows))
    total: torch.Tensor | None = None
    for first in range(0, rows, step):
        group = slice(first, min(first + step, rows))
        if torch.is_grad_enabled():
            part = checkpoint(compute, group, use_reentrant=False, preserve_rng_state=False)
        else:
            part = compute(group)
        total = part if total is None else total + part
    assert total is not None
    return total


def masked_mean(values: torch.Tensor, mask: torch.Tensor, dims: int) -> torch.Tensor:
    """The mean ``[...]`` over the last ``dims`` dimensions where ``mask`` (broadcastable) is 1; else 0."""
    mask = mask.to(values.dtype).expand_as(values)
    last = tuple(range(-dims, 0))
    return (values * mask).sum(last) / mask.sum(last).clamp(min=1.0)


def cross_entropy(logits: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """``[...]``, float32 or wider, from logits of classes ``[..., K]`` and the true ones, int64 ``[...]``."""
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return -logits.log_softmax(-1).gather(-1, index.unsqueeze(-1)).squeeze(-1)


def distances(atoms: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """From atoms ``[..., N, A, 3]`` to points ``[..., P, 3]``: ``[..., N, A, P]``; no gradient at 0."""
    apart: torch.Tensor = (atoms.unsqueeze(-2) - points[..., None, None, :, :]).square().sum(-1).sqrt()
    return apart
