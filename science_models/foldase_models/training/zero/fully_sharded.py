"""Stage 3 with all shards on the device: ``torch.distributed.fsdp.fully_shard``, and our steppers.

``fully_shard`` gathers and frees the units and reduces their gradients; every operation goes through our
collectives, which name and count it. A parameter is a DTensor, of whose rows this rank has some; the stepper
holds the float32 weights of the same rows, which are the DTensor's own memory where nothing is offloaded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from foldase_models.training.optim.stepper import Publish
from foldase_models.training.optim.steppers import make_stepper
from foldase_models.training.precision import parameter_dtypes
from foldase_models.training.surroundings import Surroundings, Update
from foldase_models.training.zero.flat import take_over
from foldase_models.training.zero.gathered import WORKING
from foldase_models.training.zero.layout import Bucket
from foldase_models.training.zero.rows import RowBucket, lay_out_rows, row_share
from foldase_models.training.zero.third import ThirdStage
from foldase_models.training.zero.units import ROOT, find_units


class FullyShardedEngine(ThirdStage):
    """DTensor parameters on the device of every rank."""

    def __init__(self, model: nn.Module, surroundings: Surroundings) -> None:
        super().__init__(model, surroundings)
        self._ledger, self._ranks = surroundings.ledger, surroundings.collectives.ranks
        config = surroundings.config
        self._exact: dict[str, torch.Tensor] = {}
        self._lasting: list[FSDPModule] = []
        self._unit_of: dict[str, str] = {}
        self._called: Counter[str] = Counter()
        self._reduced: Counter[str] = Counter()
        self._prepare()
        self._root = _Root(model)
        self._shard()
        found = {name: cast("DTensor", p) for name, p in model.named_parameters() if p.numel()}
        self._trained = {name: p for name, p in found.items() if p.requires_grad}
        self._aliased = config.offload.optimizer == "none" and config.precision == "float32"
        self._buckets: tuple[RowBucket, ...] = lay_out_rows(
            cast("dict[str, torch.Tensor]", self._trained),
            self._ranks.size,
            0 if self._aliased else config.limits.bucket_bytes,
        )
        for parameter in found.values():
            owner = "weights" if parameter.requires_grad else "frozen weights"
            self._ledger.adopt(
                "device", owner, _flat(parameter, row_share(_shape(parameter), self._ranks.size))
            )
        for name, buffer in model.named_buffers():
            take_over(surroundings, "buffers", name, buffer)
        own = (self._own(bucket) for bucket in self._buckets)
        self._stepper = make_stepper(self._buckets, self._ranks.rank, own, surroundings)
        self._exact.clear()
        self._taken: set[int] = set()
        self._early = False
        self._homes = [
            {self._unit_of.get(entry.name, ROOT) for entry in bucket.entries} for bucket in self._buckets
        ]
        self._held: dict[int, torch.Tensor] = {}
        for bucket in self._buckets:
            if not self._stepper.holds_gradient(bucket.index) and not self._aliased:
                self._held[bucket.index] = self._ledger.zeros(
                    "device", "gradients", bucket.share, self._gradient_dtype(bucket)
                )

    @contextmanager
    def forward(self) -> Iterator[None]:
        """The root's unit is there from here until after the backward pass."""
        try:
            self._free()
            self._called.clear()
            self._early = False
            self._root(_nothing)
            with self._calculating():
                yield
        except BaseException:
            self._sharded_root.reset_iter_state()
            raise

    def backward(self, loss: torch.Tensor | None, *, last: bool) -> None:
        """Each unit's gradients are reduced when its backward pass is over."""
        assert loss is not None, "at stage 3 every rank computes in every round"
        self._reduced.clear()
        self._early = last and self._around.config.offload.ahead
        try:
            # From its gradient on, the pass is one of the root's unit, which then ends with it.
            loss = self._root(lambda: loss)
            torch.autograd.backward(loss)
            self._agreed("the end of the backward pass")
        except BaseException:
            self._sharded_root.reset_iter_state()
            raise
        if not self._aliased:
            for bucket in self._buckets:
                self._hand_over(bucket)

    def step(self, update: Update) -> None:
        """Step every bucket."""
        super().step(update)
        self._forget()

    def drop(self) -> None:
        """Forget the gradients."""
        super().drop()
        self._forget()

    @torch.no_grad()
    def loaded(self) -> None:
        """Fetch the weights anew, where they are not the stepper's own."""
        for bucket in self._buckets:
            if not self._aliased:
                own = torch.zeros(bucket.share, dtype=bucket.dtype, device=self._ledger.device)
                self._stepper.fetch(bucket.index, own).wait()
                self._publish(bucket.index, own)

    @contextmanager
    def _looking(self) -> Iterator[None]:
        try:
            self._free()
            with torch.no_grad():
                self._root(_nothing)
            yield
            self._free()
            self._agreed("the end of a look at the model")
        except BaseException:
            self._sharded_root.reset_iter_state()
            raise

    def _free(self) -> None:
        """Of the units that are not freed after their forward passes."""
        for module in (self._sharded_root, *self._lasting):
            module.reshard()

    @property
    def _sharded_root(self) -> FSDPModule:
        return cast("FSDPModule", self._root)

    def _publishing(self) -> Publish | None:
        return self._publish

    @torch.no_grad()
    def _publish(self, index: int, weights: torch.Tensor) -> None:
        for entry in self._buckets[index].entries:
            local = self._trained[entry.name].to_local()
            source = weights[entry.start : entry.start + local.numel()].view(local.shape)
            if source.data_ptr() != local.data_ptr():
                local.copy_(source)

    @torch.no_grad()
    def _complete(self) -> None:
        for bucket in self._buckets:
            if self._aliased:
                gradient = self._trained[bucket.entries[0].name].grad
                if gradient is not None:
                    self._stepper.take(bucket.index, _flat(cast("DTensor", gradient), bucket.share)).wait()
            elif bucket.index in self._held and bucket.index in self._taken:
                self._stepper.take(bucket.index, self._held[bucket.index]).wait()

    @torch.no_grad()
    def _hand_over(self, bucket: Bucket) -> None:
        """Take the gradients of one backward pass from the parameters, and add them to those before."""
        parameters = [self._trained[entry.name] for entry in bucket.entries]
        if all(parameter.grad is None for parameter in parameters):
            return
        before = bucket.index in self._taken
        self._taken.add(bucket.index)
        own = torch.zeros(bucket.share, dtype=bucket.dtype, device=self._ledger.device)
        for entry, parameter in zip(bucket.entries, parameters, strict=True):
            if parameter.grad is not None:
                local = cast("DTensor", parameter.grad).to_local()
                own[entry.start : entry.start + local.numel()].copy_(local.reshape(-1))
                parameter.grad = None
        if bucket.index not in self._held:
            with self._ledger.apart():
                self._stepper.take(bucket.index, own, add=before).wait()
        elif before:
            self._held[bucket.index].add_(own)
        else:
            self._held[bucket.index].copy_(own)

    def _hand_over_early(self) -> None:
        """Hand over the buckets all of whose units have come back as often as they were called.

        The root's comes last. What comes back more often all the same is added at the end of the pass.
        """
        done = {unit for unit, count in self._reduced.items() if count >= self._called[unit]}
        for bucket, homes in zip(self._buckets, self._homes, strict=True):
            if homes <= done and bucket.index not in self._held:
                self._hand_over(bucket)

    def _forget(self) -> None:
        self._taken.clear()
        for parameter in self._trained.values():
            parameter.grad = None

    @torch.no_grad()
    def _prepare(self) -> None:
        """Rank 0's values everywhere; this rank's rows as exactly as the model has them; the dtype to be."""
        ranks, dtypes = self._ranks, parameter_dtypes(self.model, self._around.config.precision)
        for name, parameter in self.model.named_parameters():
            if not parameter.numel():
                continue
            values = parameter.detach().contiguous()
            self._around.collectives.broadcast(f"first weights of {name}", values).wait()
            if self._around.config.precision == "bfloat16" and values.is_floating_point():
                if parameter.requires_grad:
                    share = row_share(tuple(values.shape), ranks.size)
                    rows = values.view(-1)[ranks.rank * share : (ranks.rank + 1) * share]
                    self._exact[name] = rows.float() if rows.dtype != torch.float32 else rows.clone()
                values = values.to(dtypes[name])
            parameter.data = values

    def _shard(self) -> None:
        """Make every unit one of ``fully_shard``'s, with our collectives."""
        mesh = init_device_mesh(self._ranks.device.type, (self._ranks.size,))
        empty = {parameter for parameter in self.model.parameters() if not parameter.numel()}
        units = find_units(self.model, dissolve_shared=True)
        # Inner units first, as the outer ones take all that is left inside them.
        for unit in units:
            self._unit_of |= dict.fromkeys(unit.parameters, unit.name)
        for unit in reversed(units[:-1]):
            unit.module.register_forward_pre_hook(partial(self._note_call, unit.name))
            # The backward pass begins with the last one.
            again = unit is not units[-2]
            fully_shard(unit.module, mesh=mesh, reshard_after_forward=again, ignored_params=empty)
            if not again:
                self._lasting.append(cast("FSDPModule", unit.module))
        fully_shard(self._root, mesh=mesh, ignored_params=empty)
        root = cast("FSDPModule", self._root)
        root.set_reduce_scatter_unused_params(True)
        root.set_gradient_divide_factor(1.0)
        root.set_force_sum_reduction_for_comms(True)
        modules: Sequence[tuple[str, nn.Module]] = [
            *((unit.name, unit.module) for unit in units[:-1]),
            (ROOT, self._root),
        ]
        for name, module in modules:
            sharded = cast("FSDPModule", module)
            sharded.set_gradient_divide_factor(1.0)
            sharded.set_custom_all_gather(cast("Any", _Gather(self, name)))
            sharded.set_custom_reduce_scatter(cast("Any", _Scatter(self, name)))

    def _own(self, bucket: RowBucket) -> torch.Tensor:
        """This rank's rows of a bucket, [share], float32; the parameter's own memory where it may be."""
        if self._aliased:
            return _flat(self._trained[bucket.entries[0].name], bucket.share)
        own = torch.zeros(bucket.share, device=self._ledger.device)
        for entry in bucket.entries:
            rows = self._exact.get(entry.name)
            if rows is None:
                rows = self._trained[entry.name].to_local().detach().reshape(-1)
            own[entry.start : entry.start + rows.numel()].copy_(rows)
        return own

    def _note_call(self, unit: str, _module: nn.Module, _arguments: Any) -> None:
        if not self._early:
            self._called[unit] += 1

    def all_gather(self, unit: str, whole: torch.Tensor, own: torch.Tensor) -> None:
        """Gather a unit's weights."""
        self._ledger.adopt("device", WORKING, whole)
        with self._operation(unit, f"weights of {unit}") as name:
            self._around.collectives.all_gather(name, whole, own).wait()

    def reduce_scatter(self, unit: str, own: torch.Tensor, whole: torch.Tensor) -> None:
        """Sum a unit's gradients."""
        if self._early:
            # Those of the units before have arrived in their parameters by now.
            self._hand_over_early()
            self._reduced[unit] += unit != ROOT
        self._ledger.adopt("device", "gradients", own)
        with self._operation(unit, f"gradients of {unit}") as name:
            self._around.collectives.reduce_scatter(name, own, whole).wait()


