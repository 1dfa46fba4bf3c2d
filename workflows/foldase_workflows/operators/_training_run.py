"""What operators that train share: how ranks join, report and stop, and errors in words of inputs."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foldase_models.errors import ModelError
from foldase_workflows.contracts import Cancelled, Ports, StepContext
from foldase_workflows.contracts.gangs import RankContext, check_cancelled
from foldase_workflows.operators._training_ports import SCRATCH_VARIABLE, TrainingPorts, in_words_of_inputs

if TYPE_CHECKING:
    from foldase_models.recipes.running import Watcher
    from foldase_models.training.config import TrainingConfig
    from foldase_models.training.ranks import Ranks
    from foldase_models.training.trainer import StepReport

METRICS_EVERY = 5
"""Steps between points of the curves."""


@contextmanager
def joined(training: TrainingConfig) -> Iterator[Ranks]:
    """The ranks of this training, for as long as it goes on.

    Raises:
        BadInput: the optimizer compresses what ranks send, and only one is left.
        Cancelled: the training was stopped, after the same step on all ranks and after a checkpoint.
    """
    from foldase_models.training.config import check_ranks
    from foldase_models.training.ranks import Ranks
    from foldase_models.training.trainer import TrainingStopped

    with Ranks.from_environment(deadline_seconds=training.limits.collective_seconds) as ranks:
        try:
            check_ranks(training, ranks.size)
        except ModelError as error:
            raise in_words_of_inputs(error) from error
        try:
            yield ranks
        except TrainingStopped as stopped:
            raise Cancelled(str(stopped)) from stopped


@contextmanager
def recipe_errors(inputs: type[Ports]) -> Iterator[None]:
    """Turn what is wrong with the numbers of a recipe into an error that names the input.

    Raises:
        BadInput: with code, message and hint of the error.
    """
    try:
        yield
    except ModelError as error:
        raise in_words_of_inputs(error, inputs) from error


def disk_of(inputs: TrainingPorts, context: StepContext | RankContext) -> Path | None:
    """What ``nvme`` means in this process: None, for the folder that the worker names, or the step's own.

    Where the worker names none in :data:`SCRATCH_VARIABLE`, it is the scratch folder of this step, or of
    this rank of it, which lies in the state folder of the platform. It is known where nothing lies there
    too, so that a plan that does not fit can say that something could.
    """
    places = (inputs.offload_optimizer, inputs.offload_parameters, inputs.offload_activations)
    return None if "nvme" in places and os.environ.get(SCRATCH_VARIABLE) else context.scratch


def first_says(context: RankContext, message: str, *, level: str = "info") -> None:
    """A line for the log that every rank would write: only the first one does."""
    if context.rank == 0:
        context.log(message, level=level)


def watcher_of(context: RankContext, *, first: float = 0.0, prefix: str = "") -> Watcher:
    """Reports to the platform, and stops the training when that says so.

    Args:
        context: of this rank.
        first: share of the progress at which the first step begins; what is prepared comes before it.
        prefix: of the names of validation numbers.
    """
    from foldase_models.recipes.running import Watcher

    def on_prepared(done: int, of: int) -> None:
        check_cancelled(context)
        context.progress(first * done / of, f"prepared {done} of {of}")

    def on_step(report: StepReport) -> None:
        context.progress(
            first + (0.98 - first) * report.step / report.steps,
            f"step {report.step} of {report.steps}, loss {report.loss:.3f}",
        )
        if report.step == 1 or report.step % METRICS_EVERY == 0 or report.step == report.steps:
            context.metrics(_finite(report.numbers()), at=float(report.step))

    def on_validation(step: int, values: Mapping[str, float]) -> None:
        if values:
            context.metrics(
                _finite({f"{prefix}{name}": value for name, value in values.items()}), at=float(step)
            )
            context.log(f"step {step}: " + ", ".join(f"{name} {v:.3f}" for name, v in values.items()))

    return Watcher(
        step=on_step, validation=on_validation, prepared=on_prepared, stop=lambda: context.cancelled
    )


def gang_arguments(inputs: Ports, **trees: Any) -> dict[str, Any]:
    """What a rank function is called with: plain values, so that a file may hold them too."""
    return {
        "inputs": inputs.model_dump(mode="json"),
        **{name: str(path) for name, path in trees.items()},
    }


def _finite(values: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if math.isfinite(value)}
