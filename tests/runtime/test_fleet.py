"""Which worker runs what, without any worker."""

from __future__ import annotations

import itertools
from collections import Counter
from unittest import mock

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from foldase.runtime import fleet as fleets
from foldase.runtime.fleet import Fleet, Kind, Node, Send, StartWorker, StopWorker
from foldase.runtime.pace import MAX_DEPTH, TINY_SECONDS, Pace
from foldase.runtime.workbench import task_id
from foldase.scheduler.executor import Task, TaskId
from foldase_workflows.contracts.operator import Resources

GIB = 1 << 30


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def task(
    number: int,
    operator: str = "long",
    *,
    family: str = "cpu",
    cpu: float = 1,
    gpu: float = 0,
    ranks: int = 1,
    memory: int = 0,
) -> Task:
    resources = Resources(cpu, memory, gpu, ranks)
    return Task("r", f"s[{number}]", 1, number, operator, family, "", {}, resources)


def make(cpus: float = 2, gpus: float = 0) -> tuple[Fleet, Pace, Clock]:
    clock, pace = Clock(), Pace()
    fleet = Fleet(pace, clock)
    fleet.nodes = {"n": Node("n", "node", Resources(cpus, 8 * GIB, gpus))}
    return fleet, pace, clock


def started(fleet: Fleet) -> list[str]:
    """Carry out the plan as far as starts go; returns the names of new workers."""
    names = [action.name for action in fleet.plan() if isinstance(action, StartWorker)]
    for name in names:
        fleet.workers[name].state = "ready"
    return names


def sent(fleet: Fleet) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for action in fleet.plan():
        if isinstance(action, Send):
            found.setdefault(action.worker, []).extend(one.step for one in action.tasks)
    return found


def finish(fleet: Fleet, name: str) -> None:
    fleet.workers[name].tasks.clear()


def test_no_more_workers_than_cores() -> None:
    fleet, _, _ = make(cpus=2)
    fleet.add(task(number) for number in range(5))
    names = started(fleet)
    assert len(names) == 2
    assert sorted(map(len, sent(fleet).values())) == [1, 1]
    assert len(list(fleet.waiting())) == 3
    assert fleet.plan() == []


def test_long_steps_never_queue_behind_others() -> None:
    fleet, pace, _ = make(cpus=1)
    pace.note("long", 1, 60.0)
    fleet.add([task(1), task(2)])
    started(fleet)
    assert list(sent(fleet).values()) == [["s[1]"]]
    assert sent(fleet) == {}


def test_an_unknown_operator_counts_as_long() -> None:
    fleet, _, _ = make(cpus=1)
    fleet.add(task(number, "new") for number in range(3))
    started(fleet)
    assert [len(steps) for steps in sent(fleet).values()] == [1]


def test_tiny_steps_are_sent_in_batches_and_shared_out() -> None:
    fleet, pace, _ = make(cpus=2)
    fleet.add(task(number, "tiny") for number in range(2))
    started(fleet)
    sent(fleet)
    for name in fleet.workers:
        finish(fleet, name)
    pace.note("tiny", 100, 0.1)
    fleet.add(task(number, "tiny") for number in range(10, 50))
    first = sent(fleet)
    assert sorted(map(len, first.values())) == [20, 20]
    fleet.add(task(number, "tiny") for number in range(50, 60))
    assert sum(map(len, sent(fleet).values())) == 10
    fleet.add([task(60, "tiny")])
    assert sent(fleet) == {}, "two batches are in flight at each worker"


def test_a_step_that_hangs_gives_back_what_waits_behind_it() -> None:
    fleet, pace, clock = make(cpus=1)
    pace.note("tiny", 100, 0.1)
    fleet.add(task(number, "tiny") for number in range(4))
    (name,) = started(fleet)
    sent(fleet)
    worker = fleet.workers[name]
    worker.tasks[task_id(task(0))].began_at = clock.now
    assert fleet.recalls() == []
    clock.now += fleets.STUCK_SECONDS + 0.1
    (recall,) = fleet.recalls()
    assert [wanted.step for wanted in recall.tasks] == ["s[1]", "s[2]", "s[3]"]
    fleet.take_back(name, recall.tasks)
    assert [one.step for one in fleet.waiting()] == ["s[1]", "s[2]", "s[3]"]
    assert fleet.plan() == [], "nothing is sent behind a step that hangs"
    fleet.nodes["n"] = Node("n", "node", Resources(2, GIB, 0))
    assert len(started(fleet)) == 1, "and another worker is started as soon as there is room"
    assert sum(map(len, sent(fleet).values())) == 3


def test_idle_workers_of_other_kinds_make_room_oldest_first() -> None:
    fleet, _, clock = make(cpus=2)
    fleet.add([task(1, family="a"), task(2, family="b")])
    names = started(fleet)
    sent(fleet)
    for name in names:
        finish(fleet, name)
        fleet.workers[name].last_used = clock.now
        clock.now += 1
    fleet.add([task(3, family="c")])
    actions = fleet.plan()
    assert [type(action) for action in actions] == [StopWorker, StartWorker]
    assert isinstance(actions[0], StopWorker)
    assert actions[0].name == names[0]


