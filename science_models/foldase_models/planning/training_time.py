"""How long a step of a training takes, and what it sends; from counts and rates, with a stated spread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from foldase_models.planning.forms import ITEM, WIDE
from foldase_models.planning.hardware import Hardware
from foldase_models.planning.tensors import Unit
from foldase_models.training.config import TrainingConfig

KINDS = ("compute", "communication", "transfer", "disk")
"""What the time of a step is split into."""
STEPPED_BYTES = 28
"""Bytes that AdamW reads and writes a parameter: weight, gradient, two moments in; weight, moments out."""
PER_CORE = 1.6e10
"""Floating point operations of one core on small matrices, element-wise work included."""
CPU_MEMORY, GPU_MEMORY = 7e9, 2e12
"""Bytes a second that the optimizer's step goes through: measured on two cores; half of an H200's."""
LINK = {"cpu": 5e9, "gpu": 2e10}
"""Bytes a second between main memory and what computes; a plain copy where both are the same."""
NETWORK = {"cpu": 5e8, "gpu": 2e10}
DISK = 5e8
SPREAD = (0.5, 3.0)
"""Low and high as multiples of what is reckoned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of one rank: (low, high) seconds by kind and of all, and bytes sent to other ranks by kind."""

    seconds: tuple[float, float]
    kinds: Mapping[str, tuple[float, float]]
    sent: Mapping[str, float]


def bytes_sent(parameters: int, training: TrainingConfig, ranks: int) -> dict[str, float]:
    """Bytes that a rank sends in a step by kind of operation, rings of N ranks: (N - 1) / N of a tensor.

    Stage 0 sums whole gradients, 2 Psi. Stage 1 does so in halves at the end of the step: reduce-scatter,
    then all-gather of the new weights. Stage 2 reduces after every part of the batch. Stage 3 gathers
    weights for the forward and again for the backward pass of every part.
    """
    if ranks == 1:
        return {}
    whole = ITEM[training.precision] * parameters * (ranks - 1) / ranks
    rounds = -(-training.micro_batches // ranks)
    if training.stage == 0:
        return {"all_reduce": 2 * whole}
    if training.stage == 1:
        return {"reduce_scatter": whole, "all_gather": whole}
    if training.stage == 2:
        return {"reduce_scatter": rounds * whole, "all_gather": whole}
    return {"reduce_scatter": rounds * whole, "all_gather": 2 * rounds * whole}


def time_of_step(
    units: Sequence[Unit], flops: float, training: TrainingConfig, hardware: Hardware, ranks: int
) -> Step:
    """Seconds of a step; ``flops`` of one part of the batch.

    What goes on beside other work hides behind it at best and adds up at worst.
    """
    parameters = sum(unit.numel for unit in units if unit.trained)
    sent = bytes_sent(parameters, training, ranks)
    rounds = -(-training.micro_batches // ranks)
    device, offload = hardware.computes_on, training.offload
    item, share = ITEM[training.precision], parameters / (ranks if training.stage else 1)
    again = 4 / 3 if offload.activations == "recompute" else 1.0
    stepping = GPU_MEMORY if device == "gpu" and offload.optimizer == "none" else CPU_MEMORY
    link, disk, network = (
        said or usual
        for said, usual in zip(hardware.bandwidths(), (LINK[device], DISK, NETWORK[device]), strict=True)
    )
    crossing = 0.0 if offload.optimizer == "none" else 2.0 * item * share
    crossing += 0.0 if offload.parameters == "none" else 2.0 * rounds * item * share
    on_disk = 0.0
    if offload.optimizer == "nvme":
        on_disk += 2.0 * (3 + (training.average_decay > 0)) * WIDE * share
    if offload.parameters == "nvme":
        on_disk += (2.0 * rounds + 1) * item * share
    typical = {
        "compute": again * rounds * flops / _flops_per_second(hardware) + STEPPED_BYTES * share / stepping,
        "communication": sum(sent.values()) / network,
        "transfer": crossing / link,
        "disk": on_disk / disk,
    }
    return Step(
        seconds=(SPREAD[0] * max(typical.values()), SPREAD[1] * sum(typical.values())),
        kinds={kind: (SPREAD[0] * value, SPREAD[1] * value) for kind, value in typical.items()},
        sent=sent,
    )


def _flops_per_second(hardware: Hardware) -> float:
    """Of matrix products with what lies between them."""
    return 1e14 if hardware.computes_on == "gpu" else PER_CORE * max(1.0, min(hardware.cores, 8.0) ** 0.75)
