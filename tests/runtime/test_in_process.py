"""The whole platform in one process: real store, real scheduler, threads as workers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import operators_for_tests
import pytest

from foldase.runtime.in_process import InProcessExecutor
from foldase.runtime.loop import SchedulerLoop
from foldase.runtime.view import View
from foldase.scheduler.executor import Executor, Failed, Report, Started, Succeeded, Task
from foldase.store.records import Run, Submission
from foldase.store.store import Store
from foldase_workflows.contracts.failures import Cause
from foldase_workflows.contracts.operator import Hardware, Resources
from foldase_workflows.contracts.registry import Registry
from foldase_workflows.spec import bind_inputs, check, load_workflow

REGISTRY = Registry(operators_for_tests.OPERATORS)
HARDWARE = Hardware(cpus=2, memory_bytes=8 << 30)
PATIENCE = 60.0


class Platform:
    """A store with a scheduler loop in a thread."""

    def __init__(self, home: Path) -> None:
        self.store = Store.at(home)
        self.executor = InProcessExecutor(home, registry=REGISTRY, hardware=HARDWARE)
        self.loop = SchedulerLoop(
            self.store, REGISTRY, self.executor, lambda: View(hardware=HARDWARE), view_seconds=0.1
        )
        self._thread = threading.Thread(target=self.loop.run)
        self._thread.start()

    def close(self) -> None:
        self.loop.stop()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        self.store.close()

    def submit(self, text: str, **inputs: Any) -> str:
        checked = check(load_workflow(text), REGISTRY)
        submission = Submission.of(checked, bind_inputs(checked, inputs), source=text)
        return self.store.requests.submit(submission)[0].id

    def finish(self, run: str) -> Run:
        wait(lambda: self.store.queries.run_summary(run).finished)
        return self.store.queries.run(run)


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    platform = Platform(tmp_path)
    yield platform
    platform.close()


def wait(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def one_step(uses: str, given: str, more: str = "") -> str:
    return f"version: 1\nname: one\nsteps:\n  s: {{uses: {uses}, with: {given}{more}}}\n"


CHAIN = """
version: 1
name: chain
inputs: {numbers: {type: "list[int]"}}
steps:
  add:
    uses: test.add@1
    each: {number: "${{ inputs.numbers }}"}
    with: {value: "${{ each.number }}"}
  write: {uses: test.write@1, after: [add]}
  read: {uses: test.read@1, with: {file: "${{ steps.write.file }}", tree: "${{ steps.write.tree }}"}}
outputs:
  numbers: ${{ steps.add.each.value }}
  text: ${{ steps.read.text }}
