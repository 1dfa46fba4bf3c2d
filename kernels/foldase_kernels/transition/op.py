"""The transition as a torch operator: what autograd, ``torch.compile`` and FakeTensor know about it.

``torch.ops.foldase.transition`` and its backward are opaque to tracing, so tiles and scratch of a backend
never enter a graph. Saved for the backward pass are the inputs alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from foldase_kernels.operators import no_autocast, refuse_second_derivative
from foldase_kernels.transition import cpu_tiles, triton
from foldase_kernels.transition.parameters import TransitionParameters

_ARGUMENTS = (
    "Tensor x, Tensor norm_weight, Tensor? norm_bias, Tensor weight_in, Tensor? bias_in, Tensor weight_out, "
    "Tensor? bias_out, Tensor? weight_gate, Tensor? bias_gate, Tensor? mask, bool residual, float epsilon, "
    "str backend"
)
COUNT = len(TransitionParameters._fields)
FORWARD_SCHEMA = f"({_ARGUMENTS}) -> Tensor"
BACKWARD_SCHEMA = f"(Tensor grad_out, bool[] wanted, {_ARGUMENTS}) -> Tensor[]"
"""``wanted`` tells of x and every parameter whether its gradient is returned."""

Forward = Callable[[torch.Tensor, TransitionParameters, torch.Tensor | None, bool, float, torch.Tensor], None]
Grads = tuple[torch.Tensor | None, tuple[torch.Tensor | None, ...]]
Backward = Callable[
    [
        torch.Tensor,
        TransitionParameters,
        torch.Tensor | None,
        bool,
        float,
        torch.Tensor,
        bool,
        Sequence[bool],
    ],
    Grads,
]

BACKENDS: dict[str, tuple[Forward, Backward]] = {
    "cpu": (cpu_tiles.tiled_forward, cpu_tiles.tiled_backward),
    "triton": (triton.transition_forward, triton.transition_backward),
}


@torch.library.custom_op("foldase::transition", mutates_args=(), schema=FORWARD_SCHEMA)
def transition(x: torch.Tensor, *arguments: Any) -> torch.Tensor:
    """The update of x; arguments as in the schema, already checked."""
    parameters = TransitionParameters(*arguments[:COUNT])
    mask, residual, epsilon, backend = arguments[COUNT:]
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    with no_autocast(x.device):
        BACKENDS[backend][0](x, parameters, mask, residual, epsilon, out)
    return out


@torch.library.custom_op("foldase::transition_backward", mutates_args=(), schema=BACKWARD_SCHEMA)
def transition_backward(
    grad_out: torch.Tensor, wanted: Sequence[bool], x: torch.Tensor, *arguments: Any
) -> list[torch.Tensor]:
    """The gradients that are wanted, of x and the parameters in their order."""
    parameters = TransitionParameters(*arguments[:COUNT])
    mask, residual, epsilon, backend = arguments[COUNT:]
    with no_autocast(x.device):
        of_x, grads = BACKENDS[backend][1](
            x, parameters, mask, residual, epsilon, grad_out, wanted[0], wanted[1:]
        )
    return [grad for grad, needed in zip((of_x, *grads), wanted, strict=True) if needed and grad is not None]


@transition.register_fake
def _fake(x: torch.Tensor, *_rest: object) -> torch.Tensor:
    return x.new_empty(x.shape)


@transition_backward.register_fake
def _fake_backward(_grad_out: torch.Tensor, wanted: Sequence[bool], *arguments: Any) -> list[torch.Tensor]:
    owners = arguments[: COUNT + 1]
    return [owner.new_empty(owner.shape) for owner, needed in zip(owners, wanted, strict=True) if needed]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:  # noqa: ARG001
    *tensors, residual, epsilon, backend = inputs
    ctx.save_for_backward(*tensors)
    ctx.constants = (residual, epsilon, backend)


def _differentiate(ctx: Any, grad_out: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    wanted = list(ctx.needs_input_grad[: COUNT + 1])
    grads = iter(transition_backward(grad_out, wanted, *ctx.saved_tensors, *ctx.constants))
    return (*(next(grads) if needed else None for needed in wanted), None, None, None, None)


transition.register_autograd(_differentiate, setup_context=_setup_context)
transition_backward.register_autograd(refuse_second_derivative("transition"))
