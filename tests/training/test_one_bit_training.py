"""1-bit Adam: AdamW until the second moment is frozen, signs ever after."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from compressed_cases import OWN_WORKER, Small, batch_of, config_of, exact_means, loss_of, train
from training_ranks import Gang

from foldase_models.training import Trainer
from foldase_models.training.config import CompressionConfig

pytestmark = OWN_WORKER

AS_ADAMW = 1e-6
"""Of losses and weights of two orders of the same sums."""
SHARE = 0.01
"""Of the volume, beside what is promised."""


@pytest.fixture(scope="module")
def two():
    with Gang(2) as gang:
        yield gang


@pytest.mark.parametrize("stage", [0, 1])
def test_one_bit_adam_is_adamw_until_the_freeze(two, stage):
    plain, _ = two.run(train, config_of("adamw", average_decay=0.9), (8,))
    found, _ = two.run(train, config_of("one_bit_adam", stage=stage, average_decay=0.9), (8,))
    assert found.losses[:9] == pytest.approx(plain.losses[:9], abs=AS_ADAMW)
    torch.testing.assert_close(found.looked[0], plain.looked[0], atol=AS_ADAMW, rtol=0)
    assert found.losses[9:] != pytest.approx(plain.losses[9:], abs=AS_ADAMW)


def test_one_bit_ranks_agree_to_the_last_bit_after_every_step(two):
    first, second = two.run(train, config_of("one_bit_adam"))
    assert all(torch.equal(a, b) for a, b in zip(first.weights, second.weights, strict=True))
    assert first.losses == second.losses


def test_one_bit_volume_is_that_of_the_warm_up_and_a_thirty_second_of_the_rest(two):
    compression = CompressionConfig(freeze_step=20)
    found, _ = two.run(train_wide, config_of("one_bit_adam", steps=100, compression=compression))
    plain, _ = two.run(train_wide, config_of("adamw", steps=100))
    assert sum(found) / sum(plain) <= 0.2 + 0.8 / 32 + SHARE
    assert len(set(plain)) <= 2


def train_wide(ranks, config):
    """Bytes of every step, of a model in which names and losses do not count."""
    model = torch.nn.Linear(256, 256)
    inputs = torch.randn(8, 256, generator=torch.Generator().manual_seed(ranks.rank))
    sent = []

    def loss(batch, step):
        return model(inputs).square().mean(), {}

    trainer = Trainer(model, loss, lambda number: number, config, ranks=ranks)
    trainer.run(lambda report: sent.append(report.traffic))
    trainer.close()
    return sent


def test_one_bit_adam_freezes_when_the_second_moment_has_settled(two):
    """With a window of 10 steps, looked at on all ranks alike, at a stage that shares it out, too."""
    changes = {"steps": 120, "compression": CompressionConfig(settled=0.5)}
    for stage in (0, 1):
        config = config_of("one_bit_adam", stage=stage, **changes)
        quick = replace(config, optimizer=replace(config.optimizer, betas=(0.9, 0.9)))
        at = two.run(frozen_at, quick)
        assert at[0] == at[1]
        assert 20 <= at[0] < 120
        assert at[0] % 10 == 0


def frozen_at(ranks, config):
    model = Small()
    trainer = Trainer(model, lambda batch, step: (loss_of(model, batch), {}), batch_of, config, ranks=ranks)
    trainer.run()
    trainer.close()
    return trainer.engine.course.frozen_at


def test_one_bit_adam_clips_what_every_rank_takes_in(two):
    """However large the gradient of one rank is, the momentum that all agree on is not above the limit."""
    config = config_of("one_bit_adam", clip_norm=0.5)
    norms = two.run(largest_momentum, config)
    assert norms[0] == norms[1]
    assert 0.05 < norms[0] <= 0.5


def largest_momentum(ranks, config):
    """Of the steps after the freeze."""
    model = Small()
    trainer = Trainer(
        model,
        lambda batch, step: (loss_of(model, batch) * (1000.0 if ranks.rank else 1.0), {}),
        batch_of,
        config,
        ranks=ranks,
    )
    found = []

    def on_step(report):
        if report.step > 8:
            vectors = trainer.engine.stepper.vectors
            found.append(math.sqrt(sum(float(one.exp_avg.square().sum()) for one in vectors)))

    with exact_means(ranks):
        trainer.run(on_step)
    trainer.close()
    return max(found)
