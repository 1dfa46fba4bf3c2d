"""What every operator that trains takes: how much of the training lies where, and how steps are made."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from pydantic import Field

from foldase_models.errors import ModelError
from foldase_models.training.config import (
    ActivationPlace,
    OffloadConfig,
    OptimizerConfig,
    OptimizerKind,
    Place,
    Precision,
    Stage,
    TrainingConfig,
)
from foldase_workflows.contracts import BadInput, Location, Ports

SCRATCH_VARIABLE = "FOLDASE_SCRATCH"
"""Names the folder that ``nvme`` means, on the worker's own disk. People never give a path."""
WHERE_THINGS_LIE = frozenset(
    {
        "stage",
        "offload_optimizer",
        "offload_parameters",
        "offload_activations",
        "offload_ahead",
        "offload_device_buckets",
        "checkpoint_seconds",
        "bucket_mib",
        "memory_cap_mib",
    }
)
"""Inputs that change no result beyond rounding: an operator's ``tolerances``, so that a training goes on from
its checkpoints where only these were changed."""

COMPRESSING = frozenset({"freeze_step", "interval_steps", "longest_interval"})
"""Inputs that say when an optimizer that compresses sends what; named as the fields that they set."""
CAME_LATER = COMPRESSING | {"optimizer"}
"""Inputs that trainings did not have at first: what they ``added``."""


class TrainingPorts(Ports):
    """Shared inputs of trainings. ``class Inputs(TrainingPorts, OwnInputs)`` shows them after its own."""

    stage: Annotated[
        Stage,
        Field(
            description="Shared out over the ranks: 1 optimizer, 2 also gradients, 3 also weights; 0 nothing"
        ),
    ] = 0
    precision: Annotated[
        Precision,
        Field(description="Of weights, gradients and products; the optimizer keeps float32 weights"),
    ] = "float32"
    micro_batches: Annotated[
        int,
        Field(ge=1, le=4096, description="Parts of a step's batch, shared out over the ranks or one by one"),
    ] = 1
    offload_optimizer: Annotated[
        Place, Field(description="Where the optimizer's state lies and is computed; nvme: the worker's disk")
    ] = "none"
    offload_parameters: Annotated[
        Place, Field(description="Where weights lie that no layer needs just now; with stage 3")
    ] = "none"
    offload_activations: Annotated[
        ActivationPlace,
        Field(description="Where lies what the backward pass needs; recompute: inputs of blocks only"),
    ] = "none"
    offload_delayed: Annotated[
        bool, Field(description="Step the optimizer beside the next batch, whose weights are one step old")
    ] = False
    offload_ahead: Annotated[
        bool,
        Field(
            description="With the optimizer on the cpu: step beside the backward pass, and again if clipped"
        ),
    ] = False
    offload_device_buckets: Annotated[
        int, Field(ge=0, le=4096, description="So many of the last buckets are stepped on the device")
    ] = 0
    optimizer: Annotated[
        OptimizerKind,
        Field(description="The last two send one bit a number between two ranks or more; stage 0 or 1"),
    ] = "adamw"
    freeze_step: Annotated[
        int | None,
        Field(
            ge=1,
            description="From which on they keep the second moment as it is; left out: once it has settled "
            "(one_bit_adam), or once ranks step alone (zero_one_adam)",
        ),
    ] = None
    interval_steps: Annotated[
        int | None,
        Field(
            ge=1,
            description="With zero_one_adam: so many steps after freeze_step, and after as many again, ranks "
            "exchange half as often; left out: whenever the learning rate has halved",
        ),
    ] = None
    longest_interval: Annotated[
        int | None,
        Field(
            ge=1,
            le=2**20,
            description="With zero_one_adam: most steps between two exchanges, a power of two; left out: 16",
        ),
    ] = None
    clip_norm: Annotated[
        float | None,
        Field(gt=0, description="Largest norm of the gradients of a step; left out: the recipe's"),
    ] = None
    weight_decay: Annotated[
        float | None, Field(ge=0, le=10, description="On matrices only; left out: the recipe's")
    ] = None
    warmup_steps: Annotated[
        int | None, Field(ge=0, description="Over which the rate rises; left out: the recipe's")
    ] = None
    checkpoint_seconds: Annotated[
        float | None, Field(gt=0, description="Between two checkpoints; left out: the recipe's")
    ] = None
    bucket_mib: Annotated[
        float, Field(ge=0.01, le=4096, description="MiB of gradients that are reduced and stepped together")
    ] = 32.0
    memory_cap_mib: Annotated[
        float | None,
        Field(ge=1, description="Most MiB of tensors and buffers a rank may hold; left out: no cap"),
    ] = None


