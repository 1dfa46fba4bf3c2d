"""1-bit Adam's policy: whole gradients until the second moment is frozen, one bit a number ever after."""

from __future__ import annotations

import json

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from foldase_models.errors import ModelError
from foldase_models.training.config import (
    CompressionConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainingConfig,
)
from foldase_models.training.optim.policies import (
    Course,
    Exchange,
    OneBitPolicy,
    Turn,
    make_policy,
    turns,
)

ADAM, ONE_BIT = Turn(Exchange.WHOLE, variance=True), Turn(Exchange.SYNC)
BETAS = (0.9, 0.9)
"""The second moment forgets over 10 steps."""


def config(steps, *, stage=0, betas=BETAS, warmup_steps=0, **compression):
    return TrainingConfig(
        steps=steps,
        stage=stage,
        optimizer=OptimizerConfig(
            kind="one_bit_adam", betas=betas, compression=CompressionConfig(**compression)
        ),
        schedule=ScheduleConfig(warmup_steps=warmup_steps),
    )


def driven(config, sizes):
    """The steps after which the second moment is looked at, and the one from which on it is frozen.

    ``sizes`` are those it has at the looks, the last one ever after.
    """
    policy = make_policy(config)
    course, looks = policy.begin(), []
    for _ in range(config.steps):
        turn, size = policy.turn(course), None
        if policy.measures(course):
            size = sizes[min(len(looks), len(sizes) - 1)]
            looks.append(course.step)
        policy.done(course, turn, size)
    return looks, course.frozen_at


@pytest.mark.parametrize("stage", [0, 1])
def test_gradients_travel_whole_until_the_step_of_the_freeze(stage):
    assert list(turns(config(6, stage=stage, freeze_step=4))) == [ADAM] * 4 + [ONE_BIT] * 2


def test_the_second_moment_counts_as_settled_when_two_looks_at_it_found_nearly_the_same():
    """One look in ten steps; after the third its size is within 0.96 of the one before."""
    assert driven(config(100), [1.0, 2.0, 2.05]) == ([9, 19, 29], 30)
    assert driven(config(100), [3.0, 2.0, 1.95]) == ([9, 19, 29], 30)
    assert driven(config(100, settled=0.5), [1.0, 2.0, 2.05]) == ([9, 19], 20)


def test_it_is_not_looked_at_while_the_rate_rises():
    assert driven(config(100, warmup_steps=12), [1.0]) == ([19, 29], 30)
    assert driven(config(100, warmup_steps=9), [1.0]) == ([9, 19], 20)


def test_a_second_moment_that_never_settles_is_never_frozen():
    assert driven(config(50), [2.0**power for power in range(9)]) == ([9, 19, 29, 39, 49], None)
    assert driven(config(50), [0.0]) == ([9, 19, 29, 39, 49], None)


def test_the_steps_of_a_training_are_counted_as_if_it_settled_at_once():
    for made in (config(100, warmup_steps=12), config(100, freeze_step=35)):
        found = [turn.exchange for turn in turns(made)]
        assert make_policy(made).counts() == {kind: found.count(kind) for kind in Exchange}


def test_nobody_looks_where_the_step_is_given():
    assert driven(config(100, freeze_step=35), [1.0]) == ([], 35)


def test_the_window_is_what_the_second_moment_remembers():
    assert OneBitPolicy(config(1000, betas=(0.9, 0.99))).window == 100
    assert OneBitPolicy(config(1000, betas=(0.9, 0.0))).window == 1


def test_what_cannot_settle_before_the_end_is_refused_and_one_step_more_is_enough():
    with pytest.raises(ModelError, match="settled after 30 steps at the earliest") as caught:
        OneBitPolicy(config(30, warmup_steps=12)).begin()
    assert caught.value.code == "bad_config"
    assert caught.value.location == "optimizer.compression.freeze_step"
    assert caught.value.hint == "set it, below 30"
    assert list(turns(config(31, warmup_steps=12))) == [ADAM] * 30 + [ONE_BIT]
    assert list(turns(config(30, warmup_steps=12, freeze_step=29))) == [ADAM] * 29 + [ONE_BIT]


@given(
    steps=st.integers(2, 300),
    freeze=st.none() | st.integers(1, 299),
    warmup=st.integers(0, 100),
    beta=st.sampled_from([0.0, 0.5, 0.9, 0.95]),
    sizes=st.lists(st.sampled_from([1e-30, 0.5, 0.97, 1.0, 2.0, 1e30]), min_size=1, max_size=9),
    stopped=st.integers(0, 300),
)
@settings(max_examples=60, deadline=None)
def test_a_course_goes_on_alike_from_json_whenever_the_freeze_comes(
    steps, freeze, warmup, beta, sizes, stopped
):
    assume(freeze is None or freeze < steps)
    policy = make_policy(config(steps, betas=(0.9, beta), warmup_steps=warmup, freeze_step=freeze))
    try:
        course, other = policy.begin(), policy.begin()
    except ModelError:
        assume(False)
    found = []
    for step in range(steps):
        if step == stopped:
            other = Course.from_json(json.loads(json.dumps(other.to_json())))
        assert policy.turn(course) == policy.turn(other)
        found.append(policy.turn(course))
        for one in (course, other):
            policy.done(one, found[-1], sizes[step % len(sizes)] if policy.measures(one) else None)
    frozen = steps if course.frozen_at is None else course.frozen_at
    assert found == [ADAM] * frozen + [ONE_BIT] * (steps - frozen)
    assert course.variance_updates == frozen
