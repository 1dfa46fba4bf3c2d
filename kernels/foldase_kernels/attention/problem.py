"""One checked attention call, as the backends see it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Problem:
    """The arguments of :func:`foldase_kernels.attention.evoformer_attention`; shapes as there."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    biases: Sequence[torch.Tensor]
    mask: torch.Tensor | None
    gate: torch.Tensor | None
    slopes: torch.Tensor | None
    scale: float
    causal: bool

    @property
    def full(self) -> tuple[int, ...]:
        """The shape of the scores, ``[..., rows, heads, queries, keys]``."""
        return (*self.q.shape[:-3], self.q.shape[-2], self.q.shape[-3], self.k.shape[-3])


@dataclass(frozen=True, slots=True)
class Gradients:
    """Of one call; ``gate`` is None without a gate, a bias that asked for none has None."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    gate: torch.Tensor | None
    biases: Sequence[torch.Tensor | None]


Forward = Callable[[Problem], tuple[torch.Tensor, torch.Tensor]]
Backward = Callable[
    [
        Problem,
        torch.Tensor,
        torch.Tensor,
        torch.Tensor | None,
        torch.Tensor | None,
        Sequence[bool],
    ],
    Gradients,
]


@dataclass(frozen=True, slots=True)
class Backend:
    """Two functions on plain tensors; autograd, tracing and batching are the operator's business.

    Attributes:
        forward: gives the (gated) output and the log-sum-exp ``[..., rows, heads, queries]``, -inf for a
            query without keys.
        backward: takes the problem, both results, the gradients of both (None where there is none), and
            which biases want a gradient.

    Every tensor returned is new and contiguous; gradients have shape and dtype of what they belong to. With
    ``sum(grad_out * out)`` over the width as delta the gated output serves as well as the ungated one, since
    the gate may stand with either factor, and so does ``grad_out * out * (1 - sigmoid(gate))`` as the
    gradient of the gate: nothing else has to be saved.
    """

    forward: Forward
    backward: Backward


def packed(view: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A new contiguous tensor with the values of ``view``."""
    return torch.empty(view.shape, dtype=dtype, device=view.device).copy_(view)