def test_busy_workers_are_never_stopped() -> None:
    fleet, _, _ = make(cpus=2)
    fleet.add([task(1), task(2)])
    started(fleet)
    sent(fleet)
    fleet.add([task(3, cpu=2)])
    assert fleet.plan() == []


def test_nothing_is_evicted_in_vain() -> None:
    fleet, _, _ = make(cpus=2)
    fleet.add([task(1, family="a"), task(2, family="b")])
    first, _ = started(fleet)
    sent(fleet)
    finish(fleet, first)
    fleet.add([task(3, family="c", cpu=2)])
    assert fleet.plan() == []


def test_a_warm_worker_is_used_again() -> None:
    fleet, _, _ = make()
    fleet.add([task(1)])
    (name,) = started(fleet)
    sent(fleet)
    finish(fleet, name)
    fleet.add([task(2)])
    assert sent(fleet) == {name: ["s[2]"]}


def test_idle_workers_go_after_a_while() -> None:
    fleet, _, clock = make()
    fleet.add([task(1)])
    (name,) = started(fleet)
    sent(fleet)
    clock.now += 100
    assert fleet.surplus(50) == [], "it works"
    finish(fleet, name)
    assert [stop.name for stop in fleet.surplus(50)] == [name]


def test_what_fits_nowhere_is_known() -> None:
    fleet, _, _ = make(cpus=2, gpus=1)
    assert fleet.fits_somewhere(task(1, cpu=2, gpu=1))
    assert not fleet.fits_somewhere(task(1, cpu=3))
    assert not fleet.fits_somewhere(task(1, gpu=2))
    fleet.nodes["n"] = Node("n", "node", Resources(2, GIB, 1), alive=False)
    assert not fleet.fits_somewhere(task(1))


def test_a_task_that_an_idle_worker_never_began_is_noticed() -> None:
    fleet, _, clock = make()
    fleet.add([task(1)])
    (name,) = started(fleet)
    sent(fleet)
    assert fleet.overdue() == []
    clock.now += fleets.OVERDUE_SECONDS + 1
    assert [recall.worker for recall in fleet.overdue()] == [name]
    fleet.workers[name].current = TaskId("r", "other", 1)
    assert fleet.overdue() == []


def test_a_kind_that_fails_to_start_is_held_back() -> None:
    fleet, _, clock = make()
    fleet.add([task(1)])
    fleet.held_back[Kind.of(task(1))] = clock.now + 5
    assert fleet.plan() == []
    clock.now += 6
    assert len(started(fleet)) == 1


def test_depth_follows_the_measured_time() -> None:
    pace = Pace()
    assert pace.depth("new") == 1
    pace.note("tiny", 10, 0.001)
    assert pace.depth("tiny") == MAX_DEPTH
    pace.note("small", 1, 0.02)
    assert pace.depth("small") == 10
    pace.note("tiny", 1, 10 * TINY_SECONDS)
    assert pace.depth("tiny") == 1, "one long step is enough"


def test_a_gang_reserves_for_all_its_ranks_on_one_node_where_that_is_possible() -> None:
    fleet, _, _ = make(cpus=2)
    fleet.nodes["m"] = Node("m", "more", Resources(4, 8 * GIB, 0))
    fleet.add([task(1, cpu=1, ranks=3), task(2), task(3), task(4), task(5)])
    starts = [action for action in fleet.plan() if isinstance(action, StartWorker)]
    gang = starts[0]
    assert (gang.node, gang.places) == ("m", ("m", "m", "m"))
    assert sorted(start.node for start in starts[1:]) == ["m", "n", "n"], "one core is left beside the gang"
    assert all(start.places == () for start in starts[1:])


def test_a_gang_too_large_for_a_node_spreads_over_several() -> None:
    fleet, _, _ = make(cpus=2)
    fleet.nodes["m"] = Node("m", "more", Resources(4, 8 * GIB, 0))
    fleet.nodes["d"] = Node("d", "dead", Resources(64, 8 * GIB, 0), alive=False)
    fleet.add([task(1, family="old", cpu=2)])
    (old,) = started(fleet)
    sent(fleet)
    finish(fleet, old)
    fleet.add([task(2, cpu=1.5, ranks=3)])
    stop, start = fleet.plan()
    assert stop == StopWorker(old)
    assert isinstance(start, StartWorker)
    assert start.places == ("m", "m", "n")


