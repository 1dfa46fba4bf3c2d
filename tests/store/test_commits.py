"""The scheduler's writes: everything of a tick or nothing, and only by who is right about the rows."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import text

from foldase.store import Changes, Diverged, LeaseLost
from foldase.store.commits import STEP_COLUMNS
from foldase.store.events import NewEvent
from foldase.store.leases import Lease


def step_row(run: str, step: str = "a", state: str = "pending", fence: int = 0, **new: Any) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(STEP_COLUMNS)
    row |= {"attempt": 0, "failures": 0, "losses": 0, "cached": False, "progress": 0.0, "fence": fence}
    row |= {"state": "ready", **new}
    return {**row, "of_run": run, "of_step": step, "of_state": state, "of_fence": fence}


@pytest.fixture
def lease(store):
    return store.leases.acquire("scheduler", "me")


def test_a_tick_is_written_as_one(store, submit, lease):
    run = submit()
    changes = Changes(
        steps=[step_row(run, "a", state="pending", fence=0), step_row(run, "b")],
        events=[NewEvent("step.state", run, "a", "{}")],
    )
    before = store.events.latest()
    store.commits.commit(lease, changes, 5)
    assert [step.state for step in store.queries.run(run).steps] == ["ready", "ready"]
    assert store.events.latest() == before + 1


@pytest.mark.parametrize("wrong", [{"state": "running"}, {"fence": 1}, {"step": "c"}])
def test_one_wrong_belief_voids_the_whole_tick(store, submit, lease, wrong):
    run = submit()
    changes = Changes(
        steps=[step_row(run, "b"), step_row(run, **{"step": "a", **wrong})],
        events=[NewEvent("step.state", run, "b", "{}")],
    )
    before = store.events.latest()
    with pytest.raises(Diverged):
        store.commits.commit(lease, changes, 5)
    assert [step.state for step in store.queries.run(run).steps] == ["pending", "pending"]
    assert store.events.latest() == before


def test_a_finished_run_is_not_written_any_more(store, submit, lease):
    run = submit()
    row = {"of_run": run, "state": "running", "outputs": None, "error": None, "progress": 0.5}
    row |= {"counts": "{}", "started_at": 1, "finished_at": None}
    store.commits.commit(lease, Changes(runs=[row]), 5)
    store.commits.commit(lease, Changes(runs=[{**row, "state": "succeeded", "finished_at": 2}]), 5)
    with pytest.raises(Diverged):
        store.commits.commit(lease, Changes(runs=[row]), 5)
    assert store.queries.run(run).summary.state == "succeeded"


def test_without_the_lease_nothing_is_written(store, submit, lease):
    run = submit()
    stale = Lease(lease.name, lease.owner, lease.fence - 1)
    for wrong in (stale, Lease("scheduler", "somebody", lease.fence), Lease("other", "me", 1)):
        with pytest.raises(LeaseLost):
            store.commits.commit(wrong, Changes(steps=[step_row(run)]), 5)
        with pytest.raises(LeaseLost):
            store.commits.refuse(wrong, run, {"message": "no"}, 5)
    assert [step.state for step in store.queries.run(run).steps] == ["pending", "pending"]


def test_live_runs_are_those_without_an_end(store, submit, lease, clock):
    first = submit()
    clock.advance(1)
    second = submit()
    clock.advance(1)
    third = submit()
    store.requests.request_cancel(second)
    store.commits.refuse(lease, third, {"cause": "bad_input", "code": "x", "message": "no such thing"}, 7)
    assert [(run.id, run.cancel_requested) for run in store.commits.live()] == [
        (first, False),
        (second, True),
    ]
    refused = store.queries.run(third)
    assert refused.summary.state == "failed"
    assert refused.summary.error["message"] == "no such thing"
    assert {(step.state, step.message) for step in refused.steps} == {("skipped", "no such thing")}
    kinds = [event.kind for event in store.events.after(0, run=third)]
    assert kinds[-3:] == ["step.state", "step.state", "run.state"]


def test_what_a_line_of_resumptions_finished(store, submit):
    first = submit()

    def finish(run: str, step: str, outputs: str) -> None:
        with store.database.write() as connection:
            connection.execute(
                text(
                    "UPDATE step SET state = 'succeeded', cache_key = 'k', outputs = :o"
                    " WHERE run = :r AND id = :s"
                ),
                {"r": run, "s": step, "o": outputs},
            )
            connection.execute(text("UPDATE run SET state = 'failed' WHERE id = :r"), {"r": run})

    finish(first, "a", "1")
    second = store.requests.resume(first)[0].id
    finish(second, "b", "2")
    third = store.requests.resume(second)[0].id
    finish(third, "a", "3")
    root, found = store.commits.finished_before(third)
    assert root == first
    assert {name: (row.run, row.outputs) for name, row in found.items()} == {
        "a": (third, "3"),
        "b": (second, "2"),
    }
