"""Trainings with 0/1 Adam and 1-bit Adam that stop at any step and go on, on as many ranks and on others."""

from __future__ import annotations

import logging
import os
from dataclasses import replace

import pytest
import torch
from compressed_cases import OWN_WORKER, Small, batch_of, config_of, flat, loss_of, train
from safetensors.torch import load_file
from training_ranks import Gang

from foldase_models.errors import ModelError
from foldase_models.training import CheckpointStore, Trainer
from foldase_models.training.checkpoints import export_weights, read_commit

pytestmark = OWN_WORKER

SAME = 1e-5
"""Of losses, on as many ranks."""
OTHER = 0.03
"""Of the mean of the next twenty losses on another number of ranks, relative: what was on its way is kept,
but each rank rounds to signs by itself."""
EXACT = 1e-6
"""Of weights and of what is on its way, when they are shared out anew."""
NEXT = 20
WHOLE, SYNC, LOCAL, LONG = 3, 12, 17, 23
"""Steps after which the first moments are common, as everywhere before the freeze, after an exchange, after
one step alone, after three of them."""


@pytest.fixture(scope="module")
def two():
    with Gang(2) as gang:
        yield gang


@pytest.fixture(scope="module")
def uninterrupted(two):
    return {average: two.run(train, config_of(steps=60, average_decay=average)) for average in (0.0, 0.9)}


@pytest.mark.parametrize(("stop_after", "average"), [(WHOLE, 0.0), (SYNC, 0.9), (LOCAL, 0.0), (LONG, 0.9)])
def test_zero_one_as_many_ranks_go_on_as_if_nothing_had_been(
    two, tmp_path, stop_after, average, uninterrupted
):
    goes_on_alike(
        two, tmp_path, config_of(steps=60, average_decay=average), stop_after, uninterrupted[average]
    )


def goes_on_alike(gang, folder, config, stop_after, wanted):
    for rank, told in enumerate(gang.run(train, config, (), folder, stop_after)):
        assert told.losses == wanted[rank].losses[:stop_after]
    for rank, told in enumerate(gang.run(train, config, (), folder)):
        assert told.first == stop_after
        expected = wanted[rank].losses[stop_after : stop_after + NEXT]
        assert told.losses[:NEXT] == pytest.approx(expected, abs=SAME, rel=0)
        torch.testing.assert_close(told.weights[NEXT], wanted[rank].weights[stop_after + NEXT])
        assert told.rounds[-1] == wanted[rank].rounds[-1]


@pytest.mark.verify
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("kind", "stage", "size", "stride"),
    [
        ("zero_one_adam", 0, 2, 1),
        ("zero_one_adam", 1, 3, 3),
        ("one_bit_adam", 0, 4, 5),
        ("one_bit_adam", 1, 2, 5),
    ],
)
def test_zero_one_every_step_is_one_to_stop_at(tmp_path, kind, stage, size, stride):
    """Number 3 of what these optimizers promise, whole."""
    config = config_of(kind, steps=60, stage=stage, average_decay=0.9, micro_batches=12)
    with Gang(size) as gang:
        wanted = gang.run(train, config)
        for stop_after in range(1, 32, stride):
            goes_on_alike(gang, tmp_path / str(stop_after), config, stop_after, wanted)


@pytest.mark.parametrize(("saved", "loaded"), [(0, 1), (1, 0)])
@pytest.mark.parametrize("stop_after", [5, LONG])
def test_zero_one_goes_on_at_another_stage(two, tmp_path, saved, loaded, stop_after, uninterrupted):
    """Once frozen all is the same there; before, errors of compression wait for the freeze."""
    two.run(train, config_of(steps=60, stage=saved), (), tmp_path, stop_after)
    told, _ = two.run(train, config_of(steps=60, stage=loaded), (), tmp_path)
    wanted, _ = uninterrupted[0.0]
    assert told.first == stop_after
    tolerance = {"abs": SAME} if stop_after == LONG and saved == 0 else {"rel": OTHER}
    assert sum(told.losses) == pytest.approx(sum(wanted.losses[stop_after:]), **tolerance)


def test_zero_one_exports_the_mean_of_what_ranks_have(two, tmp_path):
    first, second = two.run(train, config_of(), (), tmp_path / "run", LONG)
    (exported,) = export_weights(tmp_path / "run", tmp_path / "exported")
    found = load_file(exported)
    model = Small()
    model.load_state_dict(found)
    mean = (first.weights[-1] + second.weights[-1]) / 2
    assert not torch.equal(first.weights[-1], second.weights[-1])
    torch.testing.assert_close(flat(model), mean, atol=EXACT, rtol=0)


def mean_losses(told):
    return [sum(every) / len(told) for every in zip(*(each.losses for each in told), strict=True)]


