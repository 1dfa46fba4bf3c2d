"""A process that dies at any named point: nothing that was promised is lost, nothing is done twice.

A child runs a small workflow with files, trees, items and logs and ends without any clean-up at the k-th
arrival at a fault point. What it left is looked at, and another one goes on. With every change this is done
at every point, early, late and in between; ``make verify`` does it at every arrival.
"""

from __future__ import annotations

import hashlib
import json
import os
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from foldase.store import FAULTPOINTS, Store, faults
from foldase.store.faults import EXIT_STATUS, die_at

WORKFLOW = """
version: 1
name: crash
steps:
  write: {uses: test.write@1, with: {text: some bytes}}
  grow: {uses: test.grow@1}
  item: {uses: test.add@1, each: {i: [1, 2]}, after: [write], with: {a: '${{ each.i }}'}}
  join: {uses: test.add@1, with: {a: '${{ sum(steps.item.each.sum) }}'}}
outputs: {file: '${{ steps.write.file }}', sum: '${{ steps.join.sum }}'}
"""


def work(lab: Any, acknowledge: Any) -> None:
    """What the child does; may be done again and again in the same folder."""
    submit = lab.submit(WORKFLOW, idempotency_key="the one run")
    acknowledge(submit)
    for _ in range(200):
        lab.scheduler.tick()
        lab.clock.advance(1)
        if lab.get(submit).summary.finished:
            break
    while lab.store.logs.archive():
        pass
    lab.scheduler.shut_down()


def in_a_child(make: Any, hook: Any) -> tuple[int, list[str], str]:
    """Fork, install the hook, work; returns the exit status, what was acknowledged, and the counts."""
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(readable)
        status = 1
        try:
            counts: Counter[str] = Counter()

            def counted(name: str) -> None:
                counts[name] += 1
                if hook is not None:
                    hook(name)

            lab = make()
            faults.install(counted)
            work(lab, lambda run: os.write(writable, f"{run}\n".encode()))
            faults.install(None)
            os.write(writable, (json.dumps(counts) + "\n").encode())
            status = 0
        except BaseException:  # noqa: BLE001  # a child must never return into pytest
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writable)
    with os.fdopen(readable) as pipe:
        lines = pipe.read().splitlines()
    _, waited = os.waitpid(child, 0)
    counts_line = lines[-1] if lines and lines[-1].startswith("{") else "{}"
    return os.waitstatus_to_exitcode(waited), [line for line in lines if line[0] != "{"], counts_line


def look(home: Path, acknowledged: list[str]) -> dict[str, str]:
    """What must hold whatever happened; returns the attempts of finished steps."""
    for path in (home / "blobs").glob("[0-9a-f][0-9a-f]/*"):
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
    store = Store.at(home)
    try:
        with store.database.read() as connection:
            assert connection.execute(text("PRAGMA integrity_check")).scalar() == "ok"
        found = [run.id for run in store.queries.runs()[0]]
        assert set(acknowledged) <= set(found)
        assert len(found) <= 1
        events = store.events.after(0, limit=10_000)
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        finished = {}
        for run in found:
            for item in store.queries.artifacts(run):
                store.blobs.verify_artifact(item.artifact)
                assert store.queries.artifact(item.artifact.digest).size == item.artifact.size
            for step in store.queries.run(run).steps:
                if step.state == "succeeded" and step.items is None:
                    finished[step.id] = step.attempt
        return finished
    finally:
        store.close()


def look_at_the_end(home: Path) -> None:
    store = Store.at(home)
    try:
        (summary,) = store.queries.runs()[0]
        assert summary.state == "succeeded"
        assert summary.counts == {"succeeded": 5}
        for step in store.queries.run(summary.id).steps:
            if step.items is not None:
                continue
            states = Counter(attempt.state for attempt in store.queries.step(summary.id, step.id).attempts)
            assert states["succeeded"] == 1
            assert states["running"] == 0
            number, page = store.logs.read(summary.id, step.id, "log")
            assert [line["message"] for line in page.lines] == [f"{step.id} attempt {number}"]
            assert page.end
        assert list((home / "blobs" / "tmp").iterdir()) == []
    finally:
        store.close()


@pytest.fixture
def make(parts, template):
    """Makes a laboratory in the folder of the test, new or as the last one left it."""

    def made(home: Path) -> Any:
        lab = parts.Lab(home, template)
        compute = lab.executor.compute

        def computed(task: Any) -> dict[str, Any]:
            with lab.store.attempt_logs.writer(task.run, task.step, task.attempt, "log") as writer:
                lab.executor.log_bytes = writer.write({"message": f"{task.step} attempt {task.attempt}"})
            return compute(task)

        lab.executor.compute = computed
        return lab

    return made


def spread(arrivals: int, most: int | None) -> list[int]:
    """The numbers of arrivals to die at: all of them, or the first, the last and some in between."""
    if most is None or arrivals <= most:
        return list(range(1, arrivals + 1))
    return sorted({1 + number * (arrivals - 1) // (most - 1) for number in range(most)})


@pytest.mark.parametrize("most", [3, pytest.param(None, marks=pytest.mark.verify)], ids=["few", "all"])
def test_every_fault_point_is_survived(make, memory_folder, most):
    home = memory_folder / "all"
    status, acknowledged, counts_line = in_a_child(lambda: make(home), None)
    assert status == 0
    look(home, acknowledged)
    look_at_the_end(home)
    counts = json.loads(counts_line)
    assert set(counts) == FAULTPOINTS
    for name in sorted(FAULTPOINTS):
        for hit in spread(counts[name], most):
            place = memory_folder / f"{name}-{hit}"
            status, acknowledged, _ = in_a_child(lambda place=place: make(place), die_at(name, hit))
            assert status == EXIT_STATUS, (name, hit)
            finished = look(place, acknowledged)
            status, more, _ = in_a_child(lambda place=place: make(place), None)
            assert status == 0, (name, hit)
            assert set(acknowledged) <= set(more)
            after = look(place, more)
            assert finished.items() <= after.items(), "a finished step ran again"
            look_at_the_end(place)


def test_fault_points_cost_nothing_and_are_known_by_name():
    with pytest.raises(ValueError, match="nowhere"):
        die_at("nowhere", 1)
    with pytest.raises(ValueError, match="hit 0"):
        die_at("commit.before", 0)
    seen: list[str] = []
    faults.install(seen.append)
    try:
        faults.faultpoint("commit.before")
    finally:
        faults.install(None)
    faults.faultpoint("commit.before")
    assert seen == ["commit.before"]
