"""The optimizer's state on a disk, stepped as it passes through main memory.

After Rajbhandari et al. 2021, ZeRO-Infinity, arXiv:2104.07857, section 5.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch

from foldase_kernels.adam import square_sum
from foldase_models.errors import ModelError
from foldase_models.training.clock import Kind
from foldase_models.training.collectives import Waitable
from foldase_models.training.offload.crew import Crew
from foldase_models.training.offload.disk import DiskFile, Transfer
from foldase_models.training.offload.lanes import Fill, Intake, Land, Outlet
from foldase_models.training.offload.pinned import PinnedPool, padded, return_freed_memory
from foldase_models.training.offload.probe import PHASE_SECONDS, PROBE_BYTES, Probe, probe
from foldase_models.training.offload.slots import GRADIENT, Group, Kinds, arrange, gradient_name
from foldase_models.training.offload.state_file import StateFile, finish
from foldase_models.training.optim import adamw
from foldase_models.training.optim.adamw import Vectors
from foldase_models.training.optim.stepper import Publish, Stepper, gradient_dtype
from foldase_models.training.shards import AVERAGE, FIRST_MOMENT, SECOND_MOMENT, WEIGHTS, FlatShard
from foldase_models.training.surroundings import Surroundings, Update
from foldase_models.training.zero.layout import Bucket, Piece

GROUP_BYTES = 8 * 2**20
"""Of a group, at most: the first one is read, and the last one written, while nothing else goes on."""
ROTATING = 3
"""Buffers for groups: one is read, one is stepped and one is written."""
STAGING = 2
"""Buffers for vectors of groups, on their way in and on their way out each."""
_LEAST_PROBE = 2**20

log = logging.getLogger(__name__)


class DiskStepper(Stepper):
    """Steps what lies on a disk, group by group: one is read while one is stepped and one is written.

    Gradients are written to the disk, and added up there, as they are taken. What stays in memory does not
    grow with the model: less than five times :data:`GROUP_BYTES` or ``limits.bucket_bytes``, and as much as
    the largest slice where weights are published. Steps wait for the norm of all gradients, and may be
    delayed, as with :class:`foldase_models.training.offload.on_host.HostStepper`.

    Attributes:
        probe: what the disk could do before the training.
        file: what lies there.
        groups: in the order in which they are stepped.
    """

    def __init__(
        self,
        buckets: Sequence[Bucket],
        rank: int,
        weights: Iterable[torch.Tensor],
        surroundings: Surroundings,
    ) -> None:
        """Measure the disk, take its space and write the weights; they are asked for one after the other."""
        config, ledger, clock = surroundings.config, surroundings.ledger, surroundings.clock
        assert config.offload.folder is not None
        self.buckets, self.rank = buckets, rank
        self._config, self._clock, self._ledger = config, clock, ledger
        streams = config.offload.parameters != "none"
        if streams:
            return_freed_memory()
        self._kinds = _kinds(buckets, surroundings)
        slots = arrange(buckets, self._kinds, min(config.limits.bucket_bytes, GROUP_BYTES))
        self.probe = _probed(surroundings, slots.file_bytes)
        self.file = DiskFile(
            config.offload.folder, slots.file_bytes, clock=clock, ledger=ledger, owner="optimizer"
        )
        self.groups = slots.groups
        self._rotating = PinnedPool(ROTATING, slots.buffer_bytes, ledger, "groups of the optimizer")
        self._staging = [
            PinnedPool(count, slots.vector_bytes, ledger, "staging") for count in (STAGING, STAGING, 1)
        ]
        arriving, leaving, _ = self._staging
        self._state = StateFile(self.file, slots, leaving)
        self._publishing: PinnedPool | None = None if streams else self._whole_pool()
        self._intake = Intake(ledger.device, arriving, clock, "disk")
        self._outlet = Outlet(ledger.device, leaving, clock, "disk")
        self._crew = Crew("optimizer")
        self._late: Future[None] | None = None
        self._squares: dict[tuple[int, int], float] = {}
        self._taken: set[int] = set()
        self._turn, self._generation = 0, 0
        self._move_in(weights)

    def holds_gradient(self, bucket: int) -> bool:
        """On the disk."""
        return True

    def take(self, bucket: int, gradient: torch.Tensor, *, add: bool = False, more: bool = False) -> Waitable:
        """Begin to write it, or to add it to what lies there."""
        adds = add and bucket in self._taken
        self._taken.add(bucket)

        def pieces() -> Iterator[tuple[torch.Tensor, Land]]:
            for group in self._state.slots.of(bucket):
                yield gradient[group.part], partial(self._land, group, self._turn, adds)

        return self._intake.bring(pieces(), self._kinds.gradient_dtype)

    def square_sum(self) -> float:
        """In float64, of the groups as they were written."""
        self._intake.settle()
        return sum((self._squares[key] for key in sorted(self._squares)), 0.0)

    def step(self, update: Update, publish: Publish | None) -> None:
        """Step all groups, now or, where that is asked for, beside the next batch."""
        self._intake.settle()
        self.flush(publish)
        taken, turn = frozenset(self._taken), self._turn
        self._forget()
        if self._config.offload.delayed and update.number > self._config.schedule.warmup_steps:
            self._turn = 1 - turn
            self._late = self._crew.submit(lambda: self._walk(update, turn, taken, None, waits=False))
        else:
            self._walk(update, turn, taken, publish, waits=True)
            self._show_new()

    def drop(self) -> None:
        """Forget the gradients; a delayed step goes on."""
        self._intake.settle()
        self._forget()

    def flush(self, publish: Publish | None) -> None:
        """Wait for a delayed step, read its weights and publish them."""
        if self._late is None:
            return
        late, self._late = self._late, None
        with self._clock.waiting("optimizer"):
            late.result()
        self._show_new()
        for bucket in self.buckets:
            self._publish_anew(bucket, publish)

    @torch.no_grad()
    def exchange(self, publish: Publish | None) -> None:
        """One group after the other."""
        assert self._late is None, "flush before"
        both = [(WEIGHTS, WEIGHTS), (AVERAGE, AVERAGE)]
        for bucket in self.buckets:
            for group in self._state.slots.of(bucket.index):
                with self._rotating.lent() as buffer, self._clock.waiting("disk"):
                    finish(self._state.read(group, buffer, both))
                    weights, average = group.view(buffer, WEIGHTS), group.view(buffer, AVERAGE)
                    kept = group.view(buffer, FIRST_MOMENT).copy_(weights)
                    weights.copy_(average)
                    average.copy_(kept)
                    finish(self._state.write(group, buffer, both) + self._write_shown(group, buffer))
            self._publish_anew(bucket, publish)

    def fetch(self, bucket: int, into: torch.Tensor) -> Waitable:
        """Begin to read, two groups at a time."""
        name = f"shown{self._generation}" if self._kinds.shown else WEIGHTS
        return self._outlet.send(
            (into[group.part], self._filled(group, name)) for group in self._state.slots.of(bucket)
        )

    def shards(self) -> dict[str, FlatShard]:
        """Parts of the file, read and written when they are asked for."""
        assert self._late is None, "flush before"
        return {
            f"{kind}/{piece.name}": self._shard(bucket.index, kind, piece)
            for bucket in self.buckets
            for piece in bucket.pieces(self.rank)
            for kind in self._kinds.state
        }

    def close(self) -> None:
        """End the threads and give the disk back; a delayed step is completed, without being published."""
        self._crew.close()
        self._intake.close()
        self._outlet.close()
        self.file.close()
        pools = [self._rotating, *self._staging, self._publishing]
        for pool in pools:
            if pool is not None:
                pool.close()

    @torch.no_grad()
    def _move_in(self, weights: Iterable[torch.Tensor]) -> None:
        """Write the weights, and averages like them; moments are zero by themselves."""
        names = [(kind, kind) for kind in self._kinds.state if kind in (WEIGHTS, AVERAGE)]
        for bucket, own in zip(self.buckets, weights, strict=True):
            for group in self._state.slots.of(bucket.index):
                with self._rotating.lent() as buffer:
                    for _, kind in names:
                        group.view(buffer, kind).copy_(own[group.part])
                    finish(self._state.write(group, buffer, names) + self._write_shown(group, buffer))

    def _land(self, group: Group, turn: int, adds: bool, buffer: torch.Tensor, arrived: torch.Tensor) -> None:
        """Write a gradient that came from the device, after adding what was written before."""
        name = gradient_name(turn)
        if adds:
            with self._staging[2].lent() as other:
                arrived.add_(self._state.read_alone(group, name, other))
        self._squares[group.bucket, group.start] = square_sum(arrived)
        self.file.write(group.places[name], buffer[: group.sizes[name]]).wait()

    @torch.no_grad()
    def _walk(
        self, update: Update, turn: int, taken: frozenset[int], publish: Publish | None, *, waits: bool
    ) -> None:
        """Read the next group, step this one, write the one before; ``waits``: in the thread that trains."""

        def exposed(kind: Kind) -> AbstractContextManager[None]:
            return self._clock.waiting(kind) if waits else nullcontext()

        buffers = [self._rotating.take() for _ in range(ROTATING)]
        writing: list[list[Transfer]] = [[] for _ in buffers]
        coming = self._read_for_step(self.groups[0], buffers[0], turn, taken) if self.groups else []
        for number, group in enumerate(self.groups):
            here, ahead = number % ROTATING, (number + 1) % ROTATING
            reading, coming = coming, []
            with exposed("disk"):
                finish(writing[ahead])
                if number + 1 < len(self.groups):
                    coming = self._read_for_step(self.groups[number + 1], buffers[ahead], turn, taken)
                finish(reading)
            with exposed("optimizer"), self._clock.busy("optimizer"):
                new = self._step_group(group, buffers[here], group.bucket in taken, update)
            writing[here] = self._write_stepped(group, buffers[here])
            if publish is not None:
                self._publish_part(group, new, publish)
        with exposed("disk"):
            for transfers in writing:
                finish(transfers)
        for buffer in buffers:
            self._rotating.give(buffer)

    def _read_for_step(
        self, group: Group, buffer: torch.Tensor, turn: int, taken: frozenset[int]
    ) -> list[Transfer]:
        gradient = [(gradient_name(turn), GRADIENT)] if group.bucket in taken else []
        return self._state.read(group, buffer, gradient + [(kind, kind) for kind in self._kinds.state])

    def _write_stepped(self, group: Group, buffer: torch.Tensor) -> list[Transfer]:
        names = [(kind, kind) for kind in self._kinds.state]
        if self._kinds.shown:
            target = (self._generation + 1) % self._kinds.shown
            names.append((f"shown{target}", WEIGHTS if group.dtype == torch.float32 else GRADIENT))
        return self._state.write(group, buffer, names)

    def _step_group(self, group: Group, buffer: torch.Tensor, taken: bool, update: Update) -> torch.Tensor:
        """Step what a buffer holds; the new weights, of the bucket's dtype."""
        vectors = Vectors(
            group.view(buffer, WEIGHTS),
            group.view(buffer, FIRST_MOMENT),
            group.view(buffer, SECOND_MOMENT),
            group.view(buffer, AVERAGE) if self._kinds.average else None,
        )
        gradient = group.view(buffer, GRADIENT)
        if not taken:
            gradient.zero_()
        # The weights take the place of the gradient, which nobody needs any more.
        out = gradient if gradient.dtype == torch.bfloat16 else None
        adamw.step(vectors, gradient, update, self._config.optimizer, decays=group.decays, out=out)
        if group.dtype == torch.float32:
            return vectors.weights
        return group.low(buffer).copy_(vectors.weights) if out is None else out

    def _publish_part(self, group: Group, new: torch.Tensor, publish: Publish) -> None:
        """Publish a bucket when all of it was stepped."""
        if group.last and group.start == 0:
            weights = new
        else:
            weights = self._whole(self.buckets[group.bucket])
            weights[group.part] = new
        if group.last:
            with self._clock.busy("transfer"):
                publish(group.bucket, weights)

    @torch.no_grad()
    def _publish_anew(self, bucket: Bucket, publish: Publish | None) -> None:
        """Read a bucket's weights and publish them."""
        if publish is None:
            return
        whole = self._whole(bucket)
        with self._clock.waiting("disk"), self._staging[1].lent() as buffer:
            for group in self._state.slots.of(bucket.index):
                whole[group.part] = self._state.read_alone(group, WEIGHTS, buffer)
        publish(bucket.index, whole)

    def _write_shown(self, group: Group, buffer: torch.Tensor) -> list[Transfer]:
        """Write all copies that are fetched, after the weights in a buffer."""
        source = WEIGHTS
        if group.dtype != torch.float32:
            source = GRADIENT
            group.low(buffer).copy_(group.view(buffer, WEIGHTS))
        return self._state.write(
            group, buffer, [(f"shown{number}", source) for number in range(self._kinds.shown)]
        )

    def _filled(self, group: Group, name: str) -> Fill:
        return lambda buffer: self._state.read_alone(group, name, buffer)

    def _shard(self, bucket: int, kind: str, piece: Piece) -> FlatShard:
        shown = [f"shown{number}" for number in range(self._kinds.shown)] if kind == WEIGHTS else []
        return FlatShard(
            piece.shape,
            torch.float32,
            piece.start,
            piece.length,
            lambda: self._state.get(bucket, kind, piece.offset, piece.length),
            lambda values: self._state.put(bucket, [kind, *shown], piece.offset, values),
        )

    def _whole_pool(self) -> PinnedPool:
        size = max((bucket.share * bucket.dtype.itemsize for bucket in self.buckets), default=0)
        return PinnedPool(1, size, self._ledger, "weights to publish")

    def _whole(self, bucket: Bucket) -> torch.Tensor:
        """The one vector in which weights are published, of the bucket's dtype."""
        if self._publishing is None:
            self._publishing = self._whole_pool()
        with self._publishing.lent() as buffer:
            return buffer[: bucket.share * bucket.dtype.itemsize].view(bucket.dtype)

    def _forget(self) -> None:
        self._taken.clear()
        self._squares.clear()

    def _show_new(self) -> None:
        if self._kinds.shown:
            self._generation = (self._generation + 1) % self._kinds.shown


