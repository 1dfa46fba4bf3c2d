"""AdamW by torch's fused step, with casts around it, on any device.

Casts go through scratch of some elements at a time, so that they cost little memory; not of few at a time,
since torch's threads meet after every cast, which takes long where others want the processor too.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.optim.adamw import adamw

from foldase_kernels.adam.problem import Backend, Problem

ELEMENTS_AT_ONCE = {"cpu": 2**23}
ELEMENTS_AT_ONCE_ELSEWHERE = 2**24
"""Elements between two casts: 32 MiB of scratch on a processor, 64 MiB where starting a kernel costs more."""


@torch.no_grad()
def _step(problem: Problem) -> None:
    known = problem.constants
    steps = torch.tensor(float(known.step - 1), device=problem.weights.device)
    scratch: torch.Tensor | None = None
    for part in _parts(problem):
        gradient = part.gradient
        if _needs_scratch(problem):
            # The first part is the largest; memory that is new each time would have to be cleared each time.
            scratch = torch.empty_like(part.weights) if scratch is None else scratch
            gradient = scratch[: part.gradient.numel()].copy_(part.gradient)
        if known.scale != 1.0:
            gradient.mul_(known.scale)
        adamw(
            [part.weights],
            [gradient],
            [part.exp_avg],
            [part.exp_avg_sq],
            [],
            [steps.clone()],
            fused=True,
            amsgrad=False,
            beta1=known.betas[0],
            beta2=known.betas[1],
            lr=known.rate,
            weight_decay=known.weight_decay,
            eps=known.epsilon,
            maximize=False,
        )
        if part.average is not None:
            part.average.lerp_(part.weights, 1.0 - known.average_decay)
        if part.out is not None:
            part.out.copy_(part.weights)


def _needs_scratch(problem: Problem) -> bool:
    return problem.gradient.dtype != problem.weights.dtype


def _parts(problem: Problem) -> Iterator[Problem]:
    count = problem.weights.numel()
    at_once = ELEMENTS_AT_ONCE.get(problem.weights.device.type, ELEMENTS_AT_ONCE_ELSEWHERE)
    if count <= at_once or not _needs_scratch(problem):
        if count:
            yield problem
        return
    for first in range(0, count, at_once):
        yield problem.part(first, min(count, first + at_once))


@torch.no_grad()
def _square_sum(vector: torch.Tensor) -> float:
    """A part at a time in float64."""
    at_once = ELEMENTS_AT_ONCE.get(vector.device.type, ELEMENTS_AT_ONCE_ELSEWHERE)
    sums = [part.double().square_().sum() for part in torch.split(vector, at_once)]
    return float(torch.stack(sums).sum())


TORCH = Backend(_step, _square_sum)
