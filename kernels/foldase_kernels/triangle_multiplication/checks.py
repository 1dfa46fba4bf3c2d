"""What is wrong with the arguments of a triangle multiplication, said before anything is computed."""

from __future__ import annotations

import torch

from foldase_kernels.triangle_multiplication.parameters import TriangleMultiplicationParameters

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def _shape(tensor: torch.Tensor) -> str:
    return str(list(tensor.shape))


def _check_z(z: torch.Tensor) -> None:
    if z.dim() < 3 or z.shape[-3] != z.shape[-2]:
        raise ValueError(f"z has shape {_shape(z)}; expected [..., N, N, c_z]")
    if 0 in z.shape:
        raise ValueError(f"z has shape {_shape(z)}; expected no empty dimension")
    if z.dtype not in DTYPES:
        raise ValueError(f"z is {z.dtype}; expected float32, bfloat16, float16 (or float64 for checks)")


def _expected_shapes(width: int, hidden: int) -> dict[str, list[int]]:
    projection = {f"{name}_weight": [hidden, width] for name in ("a_p", "a_g", "b_p", "b_g")}
    shift = {f"{name}_bias": [hidden] for name in ("a_p", "a_g", "b_p", "b_g", "norm_out")}
    wide = {name: [width] for name in ("norm_in_weight", "norm_in_bias", "z_bias", "g_bias")}
    return {
        **projection,
        **shift,
        **wide,
        "norm_out_weight": [hidden],
        "z_weight": [width, hidden],
        "g_weight": [width, width],
    }


def _check_parameters(z: torch.Tensor, parameters: TriangleMultiplicationParameters) -> None:
    if not isinstance(parameters, TriangleMultiplicationParameters):
        raise ValueError(
            f"parameters is a {type(parameters).__name__}; expected TriangleMultiplicationParameters"
        )
    first = parameters.a_p_weight
    if not isinstance(first, torch.Tensor) or first.dim() != 2 or first.shape[0] == 0:
        seen = _shape(first) if isinstance(first, torch.Tensor) else repr(first)
        raise ValueError(f"parameters.a_p_weight is {seen}; expected a tensor [C, c_z]")
    shapes = _expected_shapes(z.shape[-1], first.shape[0])
    for name, tensor in parameters._asdict().items():
        if tensor is None and name.endswith("_bias"):
            continue
        if not isinstance(tensor, torch.Tensor) or not tensor.dtype.is_floating_point:
            seen = str(tensor.dtype) if isinstance(tensor, torch.Tensor) else repr(tensor)
            raise ValueError(f"parameters.{name} is {seen}; expected a tensor of a floating dtype")
        if list(tensor.shape) != shapes[name]:
            raise ValueError(
                f"parameters.{name} has shape {_shape(tensor)}; expected {shapes[name]} for z of shape "
                f"{_shape(z)} and C = {first.shape[0]}"
            )
        if tensor.device != z.device:
            raise ValueError(f"parameters.{name} is on {tensor.device}, z on {z.device}")


def _check_mask(z: torch.Tensor, mask: torch.Tensor) -> None:
    if mask.dtype != torch.bool:
        raise ValueError(f"mask is {mask.dtype}; expected torch.bool, True where a pair is real")
    full = z.shape[:-1]
    tail = full[max(0, len(full) - mask.dim()) :]
    if mask.dim() > len(full) or any(m not in (1, n) for m, n in zip(mask.shape, tail, strict=True)):
        raise ValueError(
            f"mask has shape {_shape(mask)}, which does not broadcast to [..., N, N] = {list(full)}"
        )
    if mask.device != z.device:
        raise ValueError(f"mask is on {mask.device}, z on {z.device}")


def _check_factor(z: torch.Tensor, factor: torch.Tensor) -> None:
    if not factor.dtype.is_floating_point:
        raise ValueError(f"factor is {factor.dtype}; expected a floating dtype")
    missing = z.dim() - factor.dim()
    if missing < 0 or any(f not in (1, n) for f, n in zip(factor.shape, z.shape[missing:], strict=True)):
        raise ValueError(
            f"factor has shape {_shape(factor)}, which does not broadcast to that of z, {_shape(z)}"
        )
    if factor.device != z.device:
        raise ValueError(f"factor is on {factor.device}, z on {z.device}")
    if factor.requires_grad:
        raise ValueError("factor requires a gradient; expected a constant, such as a dropout mask")


def _check_inplace(z: torch.Tensor, parameters: TriangleMultiplicationParameters) -> None:
    tensors = (z, *(tensor for tensor in parameters if tensor is not None))
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        raise ValueError(
            "inplace is True where z or parameters require a gradient, which needs z as it was; expected "
            "torch.no_grad() or inplace=False"
        )
    if any(step == 0 and size > 1 for step, size in zip(z.stride(), z.shape, strict=True)):
        raise ValueError(
            f"inplace is True and z has strides {list(z.stride())}; expected elements that lie apart, not an "
            "expanded view"
        )


def check_arguments(
    z: torch.Tensor,
    parameters: TriangleMultiplicationParameters,
    mask: torch.Tensor | None,
    inplace: bool,
    factor: torch.Tensor | None = None,
) -> None:
    """Check shapes, dtypes and devices of one call.

    Raises:
        ValueError: naming the argument, its shape or dtype, and what was expected.
    """
    _check_z(z)
    _check_parameters(z, parameters)
    if mask is not None:
        _check_mask(z, mask)
    if factor is not None:
        _check_factor(z, factor)
    if inplace:
        _check_inplace(z, parameters)
