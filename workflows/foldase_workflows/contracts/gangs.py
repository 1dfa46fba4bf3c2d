"""What one process of a gang sees of the platform, and how the function that it runs is found.

A gang is a step of several processes, its ranks. Each runs the same *rank function*: a plain function of a
module, ``function(context: RankContext, **arguments)``, that knows nothing of who started it. The platform,
``torchrun`` and plain ``python`` (see :mod:`foldase_workflows.launch`) start the very same one.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from foldase_workflows.contracts.errors import Cancelled, UserError

RankFunction = Callable[..., Any]


class RankContext(ABC):
    """Handed to a rank function. All methods are cheap and may be called from any thread.

    The variables of torch.distributed (``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK``, ``MASTER_ADDR``,
    ``MASTER_PORT``) are set before the function is called, where there is more than one rank.

    Attributes:
        rank: this process, from 0.
        size: how many there are; after the loss of some it may be smaller than what the step asked for.
        cpus: cores that this rank may use; set thread counts from it.
        memory_bytes: reserved for this rank, 0 where nothing was asked for.
        scratch: an empty folder of this rank alone, removed afterwards.
        checkpoints: a folder that all ranks share and that survives them: a function that is called again,
            perhaps on another number of ranks, goes on from what it finds there.
    """

    rank: int
    size: int
    cpus: float
    memory_bytes: int
    scratch: Path
    checkpoints: Path

    @abstractmethod
    def progress(self, fraction: float, message: str = "") -> None:
        """Report the share of work done, 0 to 1. Only that of rank 0 counts."""

    @abstractmethod
    def metrics(self, values: Mapping[str, float], *, at: float | None = None) -> None:
        """Report numbers, shown live as curves over ``at``. Only those of rank 0 count."""

    @abstractmethod
    def log(self, message: str, *, level: str = "info") -> None:
        """Write a line to the log of the step; lines of ranks other than 0 say whose they are."""

    @property
    @abstractmethod
    def cancelled(self) -> bool:
        """Whether someone asked the step to stop.

        Ranks may see it at different times: agree before one of them leaves the others alone.
        """


class Reporter(Protocol):
    """As much of a step's context as a rank needs."""

    cpus: float
    memory_bytes: int

    @property
    def scratch(self) -> Path:
        """An empty folder."""

    @property
    def checkpoints(self) -> Path:
        """The folder that survives."""

    @property
    def cancelled(self) -> bool:
        """Whether someone asked to stop."""

    def progress(self, fraction: float, message: str = "") -> None:
        """The share of work done."""

    def metrics(self, values: Mapping[str, float], *, at: float | None = None) -> None:
        """Numbers to show."""

    def log(self, message: str, *, level: str = "info") -> None:
        """A line of the log."""


class OnlyRank(RankContext):
    """The single rank of a step that runs as one process: the step's own context, seen as a rank's."""

    rank, size = 0, 1

    def __init__(self, step: Reporter) -> None:
        self._step = step
        self.cpus = step.cpus
        self.memory_bytes = step.memory_bytes
        self.scratch = step.scratch
        self.checkpoints = step.checkpoints

    def progress(self, fraction: float, message: str = "") -> None:
        """Report the share of work done, 0 to 1."""
        self._step.progress(fraction, message)

    def metrics(self, values: Mapping[str, float], *, at: float | None = None) -> None:
        """Report numbers."""
        self._step.metrics(values, at=at)

    def log(self, message: str, *, level: str = "info") -> None:
        """Write a line to the log of the step."""
        self._step.log(message, level=level)

    @property
    def cancelled(self) -> bool:
        """Whether someone asked the step to stop."""
        return self._step.cancelled


def rank_function(name: str) -> RankFunction:
    """The function called ``module:function``.

    Raises:
        UserError: ``bad_rank_function``: there is none, or it is no plain function of a module.
        ImportError: the module cannot be imported for want of something else.
    """
    module_name, colon, function_name = name.partition(":")
    hint = "write it like foldase_models.recipes.contacts:train"
    if not (colon and module_name and function_name.isidentifier()):
        raise UserError(f"{name!r} names no function", code="bad_rank_function", hint=hint)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise UserError(f"there is no module {module_name}", code="bad_rank_function", hint=hint) from None
    found = getattr(module, function_name, None)
    if not callable(found):
        raise UserError(
            f"the module {module_name} has no function {function_name}", code="bad_rank_function", hint=hint
        )
    function: RankFunction = found
    return function


def run_alone(function: str, arguments: Mapping[str, Any], step: Reporter) -> Any:
    """Call a rank function in this process, as the only rank."""
    return rank_function(function)(OnlyRank(step), **arguments)


def check_cancelled(context: RankContext) -> None:
    """Raise ``Cancelled`` when someone asked to stop; for functions whose ranks need not agree first."""
    if context.cancelled:
        raise Cancelled("the step was asked to stop")
