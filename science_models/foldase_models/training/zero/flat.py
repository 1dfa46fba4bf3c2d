"""What stages 0 to 2 share: weights that every rank holds whole, as views of flat vectors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import nn

from foldase_models.training.collectives import Pending
from foldase_models.training.engine import Engine, buffer_shards
from foldase_models.training.optim.stepper import Stepper
from foldase_models.training.optim.steppers import make_stepper
from foldase_models.training.precision import calculating, parameter_dtypes
from foldase_models.training.shards import AVERAGE, WEIGHTS, FlatShard, with_absent
from foldase_models.training.surroundings import Surroundings, Update
from foldase_models.training.zero.layout import Bucket, lay_out, trainable


class FlatEngine(Engine):
    """Holds the weights; how gradients are kept and reduced is left to each stage.

    Every rank steps its slice of every bucket, and gathers those of the others: bucket by bucket beside the
    optimizer's work on the next, and waited for where the model is used again.
    """

    def __init__(self, model: nn.Module, surroundings: Surroundings, *, shared: bool) -> None:
        """Take a model over.

        Args:
            model: whose parameters become views of flat vectors, with rank 0's values.
            surroundings: configuration, collectives, ledger, clock.
            shared: whether ranks step a slice each, or all of them everything.
        """
        self.model = model
        self.around, self.config = surroundings, surroundings.config
        ranks = surroundings.collectives.ranks
        self.rank = ranks.rank if shared else 0
        self.parameters = trainable(model)
        self._dtypes = parameter_dtypes(model, self.config.precision)
        self.buckets = lay_out(
            self.parameters,
            ranks.size if shared else 1,
            self.config.limits.bucket_bytes,
            dtypes=self._dtypes,
            chunks=ranks.size if self.config.optimizer.compresses else 1,
        )
        self._gathers: dict[int, Pending] = {}
        self._adopt_fixed()
        self._weights: list[torch.Tensor] = []
        own = (self._move_in(bucket) for bucket in self.buckets)
        self.stepper: Stepper = make_stepper(self.buckets, self.rank, own, surroundings)

    @property
    def rounds(self) -> int:
        """Backward passes of a step."""
        return -(-self.config.micro_batches // self.around.collectives.ranks.size)

    def gradient_dtype(self, bucket: Bucket) -> torch.dtype:
        """In which gradients are added up: more than one part of a batch is too much for bfloat16."""
        return torch.float32 if self.rounds > 1 and bucket.dtype == torch.bfloat16 else bucket.dtype

    def forward(self) -> AbstractContextManager[object]:
        """With complete weights."""
        self._await_weights()
        return calculating(self.config.precision, self.around.ledger.device)

    def expect(self, update: Update) -> None:
        """Tell the stepper."""
        self.stepper.expect(update)

    @property
    def steps_taken_back(self) -> int:
        """The stepper's."""
        return self.stepper.steps_taken_back

    def step(self, update: Update) -> None:
        """Step the own slices; the others' are on their way when this returns."""
        self._await_weights()
        self.stepper.step(update, self._publish)
        self.begin_step()

    def drop(self) -> None:
        """Forget the gradients."""
        self.stepper.drop()
        self.begin_step()

    def begin_step(self) -> None:
        """Make ready for the gradients of another step."""

    def flush(self) -> None:
        """Complete a delayed step."""
        self.stepper.flush(self._publish)
        self._await_weights()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Exchange weights and averages, and back."""
        self._await_weights()
        if self.config.average_decay:
            self.stepper.exchange(self._publish)
        try:
            with self.forward():
                yield
        finally:
            if self.config.average_decay:
                self.stepper.exchange(self._publish)
                self._await_weights()

    def state(self) -> dict[str, FlatShard]:
        """The stepper's and the buffers."""
        shapes = {name: tuple(parameter.shape) for name, parameter in self.parameters.items()}
        held = with_absent(self.stepper.shards(), shapes, averaged=self.config.average_decay > 0)
        return held | buffer_shards(self.model)

    @torch.no_grad()
    def loaded(self) -> None:
        """Fetch the weights anew."""
        self._await_weights()
        for bucket, weights in zip(self.buckets, self._weights, strict=True):
            self.stepper.fetch(bucket.index, weights[bucket.slice_of(self.rank)]).wait()
            self._gather(bucket)
        self._await_weights()

    @torch.no_grad()
    def weights(self, *, averaged: bool) -> dict[str, torch.Tensor]:
        """Bucket by bucket, from all ranks' slices."""
        kind = AVERAGE if averaged and self.config.average_decay else WEIGHTS
        shards = self.stepper.shards()
        device = self.around.ledger.device
        found: dict[str, torch.Tensor] = {}
        for bucket in self.buckets:
            vector = torch.zeros(bucket.size, device=device)
            own = vector[bucket.slice_of(self.rank)]
            for piece in bucket.pieces(self.rank):
                own[piece.offset : piece.offset + piece.length].copy_(shards[f"{kind}/{piece.name}"].read())
            if bucket.ranks > 1:
                name = f"{kind} of bucket {bucket.index}"
                self.around.collectives.all_gather(name, vector, own).wait()
            if self.around.collectives.ranks.first:
                for entry in bucket.entries:
                    found[entry.name] = vector[entry.start : entry.stop].view(entry.shape).cpu().clone()
        return {name: found[name] for name in self.parameters if name in found}

    def close(self) -> None:
        """Close the stepper."""
        self._await_weights()
        self.stepper.close()

    @torch.no_grad()
    def _adopt_fixed(self) -> None:
        """Frozen parameters and buffers: on the device, counted, cast, and rank 0's everywhere."""
        device = self.around.ledger.device
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                continue
            parameter.data = parameter.data.to(device, self._dtypes[name])
            take_over(self.around, "frozen weights", name, parameter.data)
        moved: dict[torch.Tensor, torch.Tensor] = {}
        for module in self.model.modules():
            for name, buffer in module.named_buffers(recurse=False):
                module._buffers[name] = moved.setdefault(buffer, buffer.to(device))
        for name, buffer in self.model.named_buffers():
            take_over(self.around, "buffers", name, buffer)

    @torch.no_grad()
    def _move_in(self, bucket: Bucket) -> torch.Tensor:
        """Make parameters views of a flat vector; the own slice, as exactly as the model had it."""
        around = self.around
        weights = around.ledger.zeros("device", "weights", bucket.size, bucket.dtype)
        members = [self.parameters[entry.name] for entry in bucket.entries]
        given = {member.dtype for member in members}
        exact = weights if given == {bucket.dtype} else torch.zeros(bucket.size, device=weights.device)
        for entry, member in zip(bucket.entries, members, strict=True):
            exact[entry.start : entry.stop].view(entry.shape).copy_(member)
            member.data = weights[entry.start : entry.stop].view(entry.shape)
        around.collectives.broadcast(f"weights of bucket {bucket.index}", exact).wait()
        self._weights.append(weights)
        own = bucket.slice_of(self.rank)
        if exact is weights:
            return weights[own]
        weights.copy_(exact)
        return exact[own].clone()

    @torch.no_grad()
    def _publish(self, index: int, weights: torch.Tensor) -> None:
        if index in self._gathers:
            self._gathers.pop(index).wait()  # of the step before, where steps are delayed
        bucket = self.buckets[index]
        own = self._weights[index][bucket.slice_of(self.rank)]
        if weights.data_ptr() != own.data_ptr():
            own.copy_(weights)
        self._gather(bucket)

    def _gather(self, bucket: Bucket) -> None:
        if bucket.ranks > 1:
            whole = self._weights[bucket.index]
            own = whole[bucket.slice_of(self.rank)]
            name = f"weights of bucket {bucket.index}"
            self._gathers[bucket.index] = self.around.collectives.all_gather(name, whole, own)

    def _await_weights(self) -> None:
        while self._gathers:
            self._gathers.pop(next(iter(self._gathers))).wait()


@torch.no_grad()
def take_over(around: Surroundings, owner: str, name: str, tensor: torch.Tensor) -> None:
    """Count a tensor that every rank holds whole, and give it rank 0's values. Collective."""
    around.ledger.adopt("device", owner, tensor)
    if tensor.numel():
        # gloo knows not every dtype, and no tensor with gaps.
        packed = tensor.contiguous().view(-1)
        around.collectives.broadcast(f"{owner} {name}", packed.view(torch.uint8)).wait()
        if not torch.equal(packed.view(tensor.shape), tensor):
            tensor.copy_(packed.view(tensor.shape))
