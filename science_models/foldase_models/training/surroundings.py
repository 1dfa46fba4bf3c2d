"""What engines and steppers work with, and what they are told of a step."""

from __future__ import annotations

from dataclasses import dataclass

from foldase_models.training.clock import Clock
from foldase_models.training.collectives import Collectives
from foldase_models.training.config import TrainingConfig
from foldase_models.training.ledger import Ledger


@dataclass(frozen=True, slots=True)
class Update:
    """One optimizer step.

    Attributes:
        number: of steps with this one, for the corrections of bias.
        rate: learning rate.
        scale: what gradients are multiplied with, so that their norm is not above the limit.
        average_decay: of the average of the weights; None where there is none.
    """

    number: int
    rate: float
    scale: float
    average_decay: float | None


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What an engine works with."""

    config: TrainingConfig
    collectives: Collectives
    ledger: Ledger
    clock: Clock