def _kinds(buckets: Sequence[Bucket], surroundings: Surroundings) -> Kinds:
    """Weights are fetched from copies where a step may not change them meanwhile, or which are smaller."""
    config = surroundings.config
    delayed = config.offload.delayed
    dtypes = {gradient_dtype(bucket, surroundings) for bucket in buckets}
    smaller = any(bucket.dtype != torch.float32 for bucket in buckets)
    shown = 0 if config.offload.parameters == "none" else 2 if delayed else int(smaller)
    return Kinds(
        average=config.average_decay > 0,
        gradients=2 if delayed else 1,
        gradient_dtype=dtypes.pop() if len(dtypes) == 1 else torch.float32,
        shown=shown,
    )


def _probed(surroundings: Surroundings, size: int) -> Probe:
    """Measure the disk, in less time where less is to lie there.

    Raises:
        ModelError: ``bad_disk``: it cannot be used, or a step would take longer than others wait for it.
    """
    offload, limits = surroundings.config.offload, surroundings.config.limits
    assert offload.folder is not None
    moved = min(PROBE_BYTES, max(_LEAST_PROBE, padded(size)))
    found = probe(offload.folder, size=moved, seconds=PHASE_SECONDS * moved / PROBE_BYTES)
    log.info(found.explain())
    for note in found.notes:
        log.warning(note)
    seconds = 2 * size / found.mixed
    if seconds > limits.collective_seconds:
        raise ModelError(
            f"{offload.folder} moves {found.mixed / 1e6:,.1f} MB a second: a step, which moves "
            f"{2 * size / 1e9:,.1f} GB, would take {seconds:,.0f} s of the {limits.collective_seconds:g} s "
            "that ranks wait for each other",
            code="bad_disk",
            location="offload.folder",
            hint="name a folder on a faster disk, use more ranks, or raise limits.collective_seconds",
        )
    return found
