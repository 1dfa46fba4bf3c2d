"""What a running operator sees of the platform."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

from foldase_workflows.contracts.artifacts import Artifact


class StepContext(ABC):
    """Handed to ``Operator.run``. All methods are cheap and may be called from any thread.

    Attributes:
        run: id of the run.
        step: id of the step inside the run, with its item key where the step is scattered.
        attempt: 1 for the first try.
        cpus: cores the step may use; set thread counts from it.
        memory_bytes: bytes reserved, 0 where nothing was asked for.
        scratch: an empty folder of this attempt, removed afterwards.
        checkpoints: a folder that survives attempts, worker losses and ``resume``; what lies in it was
            written by an earlier attempt with the same identity (operator, parameters, inputs).
    """

    run: str
    step: str
    attempt: int
    cpus: float
    memory_bytes: int
    scratch: Path
    checkpoints: Path

    @abstractmethod
    def progress(self, fraction: float, message: str = "") -> None:
        """Report the share of work done, 0 to 1. Frequent calls are thinned out, not queued."""

    @abstractmethod
    def metrics(self, values: Mapping[str, float], *, at: float | None = None) -> None:
        """Report numbers, shown live as curves over ``at`` (for example the training step)."""

    @abstractmethod
    def log(self, message: str, *, level: str = "info") -> None:
        """Write a line to the log of the attempt; ``level`` is debug, info, warning or error."""

    @property
    @abstractmethod
    def cancelled(self) -> bool:
        """Whether someone asked the step to stop."""

    @abstractmethod
    def check_cancelled(self) -> None:
        """Raise ``Cancelled`` when someone asked the step to stop. Call it once per unit of work."""

    @abstractmethod
    def new_file(self, name: str) -> Path:
        """A fresh path to write one output file to; ``name`` is what people will download."""

    @abstractmethod
    def new_tree(self, name: str) -> Path:
        """A fresh, empty folder to write one output tree (zarr group, checkpoint) into."""

    @abstractmethod
    def artifact(self, port: str) -> Artifact:
        """What is known of the artifact given at an input port: name, digest, size.

        Raises:
            KeyError: the port holds no artifact.
        """
