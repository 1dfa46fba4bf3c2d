"""Stage 3 on our own flat shards, which may lie anywhere: weights are fetched for each use of a unit.

Before a unit is called its slices are fetched from the stepper and gathered from all ranks, and the vectors
are freed after it; the same around its backward pass, whose gradients are reduced to slices and go to the
stepper at once (Rajbhandari et al. 2020, arXiv:1910.02054, section 5.3; 2021, arXiv:2104.07857, section 6).
While one unit computes, the one that came after it the last time is on its way. The working memory is the
root's unit, two more, and the gradients of one with two buckets of those before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from foldase_models.training.collectives import Pending, Waitable
from foldase_models.training.optim.stepper import Publish
from foldase_models.training.optim.steppers import make_stepper
from foldase_models.training.precision import parameter_dtypes
from foldase_models.training.surroundings import Surroundings, Update
from foldase_models.training.zero.calls import Call
from foldase_models.training.zero.flat import take_over
from foldase_models.training.zero.gathered import Gathered
from foldase_models.training.zero.layout import Bucket, lay_out
from foldase_models.training.zero.shares import FrozenShares, Shares
from foldase_models.training.zero.third import ThirdStage, explained
from foldase_models.training.zero.trace import Trace
from foldase_models.training.zero.units import Unit, find_units

GRADIENTS_UNDER_WAY = "gradients of units"
"""In the ledger, the owner of a unit's whole gradients until they are reduced and taken."""
_UNDER_WAY = 1
"""Buckets of gradients that are reduced, and that are copied by the stepper, while the next one is made."""


@dataclass(slots=True)
class _Reduction:
    """Gradients of a bucket on their way: the whole ones, [size], and this rank's slice, [share].

    ``more`` says that another call of the unit has not come back yet.
    """

    bucket: Bucket
    unit: str
    own: torch.Tensor
    whole: torch.Tensor
    pending: Pending | None
    more: bool


