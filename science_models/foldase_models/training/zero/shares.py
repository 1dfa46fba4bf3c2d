"""This rank's slices of a model's buckets, made one unit after the other as the model is taken over.

Parameters may lie on the ``meta`` device: then those of a unit are made when its turn comes, by the
``reset_parameters`` of the modules that have them, so that the whole model is never there at once.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence

import torch
from torch import nn

from foldase_models.errors import ModelError
from foldase_models.training.collectives import Waitable
from foldase_models.training.ledger import Tier
from foldase_models.training.optim.stepper import Done
from foldase_models.training.surroundings import Surroundings
from foldase_models.training.zero.absent import absent
from foldase_models.training.zero.layout import Bucket
from foldase_models.training.zero.units import Holding, Unit


class Shares:
    """Gives slices of buckets, and takes the parameters out of the model when all of a unit were given."""

    def __init__(self, homes: Sequence[tuple[Unit, Bucket]], surroundings: Surroundings) -> None:
        """Know which unit each bucket is of; those of one unit come one after the other."""
        self._homes, self._around = homes, surroundings
        self._left = Counter(unit.name for unit, _ in homes)

    @torch.no_grad()
    def slice_of(self, number: int) -> torch.Tensor:
        """This rank's slice of the bucket that came in this place, [share], as rank 0 has it.

        Once for each, in order; collective.
        """
        unit, bucket = self._homes[number]
        ranks = self._around.collectives.ranks
        if any(_now(holding).is_meta for holding in unit.holdings):
            _make(unit, ranks.device, self._around.config.seed)
        parameters = {holding.name: _now(holding) for holding in unit.holdings}
        dtype = torch.promote_types(bucket.dtype, parameters[bucket.entries[0].name].dtype)
        whole = torch.zeros(bucket.size, dtype=dtype, device=ranks.device)
        for entry in bucket.entries:
            whole[entry.start : entry.stop].view(entry.shape).copy_(parameters[entry.name])
        self._around.collectives.broadcast(f"first weights of {unit.name}", whole).wait()
        self._left[unit.name] -= 1
        if not self._left[unit.name]:
            self._take_out(unit)
        return whole if bucket.ranks == 1 else whole[bucket.slice_of(ranks.rank)].clone()

    def _take_out(self, unit: Unit) -> None:
        dtypes = {
            entry.name: bucket.dtype
            for owner, bucket in self._homes
            if owner is unit
            for entry in bucket.entries
        }
        for holding in unit.holdings:
            stand_in = absent(holding.name, unit.name, _now(holding), dtypes[holding.name])
            for module, name in holding.places:
                module._parameters[name] = stand_in
            if not holding.parameter.is_meta:
                # Whoever else holds on to the parameter shall not hold its memory.
                holding.parameter.data = holding.parameter.new_empty(0)


class FrozenShares:
    """Slices of frozen weights: on the device, or in main memory where weights are offloaded."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._around = surroundings
        self._slices: dict[int, torch.Tensor] = {}

    @torch.no_grad()
    def keep(self, bucket: Bucket, own: torch.Tensor) -> None:
        """Take a slice, [share]."""
        on_device = self._around.config.offload.parameters == "none"
        tier: Tier = "device" if on_device else "pinned"
        self._slices[bucket.index] = self._around.ledger.zeros(
            tier, "frozen weights", bucket.share, bucket.dtype
        ).copy_(own)

    @torch.no_grad()
    def fetch(self, bucket: int, into: torch.Tensor) -> Waitable:
        """Copy a slice into a vector on the device, [share]."""
        into.copy_(self._slices[bucket])
        return Done()


def _make(unit: Unit, device: torch.device, seed: int) -> None:
    """Make the parameters of a unit that lie on ``meta``, the same ones in every process.

    Raises:
        ModelError: ``bad_config``: a module cannot make its own.
    """
    unmade = [holding for holding in unit.holdings if _now(holding).is_meta]
    modules = {id(module): module for holding in unmade for module, _ in holding.places}
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(zlib.crc32(f"{seed} {unit.name}".encode()))
        for holding in unmade:
            made = nn.Parameter(
                torch.empty_like(holding.parameter, device=device), holding.parameter.requires_grad
            )
            for module, name in holding.places:
                module._parameters[name] = made
        for module in modules.values():
            reset = getattr(module, "reset_parameters", None)
            if not callable(reset):
                names = ", ".join(name for name, _ in module.named_parameters(recurse=False))
                raise ModelError(
                    f"{type(module).__name__} in unit {unit.name!r} has no reset_parameters to make {names}",
                    code="bad_config",
                    location="model",
                    hint="give it one, or build the model with its weights instead of on the meta device",
                )
            reset()


def _now(holding: Holding) -> nn.Parameter:
    """What the model has in the parameter's place."""
    module, name = holding.places[0]
    found = module._parameters[name]
    assert found is not None
    return found
