"""What a worker process does, without Ray: order, repetition, recall, and signs of life."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import operators_for_tests
import pytest

from foldase.runtime.capture import ThreadCapture
from foldase.runtime.inbox import Inbox
from foldase.runtime.workbench import Beat, Delivery, Note, Workbench, note_path, task_id
from foldase.runtime.workplace import Workplace
from foldase.scheduler.executor import Failed, Progressed, Report, Started, Succeeded, Task, TaskId
from foldase_workflows.contracts.failures import Cause
from foldase_workflows.contracts.operator import Resources
from foldase_workflows.contracts.registry import Registry

PATIENCE = 20.0


class FakeLine:
    """A scheduler that can be absent, slow, or forgetful."""

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []
        self.beats: list[Beat] = []
        self.refuse = 0
        self.open = threading.Event()
        self.open.set()

    def deliver(self, delivery: Delivery) -> None:
        self.open.wait(PATIENCE)
        self.deliveries.append(delivery)
        if self.refuse:
            self.refuse -= 1
            raise ConnectionError("nobody there")

    def beat(self, beat: Beat) -> None:
        self.beats.append(beat)

    @property
    def reports(self) -> list[Report]:
        return [report for delivery in self.deliveries for report in delivery.reports]


@pytest.fixture
def line() -> FakeLine:
    return FakeLine()


@pytest.fixture
def bench(tmp_path: Path, line: FakeLine) -> Iterator[Workbench]:
    capture = ThreadCapture()
    bench = Workbench(
        "w",
        "node",
        Workplace(tmp_path),
        Registry(operators_for_tests.OPERATORS),
        line,
        capture=capture,
        tidy=lambda: None,
        epoch="e1",
        heartbeat_seconds=0.5,
    )
    yield bench
    bench.close()
    capture.close()


def task(number: int, operator: str = "test.add@1", **inputs: Any) -> Task:
    return Task("r", f"s{number}", 1, number, operator, "cpu", f"i{number}", inputs, Resources())


def wait(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def ends(line: FakeLine) -> list[str]:
    return [report.step for report in line.reports if isinstance(report, Succeeded | Failed)]


def test_tasks_run_in_order_and_each_reports_its_start_and_end(bench: Workbench, line: FakeLine) -> None:
    bench.perform("e1", 1, [task(1), task(2)])
    wait(lambda: len(ends(line)) == 2)
    assert [(type(report), report.step) for report in line.reports] == [
        (Started, "s1"),
        (Succeeded, "s1"),
        (Started, "s2"),
        (Succeeded, "s2"),
    ]
    paces = [delivery.pace.get("test.add@1", (0, 0.0)) for delivery in line.deliveries]
    assert sum(steps for steps, _ in paces) == 2
    assert bench.adopt("e2") == []


def test_a_report_is_repeated_until_it_is_acknowledged(bench: Workbench, line: FakeLine) -> None:
    line.refuse = 2
    bench.perform("e1", 1, [task(1)])
    wait(lambda: len(line.deliveries) >= 3)
    assert ends(line)[-1] == "s1"
    told = [delivery.reports for delivery in line.deliveries]
    assert told[0] == told[1][: len(told[0])]
    time.sleep(0.3)
    assert ends(line).count("s1") <= 3


def test_an_unacknowledged_result_is_still_held(bench: Workbench, line: FakeLine) -> None:
    line.open.clear()
    bench.perform("e1", 1, [task(1)])
    (held,) = bench.adopt("e2")
    assert held.over
    assert task_id(held.task) == TaskId("r", "s1", 1)
    line.open.set()
    wait(lambda: ends(line) == ["s1"])
    wait(lambda: bench.adopt("e2") == [])


def test_checkpoints_stay_until_the_result_is_committed(
    bench: Workbench, line: FakeLine, tmp_path: Path
) -> None:
    line.open.clear()
    bench.perform("e1", 1, [task(1, "test.count@1", to=1, seconds=0)])
    assert len(list((tmp_path / "checkpoints").glob("*/state.json"))) == 1
    line.open.set()
    wait(lambda: list((tmp_path / "checkpoints").iterdir()) == [])


def test_what_has_not_begun_can_be_taken_back(bench: Workbench, line: FakeLine) -> None:
    thread = threading.Thread(
        target=bench.perform, args=("e1", 1, [task(1, "test.work@1", seconds=0.5), task(2), task(3)])
    )
    thread.start()
    wait(lambda: line.reports)
    taken = bench.recall([task_id(task(1)), task_id(task(2)), task_id(task(9))], 2)
    assert [one.step for one in taken] == ["s2", "s9"]
    thread.join()
    bench.perform("e1", 2, [task(9)])
    wait(lambda: len(ends(line)) == 2)
    time.sleep(0.1)
    assert ends(line) == ["s1", "s3"], "what was taken back before it arrived does not run"
    bench.perform("e1", 3, [task(9)])
    wait(lambda: ends(line)[-1] == "s9")


def test_a_task_whose_first_sending_was_lost_runs_when_it_is_sent_again(
    bench: Workbench, line: FakeLine
) -> None:
    assert bench.recall([task_id(task(1))], 1) == [task_id(task(1))]
    bench.perform("e1", 2, [task(1)])
    wait(lambda: ends(line) == ["s1"])


def test_a_new_scheduler_gets_what_runs_and_ends_what_waits(bench: Workbench, line: FakeLine) -> None:
    thread = threading.Thread(
        target=bench.perform, args=("e1", 1, [task(1, "test.work@1", seconds=0.5), task(2)])
    )
    thread.start()
    wait(lambda: line.reports)
    (held,) = bench.adopt("e2")
    assert held.task.step == "s1"
    assert held.running_seconds is not None
    assert not held.over
    thread.join()
    bench.perform("e1", 1, [task(3)])
    bench.perform("e2", 1, [task(4)])
    wait(lambda: len(ends(line)) == 2)
    assert ends(line) == ["s1", "s4"]


def test_cancelling_reaches_running_and_waiting_tasks(bench: Workbench, line: FakeLine) -> None:
    both = [task(1, "test.work@1", seconds=60), task(2, "test.work@1", seconds=60)]
    thread = threading.Thread(target=bench.perform, args=("e1", 1, both))
    thread.start()
    wait(lambda: line.reports)
    bench.cancel(map(task_id, both), Cause.CANCELLED)
    thread.join(PATIENCE)
    assert not thread.is_alive()
    wait(lambda: len(ends(line)) == 2)
    assert {report.cause for report in line.reports if isinstance(report, Failed)} == {Cause.CANCELLED}


def test_signs_of_life_carry_progress(bench: Workbench, line: FakeLine) -> None:
    thread = threading.Thread(target=bench.perform, args=("e1", 1, [task(1, "test.work@1", seconds=1.6)]))
    thread.start()
    wait(lambda: any(beat.current == TaskId("r", "s1", 1) for beat in line.beats))
    thread.join()
    wait(lambda: line.beats[-1].current is None)
    told = [beat.progress for beat in line.beats if beat.progress is not None]
    assert 1 <= len(told) <= 5, "at most two a second"
    assert all(isinstance(progress, Progressed) for progress in told)
    assert line.beats[-1].memory_bytes > 0


def test_the_note_names_the_present_task(tmp_path: Path) -> None:
    path = note_path(tmp_path, "w")
    assert Note.read(path) is None
    note = Note(path)
    assert Note.read(path) is None
    for task in (TaskId("r1", "fold[a\nb]", 7), TaskId("r1", "x" * 1000, 7), TaskId("r1", "x" * 1000, 8)):
        note.write(task)
        assert Note.read(path) == Note.name_of(task)
    note.write(None)
    assert Note.read(path) == Note.IDLE


def test_taking_reports_acknowledges_those_taken_before() -> None:
    inbox = Inbox()
    assert inbox.take(0.0) == []
    report = Succeeded("r", "s", 1, {})
    committed = inbox.put([report], acknowledge=True)
    assert committed is not None
    assert inbox.ends() == {TaskId("r", "s", 1)}
    assert inbox.take(0.0) == [report]
    assert not committed.done()
    assert inbox.ends() == {TaskId("r", "s", 1)}
    assert inbox.take(0.0) == []
    assert committed.done()
    assert inbox.ends() == frozenset()


def test_a_waiting_take_is_woken_by_a_report() -> None:
    inbox = Inbox()
    threading.Timer(0.1, lambda: inbox.put([Succeeded("r", "s", 1, {})])).start()
    began = time.monotonic()
    assert len(inbox.take(PATIENCE)) == 1
    assert time.monotonic() - began < PATIENCE / 2
