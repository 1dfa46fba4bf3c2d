"""The scheduler against a model, while workers lie, die, repeat themselves and come late.

The model knows the rules of reports and retries and nothing of SQL, caches or queues. Whatever the executor
is told to start must be allowed by it, and once all is quiet both must agree on every step.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from sqlalchemy import select

from foldase.scheduler import Failed, Started, Succeeded
from foldase.scheduler.attempts import LEASE_SECONDS
from foldase.scheduler.corrections import LEAST, MOST
from foldase.scheduler.retries import LOSS_CAP
from foldase.store import schema
from foldase_workflows.contracts import Cause, Conflict, StorageFull

RETRIES = 1
MOST_FRUGAL = 2
PLAN = {"predicted_peak_bytes": 1 << 30, "process_bytes": 1 << 20}
WORKFLOW = """
version: 1
name: machine
inputs: {x: {type: int}, n: {type: 'list[int]'}, go: {type: bool}}
defaults: {retry: {max: 1, backoff: 3s, on: [timeout, oom]}}
steps:
  root: {uses: test.thrifty@1, with: {a: '${{ inputs.x }}'}}
  item:
    uses: test.add@1
    each: {i: '${{ inputs.n }}'}
    with: {a: '${{ each.i }}', b: '${{ steps.root.sum }}'}
    resources: {cpu: 2}
    allow_failures: 1
  maybe: {uses: test.add@1, if: '${{ inputs.go }}', cache: false, with: {a: '${{ inputs.x }}', b: 7}}
  join: {uses: test.add@1, with: {a: '${{ sum(steps.item.each.sum) }}'}, resources: {cpu: 3}}
  last: {uses: test.add@1, after: [maybe], with: {a: '${{ steps.join.sum }}'}}
