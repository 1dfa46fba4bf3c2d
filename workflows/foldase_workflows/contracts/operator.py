"""What an operator is: a named, versioned step with typed ports, an estimate and a ``run``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

from foldase_workflows.contracts.context import StepContext
from foldase_workflows.contracts.ports import Port, Ports, ports_of


@dataclass(frozen=True, slots=True)
class Gpu:
    """One accelerator of a node."""

    name: str
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Hardware:
    """What the largest node offers to one step; estimates are made against it.

    ``ranks`` is how many processes the step asks for; all figures of its estimate are of one of them.
    """

    cpus: float
    memory_bytes: int
    gpus: tuple[Gpu, ...] = ()
    ranks: int = 1


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a step is expected to take. A range where the truth depends on the data.

    ``seconds`` is (low, high) wall time; ``memory_bytes`` the peak of resident memory; ``basis`` says in a
    few words what the figures stand on. ``plan``, where there is one, holds plain values for people, of one
    rank: ``ranks``, ``peak_bytes`` by tier (``gpu``, ``pinned``, ``ram``, ``disk``), ``tiers_bytes`` by tier
    and owner, ``step_seconds`` (low, high) and ``step_seconds_of`` by kind of work, ``refusal`` where it does
    not fit, and whatever else the operator knows.
    """

    seconds: tuple[float, float]
    memory_bytes: int
    gpu_memory_bytes: int = 0
    disk_bytes: int = 0
    basis: str = ""
    plan: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values for the API."""
        return {
            "seconds": list(self.seconds),
            "memory_bytes": self.memory_bytes,
            "gpu_memory_bytes": self.gpu_memory_bytes,
            "disk_bytes": self.disk_bytes,
            "basis": self.basis,
            **({"plan": dict(self.plan)} if self.plan else {}),
        }


@dataclass(frozen=True, slots=True)
class Resources:
    """What a step reserves while it runs. ``memory_bytes`` is a reservation, not a cap.

    Of a gang, a step of several processes, ``ranks`` is how many; the other figures are for each of them.
    """

    cpu: float = 1.0
    memory_bytes: int = 0
    gpu: float = 0.0
    ranks: int = 1

    @property
    def total(self) -> Resources:
        """What all ranks reserve together, as if they were one."""
        if self.ranks == 1:
            return self
        return Resources(self.cpu * self.ranks, self.memory_bytes * self.ranks, self.gpu * self.ranks)

    def ranks_within(self, cluster: Resources) -> int:
        """For how many ranks, at most ours, these resources suffice, as if they lay on one node."""
        pairs = (
            (self.cpu, cluster.cpu),
            (self.memory_bytes, cluster.memory_bytes),
            (self.gpu, cluster.gpu),
        )
        return min(self.ranks, *(int(has / one + _ROUNDING) for one, has in pairs if one > 0))

    def to_json(self) -> dict[str, float | int]:
        """Plain values for the database and the API; ``ranks`` only where there are several."""
        plain: dict[str, float | int] = {"cpu": self.cpu, "memory_bytes": self.memory_bytes, "gpu": self.gpu}
        return plain if self.ranks == 1 else {**plain, "ranks": self.ranks}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Resources:
        """The inverse of :meth:`to_json`."""
        return cls(plain["cpu"], plain["memory_bytes"], plain["gpu"], plain.get("ranks", 1))


_ROUNDING = 1e-9

InputsT = TypeVar("InputsT", bound=Ports)
OutputsT = TypeVar("OutputsT", bound=Ports)


class Operator(ABC, Generic[InputsT, OutputsT]):
    """Base of all operators; one file each in ``operators/``.

    A subclass sets ``name``, ``version``, ``help``, ``Inputs`` and ``Outputs``. The version is part of the
    identity of every result: raise it when the same inputs would give another answer. Nothing heavier than
    the standard library, pydantic and the contracts may be imported by the module itself; torch, zarr and
    Biopython come in inside ``run``.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    help: ClassVar[str]
    family: ClassVar[str] = "cpu"
    """Steps of one family share warm worker processes."""
    resources: ClassVar[Resources] = Resources()
    """The default request where a document says nothing."""
    gang: ClassVar[bool] = False
    """Whether ``run`` hands its work to ``context.gang``, so that a document may ask for several ranks."""
    deterministic: ClassVar[bool] = True
    """False for steps whose results must never come from the cache."""
    frugality: ClassVar[str | None] = None
    """The integer input that says how much to save memory at the cost of time, 0 for not at all.

    The platform raises it by one after ``oom_host`` and ``oom_gpu``, up to the port's maximum. Results may
    differ by rounding only: the input is no part of their identity.
    """
    tolerances: ClassVar[frozenset[str]] = frozenset()
    """Inputs that only judge the work, such as how much of it may fail, and never change it.

    They are part of the identity of the result, but checkpoints that were made under other values are good.
    """
    added: ClassVar[frozenset[str]] = frozenset()
    """Inputs that this version of the operator did not have at first.

    With its default such an input is no part of the identity of a result: what was computed before it came
    is still found.
    """
    Inputs: type[InputsT]
    Outputs: type[OutputsT]

    @abstractmethod
    def run(self, inputs: InputsT, context: StepContext) -> OutputsT:
        """Do the work. Artifact inputs are read-only paths; artifact outputs are paths made by ``context``.

        Raises:
            BadInput: an input cannot be worked with; the location names the record.
            Cancelled: by ``context.check_cancelled()``.
        """

    def estimate(self, known: Mapping[str, Any], hardware: Hardware) -> Estimate | None:
        """What the step will take, from the inputs known so far (artifacts as ``Artifact``).

        Must not import torch. None means that nothing can be said.

        Raises:
            BadInput: the run would refuse these values; the location is the input, as ``with.steps``, or
                what the step asks for, as ``resources.ranks``. Inputs that are not known yet are left out of
                ``known``: unless they are files, nobody is told of the refusal before they are known.
        """
        return None

    @property
    def reference(self) -> str:
        """``name@version``, as a document writes it."""
        return f"{self.name}@{self.version}"

    @property
    def signature(self) -> Signature:
        """The operator as the language sees it."""
        return Signature(
            name=self.name,
            version=self.version,
            help=self.help,
            inputs=ports_of(self.Inputs),
            outputs=ports_of(self.Outputs),
            resources=self.resources,
            deterministic=self.deterministic,
            frugality=self.frugality,
            tolerances=self.tolerances,
            added=self.added,
            gang=self.gang,
        )


@dataclass(frozen=True, slots=True)
class Signature:
    """Name and ports of an operator, without its code."""

    name: str
    version: int
    help: str
    inputs: dict[str, Port]
    outputs: dict[str, Port]
    resources: Resources = field(default_factory=Resources)
    deterministic: bool = True
    frugality: str | None = None
    tolerances: frozenset[str] = frozenset()
    added: frozenset[str] = frozenset()
    gang: bool = False

    @property
    def reference(self) -> str:
        """``name@version``."""
        return f"{self.name}@{self.version}"

    def to_json(self) -> dict[str, Any]:
        """For the API and the editor."""
        return {
            "reference": self.reference,
            "name": self.name,
            "version": self.version,
            "help": self.help,
            "inputs": [port.to_json() for port in self.inputs.values()],
            "outputs": [port.to_json() for port in self.outputs.values()],
            "resources": self.resources.to_json(),
            "deterministic": self.deterministic,
            "gang": self.gang,
        }
