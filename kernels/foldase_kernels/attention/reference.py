"""Biased attention in plain torch: the definition that every other backend is tested against.

Scores of a row and head are ``scale * q k^T + biases``, -inf where a key may not be attended to; the output
is their softmax over keys times v (Jumper et al. 2021, supplement, algorithms 7, 8, 13 and 14), times
``sigmoid(gate)``. All scores are held in memory. Works in float64, so that ``gradcheck`` applies.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from foldase_kernels.attention.problem import Backend, Gradients, Problem, packed


def position_offsets(queries: int, keys: int, device: torch.device) -> torch.Tensor:
    """How far each key lies ahead of each query, int64 ``[queries, keys]``.

    The last query stands at the last key, as in decoding with cached keys, so with equal numbers this is
    ``key - query``.
    """
    query = torch.arange(queries, device=device)[:, None] + (keys - queries)
    return torch.arange(keys, device=device)[None, :] - query


def score_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype scores are computed in: float32, or float64 for float64 inputs."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def scores_of(
    q: torch.Tensor,
    k: torch.Tensor,
    biases: Sequence[torch.Tensor],
    mask: torch.Tensor | None,
    scale: float,
    causal: bool,
    alibi_slopes: torch.Tensor | None,
) -> torch.Tensor:
    """All scores ``[..., rows, heads, queries, keys]``, -inf where attention is not allowed."""
    scores = torch.einsum("...qhc,...khc->...hqk", q * scale, k)
    for bias in biases:
        scores = scores + bias.to(scores.dtype)
    if causal or alibi_slopes is not None:
        offsets = position_offsets(q.shape[-3], k.shape[-3], q.device)
        if alibi_slopes is not None:
            scores = scores - alibi_slopes.to(scores.dtype)[:, None, None] * offsets.abs()
        if causal:
            scores = scores.masked_fill(offsets > 0, -torch.inf)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return scores


def attention_reference(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    biases: Sequence[torch.Tensor],
    mask: torch.Tensor | None,
    scale: float,
    causal: bool,
    alibi_slopes: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ungated output like q and the log-sum-exp ``[..., rows, heads, queries]``; shapes as in the API.

    Made of differentiable operations: its gradients are autograd's.
    """
    wide = score_dtype(q.dtype)
    scores = scores_of(q.to(wide), k.to(wide), biases, mask, scale, causal, alibi_slopes)
    top = scores.detach().amax(-1, keepdim=True)
    top = torch.where(top == -torch.inf, 0.0, top)
    weights = torch.exp(scores - top)
    total = weights.sum(-1, keepdim=True)
    empty = total == 0
    total = torch.where(empty, 1.0, total)
    out = torch.einsum("...hqk,...khc->...qhc", weights / total, v.to(wide))
    lse = torch.where(empty, -torch.inf, torch.log(total) + top).squeeze(-1)
    return out.to(q.dtype), lse


def _forward(problem: Problem) -> tuple[torch.Tensor, torch.Tensor]:
    wide = score_dtype(problem.q.dtype)
    out, lse = attention_reference(
        problem.q.to(wide),
        problem.k,
        problem.v,
        problem.biases,
        problem.mask,
        problem.scale,
        problem.causal,
        problem.slopes,
    )
    if problem.gate is not None:
        out = out * torch.sigmoid(problem.gate.to(wide))
    return packed(out, problem.q.dtype), packed(lse, wide)


def _backward(
    problem: Problem,
    out: torch.Tensor,
    lse: torch.Tensor,
    grad_out: torch.Tensor | None,
    grad_lse: torch.Tensor | None,
    wanted: Sequence[bool],
) -> Gradients:
    """The weights anew from the log-sum-exp, then the derivative of a softmax (Dao et al. 2022, B.4)."""
    wide = lse.dtype
    q, k, v = (tensor.to(wide) for tensor in (problem.q, problem.k, problem.v))
    scores = scores_of(q, k, problem.biases, problem.mask, problem.scale, problem.causal, problem.slopes)
    weights = torch.exp(scores - torch.where(lse == -torch.inf, 0.0, lse).unsqueeze(-1))
    incoming = torch.zeros_like(q) if grad_out is None else grad_out.to(wide)
    product = incoming * out.to(wide)
    shift = -product.sum(-1).transpose(-1, -2)
    if grad_lse is not None:
        shift = shift + grad_lse
    grad_gate = None
    if problem.gate is not None:
        opened = torch.sigmoid(problem.gate.to(wide))
        grad_gate = packed(product * (1 - opened), problem.gate.dtype)
        incoming = incoming * opened
    grad_v = torch.einsum("...hqk,...qhc->...khc", weights, incoming)
    grad_weights = torch.einsum("...qhc,...khc->...hqk", incoming, v)
    grad_scores = weights * (grad_weights + shift.unsqueeze(-1))
    grad_q = torch.einsum("...hqk,...khc->...qhc", grad_scores, k) * problem.scale
    grad_k = torch.einsum("...hqk,...qhc->...khc", grad_scores, q) * problem.scale
    grad_q, grad_k, grad_v = (packed(grad, problem.q.dtype) for grad in (grad_q, grad_k, grad_v))
    of_biases = [
        packed(grad_scores.sum_to_size(bias.shape), bias.dtype) if needed else None
        for bias, needed in zip(problem.biases, wanted, strict=True)
    ]
    return Gradients(grad_q, grad_k, grad_v, grad_gate, of_biases)


REFERENCE = Backend(_forward, _backward)
