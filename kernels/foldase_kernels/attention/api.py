"""The public attention function: checks, choice of a backend, gate."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Literal, overload

import torch

from foldase_kernels.attention.checks import check_arguments
from foldase_kernels.attention.cpu import attention_cpu
from foldase_kernels.attention.reference import attention_reference
from foldase_kernels.loader import require

_log = logging.getLogger("foldase_kernels")
_reported: set[str] = set()

Backend = Callable[
    [
        torch.Tensor,
        torch.Tensor,
        torch.Tensor,
        Sequence[torch.Tensor],
        torch.Tensor | None,
        float,
        bool,
        torch.Tensor | None,
        bool,
    ],
    tuple[torch.Tensor, torch.Tensor],
]

_BACKENDS: dict[str, Backend] = {"reference": attention_reference, "cpu": attention_cpu}


def available_backends() -> tuple[str, ...]:
    """Names that ``backend`` takes on this machine, besides ``"auto"``."""
    return tuple(_BACKENDS)


def choose_backend(device: torch.device) -> str:
    """What ``backend="auto"`` takes for tensors of a device; logged once per device type."""
    chosen = "cpu" if device.type == "cpu" else "reference"
    if device.type not in _reported:
        _reported.add(device.type)
        _log.info("evoformer_attention on %s uses backend %r", device.type, chosen)
    return chosen


def _backend(name: str, device: torch.device) -> Backend:
    if name == "auto":
        return _BACKENDS[choose_backend(device)]
    if name == "cuda":
        require("cuda", "attention", device)
    if name not in _BACKENDS:
        raise ValueError(f"backend {name!r} is not available; expected auto, {', '.join(_BACKENDS)}")
    if name == "cpu" and device.type != "cpu":
        raise ValueError(f"backend 'cpu' was asked for tensors on {device}; use auto or reference")
    return _BACKENDS[name]


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

    Deterministic on every backend. Any strides are taken, so the ending-node form of triangle attention is
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
        backend: ``"auto"``, or a name from :func:`available_backends`. ``auto`` logs once what it chose.

    Returns:
        The result, shaped and typed like q; with ``return_lse`` also float32 ``[..., rows, heads, queries]``
        (float64 for float64 inputs), -inf for a query without keys, differentiable and never gated.

    Raises:
        ValueError: an argument does not fit (it is named, with its shape and what was expected), or the
            backend does not exist here.
    """
    biases = tuple(biases)
    check_arguments(q, k, v, biases, mask, gate, scale, alibi_slopes)
    run = _backend(backend, q.device)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    out, lse = run(q, k, v, biases, mask, scale, causal, alibi_slopes, return_lse)
    if gate is not None:
        out = out * torch.sigmoid(gate)
    return (out, lse) if return_lse else out
