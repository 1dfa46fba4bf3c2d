"""What the trainer asks of whoever holds the weights, the gradients and the optimizer's state of a model.

An engine takes a model over in place: the model is called as before, only its parameters lie elsewhere. The
gradient of a step is the sum over ranks of all that went through :meth:`Engine.backward` since the step
before; a parameter that nothing used has a zero gradient, on every rank alike.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from foldase_models.errors import ModelError
from foldase_models.training.shards import BUFFERS, FlatShard, whole
from foldase_models.training.surroundings import Update


class Engine(ABC):
    """Holds one model while it is trained. Every method is called on all ranks alike, in the same order.

    Attributes:
        model: to be called; its forward pass may run inside :meth:`forward` and :meth:`averaged` only.
        lockstep: whether every rank has to compute in every round, as all of them share out every layer; one
            that has no part left then computes any, with a loss of 0 times that, and backward is never
            given None.
    """

    model: nn.Module
    lockstep: bool = False

    def forward(self) -> AbstractContextManager[object]:
        """Around the forward pass and the loss of one part of the batch."""
        return nullcontext()

    @abstractmethod
    def backward(self, loss: torch.Tensor | None, *, last: bool) -> None:
        """Add the gradients of a loss; None from a rank that has no part in this round.

        ``last`` says that this step's gradients are complete with it, on this rank.
        """

    def expect(self, update: Update) -> None:  # noqa: B027  # only some steppers can begin ahead
        """The next backward pass is the last of a step, which will be this one unless it is clipped."""

    @property
    def steps_taken_back(self) -> int:
        """Steps so far of which something was computed ahead, in vain."""
        return 0

    @property
    def communicates(self) -> bool:
        """Whether ranks exchange anything in the next step; where not, nobody else may do so either.

        Then :meth:`finish` gives the norm of this rank's own part of the gradient, always a finite number.
        """
        return True

    @property
    def gradients_lost(self) -> int | None:
        """Of steps without exchange so far, because they were not finite; None where all steps have one."""
        return None

    @abstractmethod
    def finish(self) -> float:
        """Complete the reductions; the norm of the whole gradient, alike on all ranks, maybe not finite."""

    @abstractmethod
    def step(self, update: Update) -> None:
        """Apply the gradients and forget them. A delayed step may still be under way when this returns."""

    @abstractmethod
    def drop(self) -> None:
        """Forget the gradients."""

    def flush(self) -> None:  # noqa: B027  # only delayed engines have something to do
        """Complete delayed steps, so that weights are those of the last step."""

    @abstractmethod
    def averaged(self) -> AbstractContextManager[None]:
        """Inside, the model has its averaged weights; flushed before. Nothing happens where none are kept."""

    @abstractmethod
    def state(self) -> dict[str, FlatShard]:
        """This rank's part of all state by key, see :mod:`foldase_models.training.shards`; flushed before.

        Keys and shapes are the same on every rank and at every stage. The shards are good until the next
        step.
        """

    def progress(self) -> dict[str, Any]:
        """Plain values that belong to :meth:`state`; the same on all ranks."""
        return {}

    def loading(self, values: Mapping[str, Any]) -> Mapping[str, FlatShard]:
        """What a checkpoint is to be written into, with the same keys as that has.

        Args:
            values: what :meth:`progress` gave when it was saved.

        Raises:
            ModelError: ``bad_checkpoint``: it is of another kind of optimizer.
        """
        if values:
            raise ModelError(
                f"the checkpoint belongs to another optimizer, {values.get('kind')}: what its ranks have not "
                "yet sent would be lost",
                code="bad_checkpoint",
                location="optimizer.kind",
                hint=f"go on with {values.get('kind')}, or begin anew from the weights that were exported",
            )
        return self.state()

    def take_up(self, step: int, values: Mapping[str, Any]) -> None:  # noqa: B027  # only some keep any
        """All of :meth:`loading` was written: what was saved beside it, and the steps applied until then."""

    @abstractmethod
    def loaded(self) -> None:
        """Every shard of :meth:`state` was written: bring the model's weights up to date."""

    @abstractmethod
    def weights(self, *, averaged: bool) -> dict[str, torch.Tensor]:
        """All trained weights, whole, on the CPU of rank 0 and nowhere else; float32. Collective."""

    def close(self) -> None:  # noqa: B027  # only engines with files or threads have something to do
        """Give back files and threads.

        At stage 3 the model is of no use afterwards: its parameters stand for shards that are gone.
        """


def buffer_shards(model: nn.Module) -> dict[str, FlatShard]:
    """The buffers that belong to a model's state, whole on every rank."""
    persistent = model.state_dict(keep_vars=True)
    return {
        f"{BUFFERS}/{name}": whole(buffer) for name, buffer in model.named_buffers() if name in persistent
    }