def training_config(
    inputs: TrainingPorts, recipe: TrainingConfig, *, folder: Path | None = None
) -> TrainingConfig:
    """The training that the inputs ask for.

    Args:
        inputs: of the step.
        recipe: what the operator trains with where the inputs say nothing.
        folder: what ``nvme`` means in this process; None asks the environment, where anything lies there.

    Raises:
        BadInput: ``bad_config``, naming the input: two of them contradict each other; ``no_scratch``.
    """
    if folder is None and _uses_disk(inputs):
        folder = scratch_folder(_input_on_disk(inputs))
    mib = 2**20
    try:
        offload = OffloadConfig(
            optimizer=inputs.offload_optimizer,
            parameters=inputs.offload_parameters,
            activations=inputs.offload_activations,
            folder=folder,
            delayed=inputs.offload_delayed,
            ahead=inputs.offload_ahead,
            device_buckets=inputs.offload_device_buckets,
        )
        return replace(
            recipe,
            stage=inputs.stage,
            precision=inputs.precision,
            micro_batches=inputs.micro_batches,
            clip_norm=_given(inputs.clip_norm, recipe.clip_norm),
            optimizer=_optimizer(inputs, recipe.optimizer),
            schedule=replace(
                recipe.schedule, warmup_steps=int(_given(inputs.warmup_steps, recipe.schedule.warmup_steps))
            ),
            checkpoint=replace(
                recipe.checkpoint, seconds=_given(inputs.checkpoint_seconds, recipe.checkpoint.seconds)
            ),
            limits=replace(
                recipe.limits,
                bucket_bytes=int(inputs.bucket_mib * mib),
                memory_bytes=None if inputs.memory_cap_mib is None else int(inputs.memory_cap_mib * mib),
            ),
            offload=offload,
        )
    except ModelError as error:
        raise in_words_of_inputs(error) from error


def _optimizer(inputs: TrainingPorts, recipe: OptimizerConfig) -> OptimizerConfig:
    said = {name: value for name in sorted(COMPRESSING) if (value := getattr(inputs, name)) is not None}
    return replace(
        recipe,
        kind=inputs.optimizer,
        weight_decay=_given(inputs.weight_decay, recipe.weight_decay),
        compression=replace(recipe.compression, **said),
    )


def in_words_of_inputs(error: ModelError, inputs: type[Ports] = TrainingPorts) -> BadInput:
    """An error that names fields of a configuration, naming the inputs of the step that these come from."""
    others = {"limits.bucket_bytes": "bucket_mib", "limits.memory_bytes": "memory_cap_mib"}
    field = error.location or ""
    name = others.get(field, _as_inputs(field).rsplit(".", maxsplit=1)[-1])
    path = "resources.ranks" if field == "ranks" else f"with.{name}" if name in inputs.model_fields else None
    return BadInput(
        _as_inputs(error.message),
        code=error.code,
        location=None if path is None else Location(path=path),
        hint=_as_inputs(error.hint or "") or None,
    )


def _as_inputs(text: str) -> str:
    """What is said of fields, said of inputs; ranks are no input."""
    others = {
        "optimizer.compression.": "",
        "optimizer.kind": "optimizer",
        "offload.": "offload_",
        "training.micro_batches": "micro_batches",
        "set ranks to": "set resources.ranks to",
    }
    for field, name in others.items():
        text = text.replace(field, name)
    return text


def scratch_folder(port: str, environment: Mapping[str, str] | None = None) -> Path:
    """The folder on this worker's disk that ``nvme`` means.

    Args:
        port: the input that asks for it, for the error.
        environment: of the worker; None for this process's own.

    Raises:
        BadInput: ``no_scratch``: the worker names none, or it is not a folder that can be written.
    """
    named = (os.environ if environment is None else environment).get(SCRATCH_VARIABLE, "")
    if not named:
        problem = f"nvme means the folder that {SCRATCH_VARIABLE} names on the worker, and here it names none"
    elif not Path(named).is_absolute() or not Path(named).is_dir():
        problem = f"{SCRATCH_VARIABLE} of this worker names no folder: {named!r}"
    elif not os.access(named, os.W_OK | os.X_OK):
        problem = f"the folder that {SCRATCH_VARIABLE} of this worker names cannot be written: {named!r}"
    else:
        return Path(named)
    raise BadInput(
        problem,
        code="no_scratch",
        location=Location(path=f"with.{port}"),
        hint=f"start the worker with {SCRATCH_VARIABLE} set to a folder on its own disk, or choose cpu",
    )


def _given(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value


def _uses_disk(inputs: TrainingPorts) -> bool:
    return "nvme" in (inputs.offload_optimizer, inputs.offload_parameters, inputs.offload_activations)


def _input_on_disk(inputs: TrainingPorts) -> str:
    """The first input that says ``nvme``."""
    names = ("offload_optimizer", "offload_parameters", "offload_activations")
    return next(name for name in names if getattr(inputs, name) == "nvme")