@pytest.mark.parametrize(("size", "stop_after"), [(3, LONG), (4, SYNC)])
def test_zero_one_another_number_of_ranks_loses_nothing_of_what_was_on_its_way(
    two, tmp_path, size, stop_after, uninterrupted
):
    config = config_of(steps=60)
    two.run(train, config, (), tmp_path, stop_after)
    before = two.run(what_is_kept, config, tmp_path)
    with Gang(size) as gang:
        after = gang.run(what_is_kept, config, tmp_path)
        told = gang.run(train, config, (), tmp_path)
    for name in ("weights", "moment", "unsent"):
        old, new = (sum(each[name] for each in every) / len(every) for every in (before, after))
        assert float(old.abs().max()) > 0
        torch.testing.assert_close(new, old, atol=EXACT, rtol=EXACT)
    assert told[0].first == stop_after
    expected = mean_losses(uninterrupted[0.0])[stop_after : stop_after + NEXT]
    assert sum(mean_losses(told)[:NEXT]) == pytest.approx(sum(expected), rel=OTHER)


def what_is_kept(ranks, config, folder):
    """The weights and the first moment that ranks have in common, and what they did not send yet."""
    model = Small()
    trainer = Trainer(
        model,
        lambda batch, step: (loss_of(model, batch), {}),
        batch_of,
        config,
        CheckpointStore(folder),
        ranks,
    )
    trainer._resume()
    weights = trainer.result() or {"": torch.zeros(())}
    engine = trainer.engine
    found = {"weights": [], "moment": [], "unsent": []}
    for (bucket, one), mean in zip(engine._states(), engine._means, strict=True):
        whole = torch.zeros(bucket.size)
        own = ranks.size * mean.server_error.numel() // ranks.size
        whole[ranks.rank * own : (ranks.rank + 1) * own] = mean.server_error * ranks.size
        span = engine.spans[bucket.decays]
        moment = one.vectors.exp_avg
        if engine.pending_steps:
            moment = one.pending / span.rates
        end = bucket.entries[-1].stop
        found["unsent"].append((mean.worker_error + whole)[:end])
        found["moment"].append(moment[:end])
    common = torch.cat([value.reshape(-1) for value in weights.values()])
    trainer.close()
    told = {name: torch.cat(values) for name, values in found.items() if values}
    return told | {"weights": common * ranks.size if ranks.first else 0.0}


def test_zero_one_takes_a_checkpoint_of_adamw_over_with_a_note(two, tmp_path):
    config, plain = config_of(steps=60), config_of("adamw", steps=60)
    two.run(train, plain, (), tmp_path, 20)
    (told, lines), _ = two.run(train_and_listen, config, tmp_path)
    assert told.first == 20
    assert any("is of adamw" in line and "20 steps" in line for line in lines)
    wanted, _ = two.run(train, plain)
    assert sum(told.losses) == pytest.approx(sum(wanted.losses[20:]), rel=OTHER)


def train_and_listen(ranks, config, folder):
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logging.getLogger("foldase_models").addHandler(handler)
    try:
        return train(ranks, config, (), folder), lines
    finally:
        logging.getLogger("foldase_models").removeHandler(handler)


@pytest.mark.parametrize("other", ["adamw", "one_bit_adam"])
def test_zero_one_checkpoints_are_not_for_other_optimizers(two, tmp_path, other):
    two.run(train, config_of(), (), tmp_path, LONG)
    with pytest.raises(ModelError) as caught:
        two.run(train, config_of(other), (), tmp_path)
    assert (caught.value.code, caught.value.location) == ("bad_checkpoint", "optimizer.kind")
    assert "zero_one_adam" in caught.value.hint
    assert read_commit(tmp_path, LONG).step == LONG


def test_zero_one_a_rank_that_dies_alone_leaves_the_last_commit_to_go_on_from(tmp_path, uninterrupted):
    config = config_of(steps=60)
    with Gang(2) as gang:
        gang.run(train, config, (), tmp_path, LOCAL)
        outcomes = gang.outcomes(train_and_die, config, tmp_path)
        assert outcomes[1].exit_code == 9
        told = gang.run(train, config, (), tmp_path)
    assert told[0].first == LOCAL
    expected = uninterrupted[0.0][0].losses[LOCAL:]
    assert told[0].losses[:NEXT] == pytest.approx(expected[:NEXT], abs=SAME, rel=0)


def train_and_die(ranks, config, folder):
    def die(rank, step):
        if rank == 1 and step == LONG:
            os._exit(9)
        return 1.0

    hasty = replace(config, limits=replace(config.limits, collective_seconds=5.0))
    return train(ranks, hasty, (), folder, None, die)
