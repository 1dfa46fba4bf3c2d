"""The transition on the CPU: whole where the hidden layer is small, tiles with recomputation where not."""

from __future__ import annotations

import torch

from foldase_kernels.scratch import scaled
from foldase_kernels.transition import cpu_tiles, op
from foldase_kernels.transition.parameters import Activation, TransitionParameters
from foldase_kernels.transition.reference import transition_reference

SMALL_HIDDEN = 4 * 2**20
"""Bytes of the hidden layer up to which it is kept for the backward pass; below it tiles cost time."""


def scratch_bytes(x: torch.Tensor, parameters: TransitionParameters) -> int:
    """The most bytes this backend holds beyond inputs, the result and the gradients asked for.

    Ten tiles; where a dtype is narrower than that of the sums, also a copy of the parameters and of their
    gradients in the wider one. Hidden layers of at most :data:`SMALL_HIDDEN` bytes are held ten times.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    tensors = [tensor for tensor in parameters if tensor is not None]
    cast = sum(2 * tensor.numel() * wide.itemsize for tensor in tensors if tensor.dtype != wide)
    return 10 * (_hidden_bytes(x, parameters) if _is_small(x, parameters) else scaled(cpu_tiles.TILE)) + cast


def _hidden_bytes(x: torch.Tensor, parameters: TransitionParameters) -> int:
    """Of the hidden layer, or of x in the dtype of the sums if that is wider."""
    hidden, channels = parameters.weight_in.shape
    itemsize = torch.promote_types(x.dtype, torch.float32).itemsize
    return x.numel() // channels * max(hidden, channels) * itemsize


def _is_small(x: torch.Tensor, parameters: TransitionParameters) -> bool:
    return _hidden_bytes(x, parameters) <= scaled(SMALL_HIDDEN)


def transition_cpu(
    x: torch.Tensor,
    parameters: TransitionParameters,
    activation: Activation,
    mask: torch.Tensor | None,
    residual: bool,
    epsilon: float,
) -> torch.Tensor:
    """The update of x, or with ``residual`` the new x; shapes and memory bound as in the API."""
    if _is_small(x, parameters):
        return transition_reference(x, parameters, activation, mask, residual, epsilon)
    out: torch.Tensor = op.transition(x, *parameters, mask, residual, epsilon, "cpu")
    return out


def transition_cpu_inplace(
    x: torch.Tensor,
    parameters: TransitionParameters,
    activation: Activation,
    mask: torch.Tensor | None,
    epsilon: float,
) -> torch.Tensor:
    """Write ``x + update`` into x; inference only."""
    with torch.no_grad():
        if _is_small(x, parameters):
            return x.copy_(transition_reference(x, parameters, activation, mask, True, epsilon))
        cpu_tiles.tiled_forward(x, parameters, mask, True, epsilon, x)
    return x
