"""What is wrong with the arguments of an outer product mean, said before anything is computed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch._subclasses.fake_tensor import FakeTensor

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def _shape(tensor: torch.Tensor) -> str:
    return str(list(tensor.shape))


def _check_factors(a: torch.Tensor, b: torch.Tensor) -> None:
    for name, tensor in (("a", a), ("b", b)):
        if tensor.dim() < 3:
            raise ValueError(
                f"{name} has shape {_shape(tensor)}; expected [..., sequences, residues, channels]"
            )
        if tensor.dtype not in DTYPES:
            raise ValueError(
                f"{name} is {tensor.dtype}; expected float32, bfloat16, float16 (or float64 for checks)"
            )
        if 0 in tensor.shape:
            raise ValueError(f"{name} has shape {_shape(tensor)}; expected no empty dimension")
    if b.shape != a.shape:
        raise ValueError(f"b has shape {_shape(b)}; expected that of a, {_shape(a)}")
    if b.dtype != a.dtype:
        raise ValueError(f"b is {b.dtype}, a {a.dtype}; expected one dtype")
    if b.device != a.device:
        raise ValueError(f"b is on {b.device}, a on {a.device}; expected one device")


def _check_projection(a: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
    product = a.shape[-1] ** 2
    if weight.dim() != 2 or weight.shape[1] != product:
        raise ValueError(f"weight has shape {_shape(weight)}; expected [c_z, C * C] = [c_z, {product}]")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias has shape {_shape(bias)}; expected [c_z] = [{weight.shape[0]}]")
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is None:
            continue
        if not tensor.dtype.is_floating_point:
            raise ValueError(f"{name} is {tensor.dtype}; expected a floating dtype")
        if tensor.device != a.device:
            raise ValueError(f"{name} is on {tensor.device}, a on {a.device}; expected one device")


def _check_weights(a: torch.Tensor, weights: torch.Tensor) -> None:
    full = a.shape[:-1]
    if not _fits(weights.shape, full):
        raise ValueError(
            f"weights has shape {_shape(weights)}, which does not broadcast to "
            f"[..., sequences, residues] = {list(full)}"
        )
    if weights.dtype != torch.bool and not weights.dtype.is_floating_point:
        raise ValueError(f"weights is {weights.dtype}; expected torch.bool or a floating dtype")
    if weights.device != a.device:
        raise ValueError(f"weights is on {weights.device}, a on {a.device}; expected one device")
    if weights.requires_grad:
        raise ValueError("weights requires a gradient; expected constants, their root has no slope at 0")
    # Elsewhere than on the CPU looking at values would wait for the device; while tracing there are none.
    traced = torch.compiler.is_compiling() or isinstance(weights, FakeTensor)
    looks = weights.device.type == "cpu" and weights.dtype != torch.bool and not traced
    if looks and not bool((weights >= 0).all()):
        raise ValueError(f"weights {_shape(weights)} has negative or undefined values; expected 0 or more")


def _check_residual(a: torch.Tensor, weight: torch.Tensor, residual: torch.Tensor) -> None:
    wanted = (*a.shape[:-3], a.shape[-2], a.shape[-2], weight.shape[0])
    if tuple(residual.shape) != wanted:
        raise ValueError(
            f"residual has shape {_shape(residual)}; expected [..., residues, residues, c_z] = {list(wanted)}"
        )
    if not residual.dtype.is_floating_point:
        raise ValueError(f"residual is {residual.dtype}; expected a floating dtype")
    if residual.device != a.device:
        raise ValueError(f"residual is on {residual.device}, a on {a.device}; expected one device")
    if any(stride == 0 and size > 1 for stride, size in zip(residual.stride(), residual.shape, strict=True)):
        raise ValueError(f"residual {_shape(residual)} is an expanded view; expected elements of its own")


def _fits(shape: Sequence[int], full: Sequence[int]) -> bool:
    if len(shape) > len(full):
        return False
    tail = full[len(full) - len(shape) :]
    return all(size in (1, wanted) for size, wanted in zip(shape, tail, strict=True))


def check_arguments(
    a: torch.Tensor,
    b: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    weights: torch.Tensor | None,
    epsilon: float,
    residual: torch.Tensor | None,
) -> None:
    """Check shapes, dtypes, devices and the sign of weights of one call.

    Raises:
        ValueError: naming the argument, its shape or dtype, and what was expected.
    """
    _check_factors(a, b)
    _check_projection(a, weight, bias)
    if weights is not None:
        _check_weights(a, weights)
    if not 0 < epsilon < math.inf:
        raise ValueError(f"epsilon is {epsilon}; expected a positive number")
    if residual is None:
        return
    _check_residual(a, weight, residual)
    tensors = (a, b, weight, bias, residual)
    if torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors):
        raise ValueError("residual is for inference; expected no_grad, or tensors without requires_grad")