outputs: {sum: '${{ steps.last.sum }}'}
"""
NEEDS = {"root": [], "item": ["root"], "maybe": [], "join": ["item"], "last": ["join", "maybe"]}
CAUSES = [Cause.TIMEOUT, Cause.OOM_HOST, Cause.USER_ERROR, Cause.BAD_INPUT, Cause.WORKER_LOST]
ALLOWED = {
    "pending": {"ready", "running", "succeeded", "failed", "cancelled", "skipped"},
    "ready": {"running", "succeeded", "failed", "cancelled", "ready"},
    "running": {"ready", "running", "succeeded", "failed", "cancelled"},
}


@dataclass
class ModelStep:
    """What the reports that were delivered, in their order, make of a step that was claimed."""

    state: str = "running"
    fence: int = 0
    failures: int = 0
    losses: int = 0
    frugality: int = 0
    most_frugal: int = 0
    vanished: set[int] = field(default_factory=set)

    def claimed(self, fence: int) -> None:
        assert self.state in ("ready", "running"), f"claimed while {self.state}"
        if self.state == "running" and self.fence:
            assert self.fence in self.vanished, "claimed again while a live worker holds it"
            self.losses += 1
        assert fence > self.fence
        self.state, self.fence = "running", fence

    def delivered(self, report: Any, *, cancelled: bool) -> None:
        if report.fence != self.fence or self.state != "running":
            return
        if isinstance(report, Succeeded):
            self.state = "succeeded"
        elif isinstance(report, Failed):
            self.state = self._after(report.cause, cancelled)

    def _after(self, cause: Cause, cancelled: bool) -> str:
        if cancelled:
            return "cancelled"
        if cause is Cause.CANCELLED:
            return "failed"
        if cause is Cause.WORKER_LOST:
            self.losses += 1
            return "ready" if self.losses <= LOSS_CAP else "failed"
        if cause is Cause.OOM_HOST and self.frugality < self.most_frugal:
            self.frugality += 1
            return "ready"
        if cause in (Cause.TIMEOUT, Cause.OOM_HOST):
            self.failures += 1
            return "ready" if self.failures <= RETRIES else "failed"
        return "failed"


class Simulation:
    """A laboratory, its model, and everything that may happen to them."""

    def __init__(self, parts: SimpleNamespace, template: Path, folder: Path) -> None:
        self.home = Path(tempfile.mkdtemp(dir=folder))
        self.lab = parts.Lab(self.home, template)
        self.model: dict[tuple[str, str], ModelStep] = {}
        self.in_flight: list[Any] = []
        self.old: list[Any] = []
        self.runs: list[str] = []
        self.cancelled: set[str] = set()
        self.seen: dict[tuple[str, str], str] = {}
        self.outputs: dict[tuple[str, str], str] = {}
        self.seq = 0
        self.happened: Counter[str] = Counter()
        self.listen()

    def listen(self) -> None:
        self.lab.executor.automatic = False
        self.lab.executor.on_claim = self.on_claim
        self.lab.executor.on_poll = self.on_poll

    def close(self) -> None:
        self.lab.store.close()
        shutil.rmtree(self.home)

    # What the executor tells us

    def on_poll(self, reports: list[Any]) -> None:
        self.in_flight = list(reports)

    def deliver(self) -> None:
        """What was polled is committed."""
        for report in self.in_flight:
            step = self.model.get((report.run, report.step))
            if step is not None:
                step.delivered(report, cancelled=report.run in self.cancelled)
        self.old += self.in_flight
        self.in_flight = []

    def on_claim(self, task: Any) -> None:
        # Claims are submitted after the commit, and a report may lead to the next claim at once.
        self.deliver()
        key = (task.run, task.step)
        most_frugal = MOST_FRUGAL if task.step == "root" else 0
        step = self.model.setdefault(key, ModelStep(state="ready", most_frugal=most_frugal))
        step.claimed(task.fence)
        assert task.inputs.get("frugality", 0) == step.frugality
        assert all(LEAST <= factor <= MOST for factor in task.corrections.values())
        assert task.run not in self.cancelled_and_known, "a cancelled run starts nothing"
        states = self.lab.states(task.run)
        for name in NEEDS[task.step.partition("[")[0]]:
            assert states[name] in ("succeeded", "skipped"), f"{task.step} before {name}"
        assert states[task.step] == "running", "submitted before it was committed"

    @property
    def cancelled_and_known(self) -> set[str]:
        return {run for run in self.cancelled if self.lab.get(run).summary.finished}

    def tick(self) -> None:
        self.lab.scheduler.tick()
        if self.lab.scheduler.trouble is None:
            self.deliver()

    # What may happen; ``pick`` chooses from a sequence

    def act(self, name: str, pick: Any) -> None:
        """One thing happens, unless there is nobody it could happen to."""
        done = getattr(self, f"do_{name}")(pick)
        if done is not False:
            self.happened[name] += 1

    def do_submit(self, pick: Any) -> bool | None:
        if len(self.runs) >= 4:
            return False
        inputs = {
            "x": pick((1, 2, 3)),
            "n": [pick((1, 2, 3)) for _ in range(pick((0, 1, 2, 3)))],
            "go": pick((True, False)),
        }
        self.runs.append(self.lab.submit(WORKFLOW, inputs))
        return None

    def do_tick(self, pick: Any) -> None:
        self.tick()

    def do_time_passes(self, pick: Any) -> None:
        self.lab.clock.advance(pick((0.5, 2.0, 4.0, 20.0)))
        self.tick()

    def do_wall_clock_jumps(self, pick: Any) -> None:
        self.lab.clock.jump += pick((-86400.0, -60.0, 60.0, 86400.0))

    def held(self, pick: Any) -> Any:
        held = self.lab.executor.held.values()
        return pick(sorted(held, key=lambda task: (task.run, task.step))) if held else None

    def do_worker_starts(self, pick: Any) -> bool | None:
        task = self.held(pick)
        return False if task is None else self.lab.executor.start(task)

    def do_worker_progresses(self, pick: Any) -> bool | None:
        task = self.held(pick)
        if task is None:
            return False
        self.lab.executor.progress(task, pick((0.0, 0.3, 1.0)), message="at work", log_offset=10, plan=PLAN)
        return None

    def do_worker_succeeds(self, pick: Any) -> bool | None:
        task = self.held(pick)
        return False if task is None else self.lab.executor.succeed(task)

    def do_worker_fails(self, pick: Any) -> bool | None:
        task = self.held(pick)
        return (
            False
            if task is None
            else self.lab.executor.fail(task, pick(CAUSES), peak_memory_bytes=pick((0, 1 << 30, 9 << 30)))
        )

    def do_worker_vanishes(self, pick: Any) -> bool | None:
        task = self.held(pick)
        return False if task is None else self.vanish(task)

    def do_old_report_comes_again(self, pick: Any) -> bool | None:
        if not self.old:
            return False
        self.lab.executor.reports.append(pick(self.old))
        return None

    def do_zombie_talks_nonsense(self, pick: Any) -> bool | None:
        if not self.model:
            return False
        run, step = pick(sorted(self.model))
        fence = self.model[run, step].fence - 1
        self.lab.executor.reports.append(Succeeded(run, step, fence, {"sum": -1}))
        self.lab.executor.reports.append(Started(run, step, fence, "zombie", "nowhere", 1))
        return None

    def do_reports_are_shuffled(self, pick: Any) -> None:
        random.Random(pick(range(1000))).shuffle(self.lab.executor.reports)

    def do_cancel(self, pick: Any) -> bool | None:
        if not self.runs:
            return False
        run = pick(self.runs)
        try:
            self.lab.store.requests.request_cancel(run)
        except Conflict:
            return False
        self.cancelled.add(run)
        self.tick()
        return None

    def do_resume(self, pick: Any) -> bool | None:
        if not 0 < len(self.runs) < 6:
            return False
        try:
            self.runs.append(self.lab.store.requests.resume(pick(self.runs))[0].id)
        except Conflict:
            return False
        return None

    def do_scheduler_dies(self, pick: Any) -> None:
        workers_live = pick((True, False))
        if not workers_live:
            for task in list(self.lab.executor.held.values()):
                self.vanish(task)
        lost = self.in_flight + self.lab.executor.reports
        self.lab.restart(workers_live=workers_live)
        self.listen()
        # Reports that were not committed come again where their workers live, and never otherwise.
        self.in_flight = []
        for report in lost:
            if workers_live:
                self.lab.executor.reports.append(report)
            else:
                self.model[report.run, report.step].vanished.add(report.fence)

    def do_disk_is_full_once(self, pick: Any) -> None:
        real = self.lab.store.commits.commit

        def refuse(*_: Any) -> None:
            raise StorageFull("full")

        self.lab.store.commits.commit = refuse
        try:
            self.tick()
        finally:
            self.lab.store.commits.commit = real

    def vanish(self, task: Any) -> None:
        self.lab.executor.vanish(task)
        self.model[task.run, task.step].vanished.add(task.fence)

    # What must hold at any time

    def look(self) -> None:
        """Compare rows, counts and events with each other and with what was seen before."""
        self.rows_move_along_the_diagram()
        self.runs_agree_with_their_steps_and_events()

    def rows_move_along_the_diagram(self) -> None:
        with self.lab.store.database.read() as connection:
            rows = connection.execute(select(schema.step)).all()
            attempts = connection.execute(select(schema.attempt)).all()
        running = Counter((row.run, row.step) for row in attempts if row.state == "running")
        used = 0.0
        for row in rows:
            key = (row.run, row.id)
            before = self.seen.get(key, "pending")
            if row.state != before:
                assert row.state in ALLOWED.get(before, set()), (key, before, row.state)
            self.seen[key] = row.state
            if row.outputs is not None:
                assert self.outputs.setdefault(key, row.outputs) == row.outputs
            if row.item_count is None:
                assert running[key] == (row.state == "running"), (key, row.state)
                if row.state == "running":
                    used += 2 if row.name == "item" else 3 if row.name == "join" else 1
            if row.cached:
                assert row.attempt == 0 or row.state == "succeeded"
        assert used <= 4

    def runs_agree_with_their_steps_and_events(self) -> None:
        events = self.lab.store.events.after(self.seq, limit=100_000)
        assert [event.seq for event in events] == list(range(self.seq + 1, self.seq + 1 + len(events)))
        self.seq += len(events)
        for event in events:
            if event.kind == "step.state":
                assert event.to_json()["id"] == event.step
        for run in self.runs:
            found = self.lab.get(run)
            leaves = Counter(step.state for step in found.steps if not step.items)
            assert found.summary.counts == dict(leaves), run
            if found.summary.finished:
                assert not {"pending", "ready", "running"} & set(leaves)

    def everything_ends(self) -> None:
        """Liveness: once nothing goes wrong any more, every run reaches its end."""
        for _ in range(400):
            if all(self.lab.get(run).summary.finished for run in self.runs):
                break
            for task in list(self.lab.executor.held.values()):
                if task.run in self.cancelled:
                    self.lab.executor.fail(task, Cause.CANCELLED)
                else:
                    self.lab.executor.succeed(task)
            self.tick()
            self.lab.clock.advance(LEASE_SECONDS / 4)
        self.rows_move_along_the_diagram()
        for run in self.runs:
            found = self.lab.get(run)
            assert found.summary.finished, (run, self.lab.states(run))
            self.agrees_with_the_model(run, found)

    def agrees_with_the_model(self, run: str, found: Any) -> None:
        states = {step.id: step for step in found.steps}
        for step in found.steps:
            known = self.model.get((run, step.id))
            detail = self.lab.step(run, step.id)
            if step.cached:
                why = self.lab.store.explain.why(run, step.id)
                source = self.lab.step(*why.compared_with)
                assert source.summary.state == "succeeded"
                assert source.cache_key == detail.cache_key
                assert source.outputs == detail.outputs
            elif known is not None and step.state != "cancelled":
                lost = known.state == "running" and known.fence in known.vanished
                assert step.state == known.state or (lost and step.state == "failed"), step.id
            if step.state == "succeeded" and step.items is None:
                inputs = detail.inputs
                assert detail.outputs == {"sum": inputs["a"] + inputs["b"]}
        if found.summary.state == "succeeded":
            tops = {step.state for step in found.steps if step.key is None}
            assert tops <= {"succeeded", "skipped"}
            assert found.outputs == {"sum": self.lab.step(run, "last").outputs["sum"]}
        elif found.summary.state == "cancelled":
            assert run in self.cancelled
        else:
            assert any(step.state == "failed" for step in states.values())


ACTIONS = {
    "submit": 2,
    "tick": 10,
    "time_passes": 5,
    "wall_clock_jumps": 1,
    "worker_starts": 4,
    "worker_progresses": 2,
    "worker_succeeds": 8,
    "worker_fails": 4,
    "worker_vanishes": 2,
    "old_report_comes_again": 2,
    "zombie_talks_nonsense": 1,
    "reports_are_shuffled": 2,
    "cancel": 1,
    "resume": 2,
    "scheduler_dies": 1,
    "disk_is_full_once": 1,
}
"""What may happen, and how often beside the others."""

WEIGHTED = [name for name, weight in ACTIONS.items() for _ in range(weight)]


class Machine(RuleBasedStateMachine):
    """Hypothesis decides what happens, and finds the shortest story of a failure."""

    make: Callable[[], Simulation]

    def __init__(self) -> None:
        super().__init__()
        self.world = type(self).make()

    @rule(story=st.lists(st.integers(0, 10**6), min_size=10, max_size=40))
    def things_happen(self, story: list[int]) -> None:
        self.world.act("submit", lambda options: options[story[0] % len(options)])
        for number in story:
            name = WEIGHTED[number % len(WEIGHTED)]
            self.world.act(name, lambda options, n=number: options[n // len(WEIGHTED) % len(options)])
            self.world.look()

    def teardown(self) -> None:
        try:
            self.world.everything_ends()
        finally:
            self.world.close()


@pytest.fixture
def make(parts: SimpleNamespace, template: Path, memory_folder: Path) -> Callable[[], Simulation]:
    return lambda: Simulation(parts, template, memory_folder)


def check(make: Callable[[], Simulation], examples: int, steps: int) -> None:
    machine = type("Check", (Machine,), {"make": staticmethod(make)})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )


def simulate(make: Callable[[], Simulation], seed: int, steps: int) -> Counter[str]:
    """A long story from a seed; says which one it was when it ends badly."""
    world, chance = make(), random.Random(seed)
    try:
        for _ in range(steps):
            world.act(chance.choice(WEIGHTED), chance.choice)
            world.look()
        world.everything_ends()
    except BaseException:
        print(f"seed {seed}, after {sum(world.happened.values())} things: {dict(world.happened)}")
        raise
    finally:
        world.close()
    return world.happened


def test_scheduler_against_the_model(make):
    check(make, examples=6, steps=4)


def test_long_stories(make):
    happened: Counter[str] = Counter()
    for seed in range(4):
        happened += simulate(make, seed, 150)
    # Nothing is proven by what never happened.
    assert happened.keys() == ACTIONS.keys()


@pytest.mark.verify
@pytest.mark.timeout(2900)
def test_many_long_stories(make):
    for seed in range(1000, 2000):
        simulate(make, seed, 200)


@pytest.mark.verify
@pytest.mark.timeout(2900)
def test_scheduler_against_the_model_for_long(make):
    check(make, examples=1000, steps=6)
