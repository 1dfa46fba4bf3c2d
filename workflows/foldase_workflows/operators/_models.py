"""What operators on models share: errors translated, threads set."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from foldase_models.errors import ModelError
from foldase_workflows.contracts import BadInput, Location, StepContext
from foldase_workflows.contracts.gangs import RankContext


@contextmanager
def model_errors(port: str | None = None) -> Iterator[None]:
    """Turn an error of a model into one of the platform; ``port`` is the input it concerns.

    Raises:
        BadInput: with code, message, record and hint of the error.
    """
    try:
        yield
    except ModelError as error:
        path = None if port is None else f"with.{port}"
        raise BadInput(
            error.message,
            code=error.code,
            location=Location(path=path, record=error.location),
            hint=error.hint,
        ) from error


def use_cores(context: StepContext | RankContext) -> None:
    """Let torch use as many threads as the step, or a rank of it, has cores.

    Threads that wait for each other sleep instead of spinning: where other work shares the cores, spinning
    makes small models several times slower. OpenMP reads this when torch is loaded, so it has no effect in a
    process that has loaded torch before.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch

    torch.set_num_threads(max(1, round(context.cpus)))