def test_a_gang_that_never_fits_is_known_with_what_would() -> None:
    fleet, _, _ = make(cpus=2)
    fleet.nodes["m"] = Node("m", "more", Resources(3, 2 * GIB, 0))
    gang = task(1, cpu=2, ranks=3)
    assert not fleet.fits_somewhere(gang), "five cores, and yet no third rank with two of them on one node"
    assert fleet.ranks_that_fit(gang) == 2
    assert fleet.fits_somewhere(task(2, cpu=0.5, ranks=10))
    assert fleet.ranks_that_fit(task(3, cpu=0.5, ranks=10, memory=GIB)) == 4 + 2


class FleetMachine(RuleBasedStateMachine):
    """Random workers and tasks: nothing is lost, nothing runs twice, no node is overbooked."""

    @initialize(cpus=st.integers(1, 4), gpus=st.integers(0, 1), more=st.integers(0, 3))
    def begin(self, cpus: int, gpus: int, more: int) -> None:
        self.fleet, self.pace, self.clock = make(cpus, gpus)
        if more:
            self.fleet.nodes["m"] = Node("m", "more", Resources(more, 8 * GIB, 0))
        self.number = 0
        self.open: Counter[TaskId] = Counter()
        # Workers are drawn by name, so names must not be random here.
        names = (f"{number:06d}" for number in itertools.count(1))
        self.naming = mock.patch("foldase.runtime.fleet.secrets.token_hex", side_effect=names)
        self.naming.start()

    @rule(
        count=st.integers(1, 12),
        operator=st.sampled_from(["tiny", "long"]),
        cpu=st.sampled_from([0.5, 1, 2]),
        gpu=st.sampled_from([0, 1]),
        ranks=st.sampled_from([1, 1, 2, 3]),
    )
    def add(self, count: int, operator: str, cpu: float, gpu: float, ranks: int) -> None:
        for _ in range(count):
            self.number += 1
            new = task(self.number, operator, cpu=cpu, gpu=gpu, ranks=ranks)
            if self.fleet.fits_somewhere(new):
                self.fleet.add([new])
                self.open[task_id(new)] += 1

    @rule(seconds=st.sampled_from([0.0001, 0.001, 1.0]))
    def learn(self, seconds: float) -> None:
        self.pace.note("tiny", 1, seconds)

    @rule()
    def plan(self) -> None:
        for action in self.fleet.plan():
            if isinstance(action, StopWorker):
                assert not self.fleet.workers[action.name].tasks
            elif isinstance(action, Send):
                assert self.fleet.workers[action.worker].state == "ready"
                assert set(map(task_id, action.tasks)) <= self.fleet.workers[action.worker].tasks.keys()

    @precondition(lambda self: self.fleet.workers)
    @rule(data=st.data())
    def ready(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(sorted(self.fleet.workers)))
        if self.fleet.workers[worker].state == "starting":
            self.fleet.workers[worker].state = "ready"

    @precondition(lambda self: any(worker.tasks for worker in self.fleet.workers.values()))
    @rule(data=st.data())
    def done(self, data: st.DataObject) -> None:
        busy = sorted(name for name, worker in self.fleet.workers.items() if worker.tasks)
        worker = self.fleet.workers[data.draw(st.sampled_from(busy))]
        first = next(iter(worker.tasks))
        del worker.tasks[first]
        del self.open[first]

    @precondition(lambda self: self.fleet.workers)
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        worker = self.fleet.workers.pop(data.draw(st.sampled_from(sorted(self.fleet.workers))))
        self.fleet.put_first([assigned.task for assigned in worker.tasks.values()])

    @rule(seconds=st.sampled_from([0.1, 2.0, 20.0]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds
        for recall in (*self.fleet.recalls(), *self.fleet.overdue()):
            self.fleet.take_back(recall.worker, recall.tasks)

    @invariant()
    def every_task_is_in_one_place(self) -> None:
        places = Counter(task_id(one) for one in self.fleet.waiting())
        for worker in self.fleet.workers.values():
            places.update(worker.tasks.keys())
        assert places == self.open

    @invariant()
    def no_node_is_overbooked(self) -> None:
        living = [worker for worker in self.fleet.workers.values() if worker.state != "ending"]
        for node in self.fleet.nodes.values():
            cpu = sum(worker.kind.cpu * worker.ranks_on(node.id) for worker in living)
            gpu = sum(worker.kind.gpu * worker.ranks_on(node.id) for worker in living)
            assert cpu <= node.total.cpu + 1e-6
            assert gpu <= node.total.gpu + 1e-6

    def teardown(self) -> None:
        """Whatever happened: with patience, everything runs in the end."""
        if not hasattr(self, "fleet"):
            return
        self.naming.stop()
        for _ in range(4 * self.number + 20):
            self.clock.now += 20.0
            self.fleet.plan()
            for name, worker in list(self.fleet.workers.items()):
                if worker.state == "ending":
                    del self.fleet.workers[name]
                elif worker.state == "starting":
                    worker.state = "ready"
                for key in list(worker.tasks):
                    del worker.tasks[key]
                    del self.open[key]
        assert not self.open


TestFleetMachine = FleetMachine.TestCase
