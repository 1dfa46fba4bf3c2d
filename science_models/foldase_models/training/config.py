"""How a model is trained. Importable without torch.

What a training computes depends on the first half of these fields only; ``stage``, ``offload``,
``checkpoint`` and ``limits`` say where things lie meanwhile and change no result beyond rounding, and
neither does the number of processes. With an optimizer that compresses what it sends this number changes
results, for every process rounds by itself, and with ``zero_one_adam`` a stage above 0 does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from foldase_models.errors import ModelError

OptimizerKind = Literal["adamw", "one_bit_adam", "zero_one_adam"]
Precision = Literal["float32", "bfloat16"]
Stage = Literal[0, 1, 2, 3]
Place = Literal["none", "cpu", "nvme"]
ActivationPlace = Literal["none", "recompute", "cpu", "nvme"]

LAST_STAGE: Mapping[str, int] = {"adamw": 3, "one_bit_adam": 1, "zero_one_adam": 1}
"""The last stage that each kind of optimizer can be sharded to."""
COMPRESSED = frozenset({"one_bit_adam", "zero_one_adam"})
"""Kinds that send one bit a number; every rank steps by itself between two exchanges."""
_READ: Mapping[str, tuple[str, ...]] = {
    "adamw": (),
    "one_bit_adam": ("freeze_step", "settled", "block"),
    "zero_one_adam": ("freeze_step", "variance_kappa", "interval_steps", "longest_interval", "block"),
}
"""The fields of ``optimizer.compression`` that each kind reads."""
MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressionConfig:
    """When optimizers that send one bit a number send what; steps are counted from 0.

    Attributes:
        freeze_step: from which on the second moment stays as it is. None: with ``one_bit_adam`` once it has
            settled, see ``settled``; with ``zero_one_adam`` once ranks step alone, see ``interval_steps``.
        settled: share of itself within which the second moment stays over 1 / (1 - betas[1]) steps when it
            counts as settled (Tang et al. 2021, arXiv:2102.02888, section 7.1).
        variance_kappa: so many updates of the second moment come with the same number of steps between them,
            which then doubles (Lu et al. 2022, arXiv:2202.06009, section 6); ``zero_one_adam`` only.
        interval_steps: so many steps after ``freeze_step``, and after as many again, the number of steps
            between two exchanges doubles; None: whenever the learning rate has halved. ``zero_one_adam``
            only.
        longest_interval: most steps between two exchanges, a power of two; the same section.
        block: numbers that share a scale.
    """

    freeze_step: int | None = None
    settled: float = 0.96
    variance_kappa: int = 16
    interval_steps: int | None = None
    longest_interval: int = 16
    block: int = 4096

    def __post_init__(self) -> None:
        place = "optimizer.compression"
        if self.freeze_step is not None:
            _at_least(f"{place}.freeze_step", self.freeze_step, 1)
        if not 0 < self.settled < 1:
            raise _wrong(f"{place}.settled", f"must lie between 0 and 1, got {self.settled}")
        _at_least(f"{place}.variance_kappa", self.variance_kappa, 1)
        if self.interval_steps is not None:
            _at_least(f"{place}.interval_steps", self.interval_steps, 1)
            if self.freeze_step is None:
                raise _wrong(f"{place}.interval_steps", "is counted from freeze_step", "set freeze_step too")
        _power_of_two(f"{place}.longest_interval", self.longest_interval, 1, 2**20)
        _power_of_two(f"{place}.block", self.block, 256, 16384)


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerConfig:
    """The optimizer.

    Attributes:
        kind: ``adamw``, Loshchilov and Hutter 2019 (arXiv:1711.05101); on two ranks or more also
            ``one_bit_adam``, Tang et al. 2021 (arXiv:2102.02888), and ``zero_one_adam``, Lu et al. 2022
            (arXiv:2202.06009), which send one bit a number once the second moment is frozen.
        learning_rate: its peak.
        betas: decay of the first and of the second moment.
        epsilon: added to the root of the second moment.
        weight_decay: on matrices only; biases and the weights of layer norms are spared.
        compression: when the last two send what.
    """

    kind: OptimizerKind = "adamw"
    learning_rate: float = 2e-3
    betas: tuple[float, float] = (0.9, 0.99)
    epsilon: float = 1e-8
    weight_decay: float = 0.01
    compression: CompressionConfig = field(default_factory=CompressionConfig)

    def __post_init__(self) -> None:
        _one_of("optimizer.kind", self.kind, tuple(LAST_STAGE))
        _positive("optimizer.learning_rate", self.learning_rate)
        _positive("optimizer.epsilon", self.epsilon)
        _at_least("optimizer.weight_decay", self.weight_decay, 0)
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise _wrong("optimizer.betas", f"must be two numbers in [0, 1), got {self.betas}")
        plain = CompressionConfig()
        for name in CompressionConfig.__dataclass_fields__:
            if name in _READ[self.kind] or getattr(self.compression, name) == getattr(plain, name):
                continue
            readers = [kind for kind, names in _READ.items() if name in names]
            raise _wrong(
                f"optimizer.compression.{name}",
                f"says nothing to {self.kind}",
                f"leave it out, or set optimizer.kind to {' or '.join(readers)}",
            )

    @property
    def compresses(self) -> bool:
        """Whether it sends one bit a number."""
        return self.kind in COMPRESSED


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleConfig:
    """The learning rate over the steps: a linear rise, then half a cosine.

    Attributes:
        warmup_steps: over which it rises from 0.
        final_share: of the peak, left at the end.
    """

    warmup_steps: int = 50
    final_share: float = 0.03

    def __post_init__(self) -> None:
        _at_least("schedule.warmup_steps", self.warmup_steps, 0)
        if not 0 <= self.final_share <= 1:
            raise _wrong("schedule.final_share", f"must lie in 0 to 1, got {self.final_share}")


@dataclass(frozen=True, slots=True, kw_only=True)
class OffloadConfig:
    """What lies outside the memory of the device that computes.

    Attributes:
        optimizer: where the moments, the float32 weights and the average lie, and where steps are computed.
        parameters: where the shards of weights lie while no layer needs them; only with stage 3.
        activations: what is kept for the backward pass: all of it on the device, on the CPU or on the disk,
            or with ``recompute`` only the inputs of each block.
        folder: on the disk that ``nvme`` means.
        delayed: the optimizer's step of one batch is computed beside the next one, whose gradients are then
            those of weights one step old (ZeRO-Offload, arXiv:2101.06840, section 5.2).
        ahead: on the cpu, a bucket is stepped beside the backward pass as soon as its gradient is there, and
            once more if the step turns out to be clipped; results are the same to the last bit. Takes 12
            bytes a parameter more of main memory, 16 with an average.
        device_buckets: how many of the buckets whose gradients arrive last keep the optimizer's state on the
            device and are stepped there, so that less is left to do when the backward pass is over.
    """

    optimizer: Place = "none"
    parameters: Place = "none"
    activations: ActivationPlace = "none"
    folder: Path | None = None
    delayed: bool = False
    ahead: bool = False
    device_buckets: int = 0

    def __post_init__(self) -> None:
        _one_of("offload.optimizer", self.optimizer, ("none", "cpu", "nvme"))
        _one_of("offload.parameters", self.parameters, ("none", "cpu", "nvme"))
        _one_of("offload.activations", self.activations, ("none", "recompute", "cpu", "nvme"))
        if self.uses_disk and self.folder is None:
            raise _wrong("offload.folder", "is needed where something lies on nvme", "name a folder there")
        if self.delayed and self.optimizer == "none":
            raise _wrong(
                "offload.delayed",
                "needs an optimizer that lies on the cpu or on nvme",
                "set offload.optimizer to cpu, or leave delayed out",
            )
        if self.parameters != "none" and self.optimizer == "none":
            raise _wrong(
                "offload.optimizer",
                f"cannot stay on the device while the weights lie on {self.parameters}: it is larger",
                f"set offload.optimizer to {self.parameters} too",
            )
        self._check_ahead()
        self._check_device_buckets()

    def _check_ahead(self) -> None:
        if self.ahead and self.optimizer != "cpu":
            raise _wrong(
                "offload.ahead",
                f"needs the optimizer's state in main memory, twice; it lies on {self.optimizer}",
                "set offload.optimizer to cpu, or leave ahead out",
            )
        if self.ahead and self.delayed:
            raise _wrong(
                "offload.ahead",
                "and delayed contradict each other: a delayed step waits for the whole backward pass",
                "leave ahead out where steps may be one batch late, else delayed",
            )

    def _check_device_buckets(self) -> None:
        _at_least("offload.device_buckets", self.device_buckets, 0)
        contradictions = (
            (self.optimizer == "none", "needs an optimizer on the cpu or on nvme: without, all buckets are"),
            (self.parameters != "none", "cannot be stepped on the device while their weights lie elsewhere"),
            (self.delayed, "cannot be stepped at once while the others are delayed: weights of two ages"),
        )
        for wrong, why in contradictions:
            if self.device_buckets and wrong:
                raise _wrong("offload.device_buckets", why, "set offload.device_buckets to 0")

    @property
    def uses_disk(self) -> bool:
        """Whether anything lies on the disk."""
        return "nvme" in (self.optimizer, self.parameters, self.activations)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointConfig:
    """When checkpoints are written, and how many are kept.

    Attributes:
        seconds: wall time between two of them, at least: they never take up more than about a tenth of the
            time, and none begins while one is being written.
        kept: how many remain; two, so that a damaged one costs only a little work.
    """

    seconds: float = 10.0
    kept: int = 2

    def __post_init__(self) -> None:
        _at_least("checkpoint.seconds", self.seconds, 0)
        _at_least("checkpoint.kept", self.kept, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsConfig:
    """What a training may not exceed.

    Attributes:
        bad_steps: steps in a row with gradients that are not finite, before the run stops.
        collective_seconds: how long a rank waits for the others before it says whom it waits for, and ends.
        bucket_bytes: gradients that are reduced, copied and stepped together.
        memory_bytes: counted bytes a rank may hold, of tensors, pinned and scratch buffers; None for no cap.
    """

    bad_steps: int = 10
    collective_seconds: float = 300.0
    bucket_bytes: int = 32 * MIB
    memory_bytes: int | None = None

    def __post_init__(self) -> None:
        _at_least("limits.bad_steps", self.bad_steps, 0)
        _positive("limits.collective_seconds", self.collective_seconds)
        _at_least("limits.bucket_bytes", self.bucket_bytes, 4096)
        if self.memory_bytes is not None:
            _at_least("limits.memory_bytes", self.memory_bytes, MIB)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """One run of the trainer.

    Attributes:
        steps: optimizer steps.
        seed: of dropout and whatever else draws from torch.
        micro_batches: parts that the batch of a step is made of. They are shared out over the processes, and
            what one process has more than one of, it accumulates: the batch, and with it the result, is the
            same on any number of processes.
        optimizer: which, and its constants.
        schedule: of the learning rate.
        clip_norm: largest norm of all gradients together.
        average_decay: of the exponential average of the weights, which is what the training yields; 0 for
            none, the weights themselves then.
        precision: of weights, gradients and matrix products; with ``bfloat16`` the optimizer keeps float32
            weights beside them.
        stage: of ZeRO (Rajbhandari et al. 2020, arXiv:1910.02054): what is shared out over the processes;
            0 nothing, 1 the optimizer's state, 2 the gradients too, 3 the weights too.
        offload: what lies outside the device.
        checkpoint: when, and how many.
        limits: of time, memory and patience.

    Raises:
        ModelError: ``bad_config``: a field that makes no sense, or two that contradict each other; the
            location names the field.
    """

    steps: int
    seed: int = 0
    micro_batches: int = 1
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    clip_norm: float = 1.0
    average_decay: float = 0.99
    precision: Precision = "float32"
    stage: Stage = 0
    offload: OffloadConfig = field(default_factory=OffloadConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)

    def __post_init__(self) -> None:
        _at_least("steps", self.steps, 1)
        _at_least("seed", self.seed, 0)
        _at_least("micro_batches", self.micro_batches, 1)
        _positive("clip_norm", self.clip_norm)
        if not 0 <= self.average_decay < 1:
            raise _wrong("average_decay", f"must lie in [0, 1), got {self.average_decay}")
        _one_of("precision", self.precision, ("float32", "bfloat16"))
        _one_of("stage", self.stage, (0, 1, 2, 3))
        if self.stage > LAST_STAGE[self.optimizer.kind]:
            raise _wrong(
                "stage",
                f"{self.stage} needs an optimizer that can be sharded; {self.optimizer.kind} cannot",
                f"set stage to {LAST_STAGE[self.optimizer.kind]} or less, or another optimizer.kind",
            )
        if self.offload.parameters != "none" and self.stage != 3:
            raise _wrong(
                "offload.parameters",
                f"lie on {self.offload.parameters} only with stage 3, where layers fetch them one by one",
                "set stage to 3, also in a single process",
            )
        if self.optimizer.compresses:
            self._check_compression()

    def _check_compression(self) -> None:
        if self.offload.optimizer != "none":
            raise _wrong(
                "offload.optimizer",
                f"cannot be {self.offload.optimizer}: {self.optimizer.kind} needs its state in every step",
                "set offload.optimizer to none, or optimizer.kind to adamw",
            )
        frozen = self.optimizer.compression.freeze_step
        if frozen is not None and frozen >= self.steps:
            raise _wrong(
                "optimizer.compression.freeze_step",
                f"is {frozen}: there are {self.steps} steps, so the second moment would never be frozen",
                f"set it below {self.steps}",
            )

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        folder = self.offload.folder
        plain = asdict(self)
        plain["optimizer"]["betas"] = list(self.optimizer.betas)
        plain["offload"]["folder"] = None if folder is None else str(folder)
        return plain

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> TrainingConfig:
        """What :meth:`to_json` gave; fields that are left out have their defaults.

        Raises:
            ModelError: ``bad_config``: an unknown field, or as the class.
        """
        known: dict[str, Any] = dict(plain)
        for name, part in _PARTS.items():
            if name in known:
                known[name] = _made(part, name, dict(known[name]))
        made: TrainingConfig = _made(cls, "training", known)
        return made

    def result_fields(self) -> dict[str, Any]:
        """The fields that the result depends on, beyond rounding."""
        apart = {"stage", "offload", "checkpoint", "limits"}
        found = {name: value for name, value in self.to_json().items() if name not in apart}
        if not self.optimizer.compresses:
            found["optimizer"].pop("compression")
        if self.optimizer.kind == "zero_one_adam" and self.stage:
            found["stage"] = self.stage  # every gradient travels whole until the second moment is frozen
        return found | ({"delayed": True} if self.offload.delayed else {})


_PARTS: Mapping[str, type[Any]] = {
    "optimizer": OptimizerConfig,
    "schedule": ScheduleConfig,
    "offload": OffloadConfig,
    "checkpoint": CheckpointConfig,
    "limits": LimitsConfig,
}


def learning_rate(config: TrainingConfig, step: int) -> float:
    """The rate of a step, counted from 0: a linear rise, then half a cosine down to ``final_share``."""
    schedule = config.schedule
    rise = min(1.0, (step + 1) / max(1, schedule.warmup_steps))
    fall = 0.5 * (1.0 + math.cos(math.pi * min(1.0, step / config.steps)))
    share = schedule.final_share + (1.0 - schedule.final_share) * fall
    return config.optimizer.learning_rate * rise * share


def average_decay(config: TrainingConfig, step: int) -> float:
    """The decay of the average at a step; smaller at first, so that the start is soon forgotten."""
    return min(config.average_decay, (1.0 + step) / (10.0 + step))


def check_ranks(config: TrainingConfig, ranks: int) -> None:
    """Make sure that the optimizer has somebody to send to.

    Raises:
        ModelError: ``bad_config``: one that compresses what it sends, on a single rank.
    """
    if config.optimizer.compresses and ranks < 2:
        raise _wrong(
            "ranks",
            f"is 1: {config.optimizer.kind} is for two ranks or more, between which it saves traffic",
            "set ranks to 2 or more, or optimizer.kind to adamw",
        )


def check_parts(name: str, examples: int, training: TrainingConfig) -> None:
    """Make sure that the examples of a step make even parts.

    Raises:
        ModelError: ``bad_config``: they do not.
    """
    if examples < 1 or examples % training.micro_batches:
        raise _wrong(
            name,
            f"must be a multiple of micro_batches, which is {training.micro_batches}; got {examples}",
            f"set {name} or training.micro_batches so that every part has as many examples",
        )


def _made(kind: type[Any], name: str, fields: dict[str, Any]) -> Any:
    for key, value in fields.items():
        if key not in kind.__dataclass_fields__:
            raise _wrong(f"{name}.{key}", "is not known", f"fields: {', '.join(kind.__dataclass_fields__)}")
        if key == "betas":
            fields[key] = tuple(value)
        if key == "folder" and value is not None:
            fields[key] = Path(value)
        if key == "compression" and isinstance(value, Mapping):
            fields[key] = _made(CompressionConfig, f"{name}.compression", dict(value))
    try:
        return kind(**fields)
    except TypeError as error:
        raise _wrong(name, f"cannot be read: {error}") from error


def _wrong(name: str, message: str, hint: str = "") -> ModelError:
    return ModelError(f"{name} {message}", code="bad_config", location=name, hint=hint)


def _at_least(name: str, value: float, least: float) -> None:
    if not value >= least:
        raise _wrong(name, f"must be at least {least}, got {value}")


def _positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise _wrong(name, f"must be above 0 and finite, got {value}")


def _one_of(name: str, value: object, known: tuple[object, ...]) -> None:
    if value not in known:
        raise _wrong(name, f"must be one of {', '.join(map(str, known))}, got {value!r}")


def _power_of_two(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most or value & (value - 1):
        raise _wrong(name, f"must be a power of two from {least} to {most}, got {value}")
