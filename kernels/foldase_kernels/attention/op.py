"""Attention as a torch operator: what autograd, ``torch.compile``, FakeTensor and vmap know about it.

``torch.ops.foldase.evoformer_attention`` and its backward are opaque to tracing, so tiles and scratch of a
backend never enter a graph. Saved for the backward pass are the inputs, the output and its log-sum-exp.
Autocast is the public function's business; here tensors are taken in the dtypes they come in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from foldase_kernels.attention.backends import backend_for
from foldase_kernels.attention.problem import Problem
from foldase_kernels.attention.reference import score_dtype
from foldase_kernels.operators import no_autocast, refuse_second_derivative

_ARGUMENTS = (
    "Tensor q, Tensor k, Tensor v, Tensor[] biases, Tensor? mask, Tensor? gate, Tensor? alibi_slopes, "
    "float scale, bool causal, str backend"
)
FORWARD_SCHEMA = f"({_ARGUMENTS}) -> (Tensor, Tensor)"
BACKWARD_SCHEMA = (
    f"(Tensor? grad_out, Tensor? grad_lse, Tensor out, Tensor lse, bool[] wanted, {_ARGUMENTS}) -> Tensor[]"
)
"""``wanted`` tells of q, k, v, the gate, and every bias whether its gradient is returned."""


@torch.library.custom_op("foldase::evoformer_attention", mutates_args=(), schema=FORWARD_SCHEMA)
def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    biases: Sequence[torch.Tensor],
    mask: torch.Tensor | None,
    gate: torch.Tensor | None,
    alibi_slopes: torch.Tensor | None,
    scale: float,
    causal: bool,
    backend: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output and log-sum-exp; arguments as in ``evoformer_attention``, already checked."""
    problem = Problem(q, k, v, biases, mask, gate, alibi_slopes, scale, causal)
    with no_autocast(q.device):
        return backend_for(backend, q.device, q.dtype).forward(problem)


@torch.library.custom_op("foldase::evoformer_attention_backward", mutates_args=(), schema=BACKWARD_SCHEMA)
def attention_backward(
    grad_out: torch.Tensor | None,
    grad_lse: torch.Tensor | None,
    out: torch.Tensor,
    lse: torch.Tensor,
    wanted: Sequence[bool],
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    biases: Sequence[torch.Tensor],
    mask: torch.Tensor | None,
    gate: torch.Tensor | None,
    alibi_slopes: torch.Tensor | None,
    scale: float,
    causal: bool,
    backend: str,
) -> list[torch.Tensor]:
    """The gradients that are wanted, of q, k, v, the gate and the biases, in this order."""
    problem = Problem(q, k, v, biases, mask, gate, alibi_slopes, scale, causal)
    with no_autocast(q.device):
        run = backend_for(backend, q.device, q.dtype).backward
        grads = run(problem, out, lse, grad_out, grad_lse, wanted[4:])
    found = (grads.q, grads.k, grads.v, grads.gate, *grads.biases)
    return [grad for grad, needed in zip(found, wanted, strict=True) if needed and grad is not None]


@attention.register_fake
def _fake(q: torch.Tensor, *_rest: object) -> tuple[torch.Tensor, torch.Tensor]:
    lse = q.new_empty((*q.shape[:-3], q.shape[-2], q.shape[-3]), dtype=score_dtype(q.dtype))
    return q.new_empty(q.shape), lse


@attention_backward.register_fake
def _fake_backward(*arguments: Any) -> list[torch.Tensor]:
    wanted, q, k, v, biases, _, gate = arguments[4:11]
    owners = (q, k, v, gate, *biases)
    return [owner.new_empty(owner.shape) for owner, needed in zip(owners, wanted, strict=True) if needed]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
    q, k, v, biases, mask, gate, slopes, *ctx.constants = inputs
    ctx.save_for_backward(*output, q, k, v, mask, gate, slopes, *biases)
    ctx.set_materialize_grads(False)


