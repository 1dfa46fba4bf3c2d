"""When gradients are complete, and in which order buckets of them travel."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import nn

from foldase_models.training.collectives import Collectives
from foldase_models.training.zero.layout import Bucket


class Arrivals:
    """Launches the buckets of a backward pass, each as soon as it is complete.

    Always all of them and always in order of their index: what a rank did not use it launches at the end of
    the pass, so ranks whose models took other branches call the same collective operations all the same.
    A gradient may arrive after its bucket was launched, when part of a model is run backward within the
    backward pass (reentrant checkpoints do that): it stays in its parameter, see :meth:`late`.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        buckets: Sequence[Bucket],
        launch: Callable[[Bucket], None],
        note: Callable[[Bucket, int], None] | None = None,
    ) -> None:
        """Watch parameters.

        Args:
            parameters: by the names in the buckets.
            buckets: of them.
            launch: called with every bucket once in a pass.
            note: called with a bucket that was not launched and the place in it of an entry whose gradient
                arrived.
        """
        self._buckets, self._launch, self._note = buckets, launch, note
        self._missing: list[set[int]] = []
        self._next = len(buckets)
        self._at_once = False
        self._parameters = [[parameters[entry.name] for entry in bucket.entries] for bucket in buckets]
        self._hooks = []
        for bucket, members in zip(buckets, self._parameters, strict=True):
            for place, member in enumerate(members):
                arrived = partial(self._arrived, bucket.index, place)
                self._hooks.append(member.register_post_accumulate_grad_hook(arrived))  # type: ignore[no-untyped-call]

    def begin(self, *, launching: bool) -> None:
        """A backward pass begins; ``launching`` says whether its buckets are launched, or only noted."""
        self._missing = [set(range(len(bucket.entries))) for bucket in self._buckets]
        self._next, self._at_once = 0, launching

    def end(self) -> None:
        """It is over: launch what is left, with zeros for what was not used."""
        while self._at_once and self._next < len(self._buckets):
            self._launch_next()
        self._next = len(self._buckets)

    def members(self, bucket: Bucket) -> list[nn.Parameter]:
        """The parameters of a bucket, in the order of its entries."""
        return self._parameters[bucket.index]

    def collect(self, bucket: Bucket, into: torch.Tensor) -> None:
        """Move the gradients of a bucket's parameters into a vector [size]; zeros where there are none."""
        end = 0
        for entry, member in zip(bucket.entries, self.members(bucket), strict=True):
            place = into[entry.start : entry.stop].view(entry.shape)
            if member.grad is None:
                place.zero_()
            else:
                place.copy_(member.grad.to_dense() if member.grad.is_sparse else member.grad)
                member.grad = None
            end = entry.stop
        into[end:].zero_()

    def late(self, collectives: Collectives) -> list[int]:
        """Of which buckets a rank has a gradient that came after they were launched; alike on all ranks."""
        own = [any(member.grad is not None for member in members) for members in self._parameters]
        flags = torch.tensor(own, dtype=torch.uint8)
        collectives.all_reduce("late gradients", flags, largest=True).wait()
        return [int(index) for index in flags.nonzero()]

    def close(self) -> None:
        """Watch no longer."""
        for hook in self._hooks:
            hook.remove()

    def _arrived(self, index: int, place: int, _: torch.Tensor) -> None:
        if index < self._next:
            return
        if self._note is not None:
            self._note(self._buckets[index], place)
        self._missing[index].discard(place)
        while self._at_once and self._next < len(self._buckets) and not self._missing[self._next]:
            self._launch_next()

    def _launch_next(self) -> None:
        self._next += 1
        self._launch(self._buckets[self._next - 1])