class StreamedEngine(ThirdStage):
    """Weights wherever the stepper has them, and on the device only where they are used."""

    def __init__(self, model: nn.Module, surroundings: Surroundings) -> None:
        super().__init__(model, surroundings)
        self._ledger, self._ranks = surroundings.ledger, surroundings.collectives.ranks
        self._units = find_units(model)
        self._trained, self._frozen = self._lay_out()
        self._buckets = tuple(bucket for group in reversed(self._trained) for bucket in group)
        self._frozen_shares = FrozenShares(surroundings)
        for name, buffer in model.named_buffers():
            take_over(surroundings, "buffers", name, buffer)
        self._take_over()
        self._gathered = [self._gathered_of(number) for number in range(len(self._units))]
        self._forward, self._backward, self._look = Trace(), Trace(), Trace()
        self._phase = "look"
        self._root_call: Call | None = None
        self._calls: list[Call] = []
        self._pending: list[Call] = []
        self._ticks = count()
        self._reductions: deque[_Reduction] = deque()
        self._landing: deque[tuple[Waitable, _Reduction]] = deque()
        self._taken: set[int] = set()
        self._held: dict[int, torch.Tensor] = {}
        for bucket in self._buckets:
            if not self._stepper.holds_gradient(bucket.index):
                self._held[bucket.index] = self._ledger.zeros(
                    "device", "gradients", bucket.share, self._gradient_dtype(bucket)
                )
        self._handles = [handle for g in self._gathered[:-1] for handle in self._watch(g)]

    @contextmanager
    def forward(self) -> Iterator[None]:
        """The root's unit is there from here until after the backward pass."""
        self._close_root()
        self._phase = "forward"
        self._forward.begin()
        self._backward.begin()
        try:
            self._open_root()
            with self._calculating():
                yield
        except BaseException:
            self._abandon()
            raise

    def backward(self, loss: torch.Tensor | None, *, last: bool) -> None:
        """Gradients go to the stepper unit by unit, while the rest of the backward pass goes on."""
        assert loss is not None, "at stage 3 every rank computes in every round"
        self._phase = "backward"
        try:
            if loss.requires_grad:
                torch.autograd.backward(loss)
            if self._root_call is not None:
                self._root_call.finish()
            self._close_root()
            self._settle(0)
            self._land(0)
            self._agreed("the end of the backward pass")
        except BaseException:
            self._abandon()
            raise

    def step(self, update: Update) -> None:
        """Step every bucket."""
        super().step(update)
        self._taken.clear()

    def drop(self) -> None:
        """Forget the gradients."""
        super().drop()
        self._taken.clear()

    def loaded(self) -> None:
        """Nothing to do: weights are fetched for every use."""

    def close(self) -> None:
        """Close the stepper. The model's parameters are gone: ``Trainer.result`` has to be asked before."""
        for handle in self._handles:
            handle.remove()
        super().close()

    def acquire(self, gathered: Gathered) -> None:
        """Bring a unit's weights for one more call, and send for those that will be wanted next."""
        gathered.users += 1
        if gathered.users > 1 or gathered is self._gathered[-1]:
            gathered.ready()
            return
        self._trace.visit(gathered.number)
        with torch.inference_mode(False), torch.no_grad():
            gathered.ready()
            self._send_for_next()

    def release(self, gathered: Gathered) -> None:
        """Let a unit's weights go after its last call, unless they are wanted again at once."""
        gathered.users -= 1
        if not gathered.users and self._following(1) != [gathered.number]:
            gathered.free()

    def tick(self) -> int:
        """The number of another event."""
        return next(self._ticks)

    def left(self, call: Call) -> None:
        """Remember a call until it has come back."""
        self._pending.append(call)

    def returns(self, call: Call) -> None:
        """Complete the way back of calls that came after this one.

        Calls come back in the reverse of their order. One that did not, because this rank's loss does not
        depend on it or on none of its weights, may do so on other ranks, and all have to take part.
        """
        for later in [one for one in reversed(self._pending) if one.entered > call.ended]:
            later.finish()

    def reduce(self, call: Call, gradients: Mapping[str, torch.Tensor | None]) -> None:
        """Send a unit's gradients to the ranks whose slices they are."""
        gathered = call.gathered
        if call is self._root_call:
            self.returns(call)
        elif call in self._pending:
            self._pending.remove(call)
        unit, more = gathered.unit.name, any(one.gathered is gathered for one in self._pending)
        for bucket in self._trained[gathered.number]:
            self._settle(_UNDER_WAY)
            whole = _packed(bucket, gradients, self._ledger.device)
            self._ledger.adopt("device", GRADIENTS_UNDER_WAY, whole)
            own, pending = whole, None
            if bucket.ranks > 1:
                own = torch.empty(bucket.share, dtype=bucket.dtype, device=whole.device)
                with self._operation(unit, f"gradients of {unit}, bucket {bucket.index}") as name:
                    pending = self._around.collectives.reduce_scatter(name, own, whole)
                self._ledger.adopt("device", GRADIENTS_UNDER_WAY, own)
            self._reductions.append(_Reduction(bucket, unit, own, whole, pending, more))
            if bucket.ranks == 1:
                self._settle(0)

    @property
    def working_bytes(self) -> int:
        """What gathered weights hold on the device at the moment."""
        return sum(gathered.held_bytes for gathered in self._gathered)

    @property
    def unit_bytes(self) -> dict[str, int]:
        """What each unit's weights take when they are gathered."""
        return {gathered.unit.name: gathered.nbytes for gathered in self._gathered}

    @property
    def _trace(self) -> Trace:
        return {"forward": self._forward, "backward": self._backward}.get(self._phase, self._look)

    def _following(self, count: int) -> list[int]:
        """The units that come next, if all goes as before; the way back follows the way there."""
        found = self._trace.ahead(count)
        if self._phase == "forward":
            found += self._backward.ahead(count - len(found))
        return found

    def _send_for_next(self) -> None:
        following = self._following(2)
        for number, gathered in enumerate(self._gathered[:-1]):
            if not gathered.users and number not in following:
                gathered.free()
        awaited = [self._gathered[n] for n in dict.fromkeys(following) if not self._gathered[n].users]
        if self._ranks.size == 1:
            for gathered in awaited[:1]:
                gathered.fetch()
            return
        for gathered in awaited[:1]:
            gathered.gather()
        for gathered in awaited[1:]:
            gathered.fetch()

    def _open_root(self) -> None:
        self._root_call = Call(self._gathered[-1], self)
        self._root_call.enter()

    def _close_root(self) -> None:
        """The end of a pass: nothing stays gathered."""
        self._pending.clear()
        if self._root_call is not None:
            self._root_call.take_out()
            self._gathered[-1].users = 0
            self._root_call = None
        for gathered in self._gathered:
            gathered.free()

    @contextmanager
    def _looking(self) -> Iterator[None]:
        self._close_root()
        self._phase = "look"
        self._look.begin()
        try:
            self._open_root()
            yield
            self._close_root()
            self._agreed("the end of a look at the model")
        except BaseException:
            self._abandon()
            raise

    def _abandon(self) -> None:
        """After an error: the model gets its stand-ins back, what is under way goes nowhere."""
        calls = sorted([*self._calls, *self._pending], key=lambda call: call.entered)
        for call in reversed([self._root_call, *calls] if self._root_call else calls):
            call.take_out()
        self._calls.clear()
        self._pending.clear()
        self._root_call = None
        for gathered in self._gathered:
            gathered.abandon()
        self._reductions.clear()
        self._landing.clear()

    def _settle(self, left: int) -> None:
        """Give reduced gradients to the stepper, until so many are under way."""
        while len(self._reductions) > left:
            self._take(self._reductions.popleft())

    @torch.no_grad()
    def _take(self, reduction: _Reduction) -> None:
        if reduction.pending is not None:
            with explained(reduction.unit):
                reduction.pending.wait()
        index, own = reduction.bucket.index, reduction.own
        before = index in self._taken
        self._taken.add(index)
        if index not in self._held:
            with self._ledger.apart():
                taken = self._stepper.take(index, own, add=before, more=reduction.more)
                self._landing.append((taken, reduction))
            self._land(_UNDER_WAY)
        elif before:
            self._held[index].add_(own)
        else:
            self._held[index].copy_(own)

    def _land(self, left: int) -> None:
        """Let gradients go that the stepper has, until it copies only so many."""
        while len(self._landing) > left:
            self._landing.popleft()[0].wait()

    def _complete(self) -> None:
        for index in sorted(self._taken & self._held.keys()):
            self._stepper.take(index, self._held[index]).wait()

    def _publishing(self) -> Publish | None:
        return None

    def _watch(self, gathered: Gathered) -> list[RemovableHandle]:
        """Be told when a unit is called."""

        def before(_: nn.Module, _arguments: Any) -> None:
            call = Call(gathered, self)
            call.enter()
            self._calls.append(call)

        def after(_: nn.Module, _arguments: Any, output: Any) -> None:
            if self._calls and self._calls[-1].gathered is gathered:
                self._calls.pop().leave(output, comes_back=self._phase != "backward")

        module = gathered.unit.module
        return [
            module.register_forward_pre_hook(before, prepend=True),
            # Called after an error too: recomputed blocks end with one when they have gone far enough.
            module.register_forward_hook(after, always_call=True),
        ]

    def _lay_out(self) -> tuple[list[tuple[Bucket, ...]], list[tuple[Bucket, ...]]]:
        """Every unit's buckets, of trained and of frozen parameters; the last unit has the first ones."""
        trained: list[tuple[Bucket, ...]] = [()] * len(self._units)
        frozen: list[tuple[Bucket, ...]] = [()] * len(self._units)
        counts = {True: 0, False: 0}
        config = self._around.config
        lowered = parameter_dtypes(self.model, config.precision) if config.precision == "bfloat16" else None
        for number in reversed(range(len(self._units))):
            for kind, into in ((True, trained), (False, frozen)):
                own = {
                    name: parameter
                    for name, parameter in self._units[number].parameters.items()
                    if parameter.requires_grad is kind
                }
                made = lay_out(own, self._ranks.size, config.limits.bucket_bytes, dtypes=lowered)
                into[number] = tuple(replace(b, index=b.index + counts[kind]) for b in made)
                counts[kind] += len(made)
        return trained, frozen

    def _take_over(self) -> None:
        """Move the weights of one unit after the other out of the model."""
        homes: list[tuple[Unit, Bucket, bool]] = []
        for number in reversed(range(len(self._units))):
            homes += [(self._units[number], bucket, False) for bucket in self._frozen[number]]
            homes += [(self._units[number], bucket, True) for bucket in self._trained[number]]
        shares = Shares([(unit, bucket) for unit, bucket, _ in homes], self._around)
        slices = (shares.slice_of(number) for number in range(len(homes)))

        def trained() -> Iterator[torch.Tensor]:
            for (_, bucket, is_trained), own in zip(homes, slices, strict=True):
                if is_trained:
                    if self._around.config.offload.optimizer == "none":
                        self._ledger.adopt("device", "weights", own)
                    yield own
                else:
                    self._frozen_shares.keep(bucket, own)

        own = trained()
        self._stepper = make_stepper(self._buckets, self._ranks.rank, own, self._around)
        # Frozen ones may come after the last that the stepper asked for.
        assert next(own, None) is None

    def _gathered_of(self, number: int) -> Gathered:
        fetching = [
            (bucket, partial(self._stepper.fetch, bucket.index)) for bucket in self._trained[number]
        ] + [(bucket, partial(self._frozen_shares.fetch, bucket.index)) for bucket in self._frozen[number]]
        return Gathered(
            number, self._units[number], fetching, self._around.collectives, self._ledger, self._operation
        )


@torch.no_grad()
def _packed(
    bucket: Bucket, gradients: Mapping[str, torch.Tensor | None], device: torch.device
) -> torch.Tensor:
    """A bucket's gradients one after the other, [size]; zeros for those that a call did not use."""
    only = gradients[bucket.entries[0].name] if bucket.numel == bucket.size else None
    if len(bucket.entries) == 1 and only is not None and only.is_contiguous() and only.dtype == bucket.dtype:
        return only.view(-1)
    whole = torch.zeros(bucket.size, dtype=bucket.dtype, device=device)
    for entry in bucket.entries:
        gradient = gradients[entry.name]
        if gradient is not None:
            whole[entry.start : entry.stop].view(entry.shape).copy_(gradient)
    return whole
