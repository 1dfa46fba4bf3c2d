"""The definition: AdamW in plain torch, exact in float64."""

from __future__ import annotations

import torch

from foldase_kernels.adam.problem import Backend, Problem


@torch.no_grad()
def _step(problem: Problem) -> None:
    """Loshchilov and Hutter 2019 (arXiv:1711.05101), algorithm 2, with the average after it."""
    known = problem.constants
    first, second = known.betas
    weights = problem.weights
    gradient = problem.gradient.to(weights.dtype) * known.scale
    problem.exp_avg.copy_(first * problem.exp_avg + (1.0 - first) * gradient)
    problem.exp_avg_sq.copy_(second * problem.exp_avg_sq + (1.0 - second) * gradient.square())
    root = problem.exp_avg_sq.sqrt() / known.root_correction + known.epsilon
    weights.copy_(weights - known.decay * weights - known.step_size * problem.exp_avg / root)
    if problem.average is not None:
        kept = known.average_decay
        problem.average.copy_(kept * problem.average + (1.0 - kept) * weights)
    if problem.out is not None:
        problem.out.copy_(weights)


def _square_sum(vector: torch.Tensor) -> float:
    return float(vector.double().square().sum())


REFERENCE = Backend(_step, _square_sum)
