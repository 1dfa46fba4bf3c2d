"""Which process this is: from the environment, or alone."""

from __future__ import annotations

import socket
import time

import pytest
import torch
from training_ranks import SAME_WORKER, run_ranks

from foldase_models.errors import ModelError
from foldase_models.training import Ranks

pytestmark = SAME_WORKER

ENVIRONMENT = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
DEADLINE = 1.0
CPU = torch.device("cpu")


@pytest.mark.parametrize("environment", [{}, {"WORLD_SIZE": "1"}])
def test_a_process_alone(environment):
    with Ranks.from_environment(environment=environment, device=CPU) as ranks:
        assert (ranks.rank, ranks.size, ranks.first, ranks.store) == (0, 1, True, None)
        assert list(ranks.share(3)) == [0, 1, 2]


def test_parts_are_shared_out_in_turn():
    assert [list(Ranks(rank, 3).share(7)) for rank in range(3)] == [[0, 3, 6], [1, 4], [2, 5]]
    assert list(Ranks(2, 3).share(2)) == []


@pytest.mark.parametrize("name", ["RANK", "MASTER_ADDR", "MASTER_PORT"])
def test_a_variable_that_is_missing_is_named(name):
    environment = {key: value for key, value in ENVIRONMENT.items() if key != name}
    with pytest.raises(ModelError, match=f"names no {name}") as raised:
        Ranks.from_environment(environment=environment, device=CPU)
    assert raised.value.code == "bad_ranks"


@pytest.mark.parametrize(
    ("name", "value"),
    [("RANK", "first"), ("WORLD_SIZE", "many"), ("RANK", "2"), ("RANK", "-1"), ("WORLD_SIZE", "0")],
)
def test_numbers_that_are_none_are_named(name, value):
    with pytest.raises(ModelError, match=f"{name}.*{value}") as raised:
        Ranks.from_environment(environment=ENVIRONMENT | {name: value}, device=CPU)
    assert raised.value.code == "bad_ranks"


def test_ranks_that_never_come_are_waited_for_until_the_deadline():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    began = time.monotonic()
    with pytest.raises(ModelError, match="rank 1 of 2 could not join the others") as raised:
        Ranks.from_environment(
            environment=ENVIRONMENT | {"MASTER_PORT": port}, device=CPU, deadline_seconds=DEADLINE
        )
    assert raised.value.code == "bad_ranks"
    assert f"127.0.0.1:{port}" in raised.value.hint
    assert time.monotonic() - began < 20 * DEADLINE


def describe(ranks):
    ranks.store.set(f"note/{ranks.rank}", "here")
    return ranks.rank, ranks.size, ranks.first, ranks.store.get(f"note/{1 - ranks.rank}").decode()


def test_ranks_know_themselves_and_share_notes():
    assert run_ranks(describe, 2) == [(0, 2, True, "here"), (1, 2, False, "here")]
