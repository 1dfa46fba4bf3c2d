"""What a running operator sees of the platform."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from foldase_workflows.contracts.artifacts import Artifact
from foldase_workflows.contracts.gangs import run_alone


class StepContext(ABC):
    """Handed to ``Operator.run``. All methods are cheap and may be called from any thread.

    Attributes:
        run: id of the run.
        step: id of the step inside the run, with its item key where the step is scattered.
        attempt: 1 for the first try.
        cpus: cores the step may use; set thread counts from it.
        memory_bytes: bytes reserved, 0 where nothing was asked for.
        ranks: processes of the step; of a gang (more than 1) ``cpus`` and ``memory_bytes`` are for each.
        scratch: an empty folder of this attempt, removed afterwards.
        checkpoints: a folder that survives attempts, worker losses and ``resume``; what lies in it was
            written by an earlier attempt with the same identity (operator, parameters, inputs).
        correction: measured over predicted peak memory of earlier attempts of this operator on this
            platform, 1.0 where none is known; multiply a prediction with it.
        corrections: the same by the ``key`` that those attempts named in their plans.
    """

    run: str
    step: str
    attempt: int
    cpus: float
    memory_bytes: int
    ranks: int = 1
    scratch: Path
    checkpoints: Path
    correction: float = 1.0
    corrections: Mapping[str, float] = MappingProxyType({})

    @abstractmethod
    def progress(self, fraction: float, message: str = "") -> None:
        """Report the share of work done, 0 to 1. Frequent calls are thinned out, not queued."""

    @abstractmethod
    def metrics(self, values: Mapping[str, float], *, at: float | None = None) -> None:
        """Report numbers, shown live as curves over ``at`` (for example the training step)."""

    @abstractmethod
    def log(self, message: str, *, level: str = "info") -> None:
        """Write a line to the log of the attempt; ``level`` is debug, info, warning or error."""

    @abstractmethod
    def plan(self, values: Mapping[str, Any]) -> None:
        """Keep how this attempt will fit into memory, to be shown beside what it took.

        Call it when the libraries that the work needs are imported, and before the memory is taken: what is
        known of an attempt that was killed is its plan. Later calls add to the values. All are for people,
        except these:

        - ``predicted_peak_bytes``: what the attempt will hold at its peak, above what its process held when
          it first called this; where ``device`` is ``gpu``, what it will hold there.
        - ``correction``: the factor that the prediction contains, 1.0 where it is not given.
        - ``key``: what the error of a prediction depends on, besides the operator (the kind of model, the
          device); at most 64 characters.
        - ``measured_peak_bytes``: the same sum as the prediction, as the operator counted it itself. Needed
          on a GPU; elsewhere the platform takes the peak of resident memory.

        Raises:
            UserError: ``bad_plan``, the values are no JSON of at most 16 KiB, or one of these is of no use.
        """

    def gang(self, function: str, arguments: Mapping[str, Any]) -> Any:
        """Run ``module:function(context: RankContext, **arguments)`` on every rank; gives rank 0's result.

        With one rank it is called in this process. Arguments and result are plain values that pickle takes.
        Lost processes are replaced, perhaps by fewer, and the function is called anew on all of them.

        Raises:
            UserError: ``bad_rank_function``.
            Exception: what the first rank that failed has raised, as if it were raised here; of the ranks
                that failed because that one was gone nothing is said.
        """
        if self.ranks != 1:
            raise NotImplementedError("this context runs no gangs")
        return run_alone(function, arguments, self)

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
