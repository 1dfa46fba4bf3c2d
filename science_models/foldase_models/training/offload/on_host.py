"""The optimizer's state in main memory, stepped by the processor (ZeRO-Offload, arXiv:2101.06840)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial

import torch

from foldase_kernels.adam import square_sum
from foldase_models.training.collectives import Waitable
from foldase_models.training.offload.ahead import Ahead
from foldase_models.training.offload.crew import Crew
from foldase_models.training.offload.lanes import Intake, Outlet
from foldase_models.training.offload.pinned import PinnedPool
from foldase_models.training.optim import adamw
from foldase_models.training.optim.adamw import Vectors
from foldase_models.training.optim.stepper import Done, Publish, Stepper, gradient_dtype
from foldase_models.training.shards import AVERAGE, FIRST_MOMENT, SECOND_MOMENT, WEIGHTS, FlatShard, part
from foldase_models.training.surroundings import Surroundings, Update
from foldase_models.training.zero.layout import Bucket, Piece

STAGING_BUFFERS = 3
"""Beside a GPU, as large as the largest slice: for gradients to add up, and for weights that are fetched."""


@dataclass(slots=True)
class _Slice:
    """What is held of one bucket.

    Attributes:
        vectors: float32.
        gradients: of the dtype in which they are added up, pinned where there is a GPU; two where steps are
            delayed, used in turn. After a step they may hold the new weights until these were published.
        shown: the weights that are fetched, of the bucket's dtype, and the ones that the delayed step under
            way writes; empty where the float32 weights are fetched.
    """

    vectors: Vectors
    gradients: list[torch.Tensor]
    shown: list[torch.Tensor]


class HostStepper(Stepper):
    """Steps in main memory.

    Gradients are copied here as they are taken. The steps themselves wait for the norm of all gradients: by
    clipping, and by a gradient that is not finite, every weight depends on every gradient. Then the buckets
    are stepped in a thread of their own while this one publishes those that are ready. Ahead, that thread
    begins as soon as a bucket's gradient is here, with a second set of vectors, see
    :class:`foldase_models.training.offload.ahead.Ahead`.

    Delayed (section 5.2 of the paper), the step of one batch is computed beside the next batch, whose
    gradients are those of weights one step old. It was decided before whether it is taken, and with which
    factor of clipping. The steps in which the learning rate rises are taken at once.
    """

    def __init__(
        self,
        buckets: Sequence[Bucket],
        rank: int,
        weights: Iterable[torch.Tensor],
        surroundings: Surroundings,
    ) -> None:
        """Copy the weights; they are asked for one after the other."""
        config = surroundings.config
        self.buckets, self.rank = buckets, rank
        self._config, self._clock, self._ledger = config, surroundings.clock, surroundings.ledger
        self._gradient_dtypes = [gradient_dtype(bucket, surroundings) for bucket in buckets]
        # Where every use fetches the weights, a step must not change them under the use.
        self._shows = config.offload.delayed and config.offload.parameters != "none"
        self._homes: list[PinnedPool] = []
        self._crew = Crew("optimizer")
        ahead = config.offload.ahead
        self._ahead = Ahead(self._crew, config.optimizer, surroundings.clock) if ahead else None
        self._slices = [self._slice(bucket, own) for bucket, own in zip(buckets, weights, strict=True)]
        self._taken: set[int] = set()
        self._turn, self._generation = 0, 0
        self._late: list[Future[torch.Tensor]] = []
        self._lanes: tuple[PinnedPool, Intake, Outlet] | None = None
        device = surroundings.ledger.device
        if device.type != "cpu":
            sizes = (bucket.share * self._gradient_dtypes[bucket.index].itemsize for bucket in buckets)
            size = max(sizes, default=0)
            pool = PinnedPool(STAGING_BUFFERS, size, self._ledger, "staging")
            ways = (device, pool, self._clock)
            self._lanes = pool, Intake(*ways, "transfer"), Outlet(*ways, "transfer")

    @property
    def steps_taken_back(self) -> int:
        """Steps so far of which a bucket was stepped ahead, in vain."""
        return 0 if self._ahead is None else self._ahead.steps_taken_back

    def holds_gradient(self, bucket: int) -> bool:
        """In main memory."""
        return True

    def expect(self, update: Update) -> None:
        """Begin with every bucket that arrives from now on, where that is asked for."""
        if self._ahead is not None:
            self._ahead.expected = update

    @torch.no_grad()
    def take(self, bucket: int, gradient: torch.Tensor, *, add: bool = False, more: bool = False) -> Waitable:
        """Begin to copy it here, or to add it to what is here."""
        held = self._slices[bucket].gradients[self._turn]
        adds = add and bucket in self._taken
        self._taken.add(bucket)
        # What arrived before a step was expected may be dealt with after that.
        expected = None if more or self._ahead is None else self._ahead.expected
        landed = partial(self._landed, bucket, expected)

        if self._lanes is None:
            with self._clock.busy("transfer"), self._clock.waiting("transfer"), self._ledger.apart():
                held.add_(gradient) if adds else held.copy_(gradient)
            landed()
            return Done()
        if adds:

            def land(_: torch.Tensor, arrived: torch.Tensor) -> None:
                held.add_(arrived)
                landed()

            return self._lanes[1].bring([(gradient, land)])
        return self._lanes[1].bring_to(held, gradient, landed)

    def square_sum(self) -> float:
        """In float64, bucket by bucket."""
        self._settle()
        taken = sorted(self._taken)
        return sum((square_sum(self._slices[bucket].gradients[self._turn]) for bucket in taken), 0.0)

    def step(self, update: Update, publish: Publish | None) -> None:
        """Step all buckets, now or, where that is asked for, beside the next batch."""
        self._settle()
        self.flush(publish)
        for bucket, held in enumerate(self._slices):
            if bucket not in self._taken:
                held.gradients[self._turn].zero_()
        delays = self._config.offload.delayed and update.number > self._config.schedule.warmup_steps
        begun = [self._begin(bucket, update) for bucket in self.buckets]
        self._taken.clear()
        if delays:
            self._late, self._turn = begun, 1 - self._turn
        else:
            self._publish(begun, publish)
        if self._ahead is not None:
            self._ahead.stepped()

    def drop(self) -> None:
        """Forget the gradients; a delayed step goes on."""
        self._settle()
        self._taken.clear()
        if self._ahead is not None:
            self._ahead.dropped()

    def flush(self, publish: Publish | None) -> None:
        """Wait for a delayed step and publish its weights."""
        if self._late:
            late, self._late = self._late, []
            self._publish(late, publish)

    @torch.no_grad()
    def exchange(self, publish: Publish | None) -> None:
        """One bucket after the other."""
        assert not self._late, "flush before"
        for bucket, held in zip(self.buckets, self._slices, strict=True):
            vectors = held.vectors
            assert vectors.average is not None
            kept = vectors.weights.clone()
            vectors.weights.copy_(vectors.average)
            vectors.average.copy_(kept)
            if held.shown:
                held.shown[self._generation].copy_(vectors.weights)
            if publish is not None:
                publish(bucket.index, vectors.weights)

    @torch.no_grad()
    def fetch(self, bucket: int, into: torch.Tensor) -> Waitable:
        """Copy, on a GPU beside the computation."""
        held = self._slices[bucket]
        source = held.shown[self._generation] if held.shown else held.vectors.weights
        if self._lanes is None:
            with self._clock.busy("transfer"), self._clock.waiting("transfer"):
                into.copy_(source)
            return Done()

        def fill(buffer: torch.Tensor) -> torch.Tensor:
            dtype = self.buckets[bucket].dtype
            return buffer[: source.numel() * dtype.itemsize].view(dtype).copy_(source)

        return self._lanes[2].send([(into, fill)])

    def shards(self) -> dict[str, FlatShard]:
        """Views; what is written to weights also goes where they are fetched from."""
        assert not self._late, "flush before"
        found: dict[str, FlatShard] = {}
        for bucket, held in zip(self.buckets, self._slices, strict=True):
            for piece in bucket.pieces(self.rank):
                own = slice(piece.offset, piece.offset + piece.length)
                found[f"{WEIGHTS}/{piece.name}"] = self._weights_shard(held, piece)
                others = {
                    FIRST_MOMENT: held.vectors.exp_avg,
                    SECOND_MOMENT: held.vectors.exp_avg_sq,
                    AVERAGE: held.vectors.average,
                }
                for kind, vector in others.items():
                    if vector is not None:
                        found[f"{kind}/{piece.name}"] = part(vector[own], piece.shape, piece.start)
        return found

    def close(self) -> None:
        """End the threads; a delayed step is completed, without being published."""
        self._crew.close()
        if self._lanes is not None:
            pool, intake, outlet = self._lanes
            intake.close()
            outlet.close()
            for held in (pool, *self._homes):
                held.close()

    def _slice(self, bucket: Bucket, own: torch.Tensor) -> _Slice:
        def zeros(owner: str, dtype: torch.dtype = torch.float32) -> torch.Tensor:
            return self._ledger.zeros("host", owner, bucket.share, dtype)

        weights = zeros("float32 weights").copy_(own)
        average = zeros("average").copy_(own) if self._config.average_decay else None
        vectors = Vectors(weights, zeros("optimizer"), zeros("optimizer"), average)
        if self._ahead is not None:
            self._ahead.prepare(bucket, vectors, self._ledger)
        turns = 2 if self._config.offload.delayed else 1
        held = _Slice(
            vectors,
            [self._gradient(bucket) for _ in range(turns)],
            [zeros("weights", bucket.dtype) for _ in range(2 if self._shows else 0)],
        )
        for shown in held.shown:
            shown.copy_(weights)
        return held

    def _landed(self, bucket: int, expected: Update | None) -> None:
        """A gradient is here; on a GPU this is said by the thread that waited for it."""
        if self._ahead is not None:
            held = self._slices[bucket]
            gradient = held.gradients[self._turn]
            self._ahead.landed(self.buckets[bucket], held.vectors, gradient, expected)

    def _begin(self, bucket: Bucket, update: Update) -> Future[torch.Tensor]:
        """Have a bucket stepped, or what was stepped already taken over; the weights to publish."""
        if self._ahead is not None and self._ahead.foresaw(bucket, update):
            return self._crew.submit(partial(self._keep, self._ahead, bucket))
        return self._crew.submit(partial(self._step, bucket, update, self._turn))

    @torch.no_grad()
    def _keep(self, ahead: Ahead, bucket: Bucket) -> torch.Tensor:
        """Take over what was stepped ahead, in the optimizer's thread; the weights to publish."""
        held = self._slices[bucket.index]
        held.vectors = ahead.keep(bucket, held.vectors)
        if self._lanes is None:
            return held.vectors.weights
        with self._clock.busy("optimizer"):
            # Now nobody needs the gradient any more, which is pinned.
            return held.gradients[self._turn].copy_(held.vectors.weights)

    @torch.no_grad()
    def _step(self, bucket: Bucket, update: Update, turn: int) -> torch.Tensor:
        """Step one bucket in the optimizer's thread; the weights to publish."""
        held, optimizer = self._slices[bucket.index], self._config.optimizer
        vectors, gradient = held.vectors, held.gradients[turn]
        shown = held.shown[1 - self._generation] if held.shown else None
        with self._clock.busy("optimizer"):
            # The weights take the place of the gradient, which nobody needs any more and which is pinned.
            place = gradient if shown is None else shown
            out = place if place.dtype == torch.bfloat16 else None
            adamw.step(vectors, gradient, update, optimizer, decays=bucket.decays, out=out)
            if out is not None:
                return out
            if shown is not None or self._lanes is not None:
                return place.copy_(vectors.weights)
            return vectors.weights

    def _publish(self, begun: Sequence[Future[torch.Tensor]], publish: Publish | None) -> None:
        """Publish the buckets as they become ready; then those shown are the new ones."""
        for index, future in enumerate(begun):
            with self._clock.waiting("optimizer"):
                weights = future.result()
            if publish is not None:
                with self._clock.busy("transfer"):
                    publish(index, weights)
        if self._shows:
            self._generation = 1 - self._generation

    def _settle(self) -> None:
        if self._lanes is not None:
            self._lanes[1].settle()

    def _gradient(self, bucket: Bucket) -> torch.Tensor:
        dtype = self._gradient_dtypes[bucket.index]
        if self._ledger.device.type == "cpu":
            return self._ledger.zeros("host", "gradients", bucket.share, dtype)
        size = bucket.share * dtype.itemsize
        self._homes.append(PinnedPool(1, size, self._ledger, "gradients"))
        return self._homes[-1].take()[:size].view(dtype)

    def _weights_shard(self, held: _Slice, piece: Piece) -> FlatShard:
        own = slice(piece.offset, piece.offset + piece.length)
        shard = part(held.vectors.weights[own], piece.shape, piece.start)

        def write(values: torch.Tensor) -> None:
            shard.write(values)
            if held.shown:
                part(held.shown[self._generation][own], piece.shape, piece.start).write(values)

        return FlatShard(shard.shape, shard.dtype, shard.start, shard.length, shard.read, write)
