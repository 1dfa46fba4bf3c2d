"""Which stepper a configuration asks for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

import torch

from foldase_models.training.offload.on_disk import DiskStepper
from foldase_models.training.offload.on_host import HostStepper
from foldase_models.training.optim.moments import MomentStepper
from foldase_models.training.optim.on_device import DeviceStepper
from foldase_models.training.optim.split import SplitStepper
from foldase_models.training.optim.stepper import Stepper
from foldase_models.training.surroundings import Surroundings
from foldase_models.training.zero.layout import Bucket


def make_stepper(
    buckets: Sequence[Bucket], rank: int, weights: Iterable[torch.Tensor], surroundings: Surroundings
) -> Stepper:
    """The stepper that the configuration asks for.

    Args:
        buckets: of the model.
        rank: whose slices.
        weights: this rank's slice of every bucket, [share], as the model begins; float32 ones on the device
            become the stepper's own weights where it lies on the device too, else they are only read, one
            after the other, so that they may be made as they are asked for.
        surroundings: configuration, ledger, clock.

    Raises:
        ModelError: ``out_of_memory``; ``bad_disk``: the folder cannot take what is to lie there.
    """
    offload = surroundings.config.offload
    away = 0 if offload.optimizer == "none" else max(0, len(buckets) - offload.device_buckets)
    if surroundings.config.optimizer.compresses:
        return MomentStepper(buckets, rank, weights, surroundings)
    if not away:
        return DeviceStepper(buckets, rank, weights, surroundings)
    kind = HostStepper if offload.optimizer == "cpu" else DiskStepper
    each = iter(weights)
    first = kind(buckets[:away], rank, islice(each, away), surroundings)
    if away == len(buckets):
        return first
    return SplitStepper(first, DeviceStepper(buckets[away:], rank, each, surroundings))
