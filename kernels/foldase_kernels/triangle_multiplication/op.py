"""Triangle multiplication as a torch operator: what autograd, ``torch.compile`` and FakeTensor know of it.

``torch.ops.foldase.triangle_multiplication`` and its backward are opaque to tracing, so tiles and scratch of
a backend never enter a graph. Saved for the backward pass are the inputs alone. The form in place is no
operator: it is for inference outside of graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from foldase_kernels.operators import no_autocast, refuse_second_derivative
from foldase_kernels.triangle_multiplication import cpu, triton
from foldase_kernels.triangle_multiplication.parameters import TriangleMultiplicationParameters

FIELDS = TriangleMultiplicationParameters._fields
COUNT = len(FIELDS)
_TENSORS = ", ".join(f"Tensor{'?' if name.endswith('_bias') else ''} {name}" for name in FIELDS)
_ARGUMENTS = f"Tensor z, {_TENSORS}, Tensor? mask, Tensor? factor, bool outgoing, bool residual, str backend"
FORWARD_SCHEMA = f"({_ARGUMENTS}) -> Tensor"
BACKWARD_SCHEMA = f"(Tensor grad, bool[] wanted, {_ARGUMENTS}) -> Tensor[]"
"""``wanted`` tells of z and every parameter whether its gradient is returned."""

Forward = Callable[..., None]
"""Takes z, parameters, mask, outgoing, residual, the result, and a factor only where there is one."""
Backward = Callable[..., tuple[torch.Tensor | None, ...]]
"""The same with the gradient and what is wanted instead of the result."""

BACKENDS: dict[str, tuple[Forward, Backward]] = {
    "cpu": (cpu.triangle_multiplication_forward, cpu.triangle_multiplication_backward),
    "triton": (triton.triangle_multiplication_forward, triton.triangle_multiplication_backward),
}


FACTOR_INSIDE = ("cpu",)
"""Backends that multiply the update by a factor before they add z."""


def _given(factor: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
    return () if factor is None else (factor,)


@torch.library.custom_op("foldase::triangle_multiplication", mutates_args=(), schema=FORWARD_SCHEMA)
def triangle_multiplication(z: torch.Tensor, *arguments: Any) -> torch.Tensor:
    """The update of z; arguments as in the schema, already checked."""
    parameters = TriangleMultiplicationParameters(*arguments[:COUNT])
    mask, factor, outgoing, residual, backend = arguments[COUNT:]
    result = torch.empty(z.shape, dtype=z.dtype, device=z.device)
    with no_autocast(z.device):
        BACKENDS[backend][0](z, parameters, mask, outgoing, residual, result, *_given(factor))
    return result


@torch.library.custom_op("foldase::triangle_multiplication_backward", mutates_args=(), schema=BACKWARD_SCHEMA)
def triangle_multiplication_backward(
    grad: torch.Tensor, wanted: Sequence[bool], z: torch.Tensor, *arguments: Any
) -> list[torch.Tensor]:
    """The gradients that are wanted, of z and the parameters in their order."""
    parameters = TriangleMultiplicationParameters(*arguments[:COUNT])
    mask, factor, outgoing, residual, backend = arguments[COUNT:]
    with no_autocast(z.device):
        run = BACKENDS[backend][1]
        grads = run(z, parameters, mask, outgoing, residual, grad, wanted, *_given(factor))
    return [own for own, needed in zip(grads, wanted, strict=True) if needed and own is not None]


@triangle_multiplication.register_fake
def _fake(z: torch.Tensor, *_rest: object) -> torch.Tensor:
    return z.new_empty(z.shape)


@triangle_multiplication_backward.register_fake
def _fake_backward(_grad: torch.Tensor, wanted: Sequence[bool], *arguments: Any) -> list[torch.Tensor]:
    owners = arguments[: COUNT + 1]
    return [owner.new_empty(owner.shape) for owner, needed in zip(owners, wanted, strict=True) if needed]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:  # noqa: ARG001
    *tensors, outgoing, residual, backend = inputs
    ctx.save_for_backward(*tensors)
    ctx.constants = (outgoing, residual, backend)


def _differentiate(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    wanted = list(ctx.needs_input_grad[: COUNT + 1])
    grads = iter(triangle_multiplication_backward(grad, wanted, *ctx.saved_tensors, *ctx.constants))
    return (*(next(grads) if needed else None for needed in wanted), None, None, None, None, None)


triangle_multiplication.register_autograd(_differentiate, setup_context=_setup_context)
triangle_multiplication_backward.register_autograd(refuse_second_derivative("triangle_multiplication"))
