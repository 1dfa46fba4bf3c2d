"""The outer product mean as a torch operator: what autograd, ``torch.compile`` and FakeTensor know about it.

``torch.ops.foldase.outer_product_mean`` and its backward are opaque to tracing, so tiles and scratch of a
backend never enter a graph. Saved for the backward pass are the inputs alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

from foldase_kernels.operators import no_autocast, refuse_second_derivative
from foldase_kernels.outer_product_mean import cpu_few, triton
from foldase_kernels.outer_product_mean.cpu_tiles import Grads

_ARGUMENTS = "Tensor a, Tensor b, Tensor weight, Tensor? bias, Tensor? weights, float epsilon, str backend"
FORWARD_SCHEMA = f"({_ARGUMENTS}) -> Tensor"
BACKWARD_SCHEMA = f"(Tensor grad_out, bool[] wanted, {_ARGUMENTS}) -> Tensor[]"
"""``wanted`` tells of a, b, weight and bias whether the gradient is returned."""


class Forward(Protocol):
    """How a backend computes the update."""

    def __call__(
        self,
        a: torch.Tensor,
        b: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        weights: torch.Tensor | None,
        epsilon: float,
        out: torch.Tensor,
        *,
        add: bool,
    ) -> None:
        """Write the update into ``out``, or add it."""


Backward = Callable[
    [
        torch.Tensor,
        torch.Tensor,
        torch.Tensor,
        torch.Tensor | None,
        torch.Tensor | None,
        float,
        torch.Tensor,
        Sequence[bool],
    ],
    Grads,
]

BACKENDS: dict[str, tuple[Forward, Backward]] = {
    "cpu": (cpu_few.forward, cpu_few.backward),
    "triton": (triton.outer_product_mean_forward, triton.outer_product_mean_backward),
}


@torch.library.custom_op("foldase::outer_product_mean", mutates_args=(), schema=FORWARD_SCHEMA)
def outer_product_mean(
    a: torch.Tensor,
    b: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    weights: torch.Tensor | None,
    epsilon: float,
    backend: str,
) -> torch.Tensor:
    """The update; arguments as in the public function, already checked, ``weights`` ``[..., S, N]``."""
    out = a.new_empty(_shape(a, weight))
    with no_autocast(a.device):
        BACKENDS[backend][0](a, b, weight, bias, weights, epsilon, out, add=False)
    return out


@torch.library.custom_op("foldase::outer_product_mean_backward", mutates_args=(), schema=BACKWARD_SCHEMA)
def outer_product_mean_backward(
    grad_out: torch.Tensor,
    wanted: Sequence[bool],
    a: torch.Tensor,
    b: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    weights: torch.Tensor | None,
    epsilon: float,
    backend: str,
) -> list[torch.Tensor]:
    """The gradients that are wanted, of a, b, weight and bias, in this order."""
    with no_autocast(a.device):
        grads = BACKENDS[backend][1](a, b, weight, bias, weights, epsilon, grad_out, wanted)
    return [grad.contiguous() for grad in grads if grad is not None]


def _shape(a: torch.Tensor, weight: torch.Tensor) -> tuple[int, ...]:
    return (*a.shape[:-3], a.shape[-2], a.shape[-2], weight.shape[0])


@outer_product_mean.register_fake
def _fake(a: torch.Tensor, _b: torch.Tensor, weight: torch.Tensor, *_rest: object) -> torch.Tensor:
    return a.new_empty(_shape(a, weight))


@outer_product_mean_backward.register_fake
def _fake_backward(_grad_out: torch.Tensor, wanted: Sequence[bool], *arguments: Any) -> list[torch.Tensor]:
    owners = arguments[:4]
    return [owner.new_empty(owner.shape) for owner, needed in zip(owners, wanted, strict=True) if needed]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:  # noqa: ARG001
    *tensors, epsilon, backend = inputs
    ctx.save_for_backward(*tensors)
    ctx.constants = (epsilon, backend)


def _differentiate(ctx: Any, grad_out: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    wanted = list(ctx.needs_input_grad[:4])
    grads = iter(outer_product_mean_backward(grad_out, wanted, *ctx.saved_tensors, *ctx.constants))
    return (*(next(grads) if needed else None for needed in wanted), None, None, None)


outer_product_mean.register_autograd(_differentiate, setup_context=_setup_context)
outer_product_mean_backward.register_autograd(refuse_second_derivative("outer_product_mean"))
