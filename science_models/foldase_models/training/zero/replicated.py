"""Stage 0: every rank holds everything, gradients are summed over the ranks. The measure for the others."""

from __future__ import annotations

import math

import torch
from torch import nn

from foldase_models.training.collectives import Pending, Waitable
from foldase_models.training.surroundings import Surroundings
from foldase_models.training.zero.arrivals import Arrivals
from foldase_models.training.zero.flat import FlatEngine
from foldase_models.training.zero.layout import Bucket


class ReplicatedEngine(FlatEngine):
    """Whole gradients on every rank, reduced once a step, while its last backward pass goes on.

    Parameters' gradients are views of flat vectors. Where these must be wider than the parameters, gradients
    are added to them as they arrive. A stepper that begins ahead gets them as they are reduced.
    """

    def __init__(self, model: nn.Module, surroundings: Surroundings, *, shared: bool = False) -> None:
        super().__init__(model, surroundings, shared=shared)
        ledger = surroundings.ledger
        self._gradients = [
            ledger.zeros("device", "gradients", bucket.size, self.gradient_dtype(bucket))
            for bucket in self.buckets
        ]
        self._arrivals = Arrivals(self.parameters, self.buckets, self._launch, self._arrived)
        self._reductions: dict[int, Pending] = {}
        self._handed: dict[int, Waitable] = {}
        self._show_gradients()

    def backward(self, loss: torch.Tensor | None, *, last: bool) -> None:
        """Accumulate; with the last pass, reduce."""
        self._arrivals.begin(launching=last)
        if loss is not None and loss.requires_grad:
            torch.autograd.backward(loss)
        self._arrivals.end()

    def finish(self) -> float:
        """Wait for the reductions and take the norm."""
        for reduction in self._reductions.values():
            reduction.wait()
        self._reduce_leftovers()
        self._hand_over()
        for taken in self._handed.values():
            taken.wait()
        self._reductions.clear()
        self._handed.clear()
        return math.sqrt(self.square_sum())

    def square_sum(self) -> float:
        """Of the whole gradient."""
        return self.stepper.square_sum()

    def begin_step(self) -> None:
        """Forget the gradients."""
        for gradient in self._gradients:
            gradient.zero_()
        self._show_gradients()

    def close(self) -> None:
        """Let go of the model."""
        self._arrivals.close()
        super().close()

    def reduce(self, name: str, bucket: Bucket, gradient: torch.Tensor) -> Pending:
        """Sum a bucket over the ranks in place, at least the own slice of it."""
        return self.around.collectives.all_reduce(name, gradient)

    @torch.no_grad()
    def _hand_over(self) -> None:
        """Give the stepper what is reduced by now and was not given yet."""
        for index, reduction in self._reductions.items():
            if index not in self._handed and reduction.done:
                reduction.wait()
                own = self._gradients[index][self.buckets[index].slice_of(self.rank)]
                with self.around.ledger.apart():
                    self._handed[index] = self.stepper.take(index, own)

    def _launch(self, bucket: Bucket) -> None:
        for member in self._arrivals.members(bucket):
            member.grad = None
        name = f"gradients of bucket {bucket.index}"
        self._reductions[bucket.index] = self.reduce(name, bucket, self._gradients[bucket.index])
        if self.config.offload.ahead:
            self._hand_over()

    @torch.no_grad()
    def _arrived(self, bucket: Bucket, place: int) -> None:
        member, vector = self._arrivals.members(bucket)[place], self._gradients[bucket.index]
        if vector.dtype != bucket.dtype:
            entry = bucket.entries[place]
            assert member.grad is not None
            vector[entry.start : entry.stop].view(entry.shape).add_(member.grad)
            member.grad = None

    def _show_gradients(self) -> None:
        for bucket, vector in zip(self.buckets, self._gradients, strict=True):
            shown = vector.dtype == bucket.dtype
            for entry, member in zip(bucket.entries, self._arrivals.members(bucket), strict=True):
                member.grad = vector[entry.start : entry.stop].view(entry.shape) if shown else None

    @torch.no_grad()
    def _reduce_leftovers(self) -> None:
        """Gradients that came after their bucket was launched, on whatever rank."""
        for index in self._arrivals.late(self.around.collectives):
            bucket = self.buckets[index]
            late = torch.zeros_like(self._gradients[index])
            self._arrivals.collect(bucket, late)
            self.reduce(f"late gradients of bucket {index}", bucket, late).wait()
            if index in self._handed:
                self._handed.pop(index).wait()
            self._gradients[index].add_(late)
