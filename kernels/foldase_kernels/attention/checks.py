"""What is wrong with the arguments of an attention call, said before anything is computed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
MAX_WIDTH = 128


def _shape(tensor: torch.Tensor) -> str:
    return str(list(tensor.shape))


def _fits(shape: Sequence[int], full: Sequence[int]) -> bool:
    """Whether ``shape`` broadcasts to ``full`` without enlarging it."""
    if len(shape) > len(full):
        return False
    tail = full[len(full) - len(shape) :]
    return all(size in (1, wanted) for size, wanted in zip(shape, tail, strict=True))


def _check_qkv(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        if tensor.dim() < 4:
            raise ValueError(
                f"{name} has shape {_shape(tensor)}; expected [..., rows, positions, heads, width]"
            )
        if tensor.dtype not in DTYPES:
            raise ValueError(
                f"{name} is {tensor.dtype}; expected float32, bfloat16, float16 (or float64 for checks)"
            )
        if tensor.dtype != q.dtype:
            raise ValueError(
                f"q, k and v differ in dtype: {q.dtype}, {k.dtype}, {v.dtype}; expected one dtype"
            )
        if tensor.device != q.device:
            raise ValueError(f"{name} is on {tensor.device}, q on {q.device}; expected one device")
    if k.shape != v.shape:
        raise ValueError(f"k and v differ in shape: {_shape(k)} and {_shape(v)}")
    if q.shape[:-3] != k.shape[:-3] or q.shape[-2:] != k.shape[-2:]:
        raise ValueError(
            f"k has shape {_shape(k)}, q {_shape(q)}; all but the third dimension from the end must be equal"
        )
    if 0 in q.shape or 0 in k.shape:
        raise ValueError(f"q {_shape(q)} and k {_shape(k)} must have no empty dimension")
    if q.shape[-1] > MAX_WIDTH:
        raise ValueError(f"q has shape {_shape(q)}; expected a head width of at most {MAX_WIDTH}")


def check_arguments(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    biases: Sequence[torch.Tensor],
    mask: torch.Tensor | None,
    gate: torch.Tensor | None,
    scale: float | None,
    alibi_slopes: torch.Tensor | None,
) -> None:
    """Check shapes, dtypes and devices of one call.

    Raises:
        ValueError: naming the argument, its shape or dtype, and what was expected.
    """
    _check_qkv(q, k, v)
    full = (*q.shape[:-3], q.shape[-2], q.shape[-3], k.shape[-3])
    for number, bias in enumerate(biases):
        if not bias.dtype.is_floating_point:
            raise ValueError(f"biases[{number}] is {bias.dtype}; expected a floating dtype (or use mask)")
        if not _fits(bias.shape, full):
            raise ValueError(
                f"biases[{number}] has shape {_shape(bias)}, which does not broadcast to "
                f"[..., rows, heads, queries, keys] = {list(full)}"
            )
        if bias.device != q.device:
            raise ValueError(f"biases[{number}] is on {bias.device}, q on {q.device}; expected one device")
    if mask is not None:
        if mask.dtype != torch.bool:
            raise ValueError(
                f"mask is {mask.dtype} of shape {_shape(mask)}; expected torch.bool, True where a key may be "
                "attended to"
            )
        if not _fits(mask.shape, full):
            raise ValueError(
                f"mask has shape {_shape(mask)}, which does not broadcast to "
                f"[..., rows, heads, queries, keys] = {list(full)}"
            )
        if mask.device != q.device:
            raise ValueError(f"mask is on {mask.device}, q on {q.device}; expected one device")
    if gate is not None and (gate.shape != q.shape or gate.dtype != q.dtype or gate.device != q.device):
        raise ValueError(
            f"gate has shape {_shape(gate)} ({gate.dtype}, {gate.device}); expected that of q: "
            f"{_shape(q)} ({q.dtype}, {q.device})"
        )
    if scale is not None and not abs(scale) < math.inf:
        raise ValueError(f"scale is {scale}; expected a finite number")
    if alibi_slopes is not None:
        _check_slopes(alibi_slopes, q)


def _check_slopes(slopes: torch.Tensor, q: torch.Tensor) -> None:
    if slopes.shape != (q.shape[-2],):
        raise ValueError(f"alibi_slopes has shape {_shape(slopes)}; expected [heads] = [{q.shape[-2]}]")
    if slopes.requires_grad:
        raise ValueError("alibi_slopes requires a gradient; slopes are constants, use a bias to train them")
    if slopes.device != q.device:
        raise ValueError(f"alibi_slopes is on {slopes.device}, q on {q.device}; expected one device")
