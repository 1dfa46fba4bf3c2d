"""The harness that runs functions on several ranks: results, errors, deaths, and ranks that hang."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

import pytest
import torch
import torch.distributed as dist
from training_ranks import SAME_WORKER, Gang, rank_outcomes

from foldase_models.errors import ModelError

pytestmark = SAME_WORKER


@dataclass
class Pair:
    """Travels both ways, although this file belongs to no package."""

    left: int
    right: int


def summed(ranks, pair):
    total = torch.tensor([ranks.rank + pair.left])
    dist.all_reduce(total)
    return Pair(int(total), pair.right), torch.get_num_threads()


def refuse(ranks):
    if ranks.rank == 1:
        raise ModelError("no", code="not_here", location="rank 1", hint="go away")
    return "fine"


def die(ranks):
    if ranks.rank == 1:
        os._exit(7)
    return "fine"


def hang(ranks):
    if ranks.rank == 0:
        time.sleep(60)


@pytest.fixture(scope="module")
def gang():
    with Gang(2) as gang:
        yield gang


def test_every_rank_gives_its_result(gang):
    assert gang.run(summed, Pair(10, 5)) == [(Pair(21, 5), 1)] * 2


def test_an_error_comes_back_with_all_it_says(gang):
    with pytest.raises(ModelError, match="no") as raised:
        gang.run(refuse)
    assert (raised.value.code, raised.value.location, raised.value.hint) == ("not_here", "rank 1", "go away")
    assert "on rank 1" in raised.value.__notes__[0]


def test_a_gang_goes_on_after_a_failure(gang):
    with pytest.raises(ModelError):
        gang.run(refuse)
    assert gang.run(summed, Pair(0, 0)) == [(Pair(1, 0), 1)] * 2


def test_a_rank_that_dies_is_named(gang):
    with pytest.raises(pytest.fail.Exception, match="rank 1 ended with exit code 7"):
        gang.run(die)
    assert [outcome.exit_code for outcome in rank_outcomes(die, 2)] == [None, 7]


def test_a_rank_that_hangs_is_killed_and_named(gang):
    with pytest.raises(pytest.fail.Exception, match="rank 0 took too long"):
        gang.run(hang, timeout=1)
