"""The mean of which one bit a number travels: conservation, agreement, volume, and errors that stay small."""

from __future__ import annotations

import itertools

import pytest
import torch
from compressed_cases import OWN_WORKER, config_of
from training_ranks import Gang

from foldase_models.training.clock import Clock
from foldase_models.training.collectives import Collectives
from foldase_models.training.config import CompressionConfig
from foldase_models.training.ledger import Ledger
from foldase_models.training.optim.compressed import CompressedMean
from foldase_models.training.surroundings import Surroundings

pytestmark = OWN_WORKER

CONSERVED = 1e-5
"""Of what was sent and kept, relative to what was given."""
LEAST_SAVING = 30.0
"""Times, scales included."""


def mean_of(ranks, numel, block=4096):
    config = config_of(compression=CompressionConfig(freeze_step=8, block=block))
    collectives = Collectives(ranks, Clock())
    mean = CompressedMean("bucket 0", numel, Surroundings(config, collectives, Ledger(ranks.device), Clock()))
    mean.send_where(torch.ones(numel))
    return mean, collectives


def values_of(rank, numel, turn=0):
    """Heavy tails: few numbers are large."""
    return torch.randn(numel, generator=torch.Generator().manual_seed(100 * turn + rank)) ** 5


def rounds(ranks, numel, count, block):
    mean, collectives = mean_of(ranks, numel, block)
    given, sent = torch.zeros(numel, dtype=torch.float64), torch.zeros(numel, dtype=torch.float64)
    out = torch.zeros(numel)
    for turn in range(count):
        mean.begin(values_of(ranks.rank, numel, turn))
        mean.turn_round()
        mean.end(out)
        given += values_of(ranks.rank, numel, turn).double()
        sent += out
    return given, sent, mean.worker_error, mean.server_error, out, collectives.traffic.bytes


@pytest.mark.parametrize("size", [2, 3, 4])
def test_compressed_means_send_and_keep_what_they_are_given(size):
    numel = size * 16 * 130
    with Gang(size) as gang:
        told = gang.run(rounds, numel, 20, 256)
    given = sum(one[0] for one in told) / size
    sent, last = told[0][1], told[0][4]
    kept = sum(one[2].double() for one in told) / size + torch.cat([one[3].double() for one in told])
    assert all(torch.equal(one[4], last) for one in told)
    assert all(torch.equal(one[1], sent) for one in told)
    largest = float(given.abs().max())
    torch.testing.assert_close(sent + kept, given, atol=CONSERVED * largest, rtol=0)
    assert float(kept.abs().max()) > 0.01 * largest


@pytest.mark.parametrize("size", [2, 3, 4])
def test_compressed_means_are_a_thirtieth_of_float32_all_reduce(size):
    numel = size * 16 * 4096
    with Gang(size) as gang:
        sent = {told[5] for told in gang.run(rounds, numel, 1, 4096)}
    assert len(sent) == 1
    assert 2 * 4 * numel * (size - 1) / size / sent.pop() > LEAST_SAVING


def errors_of(ranks, numel, count):
    """Of one vector, of which nothing new comes after the first round."""
    mean, _ = mean_of(ranks, numel)
    found, out = [], torch.zeros(numel)
    for turn in range(count):
        mean.begin(values_of(ranks.rank, numel) * (turn == 0))
        mean.turn_round()
        mean.end(out)
        found.append(float(mean.worker_error.norm()))
    return found


def test_compressed_errors_of_heavy_tails_shrink_where_those_of_a_root_mean_square_grow():
    numel = 2 * 4096
    with Gang(2) as gang:
        ours = gang.run(errors_of, numel, 60)[0]
    given = values_of(0, numel).view(2, -1)
    scale = given.norm(dim=1, keepdim=True) / given.shape[1] ** 0.5
    theirs = given - torch.where(given >= 0, scale, -scale)
    assert float(theirs.norm()) > 1.2 * float(given.norm())
    errors = [float(given.norm()), *ours]
    assert all(after < before for before, after in itertools.pairwise(errors))
    assert ours[-1] < 0.7 * float(given.norm())


def masked(ranks, numel):
    mean, _ = mean_of(ranks, numel, 256)
    known = torch.arange(numel).remainder(3).float()
    mean.send_where(known)
    out = torch.full((numel,), 7.0)
    mean.begin(values_of(ranks.rank, numel))
    mean.turn_round()
    mean.end(out)
    return known == 0, out, mean.worker_error


def test_compressed_means_of_what_never_moved_are_exactly_zero():
    with Gang(2) as gang:
        for nothing, out, error in gang.run(masked, 2 * 16 * 50):
            assert not out[nothing].any()
            assert not error[nothing].any()
            assert out[~nothing].all()
