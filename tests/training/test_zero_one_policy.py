"""0/1 Adam's policy: when the second moment is updated, and how many steps ranks take alone."""

from __future__ import annotations

import itertools
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
    learning_rate,
)
from foldase_models.training.optim.policies import (
    Course,
    Exchange,
    Policy,
    Turn,
    ZeroOnePolicy,
    make_policy,
    turns,
)

WHOLE, SYNC, LOCAL = Exchange.WHOLE, Exchange.SYNC, Exchange.LOCAL
ONE_BIT = 1 / 32 + 1 / 4096
"""What one bit a number costs of float32: the bit, and a float32 scale for every 4,096 of them."""
MOST_VOLUME, MOST_ROUNDS = 0.1, 0.5


def config(steps, *, stage=0, warmup_steps=0, final_share=0.03, **compression):
    return TrainingConfig(
        steps=steps,
        stage=stage,
        optimizer=OptimizerConfig(kind="zero_one_adam", compression=CompressionConfig(**compression)),
        schedule=ScheduleConfig(warmup_steps=warmup_steps, final_share=final_share),
    )


def updates(config):
    """The steps in which the second moment is updated."""
    return [step for step, turn in enumerate(turns(config)) if turn.variance]


def syncs(config):
    """The steps of exchanges once the second moment is frozen."""
    frozen = make_policy(config).first_frozen()
    return [step for step, turn in enumerate(turns(config)) if step >= frozen and turn.exchange is SYNC]


def test_the_second_moment_is_updated_at_distances_that_double_after_every_kappa_updates():
    """k_j+1 = k_j + 2^floor(j / kappa), with kappa 1 and 2 written out."""
    constant = {"final_share": 1.0}
    assert updates(config(100, variance_kappa=1, freeze_step=99, **constant)) == [0, 1, 3, 7, 15, 31, 63]
    assert updates(config(60, variance_kappa=2, freeze_step=48, **constant)) == [
        *(0, 1, 2, 4, 6, 10),
        *(14, 22, 30, 46),
    ]


def test_the_default_updates_it_in_every_step_at_first():
    found = updates(config(1000, freeze_step=200))
    assert found[:18] == [*range(17), 18]
    assert [second - first for first, second in itertools.pairwise(found[16:33])] == [2] * 16


def test_between_two_updates_one_bit_travels_and_at_stage_1_the_whole_gradient():
    changes = {"variance_kappa": 1, "freeze_step": 8, "final_share": 1.0}
    whole, one_bit = Turn(WHOLE, variance=True), Turn(SYNC)
    assert list(turns(config(9, **changes))) == [
        *(whole, whole, one_bit, whole),
        *(one_bit, one_bit, one_bit, whole),
        one_bit,
    ]
    assert list(turns(config(9, stage=1, **changes))) == [
        *(whole, whole, Turn(WHOLE), whole),
        *(Turn(WHOLE), Turn(WHOLE), Turn(WHOLE), whole),
        one_bit,
    ]


