"""Limited-memory BFGS with a diagonal preconditioner, for smooth convex functions of one flat vector.

Source: Nocedal and Wright, Numerical Optimization (2006), algorithms 7.4 and 7.5; the preconditioner takes
the place of the scaled identity that starts the two-loop recursion.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

ARMIJO = 1e-4
"""Share of the decrease promised by the slope that a step has to bring."""
SHRINK = 0.5
SMALLEST_STEP = 1e-6
ROUNDING = 1e-7
"""Relative rounding error of a value in float32: a rise below it is no rise."""

Objective = Callable[[Tensor], tuple[float, Tensor]]


@dataclass(frozen=True, slots=True)
class Minimum:
    """Where the search ended.

    ``gradient_norm`` is the Euclidean norm there, ``relative_gradient`` its ratio to that at the start.
    """

    point: Tensor
    value: float
    gradient_norm: float
    relative_gradient: float
    iterations: int
    evaluations: int
    converged: bool


def minimise(
    objective: Objective,
    start: Tensor,
    preconditioner: Tensor,
    *,
    tolerance: float,
    max_iterations: int,
    history: int = 5,
    report: Callable[[int, float, float], None] | None = None,
) -> Minimum:
    """Search until the gradient has shrunk to ``tolerance`` times that at the start.

    Args:
        objective: gives the value and the gradient (a new tensor) at a point.
        start: flat; not changed.
        preconditioner: positive, like ``start``: an approximate inverse of the Hessian's diagonal.
        tolerance: relative to the gradient at the start.
        max_iterations: after which the search ends unconverged.
        history: pairs of steps and gradient changes kept; memory is 2 * history + 6 vectors.
        report: called after each iteration with its number, the value and the relative gradient; may raise
            to stop.

    Returns:
        The last point, which is also the lowest up to rounding.
    """
    point = start.clone()
    value, gradient = objective(point)
    evaluations, iteration = 1, 0
    first_norm = norm = _norm(gradient)
    pairs: deque[tuple[Tensor, Tensor, float]] = deque(maxlen=history)
    while norm > tolerance * first_norm and iteration < max_iterations:
        direction = _direction(gradient, pairs, preconditioner)
        slope = _dot(gradient, direction)
        length = 1.0
        while True:
            candidate = point.add(direction, alpha=length)
            lower, new_gradient = objective(candidate)
            evaluations += 1
            if lower <= value + ARMIJO * length * slope + ROUNDING * abs(value):
                break
            length *= SHRINK
            if length < SMALLEST_STEP:  # at the rounding error of the function: no lower point is found
                return Minimum(point, value, norm, norm / first_norm, iteration, evaluations, converged=False)
        step = candidate.sub(point)
        change = new_gradient.sub(gradient)
        curvature = _dot(step, change)
        if curvature > ROUNDING * _norm(step) * _norm(change):
            pairs.append((step, change, 1.0 / curvature))
        point, value, gradient = candidate, lower, new_gradient
        norm = _norm(gradient)
        iteration += 1
        if report is not None:
            report(iteration, value, norm / first_norm)
    relative = norm / first_norm if first_norm > 0 else 0.0
    return Minimum(point, value, norm, relative, iteration, evaluations, norm <= tolerance * first_norm)


def _direction(
    gradient: Tensor, pairs: deque[tuple[Tensor, Tensor, float]], preconditioner: Tensor
) -> Tensor:
    """Minus the gradient times the approximate inverse Hessian (the two-loop recursion)."""
    direction = gradient.neg()
    weights = []
    for step, change, scale in reversed(pairs):
        weight = scale * _dot(step, direction)
        weights.append(weight)
        direction.add_(change, alpha=-weight)
    if pairs:
        _, change, scale = pairs[-1]
        direction.mul_(1.0 / (scale * _dot(change, preconditioner * change)))
    direction.mul_(preconditioner)
    for (step, change, scale), weight in zip(pairs, reversed(weights), strict=True):
        direction.add_(step, alpha=weight - scale * _dot(change, direction))
    return direction


def _dot(a: Tensor, b: Tensor) -> float:
    return float(torch.dot(a, b))


def _norm(a: Tensor) -> float:
    return float(torch.linalg.vector_norm(a))
