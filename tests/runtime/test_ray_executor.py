"""Decisions of the Ray executor about workers that are lost, silent, slow or unknown; no Ray runs."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from foldase.runtime import ray_executor
from foldase.runtime.cluster_view import ClusterNode
from foldase.runtime.crew import Adopted, CallFailed, Gone, Ready, Recalled
from foldase.runtime.fleet import Assigned, Kind, Worker
from foldase.runtime.losses import MemoryGuard
from foldase.runtime.processes import ProcessId, status_of
from foldase.runtime.ray_executor import RayExecutor
from foldase.runtime.settings import RuntimeSettings
from foldase.runtime.workbench import Beat, Delivery, Held, Note, note_path, task_id
from foldase.runtime.workers import Hello, WorkerConfig
from foldase.scheduler.executor import Failed, Report, Started, Succeeded, Task, TaskId
from foldase_workflows.contracts.failures import Cause
from foldase_workflows.contracts.operator import Hardware, Resources

GIB = 1 << 30
PATIENCE = 20.0
KILLED = "Worker exit detail: Worker unexpectedly exits with a connection error code 2. End of file."
LOW_MEMORY = "Worker exit detail: Task was killed due to the node running low on memory. Some common causes"


class FakeCrew:
    """Notes what it is asked to do; a test says what comes of it."""

    def __init__(self, settings: RuntimeSettings, epoch: str, tell: Callable[[Any], None]) -> None:
        self.settings, self.epoch, self.tell = settings, epoch, tell
        self.found: list[tuple[Hello, list[Held]]] = []
        self.started: list[tuple[str, Kind]] = []
        self.sent: list[tuple[str, tuple[Task, ...]]] = []
        self.cancelled: list[tuple[str, tuple[TaskId, ...], Cause]] = []
        self.recalled: list[tuple[str, tuple[TaskId, ...]]] = []
        self.adopted: list[str] = []
        self.killed: list[str] = []
        self.buried: list[str] = []
        self.swept: list[str] = []
        self.places: dict[str, tuple[str, ...]] = {}

    def find(self) -> list[str]:
        return [hello.config.name for hello, _ in EARLIER]

    def adopt(self, name: str) -> None:
        self.adopted.append(name)
        for hello, held in EARLIER:
            if hello.config.name == name:
                self.tell(Adopted(hello, tuple(held)))

    def start(self, name: str, kind: Kind, node: str, places: tuple[str, ...] = ()) -> None:
        self.started.append((name, kind))
        self.places[name] = places

    def send(self, name: str, batch: int, tasks: Any) -> None:
        self.sent.append((name, tuple(tasks)))

    def cancel(self, name: str, tasks: Any, cause: Cause) -> None:
        self.cancelled.append((name, tuple(tasks), cause))

    def recall(self, name: str, tasks: Any, last_batch: int) -> None:
        self.recalled.append((name, tuple(tasks)))

    def kill(self, name: str) -> threading.Thread:
        self.killed.append(name)
        return _done()

    def sweep(self, name: str) -> None:
        self.swept.append(name)

    def bury(self, name: str) -> threading.Thread:
        self.buried.append(name)
        return _done()


def _done() -> threading.Thread:
    thread = threading.Thread(target=lambda: None)
    thread.start()
    return thread


EARLIER: list[tuple[Hello, list[Held]]] = []
"""Workers of a scheduler before this one."""


class Rig:
    """An executor over a fake crew."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch, *, cpus: float = 2) -> None:
        node = ClusterNode("n", "host", alive=True, hardware=Hardware(cpus, 8 * GIB))
        monkeypatch.setattr(ray_executor, "Crew", FakeCrew)
        monkeypatch.setattr(ray_executor, "cluster_nodes", lambda: (node,))
        monkeypatch.setattr(ray_executor, "ADOPT_SECONDS", 1.0)
        self.home = home
        self.faults: list[BaseException] = []
        self.settings = RuntimeSettings(home, lease_seconds=1.0, start_seconds=3.0)
        self.executor = RayExecutor(self.settings, self.faults.append)
        self.crew: FakeCrew = self.executor._crew  # type: ignore[assignment]

    def hello(self, name: str, kind: Kind, process: ProcessId | None = None) -> Hello:
        places = ("n",) * kind.ranks if kind.ranks > 1 else ()
        config = WorkerConfig(name, kind.family, kind.cpu, kind.gpu, "e", self.settings, places)
        return Hello(config, process or ProcessId(os.getpid(), 1), "n", socket.gethostname())

    def worker(self, *tasks: Task, process: ProcessId | None = None) -> str:
        """Submit tasks that start a worker, and let it be ready."""
        before = len(self.crew.started)
        self.executor.submit(tasks)
        wait(lambda: len(self.crew.started) > before)
        name, kind = self.crew.started[before]
        self.crew.tell(Ready(self.hello(name, kind, process)))
        wait(lambda: any(worker == name for worker, _ in self.crew.sent))
        return name

    def began(self, name: str, *tasks: Task) -> None:
        self.deliver(name, *(Started(one.run, one.step, one.fence, name, "n", 1) for one in tasks))

    def deliver(self, name: str, *reports: Report, pace: dict[str, tuple[int, float]] | None = None) -> Any:
        return self.executor.deliver(Delivery(name, ProcessId(1, 1), reports, pace or {}))

    def reports(self, count: int) -> list[Report]:
        """Wait for so many ends or starts."""
        found: list[Report] = []
        deadline = time.monotonic() + PATIENCE
        while len(found) < count:
            assert time.monotonic() < deadline, found
            found += self.executor.poll(0.1)
        return found