"""


def test_the_executor_keeps_the_contract(tmp_path: Path) -> None:
    executor: Executor = InProcessExecutor(tmp_path, registry=REGISTRY, hardware=HARDWARE)
    assert isinstance(executor, InProcessExecutor)
    try:
        assert executor.total() == Resources(2, 8 << 30, 0)
        assert executor.poll(0.0) == []
    finally:
        executor.close()


def test_a_workflow_from_end_to_end(platform: Platform) -> None:
    run = platform.finish(platform.submit(CHAIN, numbers=list(range(30))))
    assert run.summary.state == "succeeded", run.summary.error
    assert run.outputs == {"numbers": list(range(1, 31)), "text": "hello"}
    again = platform.finish(platform.submit(CHAIN, numbers=list(range(30))))
    assert all(step.cached for step in again.steps if step.items is None)


def test_a_step_that_ignores_its_flag_is_given_up(platform: Platform) -> None:
    run = platform.submit(one_step("test.work@1", "{seconds: 40, heed: false}"))
    wait(lambda: platform.store.queries.step(run, "s").attempts)
    wait(lambda: platform.executor.cpus_used() == 1)
    platform.store.requests.request_cancel(run)
    began = time.monotonic()
    assert platform.finish(run).summary.state == "cancelled"
    assert time.monotonic() - began < 35
    assert platform.executor.cpus_used() == 0


def test_a_step_out_of_time_fails_with_that_cause(platform: Platform) -> None:
    run = platform.finish(platform.submit(one_step("test.work@1", "{seconds: 60}", ", timeout: 500ms")))
    assert run.summary.state == "failed"
    assert run.summary.error is not None
    assert run.summary.error["cause"] == "timeout"


def test_bad_input_reaches_the_person_with_its_place(platform: Platform) -> None:
    run = platform.finish(platform.submit(one_step("test.fail@1", "{how: bad input}")))
    error = run.steps[0].error
    assert error is not None
    assert (error["cause"], error["code"], error["location"]) == (
        "bad_input",
        "empty_row",
        {"record": "seq7"},
    )


def test_what_no_node_can_hold_fails_at_once(platform: Platform) -> None:
    run = platform.finish(platform.submit(one_step("test.add@1", "{}", ", resources: {cpu: 64}")))
    assert run.steps[0].error is not None
    assert run.steps[0].error["code"] == "unsatisfiable_resources"


def test_logs_are_archived_when_the_attempt_is_over(platform: Platform, tmp_path: Path) -> None:
    run = platform.submit(one_step("test.print@1", "{}"))
    platform.finish(run)
    _, before = platform.store.logs.read(run, "s", "log")
    wait(lambda: not (tmp_path / "logs" / run).exists())
    _, after = platform.store.logs.read(run, "s", "log")
    assert before.lines == after.lines
    assert any(line["message"] == "from the log" for line in after.lines)


def test_the_view_of_the_cluster_is_written(platform: Platform) -> None:
    wait(lambda: platform.store.cluster.read().state == "ready")
    assert platform.store.cluster.read().hardware == {"cpus": 2, "memory_bytes": 8 << 30, "gpus": []}


def test_a_restart_goes_on_from_the_checkpoint(tmp_path: Path) -> None:
    first = Platform(tmp_path)
    run = first.submit(one_step("test.count@1", "{to: 12, seconds: 0.1}"))
    wait(lambda: len(first.store.logs.read(run, "s", "metrics")[1].lines) >= 3)
    first.close()
    second = Platform(tmp_path)
    finished = second.finish(run)
    step = second.store.queries.step(run, "s")
    second.close()
    assert finished.summary.state == "succeeded"
    assert step.outputs is not None
    assert step.outputs["began_at"] >= 3
    assert step.outputs["counted"] == 12


def test_a_late_result_of_a_lost_attempt_is_refused(tmp_path: Path) -> None:
    """The worker of attempt 1 seemed lost; when it wakes up and reports, attempt 2 is running."""
    store = Store.at(tmp_path)
    executor = Scripted()
    loop = SchedulerLoop(store, REGISTRY, executor, View)
    thread = threading.Thread(target=loop.run)
    thread.start()
    text = one_step("test.add@1", "{value: 1}")
    checked = check(load_workflow(text), REGISTRY)
    run = store.requests.submit(Submission.of(checked, bind_inputs(checked, {}), source=text))[0].id
    wait(lambda: len(executor.tasks) == 1)
    first = executor.tasks[0]
    executor.say(_started(first))
    executor.say(Failed(first.run, first.step, first.fence, Cause.WORKER_LOST, {"code": "worker_lost"}))
    wait(lambda: len(executor.tasks) == 2)
    second = executor.tasks[1]
    assert second.fence > first.fence
    executor.say(Succeeded(first.run, first.step, first.fence, {"value": 666}))
    executor.say(_started(second))
    wait(lambda: store.queries.step(run, "s").attempts[-1].pid)
    assert store.queries.step(run, "s").summary.state == "running"
    executor.say(Succeeded(second.run, second.step, second.fence, {"value": 2}))
    wait(lambda: store.queries.run_summary(run).finished)
    assert store.queries.step(run, "s").outputs == {"value": 2}
    loop.stop()
    thread.join()
    store.close()


class Scripted:
    """An executor that does what a test says."""

    def __init__(self) -> None:
        self.tasks: list[Task] = []
        self._reports: list[Report] = []

    def say(self, report: Report) -> None:
        self._reports.append(report)

    def total(self) -> Resources:
        return Resources(2, 8 << 30, 0)

    def largest_node(self) -> Hardware | None:
        return HARDWARE

    def queue_depth(self, operator: str) -> int:
        return 1

    def submit(self, tasks: Any) -> None:
        self.tasks.extend(tasks)

    def cancel(self, tasks: Any, *, grace_seconds: float) -> None:
        pass

    def poll(self, timeout_seconds: float) -> list[Report]:
        time.sleep(0.01)
        reports, self._reports = self._reports, []
        return reports

    def running(self) -> frozenset[Any]:
        return frozenset()

    def close(self, *, within_seconds: float = 1.0) -> None:
        pass


def _started(task: Task) -> Started:
    return Started(task.run, task.step, task.fence, "w", "n", 1)


def test_a_gang_runs_as_processes_beside_this_one(platform: Platform) -> None:
    text = one_step("test.gang@1", "{function: add}", ", resources: {ranks: 2, cpu: 0.5, memory: 1MiB}")
    run = platform.finish(platform.submit(text))
    assert run.summary.state == "succeeded"
    detail = platform.store.queries.step(run.id, "s")
    assert detail.outputs is not None
    assert detail.outputs["result"]["total"] == 3.0
    assert detail.outputs["result"]["has"] == [0.5, 1 << 20]
    assert detail.to_json()["resources"] == {"cpu": 0.5, "memory_bytes": 1 << 20, "gpu": 0.0, "ranks": 2}
    assert detail.attempts[0].peak_memory_bytes
    refused = one_step("test.gang@1", "{function: count}", ", resources: {ranks: 3}")
    run = platform.finish(platform.submit(refused))
    error = platform.store.queries.step(run.id, "s").summary.error
    assert error is not None
    assert (error["code"], "room for 2" in error["message"]) == ("unsatisfiable_resources", True)
