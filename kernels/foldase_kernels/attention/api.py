"""The public attention function: autocast, checks, and the operator behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, overload

import torch

from foldase_kernels.attention.backends import check_backend, known_backends
from foldase_kernels.attention.checks import check_arguments
from foldase_kernels.attention.op import attention
from foldase_kernels.preferred import wished


def _to_autocast(tensor: torch.Tensor) -> torch.Tensor:
    """In an autocast region, in its dtype; float64 is left alone, as torch's own operators do."""
    device = tensor.device.type
    if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
        return tensor
    if not tensor.is_floating_point() or tensor.dtype == torch.float64:
        return tensor
    return tensor.to(torch.get_autocast_dtype(device))


@overload
def evoformer_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    biases: Sequence[torch.Tensor] = (),
    *,
    mask: torch.Tensor | None = None,
    gate: torch.Tensor | None = None,
    scale: float | None = None,
    causal: bool = False,
    alibi_slopes: torch.Tensor | None = None,
    return_lse: Literal[False] = False,
    backend: str = "auto",
) -> torch.Tensor: ...


@overload
def evoformer_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    biases: Sequence[torch.Tensor] = (),
    *,
    mask: torch.Tensor | None = None,
    gate: torch.Tensor | None = None,
    scale: float | None = None,
    causal: bool = False,
    alibi_slopes: torch.Tensor | None = None,
    return_lse: Literal[True],
    backend: str = "auto",
) -> tuple[torch.Tensor, torch.Tensor]: ...


def evoformer_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    biases: Sequence[torch.Tensor] = (),
    *,
    mask: torch.Tensor | None = None,
    gate: torch.Tensor | None = None,
    scale: float | None = None,
    causal: bool = False,
    alibi_slopes: torch.Tensor | None = None,
    return_lse: bool = False,
    backend: str = "auto",
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Softmax attention over keys, with biases that are never expanded and get their own gradients.

    Deterministic on every backend, and one operator to ``torch.compile``, activation checkpointing and
    ``torch.func.vmap``; differentiable once. For the backward pass it saves its inputs, its result and the
    log-sum-exp. In an autocast region q, k, v and the gate are taken in the region's dtype (not from
    float64) and biases in their own. Any strides are taken, so the ending-node form of triangle attention is
    a call on transposed views. Scores and sums are float32 (float64 for float64 inputs).

    Args:
        q: queries ``[..., rows, queries, heads, width]``; float32, bfloat16, float16 or float64, width
            up to 128.
        k: keys ``[..., rows, keys, heads, width]``, dtype and device of q.
        v: values, shaped like k.
        biases: added to the scores; each broadcastable to ``[..., rows, heads, queries, keys]``, in its
            own floating dtype, with a gradient reduced to its own shape.
        mask: boolean, True where a key may be attended to; broadcastable like a bias. A query without any
            allowed key gives 0 and zero gradients.
        gate: shaped like q, before the sigmoid; the result is multiplied by ``sigmoid(gate)``.
        scale: factor on ``q k^T``; None means ``1 / sqrt(width)``.
        causal: a query sees only keys up to its own position; the last query stands at the last key.
        alibi_slopes: ``[heads]``; ``slope * |distance|`` is taken from the scores (Press et al. 2022).
            Constants, without a gradient.
        return_lse: also return the log-sum-exp of the scores.
        backend: ``"auto"``, or a name from :func:`available_backends`. ``auto`` logs once what it chose: on a
            GPU the library that ``python -m foldase_kernels build`` made, else Triton, else the reference.
            ``"cuda"`` reads up to four biases where they lie and sums the cheapest of more.

    Returns:
        The result, shaped and typed like q; with ``return_lse`` also float32 ``[..., rows, heads, queries]``
        (float64 for float64 inputs), -inf for a query without keys, differentiable and never gated.

    Raises:
        ValueError: an argument does not fit (it is named, with its shape and what was expected), or the
            backend does not exist here.
    """
    q, k, v = _to_autocast(q), _to_autocast(k), _to_autocast(v)
    gate = None if gate is None else _to_autocast(gate)
    check_arguments(q, k, v, biases, mask, gate, scale, alibi_slopes)
    backend = wished(backend, known_backends())
    check_backend(backend, q.device, q.dtype)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    out, lse = attention(q, k, v, list(biases), mask, gate, alibi_slopes, float(scale), causal, backend)
    return (out, lse) if return_lse else out
