"""What people ask for: runs made once, cancelled, resumed; and what they see of them."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text

from foldase.store import Store
from foldase.store.ids import new_run_id
from foldase_workflows.contracts import Artifact, Conflict, NotFound


def finish(store, run, state):
    with store.database.write() as connection:
        connection.execute(text("UPDATE run SET state = :s WHERE id = :r"), {"s": state, "r": run})


def test_a_submitted_run_is_there_with_its_steps_and_events(store, a_submission):
    run, new = store.requests.submit(a_submission(name="fold", priority=7))
    assert new
    shown = run.to_json()
    assert re.fullmatch(r"r[0-9a-z]{12}", shown["id"])
    assert shown["state"] == "pending"
    assert shown["priority"] == 7
    assert shown["workflow"]["name"] == "fold"
    assert shown["inputs"] == {"n": 1}
    assert shown["source"] == "name: fold"
    assert shown["counts"] == {"pending": 2}
    assert [(step["id"], step["uses"], step["after"]) for step in shown["steps"]] == [
        ("a", "x@1", []),
        ("b", "y@1", ["a"]),
    ]
    assert [event.kind for event in store.events.after(0)] == ["run.created", "step.state", "step.state"]
    assert store.queries.run(run.id) == run
    assert store.queries.document(run.summary.workflow_digest) == {"name": "fold"}


def test_the_same_key_is_the_same_run(store, a_submission):
    first, new = store.requests.submit(a_submission(), idempotency_key="k", body_digest="1")
    again, again_new = store.requests.submit(a_submission(), idempotency_key="k", body_digest="1")
    assert (new, again_new) == (True, False)
    assert first.id == again.id
    with pytest.raises(Conflict) as caught:
        store.requests.submit(a_submission(), idempotency_key="k", body_digest="2")
    assert caught.value.code == "idempotency_mismatch"
    other, other_new = store.requests.submit(a_submission(), idempotency_key="l", body_digest="1")
    assert other_new
    assert other.id != first.id
    assert len(store.queries.runs()[0]) == 2


def test_many_at_once_with_one_key_make_one_run(home, clock, a_submission):
    stores = [Store.at(home, clock=clock) for _ in range(4)]

    def ask(store):
        return store.requests.submit(a_submission(), idempotency_key="k", body_digest="1")

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(ask, stores * 4))
    assert len({run.id for run, _ in answers}) == 1
    assert sum(new for _, new in answers) == 1
    for opened in stores:
        opened.close()


def test_cancel_is_remembered_once_and_refused_when_too_late(store, submit):
    run = submit()
    assert store.requests.request_cancel(run).cancel_requested
    before = store.events.latest()
    assert store.requests.request_cancel(run).cancel_requested
    assert store.events.latest() == before
    finish(store, run, "succeeded")
    with pytest.raises(Conflict) as caught:
        store.requests.request_cancel(run)
    assert "already succeeded" in caught.value.message
    with pytest.raises(NotFound):
        store.requests.request_cancel("r000000000000")


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_resume_makes_a_new_run_that_knows_the_old_one(store, a_submission, state):
    old, _ = store.requests.submit(a_submission(name="fold", priority=3))
    finish(store, old.id, state)
    new, fresh = store.requests.resume(old.id, idempotency_key="again")
    assert fresh
    assert new.id != old.id
    assert new.summary.resumed_from == old.id
    assert new.summary.priority == 3
    assert new.inputs == old.inputs
    assert new.source == old.source
    assert [step.id for step in new.steps] == [step.id for step in old.steps]
    assert all(step.state == "pending" for step in new.steps)
    assert store.requests.resume(old.id, idempotency_key="again")[0].id == new.id
    with pytest.raises(Conflict):
        store.requests.resume("r000000000000", idempotency_key="again")


@pytest.mark.parametrize("state", ["pending", "running", "succeeded"])
def test_only_what_failed_or_was_cancelled_can_be_resumed(store, submit, state):
    run = submit()
    finish(store, run, state)
    with pytest.raises(Conflict) as caught:
        store.requests.resume(run)
    assert caught.value.code == "not_resumable"
    assert state in caught.value.message


def test_unknown_things_are_not_found(store, submit):
    run = submit()
    for ask in (
        lambda: store.queries.run("r000000000000"),
        lambda: store.queries.run_summary("../x"),
        lambda: store.queries.step(run, "nothing"),
        lambda: store.queries.artifacts("r000000000000"),
        lambda: store.queries.artifact("sha256:" + "0" * 64),
        lambda: store.queries.document("sha256:" + "0" * 64),
        lambda: store.explain.why(run, "nothing"),
        lambda: store.requests.resume("r000000000000"),
    ):
        with pytest.raises(NotFound):
            ask()


def test_pages_of_runs_newest_first(store, submit, clock):
    ids = []
    for number in range(7):
        clock.advance(1)
        ids.append(submit(name=f"fold-{number % 2}"))
    page, cursor = store.queries.runs(limit=3)
    assert [run.id for run in page] == ids[:3:-1]
    rest, end = store.queries.runs(limit=10, cursor=cursor)
    assert [run.id for run in rest] == ids[3::-1]
    assert end is None
    # A run that comes meanwhile does not disturb the pages behind.
    clock.advance(1)
    submit()
    assert store.queries.runs(limit=10, cursor=cursor)[0] == rest
    finish(store, ids[2], "failed")
    assert [run.id for run in store.queries.runs(states=["failed"])[0]] == [ids[2]]
    assert len(store.queries.runs(text="OLD-1")[0]) == 3
    assert [run.id for run in store.queries.runs(text=ids[4])[0]] == [ids[4]]
    assert store.queries.runs(text="100%")[0] == []


def test_an_uploaded_artifact_is_known_by_its_digest(store):
    artifact = Artifact("sha256:" + "ab" * 32, "fasta", 12, "query.fa", "text/x-fasta")
    store.requests.register_artifact(artifact)
    assert store.queries.artifact("ab" * 32) == artifact
    renamed = Artifact(artifact.digest, "file", 12, "other.txt", "text/plain")
    assert store.requests.register_artifact(renamed) == renamed
    assert store.queries.artifact(artifact.digest) == artifact


def test_run_ids_rise_with_time_and_within_a_moment():
    ids = [new_run_id(1_700_000_000_000 + step // 100) for step in range(1000)]
    assert ids == sorted(set(ids))
    assert new_run_id(1_900_000_000_000) > ids[-1]
