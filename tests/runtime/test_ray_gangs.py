"""Gangs of Ray actors: a rank, the leader or the whole run ends, and nothing is left over."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import rank_functions
from live_platform import LivePlatform, processes_called

pytestmark = pytest.mark.ray

CANCEL_SECONDS = 10.0
SLOW_MACHINE = 3.0
TWO = ", resources: {ranks: 2, cpu: 0.5}"


def gang(function: str, arguments: dict[str, Any], more: str = TWO) -> str:
    given = json.dumps({"function": function, "arguments": arguments})
    return f"version: 1\nname: one\nsteps:\n  s: {{uses: test.gang@1, with: {given}{more}}}\n"


def checkpoints_of(platform: LivePlatform, run: str, attempt: int = 1) -> Path:
    """Where a gang has its checkpoints, by the log of its leader."""
    platform.running(run, "s", attempt=attempt)
    found = None
    deadline = time.monotonic() + 60
    while found is None:
        lines = platform.log(run, "s", attempt=attempt)
        found = next(
            (re.search(r"checkpoints in (.+)", line) for line in lines if "leads from" in line), None
        )
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return Path(found.group(1))


def ranks_at_work(platform: LivePlatform, run: str, count: int, attempt: int = 1) -> list[int]:
    """Wait until so many ranks have begun; returns their processes in the order of the ranks."""
    checkpoints = checkpoints_of(platform, run, attempt)
    platform.wait(lambda: len(rank_functions.notes(checkpoints)) >= count, 90, what="all ranks to begin")
    return rank_functions.pids_noted(checkpoints)


@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.verify)])
def test_a_killed_rank_costs_only_what_came_after_the_checkpoint(
    live_platform: LivePlatform, size: int
) -> None:
    resources = f", resources: {{ranks: {size}, cpu: 0.5, memory: 64MiB}}"
    arguments = {"to": 20, "seconds": 0.1, "label": f"one of {size} is killed"}
    run = live_platform.submit(gang("count", arguments, resources))
    checkpoints = checkpoints_of(live_platform, run)
    state = checkpoints / "state.json"
    live_platform.wait(lambda: state.exists() and json.loads(state.read_text())["number"] >= 3, 90, what="3")
    by_rank = {int(line.split()[1]): int(line.split()[0]) for line in rank_functions.notes(checkpoints)}
    assert sorted(by_rank) == list(range(size))
    os.kill(by_rank[size - 1], signal.SIGKILL)
    finished = live_platform.finish(run, seconds=120)
    assert finished.summary.state == "succeeded"
    detail = live_platform.step(run, "s")
    assert [one.state for one in detail.attempts] == ["succeeded"]
    assert detail.outputs is not None
    result = detail.outputs["result"]
    assert result["counted"] == 20
    assert 3 <= result["began_at"] < 20
    assert result["sizes"] == [size] * 20
    lines = live_platform.log(run, "s")
    assert any(line.startswith(f"rank {size - 1} is lost: ") for line in lines), lines
    assert set(by_rank.values()) & set(processes_called("")) == set()
    assert detail.attempts[0].peak_memory_bytes


@pytest.mark.verify
def test_when_the_leader_dies_no_rank_is_left_and_the_next_attempt_goes_on(
    live_platform: LivePlatform,
) -> None:
    run = live_platform.submit(gang("count", {"to": 25, "seconds": 0.15, "label": "leader"}))
    leader = live_platform.running(run, "s").pid
    assert leader is not None
    ranks = ranks_at_work(live_platform, run, 2)
    state = checkpoints_of(live_platform, run) / "state.json"
    live_platform.wait(state.exists, 60, what="a checkpoint")
    os.kill(leader, signal.SIGKILL)
    live_platform.running(run, "s", attempt=2)
    assert set(ranks) & set(processes_called("")) == set(), "before another attempt begins"
    assert live_platform.finish(run, seconds=120).summary.state == "succeeded"
    detail = live_platform.step(run, "s")
    assert [(one.state, one.cause) for one in detail.attempts] == [
        ("failed", "worker_lost"),
        ("succeeded", None),
    ]
    assert detail.outputs is not None
    assert detail.outputs["result"]["began_at"] >= 1


@pytest.mark.verify
def test_cancelling_ends_ranks_that_do_not_heed_it_with_all_they_started(live_platform: LivePlatform) -> None:
    run = live_platform.submit(gang("wait", {"heed": False, "children": True}))
    ranks = ranks_at_work(live_platform, run, 2)
    children = {*processes_called("sleep\x00603"), *processes_called("sleep\x00604")}
    assert len(children) == 4
    live_platform.store.requests.request_cancel(run)
    began = time.monotonic()
    assert live_platform.finish(run).summary.state == "cancelled"
    assert time.monotonic() - began < CANCEL_SECONDS * SLOW_MACHINE
    assert {*ranks, *children} & set(processes_called("")) == set()


@pytest.mark.verify
def test_ranks_that_heed_their_flag_stop_and_their_leader_stays(live_platform: LivePlatform) -> None:
    run = live_platform.submit(gang("count", {"to": 10_000, "label": "heeds"}))
    leader = live_platform.running(run, "s").pid
    ranks = ranks_at_work(live_platform, run, 2)
    live_platform.store.requests.request_cancel(run)
    assert live_platform.finish(run).summary.state == "cancelled"
    running = set(processes_called(""))
    assert (leader in running, set(ranks) & running) == (True, set())


@pytest.mark.verify
def test_a_gang_out_of_time_is_ended(live_platform: LivePlatform) -> None:
    run = live_platform.submit(gang("wait", {"heed": False}, TWO + ", timeout: 8s"))
    assert live_platform.finish(run).summary.state == "failed"
    detail = live_platform.step(run, "s")
    assert [one.cause for one in detail.attempts] == ["timeout"]
    assert not processes_called("RankActor")


@pytest.mark.verify
def test_what_a_rank_raises_is_the_error_of_the_step(live_platform: LivePlatform) -> None:
    run = live_platform.submit(gang("fail", {"rank": 1, "how": "bad input"}))
    assert live_platform.finish(run).summary.state == "failed"
    detail = live_platform.step(run, "s")
    assert [one.cause for one in detail.attempts] == ["bad_input"]
    assert detail.summary.error is not None
    assert detail.summary.error["code"] == "empty_row"
    assert detail.summary.error["location"] == {"record": "seq7"}


@pytest.mark.verify
def test_a_frozen_rank_is_noticed_and_its_gang_goes_on(live_platform: LivePlatform) -> None:
    arguments = {"to": 12, "label": "frozen", "freeze": {"rank": 1, "at": 3}}
    run = live_platform.submit(gang("count", arguments))
    assert live_platform.finish(run, seconds=180).summary.state == "succeeded"
    detail = live_platform.step(run, "s")
    assert len(detail.attempts) == 1
    assert detail.outputs is not None
    # Its other threads stop a moment later, and one more number may be counted.
    assert detail.outputs["result"]["began_at"] in (3, 4)
    assert any("no sign of life" in line for line in live_platform.log(run, "s"))


@pytest.mark.verify
def test_tensors_are_reduced_over_gloo(live_platform: LivePlatform) -> None:
    run = live_platform.submit(gang("reduce_tensors", {"width": 3}))
    assert live_platform.finish(run, seconds=180).summary.state == "succeeded"
    detail = live_platform.step(run, "s")
    assert detail.outputs is not None
    assert detail.outputs["result"] == {"values": [3.0, 3.0, 3.0]}


@pytest.mark.verify
def test_a_gang_for_more_than_the_cluster_has_is_refused(live_platform: LivePlatform) -> None:
    run = live_platform.submit(gang("add", {"number": 8.5}, ", resources: {ranks: 64, cpu: 1}"))
    assert live_platform.finish(run).summary.state == "failed"
    error = live_platform.step(run, "s").summary.error
    assert error is not None
    assert (error["code"], "64 ranks" in error["message"]) == ("unsatisfiable_resources", True)


@pytest.mark.verify
def test_two_gangs_that_do_not_fit_together_run_one_after_the_other(live_platform: LivePlatform) -> None:
    more = ", resources: {ranks: 2, cpu: 1}"
    runs = [live_platform.submit(gang("count", {"to": 8, "label": f"side {one}"}, more)) for one in "ab"]
    for run in runs:
        assert live_platform.finish(run, seconds=120).summary.state == "succeeded"
    assert not processes_called("RankActor"), "the ranks go with their work"