def _differentiate(
    ctx: Any, grad_out: torch.Tensor | None, grad_lse: torch.Tensor | None
) -> tuple[object, ...]:
    out, lse, q, k, v, mask, gate, slopes, *biases = ctx.saved_tensors
    needs = ctx.needs_input_grad
    wanted = [*needs[:3], needs[5], *needs[3]]
    grads = iter(
        attention_backward(
            grad_out, grad_lse, out, lse, wanted, q, k, v, biases, mask, gate, slopes, *ctx.constants
        )
    )
    of_q, of_k, of_v, of_gate, *of_biases = [next(grads) if needed else None for needed in wanted]
    return of_q, of_k, of_v, of_biases, None, of_gate, None, None, None, None


attention.register_autograd(_differentiate, setup_context=_setup_context)
attention_backward.register_autograd(refuse_second_derivative("evoformer_attention"))


def _lead(tensor: torch.Tensor | None, dim: int | None, size: int) -> torch.Tensor | None:
    """The batched dimension as the first of all leading ones, without a copy."""
    if tensor is None:
        return None
    return tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)


def _lead_of_term(tensor: torch.Tensor | None, dim: int | None, rank: int) -> torch.Tensor | None:
    """The same for a bias or mask, which may have fewer dimensions than the ``rank`` of the scores."""
    if tensor is None or dim is None:
        return tensor
    moved = tensor.movedim(dim, 0)
    missing = rank - (moved.dim() - 1)
    return moved[(slice(None), *(None,) * missing)]


def _check_slopes_unbatched(dim: int | None) -> None:
    if dim is not None:
        raise ValueError("alibi_slopes is batched by vmap; expected the same slopes for all, or use a bias")


@attention.register_vmap
def _vmap(
    info: Any,
    dims: Sequence[Any],
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    biases: Sequence[torch.Tensor],
    mask: torch.Tensor | None,
    gate: torch.Tensor | None,
    slopes: torch.Tensor | None,
    *constants: object,
) -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[int, int]]:
    _check_slopes_unbatched(dims[6])
    size = info.batch_size
    rank = q.dim() - (dims[0] is not None)
    heads = [
        _lead(tensor, dim, size) for tensor, dim in zip((q, k, v, gate), (*dims[:3], dims[5]), strict=True)
    ]
    terms = [_lead_of_term(bias, dim, rank) for bias, dim in zip(biases, dims[3], strict=True)]
    seen = _lead_of_term(mask, dims[4], rank)
    return attention(*heads[:3], terms, seen, heads[3], slopes, *constants), (0, 0)


@attention_backward.register_vmap
def _vmap_backward(
    info: Any,
    dims: Sequence[Any],
    grad_out: torch.Tensor | None,
    grad_lse: torch.Tensor | None,
    out: torch.Tensor,
    lse: torch.Tensor,
    wanted: Sequence[bool],
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    biases: Sequence[torch.Tensor],
    mask: torch.Tensor | None,
    gate: torch.Tensor | None,
    slopes: torch.Tensor | None,
    *constants: object,
) -> tuple[list[torch.Tensor], list[int]]:
    _check_slopes_unbatched(dims[11])
    size = info.batch_size
    rank = q.dim() - (dims[5] is not None)
    results = [_lead(*pair, size) for pair in zip((grad_out, grad_lse, out, lse), dims[:4], strict=True)]
    heads = [_lead(*pair, size) for pair in zip((q, k, v, gate), (*dims[5:8], dims[10]), strict=True)]
    # Each element of the batch has a gradient of its own, even of a bias that all of them share.
    own = [_lead(bias, dim, size) for bias, dim in zip(biases, dims[8], strict=True)]
    terms = [_lead_of_term(bias, 0, rank) for bias in own]
    seen = _lead_of_term(mask, dims[9], rank)
    grads = attention_backward(*results, wanted, *heads[:3], terms, seen, heads[3], slopes, *constants)
    owners = [owner for owner, needed in zip((*heads, *own), wanted, strict=True) if needed]
    shaped = [
        grad.reshape(owner.shape) for grad, owner in zip(grads, owners, strict=True) if owner is not None
    ]
    return shaped, [0] * len(shaped)
