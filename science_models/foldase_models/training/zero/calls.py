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

    def tick(self) -> int:
        """The number of another event."""
        ...

    def left(self, call: Call) -> None:
        """A call is over that will have a way back."""
        ...

    def returns(self, call: Call) -> None:
        """The way back of a call begins."""
        ...

    def reduce(self, call: Call, gradients: Mapping[str, torch.Tensor | None]) -> None:
        """The gradients of a call, whole, by parameter; None for one that it did not use."""
        ...


class Call:
    """From before a unit's forward pass until after its backward pass, where it has one.

    Attributes:
        gathered: the unit's weights.
        trained: names of those that get gradients.
        entered, ended: numbers of the events; the call's own are those between them.
        done: whether its way back is over.
    """

    def __init__(self, gathered: Gathered, server: Server) -> None:
        self.gathered = gathered
        self.trained = [h.name for h in gathered.unit.holdings if h.parameter.requires_grad]
        self.entered = server.tick()
        self.ended = self.entered
        self.done = False
        self._server = server
        self._weights: dict[str, torch.Tensor] | None = None
        self._displaced: list[tuple[nn.Module, str, nn.Parameter | None]] = []
        self._returning = False

    def enter(self) -> None:
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
        self._put_in(weights)

    def leave(self, output: object, *, comes_back: bool) -> None:
        """Take the weights out again; the way back begins with the gradient of any tensor of the output.

        What is computed anew in a backward pass has no way back of its own: ``comes_back`` is false.
        """
        weights = self._weights
        self.take_out()
        tensors = [tensor for tensor in tensors_of(output) if tensor.requires_grad]
        if weights is not None and comes_back and (self.trained or tensors):
            self.ended = self._server.tick()
            self._server.left(self)

            def begin(_: torch.Tensor) -> None:
                self._begin_return(weights)

            for tensor in tensors:
                tensor.register_hook(begin)  # type: ignore[no-untyped-call]
        self._server.release(self.gathered)

    def finish(self) -> None:
        """Do what is missing of the way back, as if all gradients were zero: other ranks may have some."""
        if self.done:
            return
        if not self._returning:
            self._server.acquire(self.gathered)
            self._returning = True
        self.take_gradients((None,) * len(self.trained))

    def take_gradients(self, gradients: tuple[torch.Tensor | None, ...]) -> None:
        """All of this call's gradients, in the order of ``trained``: the way back ends."""
        self.done = True
        if self._returning:
            self._returning = False
            self.take_out()
            self._server.release(self.gathered)
        self._server.reduce(self, dict(zip(self.trained, gradients, strict=True)))

    def take_out(self) -> None:
        """Give the model back what it had in the weights' places."""
        for module, name, before in reversed(self._displaced):
            module._parameters[name] = before
        self._displaced.clear()
        # They know this call: together they would stay until Python looks for circles.
        self._weights = None

    def _begin_return(self, weights: Mapping[str, torch.Tensor]) -> None:
        if self.done or self._returning:
            return
        self._server.returns(self)
        self._returning = True
        self._server.acquire(self.gathered)
        # What is computed anew in the backward pass looks for them in the model.
        self._put_in(weights)

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
