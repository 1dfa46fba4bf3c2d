"""How long a step of a training takes, and what it sends; from counts and rates, with a stated spread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from foldase_models.planning.compressed_training import Exchanges, count_exchanges
from foldase_models.planning.forms import ITEM, WIDE
from foldase_models.planning.hardware import Hardware
from foldase_models.planning.tensors import Unit, numel, size
from foldase_models.planning.training_states import flat_buckets, root_and_blocks, stepped_on_device
from foldase_models.training.config import TrainingConfig

KINDS = ("compute", "optimizer", "communication", "transfer", "disk")
"""What the time of a step is split into; ``optimizer`` where it goes on beside the rest, else it is part of
``compute``."""
STEPPED_BYTES = 28
"""Bytes that AdamW reads and writes a parameter: weight, gradient, two moments in; weight, moments out."""
COPIED_BYTES = 24
"""Bytes a parameter more where steps are taken ahead: weight and two moments, read and written."""
PACKED_BYTES = 28
"""Bytes a parameter more of a step that sends one bit a number: its sum and error in, the error out, what
came of it in; average, weight and moment out."""
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
    """One step of one rank: (low, high) seconds by kind and of all, and bytes sent to other ranks by kind.

    With an optimizer that compresses what it sends it is the mean of all steps, and ``exchanges`` says how
    many of them exchange what.
    """

    seconds: tuple[float, float]
    kinds: Mapping[str, tuple[float, float]]
    sent: Mapping[str, float]
    exchanges: Exchanges | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Of one part of the batch: floating point operations, and seconds of many small operations."""

    flops: float
    overhead: float


def bytes_sent(units: Sequence[Unit], training: TrainingConfig, ranks: int) -> dict[str, float]:
    """Bytes that a rank sends in a step by kind of operation, rings of N ranks: (N - 1) / N of a tensor.

    With an optimizer that compresses what it sends, those of a step in which gradients travel whole.

    With P parameters: stage 0 sums whole gradients once a step, which is 2 P. Stage 1 does so in halves:
    it scatters gradients, P, and gathers new weights, P. Stage 2 scatters after every part of the batch.
    Stage 3 gathers weights for the forward and again for the backward pass of every part, but those outside
    of blocks and of the last block once for both, and scatters after every part: at most 3 P.
    """
    if ranks == 1:
        return {}
    item, groups = ITEM[training.precision], root_and_blocks(units)
    blocks = [size(tensors, item) for tensors in groups]
    # The root's unit stays gathered in between, and so does the last block: the way back begins with it.
    ring = (ranks - 1) / ranks
    rounds = -(-training.micro_batches // ranks)
    weights, once = ring * sum(blocks), ring * sum(blocks[-2:])
    summed = ring * WIDE * sum(map(numel, groups)) if rounds > 1 else weights
    if training.stage == 0:
        return {"all_reduce": 2 * summed}
    if training.stage == 1:
        return {"reduce_scatter": summed, "all_gather": weights}
    if training.stage == 2:
        return {"reduce_scatter": rounds * weights, "all_gather": weights}
    return {"reduce_scatter": rounds * weights, "all_gather": rounds * (2 * weights - once)}


def time_of_step(
    units: Sequence[Unit], work: Work, training: TrainingConfig, hardware: Hardware, ranks: int
) -> Step:
    """Seconds of a step; ``work`` of one part of the batch.

    What goes on beside other work hides behind it at best and adds up at worst.
    """
    parameters = sum(unit.numel for unit in units if unit.trained)
    sent, exchanges = bytes_sent(units, training, ranks), None
    packing = 0.0
    if training.optimizer.compresses:
        buckets = flat_buckets(units, training, ranks)
        exchanges, sent = count_exchanges(buckets, sent, training, ranks)
        packing = PACKED_BYTES * parameters * exchanges.steps["sync"] / training.steps
    rounds = -(-training.micro_batches // ranks)
    device, offload = hardware.computes_on, training.offload
    share = parameters / (ranks if training.stage and exchanges is None else 1)
    again = 4 / 3 if offload.activations == "recompute" else 1.0
    here = stepped_on_device(units, training, ranks)
    stepping = (here * STEPPED_BYTES * share + packing) / (GPU_MEMORY if device == "gpu" else CPU_MEMORY)
    elsewhere = (1 - here) * (STEPPED_BYTES + COPIED_BYTES * offload.ahead) * share / CPU_MEMORY
    beside = offload.ahead or offload.delayed
    link, disk, network = (
        said or usual
        for said, usual in zip(hardware.bandwidths(), (LINK[device], DISK, NETWORK[device]), strict=True)
    )
    typical = {
        "compute": rounds * again * (work.flops / _flops_per_second(hardware) + work.overhead)
        + stepping
        + (0.0 if beside else elsewhere),
        "optimizer": elsewhere if beside else 0.0,
        "communication": sum(sent.values()) / network,
        "transfer": _crossing(training, (1 - here) * share, rounds) / link,
        "disk": _on_disk(training, (1 - here) * share, rounds) / disk,
    }
    return Step(
        seconds=(SPREAD[0] * max(typical.values()), SPREAD[1] * sum(typical.values())),
        kinds={kind: (SPREAD[0] * value, SPREAD[1] * value) for kind, value in typical.items()},
        sent=sent,
        exchanges=exchanges,
    )


def _crossing(training: TrainingConfig, share: float, rounds: int) -> float:
    """Bytes between main memory and what computes: gradients there, weights back."""
    offload, item = training.offload, ITEM[training.precision]
    if offload.optimizer == "none":
        return 0.0
    gradients = (rounds if training.stage > 1 else 1) * item * share
    fetched = 2 * rounds if offload.parameters != "none" else 1
    return gradients + fetched * item * share


def _on_disk(training: TrainingConfig, share: float, rounds: int) -> float:
    """Bytes read and written: gradients when taken, the state when stepped, weights when used."""
    offload, item = training.offload, ITEM[training.precision]
    if offload.optimizer != "nvme":
        return 0.0
    taken = rounds if training.stage > 1 else 1
    state = 2 * (4 if training.average_decay else 3) * WIDE
    streamed = 2 * rounds * item if offload.parameters == "nvme" else 0
    return (item * 2 * taken + state + streamed) * share


def _flops_per_second(hardware: Hardware) -> float:
    """Of matrix products with what lies between them."""
    return 1e14 if hardware.computes_on == "gpu" else PER_CORE * max(1.0, min(hardware.cores, 8.0) ** 0.75)
