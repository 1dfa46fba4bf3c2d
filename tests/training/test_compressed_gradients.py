"""What steps with and without whole gradients have in common: a limit for both, and a second moment."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from foldase_models.training import OptimizerConfig, TrainingConfig
from foldase_models.training.config import CompressionConfig
from foldase_models.training.optim.adamw import Vectors
from foldase_models.training.optim.gradient_noise import GradientNoise
from foldase_models.training.optim.moments import Denominator, take_in
from foldase_models.training.optim.policies import make_policy

ESTIMATED = 0.03
"""Of norms, from averages over 200 steps of 4,000 numbers."""
ROUNDED = 1e-5
"""Of a root of sums of float32."""


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


def second_moment(beta: float, kappa: int, steps: int) -> tuple[float, list[tuple[int, float]]]:
    """The root of the second moment without its bias, and the steps since each update, with its gradient.

    Of a gradient that is larger in every step.
    """
    optimizer = OptimizerConfig(
        kind="zero_one_adam",
        betas=(0.9, beta),
        compression=CompressionConfig(variance_kappa=kappa, freeze_step=steps),
    )
    policy = make_policy(TrainingConfig(steps=steps + 1, optimizer=optimizer))
    course, seen = policy.begin(), []
    vectors = Vectors(weights=torch.zeros(3), exp_avg=torch.zeros(3), exp_avg_sq=torch.zeros(3), average=None)
    for step in range(steps):
        turn, gradient = policy.turn(course), 1.0 + step
        if turn.variance:
            seen.append((step + 1 - course.variance_steps, gradient))
        kept = policy.kept(course) if turn.variance else 1.0
        take_in(vectors, torch.full((3,), gradient), 1.0, optimizer, kept=kept)
        policy.done(course, turn)
    found = Denominator(course.variance_rest, optimizer.epsilon).root(vectors.exp_avg_sq)
    return float(found[0]), seen


@given(st.integers(1, 120), st.sampled_from([0.99, 0.999]))
def test_zero_one_second_moments_look_back_over_steps_and_not_over_updates(steps, beta):
    """As if each gradient had come in all the steps since the last one that was taken in."""
    found, seen = second_moment(beta, 16, steps)
    wanted, count = 0.0, 0
    for elapsed, gradient in seen:
        for _ in range(elapsed):
            wanted, count = beta * wanted + (1 - beta) * gradient**2, count + 1
    assert found == pytest.approx(math.sqrt(wanted / (1 - beta**count)), rel=ROUNDED)


@pytest.mark.parametrize(("beta", "kappa"), [(0.9, 16), (0.95, 4), (0.5, 16), (0.9, 1)])
def test_zero_one_second_moments_do_not_rest_on_a_few_gradients(beta, kappa):
    optimizer = OptimizerConfig(
        kind="zero_one_adam", betas=(0.9, beta), compression=CompressionConfig(variance_kappa=kappa)
    )
    policy = make_policy(TrainingConfig(steps=4000, optimizer=optimizer))
    course = policy.begin()
    counted = []
    for _ in range(1000):
        turn = policy.turn(course)
        if turn.variance:
            counted.append(1 - policy.kept(course))
        policy.done(course, turn)
    assert counted[0] == pytest.approx(1 - beta)
    assert max(counted) == pytest.approx(max(1 - beta, 2 / (kappa + 1)), rel=0.01)
