"""Attention on the CPU: all scores at once where they are small, tiles where not."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from foldase_kernels.attention.cpu_tiles import tiled_backward, tiled_forward
from foldase_kernels.attention.problem import Backend, Gradients, Problem, packed
from foldase_kernels.attention.reference import position_offsets, score_dtype
from foldase_kernels.scratch import scaled

SMALL_SCORES = 8 * 2**20
"""Bytes of scores up to which they are computed at once; below it tiling only costs time."""


def _small(problem: Problem) -> bool:
    scores = problem.q.numel() // problem.q.shape[-1] * problem.k.shape[-3]
    return scores * score_dtype(problem.q.dtype).itemsize <= scaled(SMALL_SCORES)


def _forward(problem: Problem) -> tuple[torch.Tensor, torch.Tensor]:
    """Beyond inputs and results ``O(keys)`` memory for a fixed number of rows.

    A few scratch tiles of about :data:`foldase_kernels.attention.cpu_tiles.TILE` bytes, or one matrix of
    scores where this takes less than :data:`SMALL_SCORES`.
    """
    return _direct_forward(problem) if _small(problem) else tiled_forward(problem)


def _backward(
    problem: Problem,
    out: torch.Tensor,
    lse: torch.Tensor,
    grad_out: torch.Tensor | None,
    grad_lse: torch.Tensor | None,
    wanted: Sequence[bool],
) -> Gradients:
    """Weights are computed anew from the log-sum-exp; memory as in the forward pass."""
    if _small(problem):
        return _direct_backward(problem, out, lse, grad_out, grad_lse, wanted)
    incoming = torch.zeros_like(out) if grad_out is None else grad_out
    return tiled_backward(problem, out, lse, incoming, grad_lse, wanted)


CPU = Backend(_forward, _backward)


def _scores(problem: Problem, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """All scores ``[..., rows, heads, queries, keys]`` from heads as :func:`_flat_heads` gives them."""
    scores = q.new_empty(q.shape[0], q.shape[1], k.shape[1])
    torch.baddbmm(scores, q, k.mT, beta=0, alpha=problem.scale, out=scores)
    shaped = scores.view(problem.full)
    for bias in problem.biases:
        shaped += bias
    _restrict(shaped, problem.mask, problem.causal, problem.slopes)
    return shaped


def _direct_forward(problem: Problem) -> tuple[torch.Tensor, torch.Tensor]:
    wide = score_dtype(problem.q.dtype)
    q, k, v = (_flat_heads(tensor, wide) for tensor in (problem.q, problem.k, problem.v))
    weights = _scores(problem, q, k)
    top = weights.amax(-1)
    weights -= _finite(top).unsqueeze(-1)
    total = weights.exp_().sum(-1)
    lse = torch.log(total).add_(top)
    heads = torch.bmm(weights.view(q.shape[0], q.shape[1], -1), v)
    heads /= torch.where(total == 0, 1.0, total).view(q.shape[0], -1, 1)
    out = _unflat(heads, problem.full)
    if problem.gate is not None:
        out *= torch.sigmoid(problem.gate.to(wide))
    return packed(out, problem.q.dtype), lse


def _direct_backward(
    problem: Problem,
    out: torch.Tensor,
    lse: torch.Tensor,
    grad_out: torch.Tensor | None,
    grad_lse: torch.Tensor | None,
    wanted: Sequence[bool],
) -> Gradients:
    wide = lse.dtype
    q, k, v = (_flat_heads(tensor, wide) for tensor in (problem.q, problem.k, problem.v))
    weights = _scores(problem, q, k)
    weights -= _finite(lse).unsqueeze(-1)
    weights = weights.exp_().view(q.shape[0], q.shape[1], -1)
    shift = torch.zeros_like(lse) if grad_lse is None else grad_lse
    grad_gate = (
        None
        if problem.gate is None
        else torch.zeros_like(problem.gate, memory_format=torch.contiguous_format)
    )
    if grad_out is None:
        grad_v, grad_scores = torch.zeros_like(v), torch.zeros_like(weights)
    else:
        incoming = grad_out.to(wide)
        product = incoming * out
        shift = shift - product.sum(-1).transpose(-1, -2)
        if problem.gate is not None:
            opened = torch.sigmoid(problem.gate.to(wide))
            incoming = incoming * opened
            grad_gate = packed(product.mul_(opened.neg_().add_(1)), problem.gate.dtype)
        heads_out = _flat_heads(incoming, wide)
        grad_v = torch.bmm(weights.mT, heads_out)
        grad_scores = torch.bmm(heads_out, v.mT)
    grad_scores += shift.reshape(*weights.shape[:-1], 1)
    grad_scores *= weights
    grad_q = torch.baddbmm(q, grad_scores, k, beta=0, alpha=problem.scale)
    grad_k = torch.baddbmm(k, grad_scores.mT, q, beta=0, alpha=problem.scale)
    shaped = grad_scores.view(problem.full)
    of_biases = [
        packed(shaped.sum_to_size(bias.shape), bias.dtype) if needed else None
        for bias, needed in zip(problem.biases, wanted, strict=True)
    ]
    of_q, of_k, of_v = (packed(_unflat(g, problem.full), problem.q.dtype) for g in (grad_q, grad_k, grad_v))
    return Gradients(of_q, of_k, of_v, grad_gate, of_biases)


def _restrict(
    scores: torch.Tensor, mask: torch.Tensor | None, causal: bool, slopes: torch.Tensor | None
) -> None:
    """Apply ALiBi, causality and mask to ``[..., heads, queries, keys]`` in place."""
    if causal or slopes is not None:
        offsets = position_offsets(scores.shape[-2], scores.shape[-1], scores.device)
        if slopes is not None:
            scores -= slopes.to(scores.dtype)[:, None, None] * offsets.abs()
        if causal:
            _forbid(scores, offsets > 0)
    if mask is not None:
        _forbid(scores, ~mask)


def _forbid(scores: torch.Tensor, forbidden: torch.Tensor) -> None:
    """Set scores to -inf, by a minimum: filling under a mask that is broadcast takes ten times as long."""
    limit = torch.where(forbidden, -torch.inf, torch.inf).to(scores.dtype)
    torch.minimum(scores, limit, out=scores)


def _finite(values: torch.Tensor) -> torch.Tensor:
    """With 0 for -inf, so that the scores of a query without keys stay -inf when it is subtracted."""
    return torch.where(values == -torch.inf, 0.0, values)


def _flat_heads(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """``[..., rows, positions, heads, width]`` as contiguous ``[batch, positions, width]``."""
    return tensor.transpose(-3, -2).to(dtype).reshape(-1, tensor.shape[-3], tensor.shape[-1])


def _unflat(grad: torch.Tensor, full: tuple[int, ...]) -> torch.Tensor:
    """The inverse of :func:`_flat_heads`, as a view."""
    return grad.view(*full[:-2], *grad.shape[1:]).transpose(-3, -2)
