"""Gangs whose ranks are processes of this machine: what ends them, what they survive, what they tell."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import rank_functions

from foldase.runtime.context import CancelFlag, RunningStep
from foldase.runtime.failures import GangLost, explain
from foldase.runtime.gang_life import GangLimits, GangUsage
from foldase.runtime.gangs import BARREN_LIVES, Gang
from foldase.runtime.local_ranks import LocalHosts
from foldase.runtime.processes import status_of
from foldase.runtime.workplace import Workplace
from foldase.scheduler.executor import Task
from foldase_models.errors import ModelError
from foldase_workflows.contracts import BadInput, Cancelled, UserError
from foldase_workflows.contracts.failures import Cause
from foldase_workflows.contracts.operator import Resources

PATIENCE = 60.0
MIB = 1 << 20


class Rig:
    """A step of several ranks, and all that it tells."""

    def __init__(self, home: Path, ranks: int, room: Callable[[], int] | None = None) -> None:
        resources = Resources(cpu=0.5, memory_bytes=64 * MIB, ranks=ranks)
        task = Task("r", "s", 1, 1, "test", "cpu", "identity", {}, resources)
        self.flag = CancelFlag()
        self.workplace = Workplace(home)
        self.step = RunningStep(task, self.workplace, self.flag)
        self.usage = GangUsage()
        self.hosts = LocalHosts(room)
        self.limits = GangLimits(
            start_seconds=60, restart_seconds=1, silence_seconds=3, heartbeat_seconds=0.3
        )
        self.step.lead = lambda function, arguments: Gang(self.step, self.hosts, self.limits, self.usage).run(
            function, arguments
        )

    def run(self, function: str, **arguments: Any) -> Any:
        try:
            return self.step.gang(f"rank_functions:{function}", arguments)
        finally:
            self.step.close()

    @property
    def lines(self) -> list[str]:
        return [entry["message"] for entry in self._entries("log")]

    @property
    def points(self) -> list[dict[str, Any]]:
        return self._entries("metrics")

    @property
    def notes(self) -> list[str]:
        return rank_functions.notes(self.step.checkpoints)

    def _entries(self, kind: Any) -> list[dict[str, Any]]:
        path = self.workplace.logs.path("r", "s", 1, kind)
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Rig]]:
    rigs: list[Rig] = []

    def make_rig(ranks: int, room: Callable[[], int] | None = None) -> Rig:
        rigs.append(Rig(tmp_path, ranks, room))
        return rigs[-1]

    yield make_rig
    left = [pid for rig in rigs for pid in rank_functions.pids_noted(rig.step.checkpoints) if _runs(pid)]
    assert left == [], "no rank outlives its gang"


def _runs(pid: int) -> bool:
    status = status_of(pid)
    return status is not None and not status.gone


def processes_called(*texts: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if any(text in path.read_text(errors="replace") for text in texts):
                found.append(int(path.parent.name))
    return found


def wait(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def in_thread(work: Callable[[], Any]) -> tuple[threading.Thread, list[BaseException]]:
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, raised


def test_all_ranks_work_together_and_rank_0_speaks_for_them(make: Callable[..., Rig]) -> None:
    rig = make(3)
    found = rig.run("add", number=2.0)
    assert found == {
        "total": 12.0,
        "size": 3,
        "environment": {"RANK": "0", "WORLD_SIZE": "3", "LOCAL_RANK": "0"},
        "has": [0.5, 64 * MIB],
    }
    assert sorted(rig.lines) == sorted(
        [
            *("has 12", "rank 1: has 12", "rank 2: has 12"),
            *("printed by 0", "rank 1: printed by 1", "rank 2: printed by 2"),
        ]
    )
    assert [(point["at"], point["values"]) for point in rig.points] == [(0, {"total": 12.0})]
    progress = rig.step.take_progress()
    assert progress is not None
    assert (progress.fraction, progress.message) == (1.0, "told by 0")
    assert rig.usage.peak_bytes > 10 * MIB
    assert rig.usage.cpu_seconds > 0
    assert not list((rig.step.scratch / "ranks").rglob("own")), "what a rank leaves in its scratch goes"


def test_a_killed_rank_costs_only_what_came_after_the_checkpoint(make: Callable[..., Rig]) -> None:
    rig = make(4)
    found = rig.run("count", to=8, die={"rank": 2, "at": 4})
    assert (found["counted"], found["began_at"], found["sizes"]) == (8, 4, [4] * 8)
    assert len(rig.notes) == 8, "four ranks in two lives"
    assert [line for line in rig.lines if "starts again" in line] == [
        "rank 2 is lost: killed by signal 9; the gang starts again from its last checkpoint"
    ]


def test_it_goes_on_with_the_ranks_that_can_be_had(make: Callable[..., Rig]) -> None:
    rooms = iter((2, 1, 1))
    rig = make(2, lambda: next(rooms))
    found = rig.run("count", to=6, die={"rank": 1, "at": 3})
    assert found["sizes"] == [2, 2, 2, 1, 1, 1]
    assert "there is room for 1 of 2 ranks, which go on without the others" in rig.lines


def test_a_gang_for_which_there_never_was_room_does_not_start(make: Callable[..., Rig]) -> None:
    with pytest.raises(Exception, match="no room for 4 ranks") as caught:
        make(4, lambda: 3).run("add")
    assert explain(caught.value)[0] is Cause.INFRASTRUCTURE


@pytest.mark.verify
def test_a_gang_that_always_dies_is_given_up(make: Callable[..., Rig]) -> None:
    rig = make(2)
    with pytest.raises(GangLost, match="killed by signal 9") as caught:
        rig.run("count", to=9, die={"rank": 1, "at": 2, "always": 1})
    cause, described = explain(caught.value)
    assert cause is Cause.WORKER_LOST
    assert described["code"] == "worker_lost"
    # The first life got as far as 2; the others no further.
    assert len(rig.notes) == 2 * (1 + BARREN_LIVES)


def test_what_a_rank_raises_is_the_error_of_the_step(make: Callable[..., Rig]) -> None:
    with pytest.raises(BadInput, match="row 7 is empty") as bad:
        make(2).run("fail", rank=1, how="bad input")
    assert (bad.value.code, bad.value.location.record) == ("empty_row", "seq7")


@pytest.mark.verify
def test_so_is_what_the_models_raise(make: Callable[..., Rig]) -> None:
    with pytest.raises(ModelError) as wrong:
        make(2).run("fail", rank=0, how="model")
    assert (wrong.value.code, wrong.value.location, wrong.value.hint) == ("odd_width", "width", "use 8")


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.verify), 1])
def test_those_who_fail_because_another_is_gone_do_not_hide_why(make: Callable[..., Rig], rank: int) -> None:
    rig = make(3)
    with pytest.raises(ValueError, match="the reason"):
        rig.run("fail", rank=rank, how="the reason")
    assert any("ValueError: the reason" in line for line in rig.lines), "with its traceback"


@pytest.mark.verify
def test_an_error_that_cannot_be_sent_is_told_by_another(make: Callable[..., Rig]) -> None:
    rig = make(2)
    with pytest.raises(UserError, match="_Local: first line"):
        rig.run("fail", rank=1, how="unknown")
    assert any("second line" in line for line in rig.lines)
    with pytest.raises(SystemExit):
        make(2).run("fail", rank=1, how="exit")


@pytest.mark.verify
def test_a_frozen_rank_is_noticed(make: Callable[..., Rig]) -> None:
    rig = make(2)
    found = rig.run("count", to=5, freeze={"rank": 1, "at": 2})
    # Its other threads stop a moment later, and one more number may be counted.
    assert found["counted"] == 5
    assert found["began_at"] in (2, 3)
    assert any("no sign of life for 3 s" in line for line in rig.lines)


@pytest.mark.verify
def test_only_symptoms_are_taken_for_a_loss(make: Callable[..., Rig]) -> None:
    rig = make(2)
    with pytest.raises(GangLost, match=r"rank 0: .*waited for 'weights'"):
        rig.run("wait_in_vain")
    assert len([line for line in rig.lines if "starts again" in line]) == BARREN_LIVES - 1


def test_asked_to_stop_all_ranks_do_after_their_checkpoint(make: Callable[..., Rig]) -> None:
    rig = make(2)
    thread, raised = in_thread(lambda: rig.run("count", to=10_000))
    wait(lambda: rig.points)
    rig.flag.set(Cause.CANCELLED)
    thread.join(PATIENCE)
    assert [type(error) for error in raised] == [Cancelled]
    assert not any("starts again" in line for line in rig.lines)


@pytest.mark.verify
def test_ranks_that_do_not_stop_are_ended_when_the_step_is_given_up(make: Callable[..., Rig]) -> None:
    rig = make(2)
    thread, raised = in_thread(lambda: rig.run("wait", heed=False, children=True))
    wait(lambda: len(rig.notes) == 2)
    rig.flag.set(Cause.CANCELLED)
    thread.join(0.5)
    assert thread.is_alive()
    rig.flag.abandoned = True
    thread.join(PATIENCE)
    assert [type(error) for error in raised] == [Cancelled]
    assert not [pid for pid in processes_called("sleep\x00603", "sleep\x00604") if _runs(pid)]


def test_a_rank_that_never_can_work_is_not_waited_for(
    make: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("foldase.runtime.local_ranks._MODULE", "foldase.runtime.no_such_module")
    with pytest.raises(GangLost, match="ended with status 1"):
        make(2).run("add")


@pytest.mark.verify
def test_tensors_are_reduced_over_gloo(make: Callable[..., Rig]) -> None:
    assert make(2).run("reduce_tensors", width=3) == {"values": [3.0, 3.0, 3.0]}
