"""How a training fits into what its ranks may use: told before it begins, on the page and in its run."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foldase_models.errors import ModelError
from foldase_models.planning import DoesNotFit, Part, check_exchanges, plan_training
from foldase_models.planning.hardware import Hardware as TrainingHardware
from foldase_models.training.config import check_parts
from foldase_workflows.contracts import Estimate, Hardware, StepContext
from foldase_workflows.operators._folding_plan import hardware_of
from foldase_workflows.operators._machine import available_memory, resident_memory
from foldase_workflows.operators._training_ports import TrainingPorts, in_words_of_inputs, training_config
from foldase_workflows.operators._training_run import recipe_errors

if TYPE_CHECKING:
    from foldase_models.planning import TrainingPlan
    from foldase_models.training.config import TrainingConfig

UNKNOWN_DISK = 2**50
"""Bytes on the disk of a worker that nobody has looked at yet; its run does."""
_ELSEWHERE = Path("disk")
"""Stands for the disk of a worker where a training is only estimated."""


def plan_step(
    model: Any, training: TrainingConfig, part: Part, context: StepContext, *, ranks: int = 1
) -> TrainingPlan:
    """Plan the training of this step and tell the platform of it.

    Call it when torch is imported and before the model is made. The plan stays with the attempt, and the
    platform learns from what it takes in the end.

    Args:
        model: its configuration, or a trainee of the planner.
        training: how it is trained, as ``training_config`` made it.
        part: what one part of a step's batch holds at most.
        context: of the step.
        ranks: processes that train together.

    Raises:
        BadInput: ``does_not_fit``, naming the input that would help.
    """
    hardware = _hardware_of_rank(training, context, ranks)
    key = plan_key(type(model).__name__, training, hardware)
    correction = context.corrections.get(key, 1.0)
    try:
        plan = plan_training(model, training, hardware, part=part, ranks=ranks, correction=correction)
    except ModelError as error:
        raise in_words_of_inputs(error) from error
    context.plan({**plan.to_json(), "key": key})
    context.log(plan.in_words())
    return plan


def estimate_training_step(
    model: Any,
    inputs: TrainingPorts,
    recipe: TrainingConfig,
    part: Part,
    hardware: Hardware,
    *,
    cpus: float,
    examples: str,
) -> Estimate | None:
    """What a step that trains will take, with its plan; for ``Operator.estimate``, without torch.

    Args:
        model: its configuration, or a trainee of the planner; None where it is still to be read.
        inputs: known so far; those left out have their defaults.
        recipe: what the operator trains with where the inputs say nothing.
        part: what one part of a step's batch holds.
        hardware: what the largest node offers, and how many ranks there are.
        cpus: cores of a rank.
        examples: the input that says how many examples a step's batch has.

    Returns:
        None where there is no model yet.

    Raises:
        BadInput: ``bad_config``, naming the input: what the run would refuse on any machine.
    """
    training = _checked(inputs, recipe, examples, hardware.ranks)
    if model is None:
        return None
    there = TrainingHardware(
        ram_bytes=hardware.memory_bytes,
        cores=max(min(hardware.cpus, cpus), 1.0),
        gpu_bytes=hardware.gpus[0].memory_bytes if hardware.gpus else 0,
        gpu_name=hardware.gpus[0].name if hardware.gpus else "",
        disk_bytes=UNKNOWN_DISK,
    )
    refusal = ""
    try:
        plan = plan_training(model, training, there, part=part, ranks=hardware.ranks)
    except DoesNotFit as error:
        said = in_words_of_inputs(error)
        plan, refusal = error.plan, f"{said.message}: {said.hint}"
    except ModelError as error:
        raise in_words_of_inputs(error) from error
    told = plan.to_json() | ({"refusal": refusal} if refusal else {})
    kept = training.checkpoint.kept * 12 * plan.parameters
    return Estimate(
        seconds=plan.seconds,
        memory_bytes=plan.peak["ram"],
        gpu_memory_bytes=plan.peak.get("gpu", 0),
        disk_bytes=plan.peak.get("disk", 0) + kept,
        basis=f"{plan.parameters:,} parameters, parts of {part.examples:,} x {part.length:,}",
        plan={name: told[name] for name in _SHOWN if name in told},
    )


def _checked(inputs: TrainingPorts, recipe: TrainingConfig, examples: str, ranks: int) -> TrainingConfig:
    """The training of a step, unless it would be refused whatever the model and the machine."""
    training = training_config(inputs, recipe, folder=_ELSEWHERE)
    with recipe_errors(type(inputs)):
        check_parts(examples, getattr(inputs, examples), training)
        check_exchanges(training, ranks)
    return training


_SHOWN = (
    "parameters",
    "ranks",
    "options",
    "peak_bytes",
    "tiers_bytes",
    "step_seconds",
    "step_seconds_of",
    "sent_bytes",
    "exchanges",
    "refusal",
)
"""What an estimate keeps of a plan."""


def plan_key(kind: str, training: TrainingConfig, hardware: TrainingHardware) -> str:
    """What the error of a prediction depends on."""
    offload = training.offload
    places = "/".join(place[0] for place in (offload.optimizer, offload.parameters, offload.activations))
    name = kind.removesuffix("Config").removesuffix("Trainee")[:32]
    kind = f" {training.optimizer.kind}" if training.optimizer.compresses else ""
    return f"{name} {hardware.computes_on} stage {training.stage} {places}{kind}"


def _hardware_of_rank(training: TrainingConfig, context: StepContext, ranks: int) -> TrainingHardware:
    """What one rank may use. A reservation is no cap: a rank alone may take what is free."""
    found = hardware_of(context)
    free = available_memory()
    if free is not None:
        there = (free + resident_memory()) // ranks
        found = replace(found, ram_bytes=max(context.memory_bytes, there))
    folder = training.offload.folder
    return found if folder is None else replace(found, disk_bytes=shutil.disk_usage(folder).free // ranks)
