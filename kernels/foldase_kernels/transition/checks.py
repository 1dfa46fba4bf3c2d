"""What is wrong with the arguments of a transition, said before anything is computed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from foldase_kernels.transition.parameters import TransitionParameters

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
ACTIVATIONS = ("relu", "swiglu")


def _shape(tensor: torch.Tensor) -> str:
    return str(list(tensor.shape))


def _check_x(x: torch.Tensor) -> None:
    if x.dim() < 1 or x.shape[-1] == 0:
        raise ValueError(f"x has shape {_shape(x)}; expected [..., channels] with at least one channel")
    if x.dtype not in DTYPES:
        raise ValueError(f"x is {x.dtype}; expected float32, bfloat16, float16 (or float64 for checks)")


def _check_parameters(x: torch.Tensor, parameters: TransitionParameters, activation: str) -> None:
    if not isinstance(parameters, TransitionParameters):
        raise ValueError(f"parameters is a {type(parameters).__name__}; expected TransitionParameters")
    channels = x.shape[-1]
    if parameters.weight_in.dim() != 2:
        raise ValueError(
            f"parameters.weight_in has shape {_shape(parameters.weight_in)}; expected [h, {channels}]"
        )
    hidden = parameters.weight_in.shape[0]
    wanted: dict[str, tuple[int, ...]] = {
        "norm_weight": (channels,),
        "norm_bias": (channels,),
        "weight_in": (hidden, channels),
        "bias_in": (hidden,),
        "weight_out": (channels, hidden),
        "bias_out": (channels,),
        "weight_gate": (hidden, channels),
        "bias_gate": (hidden,),
    }
    gated = activation == "swiglu"
    if gated and parameters.weight_gate is None:
        raise ValueError(f"parameters.weight_gate is None; swiglu expects [h, c] = [{hidden}, {channels}]")
    for name, shape in wanted.items():
        tensor: torch.Tensor | None = getattr(parameters, name)
        if tensor is None:
            continue
        if name.endswith("gate") and not gated:
            raise ValueError(f"parameters.{name} has shape {_shape(tensor)}; expected None with relu")
        if tuple(tensor.shape) != shape:
            raise ValueError(f"parameters.{name} has shape {_shape(tensor)}; expected {list(shape)}")
        if not tensor.dtype.is_floating_point:
            raise ValueError(f"parameters.{name} is {tensor.dtype}; expected a floating dtype")
        if tensor.device != x.device:
            raise ValueError(f"parameters.{name} is on {tensor.device}, x on {x.device}; expected one device")


def _check_mask(x: torch.Tensor, mask: torch.Tensor) -> None:
    if mask.dtype != torch.bool:
        raise ValueError(f"mask is {mask.dtype}; expected torch.bool, True where a position is real")
    if mask.device != x.device:
        raise ValueError(f"mask is on {mask.device}, x on {x.device}; expected one device")
    positions = x.shape[:-1]
    if not _fits(mask.shape, positions):
        raise ValueError(
            f"mask has shape {_shape(mask)}, which does not broadcast to x less channels, {list(positions)}"
        )


def _fits(shape: Sequence[int], full: Sequence[int]) -> bool:
    if len(shape) > len(full):
        return False
    tail = full[len(full) - len(shape) :]
    return all(size in (1, wanted) for size, wanted in zip(shape, tail, strict=True))


def check_arguments(
    x: torch.Tensor,
    parameters: TransitionParameters,
    activation: str,
    mask: torch.Tensor | None,
    epsilon: float,
    inplace: bool,
) -> None:
    """Check shapes, dtypes and devices of one call.

    Raises:
        ValueError: naming the argument, its shape or dtype, and what was expected.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation is {activation!r}; expected {' or '.join(map(repr, ACTIVATIONS))}")
    _check_x(x)
    _check_parameters(x, parameters, activation)
    if mask is not None:
        _check_mask(x, mask)
    if not 0 < epsilon < math.inf:
        raise ValueError(f"epsilon is {epsilon}; expected a positive number")
    if not inplace:
        return
    learns = any(tensor is not None and tensor.requires_grad for tensor in (x, *parameters))
    if torch.is_grad_enabled() and learns:
        raise ValueError("inplace=True is for inference; expected no_grad, or tensors without requires_grad")
    if any(stride == 0 and size > 1 for stride, size in zip(x.stride(), x.shape, strict=True)):
        raise ValueError(f"x {_shape(x)} is an expanded view; inplace=True expects elements of its own")
