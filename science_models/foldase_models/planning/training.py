"""The plan of a training, or why it does not fit and which knob would help."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from foldase_models.errors import ModelError
from foldase_models.folding.alphafold.config import AlphaFoldConfig
from foldase_models.folding.contacts.config import ContactModelConfig
from foldase_models.folding.esmfold.config import EsmFoldConfig
from foldase_models.language.decoder.config import DecoderConfig
from foldase_models.planning.alphafold_training import AlphaFoldTrainee
from foldase_models.planning.compressed_training import check_exchanges
from foldase_models.planning.contact_training import ContactTrainee
from foldase_models.planning.contacts import PROCESS_BYTES
from foldase_models.planning.decoder import DecoderTrainee
from foldase_models.planning.esmfold_training import EsmFoldTrainee
from foldase_models.planning.forms import ITEM
from foldase_models.planning.hardware import Hardware, gibibytes
from foldase_models.planning.inference import GPU_CONTEXT_BYTES, GPU_HOST_BYTES
from foldase_models.planning.trainees import Activations, Device, Part, Trainee
from foldase_models.planning.training_plan import CAP, TrainingPlan
from foldase_models.planning.training_states import Held, hold_states
from foldase_models.planning.training_time import Step, Work, time_of_step
from foldase_models.training.config import (
    LAST_STAGE,
    ActivationPlace,
    CompressionConfig,
    OffloadConfig,
    Place,
    Stage,
    TrainingConfig,
)

MOST_RANKS = 64
"""Up to how many a refusal looks for ranks that would do."""
NAMES = {
    "gpu": "GPU memory",
    "pinned": "pinned memory",
    "ram": "main memory",
    "disk": "disk",
    CAP: "counted memory",
}
SPILL_STAGING = 4 * 4 * 2**20
"""``training.offload.spill``: buffers between activations and the disk."""
_DISK = Path("disk")
"""Stands for a folder where a knob is tried that needs one."""


class DoesNotFit(ModelError):
    """A training that does not fit as it is configured.

    Attributes:
        plan: what it would take.
    """

    def __init__(self, plan: TrainingPlan, message: str, *, location: str | None, hint: str) -> None:
        super().__init__(message, code="does_not_fit", location=location, hint=hint)
        self.plan = plan


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    trainee: Trainee
    training: TrainingConfig
    hardware: Hardware
    ranks: int
    part: Part
    correction: float


def plan_training(
    model: object,
    training: TrainingConfig,
    hardware: Hardware,
    *,
    part: Part,
    ranks: int = 1,
    correction: float | None = None,
) -> TrainingPlan:
    """How a training fits, before anything of it is allocated; the model is never built and never runs.

    What is planned is what the configuration says: a tighter budget never gives a larger peak, it gives a
    refusal.

    Args:
        model: its configuration; of a folding model also its trainee, which says how it is trained.
        training: how it is trained.
        hardware: what one rank may use.
        part: what one part of a step's batch holds, of which there are ``training.micro_batches``.
        ranks: processes that share the parts, and with a stage above 0 the state.
        correction: measured over predicted peak of earlier runs; None means 1.

    Raises:
        DoesNotFit: with how much is lacking where, and in the hint the knobs that would make it fit, the
            cheapest first.
        ModelError: ``bad_request`` for numbers that make no sense or a model that
            has no plan; ``bad_config`` for an optimizer that compresses on one rank, or whose second moment
            would never be frozen.
    """
    correction = 1.0 if correction is None else correction
    if ranks < 1 or not 0 < correction < float("inf"):
        raise ModelError(
            f"expected ranks of 1 or more and a correction above 0; found {ranks}, {correction}",
            code="bad_request",
        )
    check_exchanges(training, ranks)
    request = _Request(
        trainee=trainee_of(model),
        training=training,
        hardware=hardware,
        ranks=ranks,
        part=part,
        correction=correction,
    )
    plan = _plan(request)
    if plan.lacking:
        raise _refusal(request, plan)
    return plan


def trainee_of(model: object) -> Trainee:
    """What the plan of a training asks of a model, by its configuration; what says it already, itself.

    Raises:
        ModelError: ``bad_request``: there is no memory model for it.
    """
    if isinstance(model, ContactModelConfig):
        return ContactTrainee(model)
    if isinstance(model, DecoderConfig):
        return DecoderTrainee(model)
    if isinstance(model, EsmFoldConfig):
        return EsmFoldTrainee(model)
    if isinstance(model, AlphaFoldConfig):
        return AlphaFoldTrainee(model)
    if isinstance(model, EsmFoldTrainee | AlphaFoldTrainee):
        return model
    raise ModelError(f"no plan for the training of a {type(model).__name__}", code="bad_request")


def _plan(request: _Request) -> TrainingPlan:
    training, hardware, ranks = request.training, request.hardware, request.ranks
    units = request.trainee.units()
    trainee, part, device = request.trainee, request.part, _device(request)
    on_gpu = device == "gpu"
    held = hold_states(units, training, ranks, device)
    made = trainee.activations(part, ITEM[training.precision], device)
    _hold_activations(held, made, training)
    work = Work(flops=trainee.flops(part), overhead=trainee.overhead(part))
    step = time_of_step(units, work, training, hardware, ranks)
    here = ("device",) if on_gpu else ("device", "pinned", "host")
    own: dict[str, int] = {}
    for tier in here:
        for owner, size in held.tiers[tier].items():
            own[owner] = own.get(owner, 0) + size
    process = GPU_CONTEXT_BYTES if on_gpu else PROCESS_BYTES
    plan = TrainingPlan(
        model=request.trainee.kind,
        hardware=hardware,
        held={"process": process, **own},
        peak={},
        seconds=(training.steps * step.seconds[0], training.steps * step.seconds[1]),
        correction=request.correction,
        notes=(
            "time: counted operations over rates of one machine; more where others use it",
            *_notes_of_exchanges(request, step, held.sum("device")),
        ),
        parameters=sum(unit.numel for unit in units),
        ranks=ranks,
        part=part,
        training=training,
        tiers=held.tiers,
        step=step,
    )
    return replace(plan, peak=_peaks(plan, held))


def _notes_of_exchanges(request: _Request, step: Step, held: int) -> Iterator[str]:
    """What else people should know of an optimizer that compresses; ``held`` on the device at the peak."""
    training, ranks = request.training, request.ranks
    if step.exchanges is None:
        return
    before = hold_states(request.trainee.units(), training, ranks, _device(request), frozen=False)
    made = request.trainee.activations(request.part, ITEM[training.precision], _device(request))
    _hold_activations(before, made, training)
    less = held - before.sum("device")
    waits = training.optimizer.kind == "one_bit_adam" and training.optimizer.compression.freeze_step is None
    yield (
        f"the second moment is frozen from step {step.exchanges.frozen:,} of {training.steps:,} on"
        + (" at the earliest" if waits else "")
        + (f"; until then a rank holds {gibibytes(less)} less" if less > 0 else "")
    )
    if training.micro_batches < ranks:
        yield (
            f"{training.micro_batches} of {ranks} ranks have a part of a step's batch, and the others "
            f"nothing to step with between two exchanges: set micro_batches to {ranks}"
        )


def _device(request: _Request) -> Device:
    return "gpu" if request.hardware.computes_on == "gpu" else "cpu"


def _hold_activations(held: Held, made: Activations, training: TrainingConfig) -> None:
    place = training.offload.activations
    here, there = made.kept + made.working, 0
    if place == "recompute":
        here = made.recomputed
    elif place != "none":
        here, there = made.block + made.working, made.kept
    # When gradients lie between buckets, or a bucket is stepped, activations are gone.
    held.add("device", "activations", max(here, held.arriving))
    held.add("disk" if place == "nvme" else "pinned", "offloaded activations", there)
    held.add("pinned", "offloaded activations", SPILL_STAGING if place == "nvme" else 0)


def _peaks(plan: TrainingPlan, held: Held) -> dict[str, int]:
    here = plan.held["process"] + plan.predicted_peak_bytes
    in_memory = held.sum("pinned") + held.sum("host")
    if plan.hardware.computes_on == "cpu":
        peak = {"ram": here}
    else:
        peak = {"gpu": here, "pinned": held.sum("pinned"), "ram": GPU_HOST_BYTES + in_memory}
    if held.sum("disk"):
        peak["disk"] = held.sum("disk")
    if plan.training.limits.memory_bytes is not None:
        peak[CAP] = round((held.sum("device") + in_memory) * plan.correction)
    return peak


def _refusal(request: _Request, plan: TrainingPlan) -> DoesNotFit:
    """By how much the plan fails, and what would make it possible."""
    short = " and ".join(
        f"{gibibytes(plan.peak[tier])} of {NAMES[tier]} where there are "
        f"{gibibytes(plan.budgets[tier])} ({gibibytes(lacking)} too little)"
        for tier, lacking in plan.lacking.items()
    )
    needs = ", ".join(f"{gibibytes(plan.peak[tier])} of {NAMES[tier]}" for tier in plan.lacking)
    ways = [*_ways(request), f"it fits as it is with {needs}"]
    return DoesNotFit(
        plan,
        f"a rank of this training needs {short}",
        location=_knob_of(ways[0]),
        hint="; or ".join(ways),
    )


def _ways(request: _Request) -> list[str]:
    """Single knobs that would do, the cheapest first; where none does alone, several together."""
    alone = [words for words, changed in _knobs(request) if not _plan(changed).lacking]
    if alone:
        return alone[:3]
    turned, said = request, list[str]()
    for _ in range(len(list(_knobs(request))) + 2):
        helping = [
            (words, changed)
            for words, changed in _knobs(turned)
            if sum(_plan(changed).lacking.values()) < sum(_plan(turned).lacking.values())
        ]
        if not helping:
            break
        words, turned = helping[0]
        # A knob that is turned further takes the place of what was said of it before.
        said = [one for one in said if _knob_of(one) != _knob_of(words) or " and " in one] + [words]
        if not _plan(turned).lacking:
            return [" and ".join(said)]
    if not said:
        return []
    still = _plan(turned)
    short = " and ".join(f"{gibibytes(still.peak[tier])} of {NAMES[tier]}" for tier in still.lacking)
    return [f"not enough: {' and '.join(said)}, after which it needs {short}"]


def _knob_of(way: str) -> str | None:
    words = way.split()
    return words[1] if words[0] == "set" else None


def _knobs(request: _Request) -> Iterator[tuple[str, _Request]]:
    """Every change of one knob that lets a training hold less, from what costs least to what costs most."""
    training, ranks = request.training, request.ranks
    examples = request.part.examples
    if training.offload.ahead:
        yield _changed(request, "set offload.ahead to false", replace(training.offload, ahead=False))
    if training.offload.device_buckets:
        fewer = replace(training.offload, device_buckets=0)
        yield _changed(request, "set offload.device_buckets to 0", fewer)
    if training.offload.activations == "none":
        yield _activations(request, "recompute")
    divisor = next((count for count in range(2, examples + 1) if examples % count == 0), None)
    if divisor is not None:
        parts = divisor * training.micro_batches
        yield (
            f"set micro_batches to {parts}",
            replace(
                request,
                training=replace(training, micro_batches=parts),
                part=replace(request.part, examples=examples // divisor),
            ),
        )
    if ranks > 1:
        stages: tuple[Stage, ...] = (1, 2, 3)
        for stage in stages:
            if training.stage < stage <= LAST_STAGE[training.optimizer.kind]:
                yield f"set stage to {stage}", replace(request, training=replace(training, stage=stage))
    yield from _places(request)
    if training.optimizer.compresses:
        # Its state is the same on every rank, and changes what is learned: the last thing to give up.
        plain = replace(training.optimizer, kind="adamw", compression=CompressionConfig())
        yield "set optimizer.kind to adamw", replace(request, training=replace(training, optimizer=plain))
        return
    more = ranks
    while training.stage and more < MOST_RANKS:
        more *= 2
        yield f"set ranks to {more}", replace(request, ranks=more)


def _places(request: _Request) -> Iterator[tuple[str, _Request]]:
    training = request.training
    order = ("none", "cpu", "nvme") if request.hardware.disk_bytes else ("none", "cpu")
    now = order.index(training.offload.optimizer) if training.offload.optimizer in order else len(order)
    places: tuple[Place, ...] = () if training.optimizer.compresses else ("cpu", "nvme")
    for place in places:
        if place in order[now + 1 :]:
            yield _offloaded(request, f"set offload.optimizer to {place}", optimizer=place)
    kept: tuple[ActivationPlace, ...] = ("cpu", "nvme")
    for where in kept:
        if where in order and training.offload.activations in ("none", "recompute"):
            yield _activations(request, where)
    for place in places:
        if place in order and training.offload.parameters in order[: order.index(place)]:
            optimizer = training.offload.optimizer if training.offload.optimizer != "none" else place
            words = f"set offload.parameters to {place}"
            words += "" if training.offload.optimizer == optimizer else f" and offload.optimizer to {place}"
            words += "" if training.stage == 3 else " and stage to 3"
            changed = replace(request, training=replace(training, stage=3))
            yield _offloaded(changed, words, optimizer=optimizer, parameters=place)


def _changed(request: _Request, words: str, offload: OffloadConfig) -> tuple[str, _Request]:
    return words, replace(request, training=replace(request.training, offload=offload))


def _activations(request: _Request, place: ActivationPlace) -> tuple[str, _Request]:
    offload = replace(
        request.training.offload, activations=place, folder=request.training.offload.folder or _DISK
    )
    return _changed(request, f"set offload.activations to {place}", offload)


def _offloaded(
    request: _Request, words: str, *, optimizer: Place, parameters: Place | None = None
) -> tuple[str, _Request]:
    """Moved, without what contradicts that."""
    now = request.training.offload
    where = parameters or now.parameters
    if now.ahead and optimizer != "cpu":
        now, words = replace(now, ahead=False), f"{words} and offload.ahead to false"
    if now.device_buckets and where != "none":
        now, words = replace(now, device_buckets=0), f"{words} and offload.device_buckets to 0"
    offload = replace(now, optimizer=optimizer, parameters=where, folder=now.folder or _DISK)
    return _changed(request, words, offload)
