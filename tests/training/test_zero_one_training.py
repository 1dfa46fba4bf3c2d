"""0/1 Adam beside its formulas: steps, exchanges, looks at the model, what is not finite, stage 1."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from compressed_cases import (
    OWN_WORKER,
    QUICK,
    TOKENS,
    WIDTH,
    Small,
    batch_of,
    config_of,
    exact_means,
    loss_of,
    train,
    with_steps,
)
from compressed_reference import follow
from training_ranks import Gang

from foldase_models.errors import ModelError
from foldase_models.training import OptimizerConfig, Trainer, TrainingConfig
from foldase_models.training.optim.policies import Exchange, turns

pytestmark = OWN_WORKER

FOLLOWS = 2e-5
"""Of weights in float32, about 1, after 40 steps."""
HALF = 0.01
"""Of losses in bfloat16, relative."""
MEAN = 1e-6
"""Of the mean of float32 weights."""


@pytest.fixture(scope="module")
def two():
    with Gang(2) as gang:
        yield gang


def exactly(ranks, config):
    with exact_means(ranks):
        return train(ranks, config)


@pytest.mark.parametrize("limit", [0.3, 10.0])
@pytest.mark.parametrize("kind", ["zero_one_adam", "one_bit_adam"])
def test_zero_one_steps_of_every_rank_follow_the_formulas_but_for_compression(two, kind, limit):
    config = config_of(kind, clip_norm=limit)
    weights, losses = follow(config, 2)
    told = two.run(exactly, config)
    for step, every in enumerate(weights):
        for rank, wanted in enumerate(every):
            torch.testing.assert_close(told[rank].weights[step].double(), wanted, atol=FOLLOWS, rtol=0)
    assert told[0].losses[0] == pytest.approx(sum(losses[0]) / 2, abs=FOLLOWS)


def test_zero_one_ranks_agree_to_the_last_bit_after_every_exchange_and_differ_between(two):
    config = config_of()
    first, second = two.run(train, config)
    agreed = [torch.equal(a, b) for a, b in zip(first.weights, second.weights, strict=True)]
    assert agreed == [turn.exchange is not Exchange.LOCAL for turn in turns(config)]
    assert agreed.count(False) > 10


def test_zero_one_ranks_send_nothing_at_all_between_exchanges_and_signs_in_them(two):
    config = config_of(steps=39)  # its last step is one without exchange, but tells how the run ended
    told, _ = two.run(train, config)
    whole = 4.0 * sum(parameter.numel() for parameter in Small().parameters())
    planned, rounds = list(turns(config)), 0
    assert planned[-1].exchange is Exchange.LOCAL
    for turn, sent, known in zip(planned[:-1], told.traffic, told.rounds, strict=False):
        rounds += turn.exchange is not Exchange.LOCAL
        assert known == rounds
        if turn.exchange is Exchange.WHOLE:
            assert sent > whole
        else:
            assert sent == 0 if turn.exchange is Exchange.LOCAL else 0 < sent < whole / 10
    assert 0 < told.traffic[-1] < 100
    assert told.rounds[-1] == rounds + 1


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_zero_one_ranks_look_at_the_same_model_and_go_on_as_if_they_had_not(two, average):
    config = config_of(average_decay=average)
    looks = (5, 10, 16, 23, 31, 38)
    without = two.run(train, config)
    found = two.run(train, config, looks)
    assert all(torch.equal(a, b) for a, b in zip(found[0].looked, found[1].looked, strict=True))
    for rank in range(2):
        assert found[rank].losses == without[rank].losses
        assert all(torch.equal(a, b) for a, b in zip(found[rank].weights, without[rank].weights, strict=True))
    if not average:
        for step, looked in zip(looks, found[0].looked, strict=True):
            mean = (found[0].weights[step - 1] + found[1].weights[step - 1]) / 2
            torch.testing.assert_close(looked, mean, atol=MEAN, rtol=0)


def test_zero_one_averages_take_in_what_ranks_agreed_on(two):
    """Between exchanges they stay, and the next one takes in the new weights for all the steps since."""
    config = config_of(average_decay=0.8)
    found = two.run(train, config, tuple(range(1, 41)))[0]
    average, kept = torch.zeros(0), 1.0
    for step, turn in enumerate(turns(config)):
        kept *= min(0.8, (1 + step) / (10 + step))
        if turn.exchange is not Exchange.LOCAL:
            weights = found.weights[step]
            average = weights if not step else torch.lerp(average, weights, 1 - kept)
            if not step:  # the first of all averages are the weights that the model began with
                average = found.looked[0]
            kept = 1.0
            torch.testing.assert_close(found.looked[step], average, atol=1e-5, rtol=0)


def test_zero_one_rows_that_no_batch_has_only_decay(two):
    config = config_of()
    told, _ = two.run(train, config)
    begun = Small().embedding.weight[TOKENS:].detach()
    rows = told.result["embedding.weight"][TOKENS:]
    share = (rows / begun).flatten()
    assert rows.shape == (3, WIDTH)
    assert float(share.min()) > 0.95
    torch.testing.assert_close(share, share[:1].expand_as(share), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("step", "kind", "bad"),
    [(2, "whole", math.nan), (4, "sync", math.nan), (12, "sync", math.inf), (22, "local", math.inf)],
)
def test_zero_one_a_gradient_that_is_not_finite_is_skipped_by_all_or_told_later(two, bad, step, kind):
    config = config_of()
    turn = list(turns(config))[step]
    assert turn.exchange.value == kind
    clean = two.run(train, config)
    found = two.run(spoilt_train, config, step, bad)
    for rank, told in enumerate(found):
        assert told.losses[:step] == clean[rank].losses[:step]
        assert torch.isfinite(told.weights[-1]).all()
        if kind == "local":
            assert (told.skipped, told.lost) == (0, 1)
        else:
            assert (told.skipped, told.lost) == (1, 0)
            assert torch.equal(told.weights[step], told.weights[step - 1])


def spoilt_train(ranks, config, step, factor):
    return train(ranks, config, spoil=lambda rank, now: factor if (rank, now) == (1, step) else 1.0)


def test_zero_one_ranks_that_never_become_finite_stop_together(two):
    config = replace(config_of(), limits=replace(config_of().limits, bad_steps=3))
    with pytest.raises(ModelError) as caught:
        two.run(spoilt_from, config, 21)
    assert caught.value.code == "diverged"


def spoilt_from(ranks, config, step):
    return train(ranks, config, spoil=lambda rank, now: math.nan if rank == 1 and now >= step else 1.0)


def test_zero_one_at_stage_1_shares_moments_out_until_they_are_frozen(two):
    held = two.run(moment_bytes, config_of(stage=1))[0]
    whole = two.run(moment_bytes, config_of())[0]
    numel = sum(parameter.numel() for parameter in Small().parameters())
    assert held["optimizer"][0] == pytest.approx(8 * numel / 2, rel=0.02)
    assert whole["optimizer"][0] == pytest.approx(8 * numel, rel=0.02)
    assert held["optimizer"][1] == whole["optimizer"][1]
    assert held["pending updates"] == whole["pending updates"] == pytest.approx([0, 4 * numel], rel=0.02)


def moment_bytes(ranks, config):
    """Of owners in the ledger, before the second moment is frozen and after."""
    model = Small()
    trainer = Trainer(model, lambda batch, step: (loss_of(model, batch), {}), batch_of, config, ranks=ranks)
    held = []

    def on_step(report):
        if report.step in (7, 20):
            held.append(trainer.ledger.held())

    trainer.run(on_step)
    trainer.close()
    owners = ("optimizer", "pending updates", "compression errors")
    return {owner: [each.get(owner, 0) for each in held] for owner in owners}


def test_zero_one_at_stage_1_steps_as_at_stage_0_where_all_gradients_travel_whole(two):
    """With an update of the second moment in every step before it is frozen there is nothing else to do."""
    every = {"variance_kappa": 100}
    plain, _ = two.run(train, with_steps(config_of(), **every))
    shared, _ = two.run(train, with_steps(config_of(stage=1), **every))
    assert shared.losses == pytest.approx(plain.losses, abs=FOLLOWS)
    torch.testing.assert_close(shared.weights[-1], plain.weights[-1], atol=FOLLOWS, rtol=0)


def test_zero_one_in_bfloat16_agrees_and_follows_float32(two):
    first, second = two.run(train, config_of(precision="bfloat16"))
    exact, _ = two.run(train, config_of())
    assert torch.equal(first.weights[36], second.weights[36])
    assert sum(first.losses[-10:]) == pytest.approx(sum(exact.losses[-10:]), rel=HALF)


def test_zero_one_adam_is_not_for_a_single_rank():
    with Gang(1) as one, pytest.raises(ModelError) as caught:
        one.run(train, config_of())
    assert (caught.value.code, caught.value.location) == ("bad_config", "ranks")
    assert "2 or more" in caught.value.hint


def test_zero_one_adam_refuses_sparse_gradients_by_name(two):
    with pytest.raises(ModelError) as caught:
        two.run(train_sparse)
    assert (caught.value.code, caught.value.location) == ("bad_config", "weight")
    assert "sparse=False" in caught.value.hint


def train_sparse(ranks):
    model = torch.nn.Embedding(TOKENS, 8, sparse=True)
    config = TrainingConfig(
        steps=20, optimizer=OptimizerConfig(kind="zero_one_adam", compression=QUICK), average_decay=0.0
    )
    Trainer(
        model,
        lambda batch, step: (model(batch).square().mean(), {}),
        lambda number: torch.tensor([number % TOKENS]),
        config,
        ranks=ranks,
    ).run()
