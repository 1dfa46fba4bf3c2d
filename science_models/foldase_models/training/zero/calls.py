"""One call of a unit: its weights are put into the model, taken out after it, and again for the way back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Protocol, cast

import torch
from torch import nn

from foldase_models.training.zero.gathered import Gathered


class Server(Protocol):
    """Who brings weights to calls and takes gradients from them."""

    def acquire(self, gathered: Gathered) -> None:
        """A call needs a unit's weights from now on."""
        ...

    def release(self, gathered: Gathered) -> None:
        """It needs them no more."""
        ...

    def returns(self, call: Call) -> None:
        """The backward pass of a call begins."""
        ...

    def reduce(self, gathered: Gathered, gradients: Mapping[str, torch.Tensor | None]) -> None:
        """The gradients of a call, whole, by parameter; None for one that it did not use."""
        ...


class Call:
    """From before a unit's forward pass until after its backward pass, where it has one."""

    def __init__(self, gathered: Gathered, server: Server) -> None:
        self.gathered = gathered
        self.trained = [h.name for h in gathered.unit.holdings if h.parameter.requires_grad]
        self._server = server
        self._weights: dict[str, torch.Tensor] | None = None
        self._displaced: list[tuple[nn.Module, str, nn.Parameter | None]] = []
        self._returning = False

    def enter(self, arguments: object = ()) -> None:
        """Bring the weights into the model; where gradients are wanted, through a node of their graph."""
        self._server.acquire(self.gathered)
        with torch.inference_mode(False), torch.no_grad():
            weights = self.gathered.tensors()
        if torch.is_grad_enabled():
            self._weights = weights
            if self.trained:
                plain = tuple(weights[name] for name in self.trained)
                anchor = torch.zeros((), device=plain[0].device, requires_grad=True)
                used = _Use.apply(anchor, self, plain)  # type: ignore[no-untyped-call]
                weights |= dict(zip(self.trained, used, strict=True))
            else:
                self._end_at(arguments)
        self._put_in(weights)

    def leave(self, output: object) -> None:
        """Take the weights out again; the way back begins with the gradient of any tensor of the output."""
        self.take_out()
        weights, self._weights = self._weights, None
        if weights is not None:

            def begin(_: torch.Tensor) -> None:
                self._begin_return(weights)

            for tensor in tensors_of(output):
                if tensor.requires_grad:
                    tensor.register_hook(begin)  # type: ignore[no-untyped-call]
        self._server.release(self.gathered)

    def end_return(self) -> None:
        """The backward pass needs the weights no more; nothing where it never did."""
        if self._returning:
            self._returning = False
            self.take_out()
            self._server.release(self.gathered)

    def take_out(self) -> None:
        """Give the model back what it had in the weights' places."""
        for module, name, before in reversed(self._displaced):
            module._parameters[name] = before
        self._displaced.clear()

    def take_gradients(self, gradients: tuple[torch.Tensor | None, ...]) -> None:
        """All of this call's gradients, in the order of ``trained``."""
        self.end_return()
        self._server.reduce(self.gathered, dict(zip(self.trained, gradients, strict=True)))

    def _end_at(self, arguments: object) -> None:
        """Let the way back through a unit without trained weights end where its arguments get gradients.

        Those of leaves are ready too soon.
        """

        def end(_: torch.Tensor) -> None:
            self.end_return()

        for tensor in tensors_of(arguments):
            if tensor.grad_fn is not None:
                tensor.register_hook(end)  # type: ignore[no-untyped-call]

    def _begin_return(self, weights: Mapping[str, torch.Tensor]) -> None:
        if not self._returning:
            self._returning = True
            self._server.acquire(self.gathered)
            # What is computed anew in the backward pass looks for them in the model.
            self._put_in(weights)
            self._server.returns(self)

    def _put_in(self, weights: Mapping[str, torch.Tensor]) -> None:
        for holding in self.gathered.unit.holdings:
            for module, name in holding.places:
                self._displaced.append((module, name, module._parameters[name]))
                module._parameters[name] = cast("nn.Parameter", weights[holding.name])


class _Use(torch.autograd.Function):
    """The weights of a call as a node of its graph, which hears of all their gradients at once.

    Nodes run in the reverse of the order in which they were made, so that this one, made first, comes when
    the backward pass of its call is over.
    """

    @staticmethod
    def forward(
        ctx: Any, _anchor: torch.Tensor, call: Call, weights: tuple[torch.Tensor, ...]
    ) -> tuple[torch.Tensor, ...]:
        """The weights, which are none of the inputs of the graph."""
        ctx.call = call
        ctx.set_materialize_grads(False)
        return weights

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> tuple[None, None, None]:
        """Hand them on; the anchor needs none."""
        ctx.call.take_gradients(gradients)
        return None, None, None


def tensors_of(output: object) -> Iterator[torch.Tensor]:
    """All tensors in what a module gave: in sequences, mappings and dataclasses, however deep."""
    if isinstance(output, torch.Tensor):
        yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from tensors_of(value)
    elif isinstance(output, list | tuple | set | frozenset):
        for value in output:
            yield from tensors_of(value)
    elif is_dataclass(output) and not isinstance(output, type):
        for field in fields(output):
            yield from tensors_of(getattr(output, field.name))
