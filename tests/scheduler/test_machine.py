"""The scheduler against a model, while workers lie, die, repeat themselves and come late.

The model knows the rules of reports and retries and nothing of SQL, caches or queues. Whatever the executor
is told to start must be allowed by it, and once all is quiet both must agree on every step.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import select

from foldase.scheduler import Failed, Started, Succeeded
from foldase.scheduler.attempts import LEASE_SECONDS
from foldase.scheduler.retries import LOSS_CAP
from foldase.store import schema
from foldase_workflows.contracts import Cause, Conflict, StorageFull

RETRIES = 1
WORKFLOW = """
version: 1
name: machine
inputs: {x: {type: int}, n: {type: 'list[int]'}, go: {type: bool}}
defaults: {retry: {max: 1, backoff: 3s, on: [timeout, oom]}}
steps:
  root: {uses: test.add@1, with: {a: '${{ inputs.x }}'}}
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
        if cause in (Cause.TIMEOUT, Cause.OOM_HOST):
            self.failures += 1
            return "ready" if self.failures <= RETRIES else "failed"
        return "failed"


class World(RuleBasedStateMachine):
    """A laboratory and its model. The classes of the laboratory come from a fixture."""

    parts: SimpleNamespace
    template: Path
    folder: Path

    def __init__(self) -> None:
        super().__init__()
        self.home = Path(tempfile.mkdtemp(dir=self.folder))
        self.lab = self.parts.Lab(self.home, self.template)
        self.model: dict[tuple[str, str], ModelStep] = {}
        self.in_flight: list[Any] = []
        self.old: list[Any] = []
        self.runs: list[str] = []
        self.cancelled: set[str] = set()
        self.seen: dict[tuple[str, str], str] = {}
        self.outputs: dict[tuple[str, str], str] = {}
        self.seq = 0
        self.listen()

    def listen(self) -> None:
        self.lab.executor.automatic = False
        self.lab.executor.on_claim = self.on_claim
        self.lab.executor.on_poll = self.on_poll

    def teardown(self) -> None:
        try:
            self.everything_ends()
        finally:
            self.lab.store.close()
            shutil.rmtree(self.home)

    # What the executor tells us

    def on_poll(self, reports: list[Any]) -> None:
        self.in_flight = list(reports)

    def on_claim(self, task: Any) -> None:
        key = (task.run, task.step)
        step = self.model.setdefault(key, ModelStep(state="ready"))
        step.claimed(task.fence)
        assert task.run not in self.cancelled_and_known, "a cancelled run starts nothing"
        states = self.lab.states(task.run)
        for name in NEEDS[task.step.partition("[")[0]]:
            assert states[name] in ("succeeded", "skipped"), f"{task.step} before {name}"
        assert states[task.step] == "running", "submitted before it was committed"

    @property
    def cancelled_and_known(self) -> set[str]:
        return {run for run in self.cancelled if self.lab.get(run).summary.finished}

    def tick(self) -> None:
        before = self.in_flight
        self.lab.scheduler.tick()
        if self.lab.scheduler.trouble is None:
            for report in self.in_flight:
                step = self.model.get((report.run, report.step))
                if step is not None:
                    step.delivered(report, cancelled=report.run in self.cancelled)
            self.old += self.in_flight
            self.in_flight = []
        else:
            self.in_flight = before or self.in_flight

    # What may happen

    @initialize(x=st.integers(1, 3))
    def first(self, x: int) -> None:
        self.submit(x, [1, 2], go=True)

    @precondition(lambda self: len(self.runs) < 4)
    @rule(x=st.integers(1, 3), n=st.lists(st.integers(1, 3), max_size=3), go=st.booleans())
    def submit(self, x: int, n: list[int], go: bool) -> None:
        self.runs.append(self.lab.submit(WORKFLOW, {"x": x, "n": n, "go": go}))

    @rule()
    def let_it_decide(self) -> None:
        self.tick()

    @rule(seconds=st.sampled_from([0.5, 2.0, 4.0, 20.0]))
    def time_passes(self, seconds: float) -> None:
        self.lab.clock.advance(seconds)
        self.tick()

    @rule(jump=st.sampled_from([-86400.0, -60.0, 60.0, 86400.0]))
    def wall_clock_jumps(self, jump: float) -> None:
        self.lab.clock.jump += jump

    @precondition(lambda self: self.lab.executor.held)
    @rule(data=st.data())
    def worker_starts(self, data: st.DataObject) -> None:
        self.lab.executor.start(self.choose(data))

    @precondition(lambda self: self.lab.executor.held)
    @rule(data=st.data(), fraction=st.floats(0, 1))
    def worker_progresses(self, data: st.DataObject, fraction: float) -> None:
        self.lab.executor.progress(self.choose(data), fraction, message="at work", log_offset=10)

    @precondition(lambda self: self.lab.executor.held)
    @rule(data=st.data())
    def worker_succeeds(self, data: st.DataObject) -> None:
        self.succeed(self.choose(data))

    @precondition(lambda self: self.lab.executor.held)
    @rule(data=st.data(), cause=st.sampled_from(CAUSES))
    def worker_fails(self, data: st.DataObject, cause: Cause) -> None:
        self.lab.executor.fail(self.choose(data), cause)

    @precondition(lambda self: self.lab.executor.held)
    @rule(data=st.data())
    def worker_vanishes(self, data: st.DataObject) -> None:
        self.vanish(self.choose(data))

    @precondition(lambda self: self.old)
    @rule(data=st.data())
    def an_old_report_comes_again(self, data: st.DataObject) -> None:
        self.lab.executor.reports.append(data.draw(st.sampled_from(self.old)))

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def a_zombie_reports_nonsense(self, data: st.DataObject) -> None:
        run, step = data.draw(st.sampled_from(sorted(self.model)))
        fence = self.model[run, step].fence - 1
        self.lab.executor.reports.append(Succeeded(run, step, fence, {"sum": -1}))
        self.lab.executor.reports.append(Started(run, step, fence, "zombie", "nowhere", 1))

    @rule(seed=st.integers(0, 2**16))
    def reports_are_shuffled(self, seed: int) -> None:
        random.Random(seed).shuffle(self.lab.executor.reports)

    @precondition(lambda self: self.runs)
    @rule(data=st.data())
    def somebody_cancels(self, data: st.DataObject) -> None:
        run = data.draw(st.sampled_from(self.runs))
        try:
            self.lab.store.requests.request_cancel(run)
        except Conflict:
            return
        self.cancelled.add(run)
        self.tick()

    @precondition(lambda self: 0 < len(self.runs) < 6)
    @rule(data=st.data())
    def somebody_resumes(self, data: st.DataObject) -> None:
        run = data.draw(st.sampled_from(self.runs))
        try:
            self.runs.append(self.lab.store.requests.resume(run)[0].id)
        except Conflict:
            return

    @rule(workers_live=st.booleans())
    def scheduler_dies(self, workers_live: bool) -> None:
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
                self.mark_vanished(report.run, report.step, report.fence)

    @rule()
    def disk_is_full_once(self) -> None:
        real = self.lab.store.commits.commit

        def refuse(*_: Any) -> None:
            raise StorageFull("full")

        self.lab.store.commits.commit = refuse
        try:
            self.tick()
        finally:
            self.lab.store.commits.commit = real

    # What must hold at any time

    @invariant()
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

    @invariant()
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

    # Helpers

    def choose(self, data: st.DataObject) -> Any:
        held = sorted(self.lab.executor.held.values(), key=lambda task: (task.run, task.step))
        return data.draw(st.sampled_from(held))

    def succeed(self, task: Any) -> None:
        self.lab.executor.succeed(task)

    def vanish(self, task: Any) -> None:
        self.lab.executor.vanish(task)
        self.mark_vanished(task.run, task.step, task.fence)

    def mark_vanished(self, run: str, step: str, fence: int) -> None:
        self.model[run, step].vanished.add(fence)

    def everything_ends(self) -> None:
        """Liveness: once nothing goes wrong any more, every run reaches its end."""
        for _ in range(400):
            if all(self.lab.get(run).summary.finished for run in self.runs):
                break
            for task in list(self.lab.executor.held.values()):
                if task.run in self.cancelled:
                    self.lab.executor.fail(task, Cause.CANCELLED)
                else:
                    self.succeed(task)
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


COMMON = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
    "print_blob": True,
}


def check(parts: SimpleNamespace, template: Path, folder: Path, how: settings) -> None:
    World.parts, World.template, World.folder = parts, template, folder
    run_state_machine_as_test(World, settings=how)


def test_scheduler_against_the_model(parts, template, memory_folder):
    check(parts, template, memory_folder, settings(max_examples=25, stateful_step_count=40, **COMMON))


@pytest.mark.verify
@pytest.mark.timeout(2400)
def test_scheduler_against_the_model_for_long(parts, template, memory_folder):
    check(parts, template, memory_folder, settings(max_examples=1500, stateful_step_count=60, **COMMON))
