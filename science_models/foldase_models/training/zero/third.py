"""What the two engines of stage 3 have in common: a stepper for the shards, and ranks that go the same way.

At stage 3 every use of a layer is a collective operation. Ranks therefore have to call the same layers in
the same order; a rank that has no part of the batch left computes one that counts for nothing.
"""

from __future__ import annotations

import math
import zlib
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import nn

from foldase_models.errors import ModelError
from foldase_models.training.engine import Engine, buffer_shards
from foldase_models.training.optim.stepper import Publish, Stepper
from foldase_models.training.precision import calculating
from foldase_models.training.shards import AVERAGE, WEIGHTS, FlatShard, with_absent
from foldase_models.training.surroundings import Surroundings, Update
from foldase_models.training.zero.layout import Bucket, trainable

BRANCH_HINT = (
    "at stage 3 all ranks must call the same units in the same order: give the module around a branch that "
    "ranks take differently to foldase_models.training.zero.units.as_unit, or use stage 2"
)
_SHOWN = 3


class ThirdStage(Engine):
    """The weights are shared out too; whoever derives from this gathers them where they are needed."""

    lockstep = True

    def __init__(self, model: nn.Module, surroundings: Surroundings) -> None:
        self.model = model
        self._around = surroundings
        self._shapes = {name: tuple(parameter.shape) for name, parameter in trainable(model).items()}
        self._buckets: tuple[Bucket, ...] = ()
        self._stepper: Stepper
        self._order: list[str] = []

    @abstractmethod
    def _publishing(self) -> Publish | None:
        """What steps are told to do with new weights."""

    @abstractmethod
    def _looking(self) -> AbstractContextManager[None]:
        """Around forward passes that are not trained on."""

    @abstractmethod
    def _complete(self) -> None:
        """Hand the last gradients to the stepper."""

    def finish(self) -> float:
        """Hand the last gradients over; norms and the order of operations are compared over the ranks."""
        self._complete()
        squares = self._compared(self._stepper.square_sum())
        return math.sqrt(squares)

    def expect(self, update: Update) -> None:
        """Tell the stepper."""
        self._stepper.expect(update)

    @property
    def steps_taken_back(self) -> int:
        """The stepper's."""
        return self._stepper.steps_taken_back

    def step(self, update: Update) -> None:
        """Step every bucket."""
        self._stepper.step(update, self._publishing())

    def drop(self) -> None:
        """Forget the gradients."""
        self._stepper.drop()

    def flush(self) -> None:
        """Complete a delayed step."""
        self._stepper.flush(self._publishing())

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Exchange weights and averages, and back; inside, the model may be called on all ranks alike."""
        keeps = self._around.config.average_decay > 0
        if keeps:
            self._stepper.exchange(self._publishing())
        try:
            with self._calculating(), self._looking():
                yield
            self._compared(0.0)
        finally:
            if keeps:
                self._stepper.exchange(self._publishing())

    def state(self) -> dict[str, FlatShard]:
        """The stepper's shards, empty ones where this rank has no part of a parameter, and the buffers."""
        held = with_absent(
            self._stepper.shards(), self._shapes, averaged=self._around.config.average_decay > 0
        )
        return held | buffer_shards(self.model)

    @torch.no_grad()
    def weights(self, *, averaged: bool) -> dict[str, torch.Tensor]:
        """Gathered bucket by bucket; at no time is more than one of them whole on a rank but the first."""
        ranks = self._around.collectives.ranks
        kind = AVERAGE if averaged and self._around.config.average_decay else WEIGHTS
        shards = self._stepper.shards()
        found: dict[str, torch.Tensor] = {}
        for bucket in self._buckets:
            own = torch.zeros(bucket.share, device=ranks.device)
            for piece in bucket.pieces(ranks.rank):
                own[piece.offset : piece.offset + piece.length] = shards[f"{kind}/{piece.name}"].read()
            whole = torch.zeros(bucket.size, device=ranks.device)
            self._around.collectives.all_gather(
                f"trained weights of bucket {bucket.index}", whole, own
            ).wait()
            if ranks.first:
                found |= _cut(bucket, whole.cpu())
        return {name: found[name] for name in self._shapes if name in found}

    def close(self) -> None:
        """Close the stepper. The model is of no use afterwards."""
        self._stepper.close()

    def _calculating(self) -> AbstractContextManager[None]:
        return calculating(self._around.config.precision, self._around.ledger.device)

    def _gradient_dtype(self, bucket: Bucket) -> torch.dtype:
        """In which gradients are added up: more than one part of a batch is too much for bfloat16."""
        parts = -(-self._around.config.micro_batches // self._around.collectives.ranks.size)
        return torch.float32 if parts > 1 and bucket.dtype == torch.bfloat16 else bucket.dtype

    @contextmanager
    def _operation(self, unit: str, name: str) -> Iterator[str]:
        """Around a collective operation for a unit: its name, and what an error says beside it."""
        self._order.append(name)
        self._agreed(name)
        with explained(unit):
            yield name

    def _agreed(self, name: str) -> None:
        """Make sure that all ranks are about to do the same operation, where that is cheap to know.

        Gloo ends the process that gets more than it has room for. On GPUs ranks do not wait for each other
        at every operation; what went wrong there shows at the end of the pass.

        Raises:
            ModelError: ``collective_failed``, with what each rank is about to do.
        """
        collectives = self._around.collectives
        if collectives.ranks.size == 1 or collectives.ranks.device.type != "cpu":
            return
        own = torch.tensor([zlib.crc32(name.encode())])
        every = torch.zeros(collectives.ranks.size, dtype=own.dtype)
        with explained(None):
            collectives.all_gather(f"agreement on {name}", every, own).wait()
            if bool((every != every[0]).any()):
                raise self._differ([[name] for name in collectives.gather_objects("next operations", name)])

    def _compared(self, squares: float) -> float:
        """The sum over the ranks, alike on all; they must have done the same operations before.

        Units of equal shapes that two ranks gather in different order would go unnoticed otherwise: each
        would have a mixture of both.

        Raises:
            ModelError: ``collective_failed``.
        """
        ranks, order = self._around.collectives.ranks, self._order
        self._order = []
        if ranks.size == 1:
            return squares
        own = torch.tensor([squares, float(zlib.crc32("\n".join(order).encode()))], dtype=torch.float64)
        every = torch.zeros(ranks.size * 2, dtype=torch.float64)
        with explained(None):
            self._around.collectives.all_gather("norm of the gradients", every, own).wait()
        pairs = every.view(ranks.size, 2)
        if bool((pairs[:, 1] != pairs[0, 1]).any()):
            raise self._differ(self._around.collectives.gather_objects("order of operations", order))
        return float(pairs[:, 0].sum())

    def _differ(self, orders: Sequence[Sequence[str]]) -> ModelError:
        at = next(
            number
            for number in range(max(map(len, orders)))
            if len({tuple(order[number : number + 1]) for order in orders}) > 1
        )
        said = [
            f"rank {rank} came to {order[at] if at < len(order) else 'nothing more'!r}"
            for rank, order in enumerate(orders)
        ]
        return ModelError(
            f"ranks went different ways: {'; '.join(said[:_SHOWN])}",
            code="collective_failed",
            location=f"rank {self._around.collectives.ranks.rank}",
            hint=BRANCH_HINT,
        )


@contextmanager
def explained(unit: str | None) -> Iterator[None]:
    """Errors of collective operations inside name the unit, and say what stage 3 has to do with them."""
    try:
        yield
    except ModelError as error:
        if error.code != "collective_failed":
            raise
        raise ModelError(
            error.message if unit is None else f"unit {unit!r}: {error.message}",
            code=error.code,
            location=error.location,
            hint=f"{error.hint}; {BRANCH_HINT}",
        ) from error


def _cut(bucket: Bucket, whole: torch.Tensor) -> dict[str, torch.Tensor]:
    """The parameters in a gathered bucket."""
    found: dict[str, list[torch.Tensor]] = {entry.name: [] for entry in bucket.entries}
    for rank in range(bucket.ranks):
        start = rank * bucket.share
        for piece in bucket.pieces(rank):
            found[piece.name].append(whole[start + piece.offset : start + piece.offset + piece.length])
    return {entry.name: torch.cat(found[entry.name]).view(entry.shape) for entry in bucket.entries}
