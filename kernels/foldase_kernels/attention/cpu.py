"""Attention on the CPU: all scores at once where they are small, tiles with recomputation where not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from foldase_kernels.attention.cpu_tiles import tiled_backward, tiled_forward
from foldase_kernels.attention.reference import position_offsets, score_dtype

SMALL_SCORES = 8 * 2**20
"""Bytes of scores up to which they are kept for the backward pass; below it tiling only costs time."""


def attention_cpu(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    biases: Sequence[torch.Tensor],
    mask: torch.Tensor | None,
    scale: float,
    causal: bool,
    alibi_slopes: torch.Tensor | None,
    need_lse: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ungated output like q and the log-sum-exp ``[..., rows, heads, queries]``; shapes as in the API.

    Without ``need_lse`` the second tensor may be empty. Beyond inputs, outputs and their gradients, memory
    is ``O(keys)`` for a fixed number of rows: a few scratch tiles of about
    :data:`foldase_kernels.attention.cpu_tiles.TILE` bytes. Problems whose scores take less than
    :data:`SMALL_SCORES` keep them instead.
    """
    scores = q.numel() // q.shape[-1] * k.shape[-3] * score_dtype(q.dtype).itemsize
    run = _Direct if scores <= SMALL_SCORES else _Tiled
    result: tuple[torch.Tensor, torch.Tensor] = run.apply(
        q, k, v, mask, alibi_slopes, scale, causal, need_lse, *biases
    )  # type: ignore[no-untyped-call]
    return result


class _Direct(torch.autograd.Function):
    """All scores in memory, the softmax kept for the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        mask: torch.Tensor | None,
        slopes: torch.Tensor | None,
        scale: float,
        causal: bool,
        need_lse: bool,
        *biases: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        wide = score_dtype(q.dtype)
        heads_q, heads_k, heads_v = (_flat_heads(tensor, wide) for tensor in (q, k, v))
        scores = heads_q.new_empty(heads_q.shape[0], heads_q.shape[1], heads_k.shape[1])
        torch.baddbmm(scores, heads_q, heads_k.mT, beta=0, alpha=scale, out=scores)
        full = (*q.shape[:-3], q.shape[-2], q.shape[-3], k.shape[-3])
        shaped = scores.view(full)
        for bias in biases:
            shaped += bias
        _restrict(shaped, mask, causal, slopes)
        lse = torch.logsumexp(shaped, -1) if need_lse else scores.new_empty(0)
        weights = torch.softmax(scores, -1)
        if bool(weights[..., 0].isnan().any()):
            weights.masked_fill_((scores == -torch.inf).all(-1, keepdim=True), 0.0)
        out = torch.bmm(weights, heads_v).view(*full[:-1], v.shape[-1]).transpose(-3, -2)
        ctx.save_for_backward(heads_q, heads_k, heads_v, weights)
        ctx.scale, ctx.full = scale, full
        ctx.shapes = tuple((bias.shape, bias.dtype) for bias in biases)
        ctx.dtype = q.dtype
        ctx.set_materialize_grads(False)
        return out.to(q.dtype), lse

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_out: torch.Tensor | None, grad_lse: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, ...]:
        heads_q, heads_k, heads_v, weights = ctx.saved_tensors
        grad_v = None
        grad_scores = torch.zeros_like(weights)
        if grad_out is not None:
            heads_out = _flat_heads(grad_out, weights.dtype)
            grad_v = torch.bmm(weights.mT, heads_out)
            grad_weights = torch.bmm(heads_out, heads_v.mT)
            grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
        if grad_lse is not None:
            grad_scores += weights * grad_lse.reshape(*weights.shape[:-1], 1)
        grad_q = torch.baddbmm(heads_q, grad_scores, heads_k, beta=0, alpha=ctx.scale)
        grad_k = torch.baddbmm(heads_k, grad_scores.mT, heads_q, beta=0, alpha=ctx.scale)
        shaped = grad_scores.view(ctx.full)
        grad_biases = tuple(
            shaped.sum_to_size(shape).to(dtype) if needed else None
            for (shape, dtype), needed in zip(ctx.shapes, ctx.needs_input_grad[8:], strict=True)
        )
        grads = (
            None if grad is None else _unflat(grad, ctx.full).to(ctx.dtype)
            for grad in (grad_q, grad_k, grad_v)
        )
        return (*grads, None, None, None, None, None, *grad_biases)


def _restrict(
    scores: torch.Tensor, mask: torch.Tensor | None, causal: bool, slopes: torch.Tensor | None
) -> None:
    """Apply ALiBi, causality and mask to ``[..., heads, queries, keys]`` in place."""
    if causal or slopes is not None:
        offsets = position_offsets(scores.shape[-2], scores.shape[-1], scores.device)
        if slopes is not None:
            scores -= slopes.to(scores.dtype)[:, None, None] * offsets.abs()
        if causal:
            scores.masked_fill_(offsets > 0, -torch.inf)
    if mask is not None:
        scores.masked_fill_(~mask, -torch.inf)


def _flat_heads(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """``[..., rows, positions, heads, width]`` as contiguous ``[batch, positions, width]``."""
    return tensor.transpose(-3, -2).to(dtype).reshape(-1, tensor.shape[-3], tensor.shape[-1])


def _unflat(grad: torch.Tensor, full: tuple[int, ...]) -> torch.Tensor:
    """The inverse of :func:`_flat_heads`, as a view."""
    return grad.view(*full[:-2], *grad.shape[1:]).transpose(-3, -2)


class _Tiled(torch.autograd.Function):
    """Scores in tiles; the backward pass recomputes them from the saved log-sum-exp."""

    @staticmethod
    def forward(
        ctx: Any,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        mask: torch.Tensor | None,
        slopes: torch.Tensor | None,
        scale: float,
        causal: bool,
        need_lse: bool,
        *biases: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        out, lse = tiled_forward(q, k, v, biases, mask, scale, causal, slopes)
        ctx.save_for_backward(q, k, v, mask, slopes, out, lse, *biases)
        ctx.scale, ctx.causal = scale, causal
        ctx.set_materialize_grads(False)
        return out, lse if need_lse else lse.new_empty(0)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_out: torch.Tensor | None, grad_lse: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, ...]:
        q, k, v, mask, slopes, out, lse, *biases = ctx.saved_tensors
        if grad_out is None:
            grad_out = torch.zeros_like(out)
        wanted = ctx.needs_input_grad[8:]
        grad_q, grad_k, grad_v, grad_biases = tiled_backward(
            q, k, v, biases, mask, ctx.scale, ctx.causal, slopes, out, lse, grad_out, grad_lse, wanted
        )
        return (grad_q, grad_k, grad_v, None, None, None, None, None, *grad_biases)
