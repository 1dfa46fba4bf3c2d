"""What a model that is trained says of itself: its parameters, and what a part of a batch takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from foldase_models.errors import ModelError
from foldase_models.planning.tensors import Unit

Device = Literal["cpu", "gpu"]
"""What computes: its kernels decide what is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part of a step's batch, which one rank works on at a time.

    Attributes:
        examples: of equal size.
        length: residues or tokens of an example.
        rows: of its alignment, the query included; 1 for none.
        passes: of a model that feeds its output back, the last one included; only that one keeps anything.
    """

    examples: int = 1
    length: int
    rows: int = 1
    passes: int = 1

    def __post_init__(self) -> None:
        if min(self.examples, self.length, self.rows, self.passes) < 1:
            raise ModelError(
                f"expected examples, residues or tokens, rows and passes of 1 or more; found {self}",
                code="bad_request",
            )

    @property
    def forward_passes(self) -> float:
        """The work of a step, in forward passes: a backward pass is two; half of the first ones are drawn."""
        return 3.0 + (self.passes - 1) / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Activations:
    """Bytes of tensors between the weights and the loss of one part.

    Attributes:
        kept: for the backward pass, all of them.
        block: those of the largest block among them.
        working: what lies beside them at most while a block is computed, forward or backward.
        recomputed: the most there is where blocks keep only what they are called with.
    """

    kept: int
    block: int
    working: int
    recomputed: int


class Trainee(Protocol):
    """A model that is trained.

    Attributes:
        kind: of the model.
    """

    @property
    def kind(self) -> str:
        """Of the model."""

    def units(self) -> tuple[Unit, ...]:
        """All parameters, in the order of the model."""

    def activations(self, part: Part, item: int, device: Device) -> Activations:
        """Of a part, where numbers have ``item`` bytes."""

    def flops(self, part: Part) -> float:
        """Floating point operations of a part's forward and backward pass."""

    def overhead(self, part: Part) -> float:
        """Seconds of a part that many small operations take, whatever their size."""