def test_steps_between_exchanges_double_whenever_the_rate_has_halved(monkeypatch):
    """A rate that halves after every 8 steps, up to a last bit: intervals 1, 2, 4, 8, and no longer ones."""

    def halving(config, step):
        return config.optimizer.learning_rate * 0.5 ** (step // 8) * (1 + 2**-52)

    monkeypatch.setattr("foldase_models.training.optim.policies.learning_rate", halving)
    assert syncs(config(56, longest_interval=8)) == [8, 10, 12, 14, 16, 20, 24, 32, 40, 48]
    assert syncs(config(48, longest_interval=2)) == list(range(8, 48, 2))
    # Frozen before that, ranks exchange in every step until the rate has halved.
    assert syncs(config(16, freeze_step=4)) == [4, 5, 6, 7, 8, 10, 12, 14]


def test_with_the_cosine_too_an_interval_is_the_power_of_two_by_which_the_rate_has_fallen():
    made = config(1200, warmup_steps=50)
    peak = made.optimizer.learning_rate
    found = syncs(made)
    assert learning_rate(made, found[0]) <= peak / 2 < learning_rate(made, found[0] - 1)
    intervals = [second - first for first, second in itertools.pairwise(found)]
    assert sorted(set(intervals)) == [2, 4, 8, 16]
    for step, interval in zip(found, intervals, strict=False):
        assert interval == 16 or peak / interval / 2 < learning_rate(made, step) <= peak / interval


def test_steps_between_exchanges_may_double_by_number_of_steps_instead():
    assert syncs(config(60, freeze_step=10, interval_steps=8)) == [
        *range(10, 18),
        *(18, 20, 22, 24),
        *(26, 30),
        34,
        42,
        58,
    ]


def test_no_interval_is_longer_than_the_longest():
    found = syncs(config(4000, freeze_step=10, interval_steps=10))
    assert max(second - first for first, second in itertools.pairwise(found)) == 16


def test_the_second_moment_is_frozen_as_soon_as_ranks_step_alone():
    made = config(1200)
    frozen = ZeroOnePolicy(made).first_frozen()
    assert list(turns(made))[frozen : frozen + 3] == [Turn(SYNC), Turn(LOCAL), Turn(SYNC)]
    assert ZeroOnePolicy(config(1200, freeze_step=1100)).first_frozen() == frozen
    assert ZeroOnePolicy(config(1200, freeze_step=100)).first_frozen() == 100


def test_a_rate_that_rises_is_no_rate_that_has_halved():
    made = config(100, warmup_steps=80)
    assert learning_rate(made, 0) < made.optimizer.learning_rate / 64
    assert all(turn.exchange is not LOCAL for turn in itertools.islice(turns(made), 80))


def test_with_the_defaults_a_tenth_of_the_volume_and_half_of_the_rounds_are_enough():
    made = config(1200, warmup_steps=50)
    found = [turn.exchange for turn in turns(made)]
    assert (found.count(WHOLE) + ONE_BIT * found.count(SYNC)) / len(found) < MOST_VOLUME
    frozen = found[ZeroOnePolicy(made).first_frozen() :]
    assert WHOLE not in frozen
    assert frozen.count(SYNC) / len(frozen) < MOST_ROUNDS


def test_the_steps_of_a_training_of_any_length_are_counted_at_once():
    """Of ten million few are looked at; the schedule is that of 1,200 steps, drawn out."""
    long, short = (
        make_policy(config(steps, warmup_steps=steps // 24)).counts() for steps in (12 * 10**6, 1200)
    )
    assert sum(long.values()) == 12 * 10**6
    assert long[LOCAL] / 10**4 == pytest.approx(short[LOCAL], abs=2)


def test_a_second_moment_that_would_never_be_frozen_is_refused_with_the_reason():
    for changes, why in (
        ({"final_share": 1.0}, "the learning rate never falls to half of its peak"),
        ({"longest_interval": 1}, "longest_interval is 1"),
    ):
        with pytest.raises(ModelError, match=why) as caught:
            list(turns(config(100, **changes)))
        assert caught.value.code == "bad_config"
        assert caught.value.location == "optimizer.compression.freeze_step"
        assert caught.value.hint == "set it, below 100"
        assert len(syncs(config(100, freeze_step=40, **changes))) == 60


@st.composite
def configurations(draw):
    steps = draw(st.integers(2, 400))
    freeze_step = draw(st.none() | st.integers(1, steps - 1))
    return config(
        steps,
        stage=draw(st.integers(0, 1)),
        warmup_steps=draw(st.integers(0, steps)),
        final_share=draw(st.sampled_from([0.0, 0.03, 0.25, 0.5, 1.0])),
        freeze_step=freeze_step,
        variance_kappa=draw(st.integers(1, 20)),
        interval_steps=None if freeze_step is None else draw(st.none() | st.integers(1, 50)),
        longest_interval=2 ** draw(st.integers(0, 6)),
    )


def begun(policy: Policy) -> Course:
    try:
        return policy.begin()
    except ModelError:
        assume(False)
        raise


@given(configurations(), st.integers(0, 400))
@settings(max_examples=100, deadline=None)
def test_whatever_the_configuration_frozen_is_frozen_and_a_course_goes_on_from_json(made, stopped):
    policy = make_policy(made)
    course, found = begun(policy), []
    for step in range(made.steps):
        if step == stopped:
            course = Course.from_json(json.loads(json.dumps(course.to_json())))
        found.append(policy.turn(course))
        policy.done(course, found[-1])
    assert found == list(turns(made))
    assert policy.counts() == {kind: [turn.exchange for turn in found].count(kind) for kind in Exchange}
    assert course.step == made.steps
    assert course.variance_updates == sum(turn.variance for turn in found)
    before, after = found[: course.frozen_at], found[course.frozen_at :]
    assert all(turn.exchange is not LOCAL for turn in before)
    assert all(turn.exchange is WHOLE for turn in before if turn.variance or made.stage)
    assert not any(turn.variance or turn.exchange is WHOLE for turn in after)
    assert not after or after[0].exchange is SYNC
    runs = [
        len(list(run)) for exchange, run in itertools.groupby(t.exchange for t in after) if exchange is LOCAL
    ]
    assert max(runs, default=0) < made.optimizer.compression.longest_interval
