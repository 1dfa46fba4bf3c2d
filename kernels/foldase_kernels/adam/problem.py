"""One AdamW step as the backends see it: checked vectors, and constants of double precision."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Constants:
    """What one step multiplies with.

    Attributes:
        betas: decay of the moments.
        epsilon: added to the root of the corrected second moment.
        decay: what is taken from each weight, as a share of it: rate times weight decay.
        step_size: rate, divided by the correction of the first moment.
        root_correction: root of the correction of the second moment, which its root is divided by.
        scale: what the gradient is multiplied with.
        average_decay: of the average, where there is one.
        step, rate, weight_decay: as the caller gave them.
    """

    betas: tuple[float, float]
    epsilon: float
    decay: float
    step_size: float
    root_correction: float
    scale: float
    average_decay: float
    step: int
    rate: float
    weight_decay: float


@dataclass(frozen=True, slots=True)
class Problem:
    """One step.

    Attributes:
        weights, exp_avg, exp_avg_sq, average: ``[n]``, float32 (float64 too for the reference).
        gradient: ``[n]``, of their dtype or bfloat16.
        out: ``[n]``, bfloat16: where the new weights go rounded, or None.
        constants: what the step multiplies with.
    """

    weights: torch.Tensor
    exp_avg: torch.Tensor
    exp_avg_sq: torch.Tensor
    gradient: torch.Tensor
    average: torch.Tensor | None
    out: torch.Tensor | None
    constants: Constants

    def part(self, first: int, last: int) -> Problem:
        """The step of some of the elements."""

        def cut(vector: torch.Tensor) -> torch.Tensor:
            return vector[first:last]

        return Problem(
            cut(self.weights),
            cut(self.exp_avg),
            cut(self.exp_avg_sq),
            cut(self.gradient),
            None if self.average is None else cut(self.average),
            None if self.out is None else cut(self.out),
            self.constants,
        )


Step = Callable[[Problem], None]
SquareSum = Callable[[torch.Tensor], float]


@dataclass(frozen=True, slots=True)
class Backend:
    """How a step and the sum of the squares of a vector are computed."""

    step: Step
    square_sum: SquareSum


def constants(
    step: int,
    rate: float,
    betas: tuple[float, float],
    epsilon: float,
    weight_decay: float,
    scale: float,
    average_decay: float | None,
) -> Constants:
    """Check the numbers; corrections of bias: Kingma and Ba 2014 (arXiv:1412.6980), algorithm 1.

    Raises:
        ValueError: names the number that makes no step.
    """
    if step < 1:
        raise ValueError(f"step is {step}; steps are counted from 1")
    if not all(0 <= beta < 1 for beta in betas):
        raise ValueError(f"betas are {betas}; expected two numbers in [0, 1)")
    for name, value in (("rate", rate), ("weight_decay", weight_decay), ("epsilon", epsilon)):
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} is {value}; expected a finite number, 0 or more")
    if not math.isfinite(scale):
        raise ValueError(f"scale is {scale}; expected a finite number")
    if average_decay is not None and not 0 <= average_decay <= 1:
        raise ValueError(f"average_decay is {average_decay}; expected a number in [0, 1]")
    return Constants(
        betas=betas,
        epsilon=epsilon,
        decay=rate * weight_decay,
        step_size=rate / (1.0 - betas[0] ** step),
        root_correction=math.sqrt(1.0 - betas[1] ** step),
        scale=scale,
        average_decay=1.0 if average_decay is None else average_decay,
        step=step,
        rate=rate,
        weight_decay=weight_decay,
    )