class _Root(nn.Module):
    """Stands above the model, so that the root's unit is there whichever way the model is entered."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, work: Callable[[], torch.Tensor | None]) -> torch.Tensor | None:
        """Do some work as the root's."""
        return work()


class _Communication:
    """One unit's operations, as ``fully_shard`` asks for them."""

    def __init__(self, engine: FullyShardedEngine, unit: str) -> None:
        self._engine, self._unit = engine, unit

    def allocate(
        self, size: Sequence[int | torch.SymInt], *, dtype: torch.dtype, device: torch.device
    ) -> torch.Tensor:
        """A tensor for the operation."""
        return torch.empty(*size, dtype=dtype, device=device)


class _Gather(_Communication):
    def __call__(
        self, output_tensor: torch.Tensor, input_tensor: torch.Tensor, group: object, async_op: bool = False
    ) -> None:
        self._engine.all_gather(self._unit, output_tensor, input_tensor)


class _Scatter(_Communication):
    def __call__(
        self,
        output_tensor: torch.Tensor,
        input_tensor: torch.Tensor,
        group: object,
        op: object,
        async_op: bool = False,
    ) -> None:
        self._engine.reduce_scatter(self._unit, output_tensor, input_tensor)


def _nothing() -> None:
    """Gather the root's unit, and no more."""


def _shape(parameter: DTensor) -> tuple[int, ...]:
    return tuple(parameter.shape)


def _flat(parameter: DTensor, share: int) -> torch.Tensor:
    """The memory of a DTensor's rows, [share], which ends with padding on the last ranks."""
    local = parameter.to_local().detach()
    return local.as_strided((share,), (1,))
