"""What steps with and without whole gradients have in common: a limit for both, and a second moment."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from foldase_models.training import OptimizerConfig
from foldase_models.training.optim.adamw import Vectors
from foldase_models.training.optim.gradient_noise import GradientNoise
from foldase_models.training.optim.moments import denominator, take_in

ESTIMATED = 0.03
"""Of norms, from averages over 200 steps of 4,000 numbers."""
ROUNDED = 1e-6
"""Of sums of float32."""


def norms_of(noise: float, ranks: int, steps: int):
    """Squares of the norms of mean gradients and of the ranks' own, of (1, 1, ...) and noise."""
    generator = torch.Generator().manual_seed(5)
    for _ in range(steps):
        own = 1 + math.sqrt(noise * ranks) * torch.randn(ranks, 4000, generator=generator)
        yield float(own.mean(0).square().sum()), float(own.square().sum(1).mean())


@pytest.mark.parametrize("noise", [0.0, 0.1, 1.0, 10.0])
@pytest.mark.parametrize("ranks", [2, 4])
def test_compressed_gradients_are_clipped_by_how_much_longer_they_are(noise, ranks):
    known = GradientNoise()
    for mean, own in norms_of(noise, ranks, 200):
        known.take_in(mean, own, ranks, kept=0.99)
    for others in (2, 3, 4, 16):
        longer = math.sqrt((1 + others * noise) / (1 + noise))
        assert known.longer(others) == pytest.approx(longer, rel=ESTIMATED)


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e6), st.floats(0, 0.999)), max_size=8))
def test_compressed_gradients_are_never_shorter_nor_more_than_independent_ones(seen):
    known = GradientNoise()
    for mean, own, kept in seen:
        known.take_in(mean, own, 2, kept=kept)
    for ranks in (2, 3, 64):
        assert 1.0 <= known.longer(ranks) <= math.sqrt(ranks) * (1 + 1e-12)


def test_without_whole_gradients_the_limit_is_as_it_was_given():
    assert GradientNoise().longer(4) == 1.0


def second_moment(elapsed: list[int], beta: float) -> float:
    """Of gradients 1, without its bias, after updates so many steps after each other."""
    optimizer = OptimizerConfig(betas=(0.9, beta))
    vectors = Vectors(weights=torch.zeros(3), exp_avg=torch.zeros(3), exp_avg_sq=torch.zeros(3), average=None)
    for number, steps in enumerate(elapsed):
        gradient = torch.full((3,), float(number + 1))
        take_in(vectors, gradient, 1.0, optimizer, elapsed=steps)
        take_in(vectors, gradient, 1.0, optimizer)  # only the first moment hears of this one
    found = denominator(optimizer, sum(elapsed)).root(vectors.exp_avg_sq)
    return float(found[0])


@given(st.lists(st.integers(1, 64), min_size=1, max_size=12), st.sampled_from([0.9, 0.95, 0.99, 0.999]))
def test_compressed_second_moments_look_back_over_steps_and_not_over_updates(elapsed, beta):
    """As if each gradient had come in all the steps since the last one that was taken in."""
    repeated = [float(number + 1) for number, steps in enumerate(elapsed) for _ in range(steps)]
    wanted = 0.0
    for one in repeated:
        wanted = beta * wanted + (1 - beta) * one**2
    wanted = math.sqrt(wanted / (1 - beta ** len(repeated)))
    assert second_moment(elapsed, beta) == pytest.approx(wanted, rel=1e-4, abs=ROUNDED)