def wait(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def task(number: int, operator: str = "long", *, cpu: float = 1) -> Task:
    return Task("r", f"s{number}", 1, number, operator, "cpu", "", {}, Resources(cpu))


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    EARLIER.clear()
    rig = Rig(tmp_path, monkeypatch)
    yield rig
    rig.executor.close()
    assert rig.faults == []


def note(rig: Rig, name: str, current: Task | None) -> None:
    Note(note_path(rig.home, name)).write(task_id(current) if current else None)


def tiny(rig: Rig, name: str) -> None:
    """Teach the executor that ``tiny`` steps are, and leave the worker idle."""
    rig.deliver(name, pace={"tiny": (100, 0.1)})


def test_a_lost_worker_is_blamed_on_the_task_it_was_at(rig: Rig) -> None:
    name = rig.worker(task(1))
    note(rig, name, task(1))
    rig.crew.tell(Gone(name, KILLED))
    started, lost = rig.reports(2)
    assert isinstance(started, Started)
    assert isinstance(lost, Failed)
    assert (lost.cause, lost.exit) == (Cause.WORKER_LOST, "it was killed or it crashed")
    wait(lambda: rig.crew.buried == [name])


def test_what_a_lost_leader_left_is_ended_before_its_gang_is_tried_again(rig: Rig) -> None:
    gang = Task("r", "s1", 1, 1, "long", "cpu", "", {}, Resources(0.5, ranks=4))
    name = rig.worker(gang)
    assert rig.crew.places[name] == ("n",) * 4
    told_when_swept: list[int] = []
    sweep = rig.crew.sweep
    rig.crew.sweep = lambda worker: (sweep(worker), told_when_swept.append(len(rig.executor.poll(0.0))))[0]
    note(rig, name, gang)
    rig.crew.tell(Gone(name, KILLED))
    _, lost = rig.reports(2)
    assert isinstance(lost, Failed)
    assert lost.cause is Cause.WORKER_LOST
    assert (rig.crew.swept, told_when_swept) == ([name], [0])


def test_memory_of_ranks_counts_each_for_the_limit_and_all_for_the_node(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    gang = Task("r", "s1", 1, 1, "long", "cpu", "", {}, Resources(0.5, ranks=2))
    name = rig.worker(gang)
    ranks = (ProcessId(7, 7), ProcessId(8, 8))
    rig.executor.beat(Beat(name, ProcessId(os.getpid(), 1), 3 * GIB, 1.0, task_id(gang), 0.1, ranks=ranks))
    worker = rig.executor.fleet.workers[name]
    assert worker.ranks == ranks
    sizes = {os.getpid(): GIB, 7: 2 * GIB, 8: 3 * GIB}
    monkeypatch.setattr("foldase.runtime.losses._size_of", lambda process: sizes[process.pid])
    assert MemoryGuard(64 * GIB, 3 * GIB).beyond_limit([worker]) is None
    assert MemoryGuard(64 * GIB, 3 * GIB - 1).beyond_limit([worker]) is worker
    monkeypatch.setattr("foldase.runtime.losses.memory_free", lambda: 0)
    assert MemoryGuard(64 * GIB).victim([worker], 1.0) is worker
    assert worker.memory_bytes == 6 * GIB


def test_a_gang_that_never_fits_is_refused_with_what_would(rig: Rig) -> None:
    rig.executor.submit([Task("r", "s1", 1, 1, "long", "cpu", "", {}, Resources(0.5, ranks=5))])
    (refused,) = rig.reports(1)
    assert isinstance(refused, Failed)
    assert refused.error["code"] == "unsatisfiable_resources"
    assert "room for 4 of 5 ranks" in refused.error["message"]
    assert "at most 4 `ranks`" in refused.error["hint"]


def test_an_adopted_leader_keeps_the_places_of_its_ranks(rig: Rig) -> None:
    gang = Task("r", "s1", 1, 1, "long", "cpu", "", {}, Resources(0.5, ranks=4))
    hello = rig.hello("earlier", Kind.of(gang))
    rig.crew.tell(Adopted(hello, (Held(gang, 1.0),)))
    wait(lambda: "earlier" in rig.executor.fleet.workers)
    worker = rig.executor.fleet.workers["earlier"]
    assert (worker.kind, worker.ranks_on("n")) == (Kind.of(gang), 4)
    rig.executor.submit([task(2)])
    assert rig.crew.started == [], "all cores are taken"


def test_tasks_that_a_lost_worker_had_not_begun_run_elsewhere(rig: Rig) -> None:
    name = rig.worker(task(1))
    rig.began(name, task(1))
    rig.deliver(name, Succeeded("r", "s1", 1, {}), pace={"tiny": (100, 0.1)})
    batch = [task(number, "tiny") for number in range(2, 8)]
    rig.executor.submit(batch)
    assert rig.crew.sent[-1] == (name, tuple(batch))
    note(rig, name, batch[1])
    rig.crew.tell(Gone(name, KILLED))
    found = rig.reports(4)
    assert [type(report).__name__ for report in found] == ["Started", "Succeeded", "Started", "Failed"]
    assert found[-1].step == "s3"
    wait(lambda: len(rig.crew.started) == 2)
    other, kind = rig.crew.started[1]
    rig.crew.tell(Ready(rig.hello(other, kind)))
    wait(lambda: rig.crew.sent[-1][0] == other)
    assert [one.step for one in rig.crew.sent[-1][1]] == ["s2", "s4", "s5", "s6", "s7"]
    rig.executor.poll(0.0)
    assert rig.executor.running() == {task_id(one) for one in batch} - {task_id(batch[1])}


def test_results_that_a_lost_worker_could_not_tell_are_made_again(rig: Rig) -> None:
    name = rig.worker(task(1))
    rig.began(name, task(1))
    note(rig, name, None)
    rig.crew.tell(Gone(name, KILLED))
    wait(lambda: len(rig.crew.started) == 2)
    assert rig.executor.running() == {task_id(task(1))}


def test_a_worker_killed_for_memory_is_an_oom(rig: Rig) -> None:
    name = rig.worker(task(1))
    note(rig, name, task(1))
    rig.crew.tell(Gone(name, LOW_MEMORY))
    lost = rig.reports(2)[1]
    assert isinstance(lost, Failed)
    assert lost.cause is Cause.OOM_HOST


def test_a_worker_killed_by_the_kernel_for_memory_is_an_oom(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = rig.worker(task(1))
    note(rig, name, task(1))
    rig.executor.beat(Beat(name, ProcessId(1, 1), 6 * GIB, 1.0, task_id(task(1)), 1.0))
    monkeypatch.setattr("foldase.runtime.machine._kernel_kills", lambda: 1 << 40)
    rig.crew.tell(Gone(name, KILLED))
    lost = rig.reports(2)[1]
    assert isinstance(lost, Failed)
    assert lost.cause is Cause.OOM_HOST


def test_short_memory_ends_the_worker_furthest_above_its_reservation(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, large, modest = (ProcessId(number, 1) for number in (1, 2, 3))
    sizes = {small: GIB // 2, large: 4 * GIB, modest: 5 * GIB}
    monkeypatch.setattr("foldase.runtime.losses._memory_of", lambda worker: sizes[worker.process])
    monkeypatch.setattr("foldase.runtime.losses.memory_free", lambda: 8 * GIB)
    names = [rig.worker(task(1), process=small), rig.worker(task(2), process=large)]
    reserving = Task("r", "s3", 1, 3, "long", "cpu", "", {}, Resources(1, memory_bytes=5 * GIB))
    assert rig.crew.killed == []
    guard = MemoryGuard(24 * GIB)
    workers = rig.executor.fleet.workers
    assert guard.victim(workers.values(), 0.0) is None, "there is enough"
    monkeypatch.setattr("foldase.runtime.losses.memory_free", lambda: GIB // 2)
    with rig.executor.lock:
        other = Worker("m", Kind.of(reserving), "n", 0.0, "ready", modest)
        other.tasks[task_id(reserving)] = Assigned(reserving, 1, 0.0, began_at=0.0)
        chosen = guard.victim([*workers.values(), other], 0.0)
    assert chosen is workers[names[1]]
    assert guard.victim(workers.values(), 0.5) is None, "its memory comes back in a moment"
    sizes[large] = GIB // 4
    assert guard.victim(workers.values(), 5.0) is None, "nobody of ours is large"
    sizes[large] = 4 * GIB
    assert guard.victim(workers.values(), 5.1) is workers[names[1]], "but is watched on"


def test_a_worker_ended_for_memory_reports_an_oom(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foldase.runtime.losses._memory_of", lambda worker: 4 * GIB)
    name = rig.worker(task(1))
    note(rig, name, task(1))
    monkeypatch.setattr("foldase.runtime.losses.memory_free", lambda: 0)
    wait(lambda: name in rig.crew.killed)
    rig.crew.tell(Gone(name, KILLED))
    lost = rig.reports(2)[1]
    assert isinstance(lost, Failed)
    assert (lost.cause, lost.peak_memory_bytes) == (Cause.OOM_HOST, 4 * GIB)


def test_a_worker_that_holds_more_than_it_may_is_ended(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    name = rig.worker(task(1))
    note(rig, name, task(1))
    plan = {"predicted_peak_bytes": GIB}
    written = Note(note_path(rig.home, name))
    written.write(task_id(task(1)))
    written.write_plan(task_id(task(1)), plan)
    monkeypatch.setattr("foldase.runtime.losses._sizes_of", lambda worker: [GIB, 2 * GIB])
    monkeypatch.setattr(rig.executor._memory, "limit", 2 * GIB)
    time.sleep(0.5)
    assert rig.crew.killed == [], "it may have all of that"
    monkeypatch.setattr(rig.executor._memory, "limit", 2 * GIB - 1)
    wait(lambda: name in rig.crew.killed)
    rig.crew.tell(Gone(name, KILLED))
    lost = rig.reports(2)[1]
    assert isinstance(lost, Failed)
    assert (lost.cause, lost.peak_memory_bytes, lost.plan) == (Cause.OOM_HOST, 2 * GIB, plan)


def test_cancelling_what_waits_needs_no_worker(rig: Rig) -> None:
    rig.executor.submit([task(1), task(2), task(3)])
    rig.executor.cancel([task_id(task(3)), task_id(task(2))], grace_seconds=5)
    found = rig.reports(2)
    assert {report.step for report in found} == {"s2", "s3"}
    assert all(isinstance(report, Failed) and report.cause is Cause.CANCELLED for report in found)


def test_a_task_that_ignores_its_flag_takes_its_worker_along(rig: Rig) -> None:
    name = rig.worker(task(1))
    rig.began(name, task(1))
    rig.executor.cancel([task_id(task(1))], grace_seconds=0.2)
    assert rig.crew.cancelled == [(name, (task_id(task(1)),), Cause.CANCELLED)]
    wait(lambda: name in rig.crew.killed)
    rig.crew.tell(Gone(name, KILLED))
    failed = rig.reports(2)[1]
    assert isinstance(failed, Failed)
    assert failed.cause is Cause.CANCELLED
    assert failed.exit == "it did not stop when it was asked to"


def test_a_task_out_of_time_is_asked_and_then_killed(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Task("r", "s1", 1, 1, "long", "cpu", "", {}, Resources(1), timeout_seconds=0.3)
    name = rig.worker(slow)
    rig.began(name, slow)
    wait(lambda: rig.crew.cancelled == [(name, (task_id(slow),), Cause.TIMEOUT)])
    rig.crew.tell(Gone(name, KILLED))
    failed = rig.reports(2)[1]
    assert isinstance(failed, Failed)
    assert failed.cause is Cause.TIMEOUT
    assert failed.error["code"] == "timeout"


def test_a_silent_worker_that_does_nothing_is_killed(rig: Rig) -> None:
    sleeper = subprocess.Popen(["sleep", "60"])
    try:
        status = status_of(sleeper.pid)
        assert status is not None
        name = rig.worker(task(1), process=status.id)
        rig.began(name, task(1))
        wait(lambda: name in rig.crew.killed)
        rig.crew.tell(Gone(name, KILLED))
        failed = rig.reports(3)[-1]
        assert isinstance(failed, Failed)
        assert failed.cause is Cause.WORKER_LOST
        assert "no sign of life" in str(failed.exit)
    finally:
        sleeper.kill()
        sleeper.wait()


def test_a_silent_worker_that_computes_is_left_alone(rig: Rig) -> None:
    grinder = subprocess.Popen(["sh", "-c", "while :; do :; done"])
    try:
        status = status_of(grinder.pid)
        assert status is not None
        name = rig.worker(task(1), process=status.id)
        rig.began(name, task(1))
        rig.executor.fleet.workers[name].cpu_seconds = -1e9
        time.sleep(1.6)
        assert name not in rig.crew.killed
    finally:
        grinder.kill()
        grinder.wait()


def test_a_batch_that_may_not_have_arrived_is_recalled_and_sent_again(rig: Rig) -> None:
    name = rig.worker(task(1))
    rig.crew.tell(CallFailed(name, (task_id(task(1)),)))
    wait(lambda: rig.crew.recalled == [(name, (task_id(task(1)),))])
    rig.crew.tell(Recalled(name, (task_id(task(1)),)))
    wait(lambda: len(rig.crew.sent) == 2)
    assert rig.crew.sent[1] == (name, (task(1),))


def test_workers_that_never_start_fail_the_step(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_executor, "_START_PAUSE_SECONDS", 0.01)
    rig.executor.submit([task(1)])
    for attempt in range(3):
        wait(lambda attempt=attempt: len(rig.crew.started) == attempt + 1)
        rig.crew.tell(Gone(rig.crew.started[attempt][0], "no module named numpy"))
    (failed,) = rig.reports(1)
    assert isinstance(failed, Failed)
    assert (failed.cause, failed.error["code"]) == (Cause.INFRASTRUCTURE, "worker_start_failed")
    assert "numpy" in failed.error["message"]


def test_what_fits_nowhere_never_waits(rig: Rig) -> None:
    rig.executor.submit([task(1, cpu=64)])
    (failed,) = rig.reports(1)
    assert isinstance(failed, Failed)
    assert failed.error["code"] == "unsatisfiable_resources"


def test_an_unknown_worker_that_reports_is_taken_over(rig: Rig) -> None:
    committed = rig.deliver("stranger", Succeeded("r", "s9", 9, {}))
    assert rig.crew.adopted == ["stranger"]
    assert [report.step for report in rig.reports(1)] == ["s9"]
    assert not committed.done()
    rig.executor.poll(0.0)
    assert committed.done()


def test_workers_of_an_earlier_scheduler_are_adopted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = RuntimeSettings(tmp_path)
    config = WorkerConfig("old", "cpu", 1.0, 0.0, "e0", settings)
    hello = Hello(config, ProcessId(os.getpid(), 1), "n", socket.gethostname())
    EARLIER[:] = [(hello, [Held(task(1), 3.0), Held(task(2), None, over=True)])]
    rig = Rig(tmp_path, monkeypatch)
    try:
        assert rig.executor.running() == {task_id(task(1)), task_id(task(2))}
        worker = rig.executor.fleet.workers["old"]
        began = worker.tasks[task_id(task(1))].began_at
        assert began is not None
        assert time.monotonic() - began >= 3.0
        rig.deliver("old", Succeeded("r", "s1", 1, {}), Succeeded("r", "s2", 2, {}))
        rig.executor.submit([task(3)])
        assert rig.crew.sent == [("old", (task(3),))]
        assert rig.crew.started == []
    finally:
        rig.executor.close()
        EARLIER.clear()


def test_the_cluster_is_as_large_as_its_living_nodes(rig: Rig) -> None:
    assert rig.executor.total() == Resources(2, 8 * GIB, 0)
    assert rig.executor.largest_node() == Hardware(2, 8 * GIB)
