"""The scheduler dies and another one starts; or its database fails it for a while."""

from __future__ import annotations

import pytest

from foldase.scheduler.attempts import ADOPTION_SECONDS
from foldase.scheduler.scheduler import RENEW_SECONDS
from foldase.store import Diverged, LeaseLost
from foldase_workflows.contracts import Cause, StorageFull, Unavailable

WIDE = """
version: 1
name: wide
inputs: {n: {type: 'list[int]', default: [1, 2, 3, 4, 5, 6]}}
steps:
  first: {uses: test.add@1, with: {a: 100}}
  item: {uses: test.add@1, each: {i: '${{ inputs.n }}'}, after: [first], with: {a: '${{ each.i }}'}}
  maybe: {uses: test.add@1, if: '${{ false }}', after: [first]}
  join: {uses: test.add@1, with: {a: '${{ sum(steps.item.each.sum) }}', b: '${{ steps.first.sum }}'}}
outputs: {sum: '${{ steps.join.sum }}'}
"""


def test_after_a_crash_finished_steps_stay_finished_and_the_rest_goes_on(lab):
    lab.executor.automatic = False
    run = lab.submit(WIDE)
    lab.settle()
    lab.executor.succeed(lab.executor.task("first"))
    lab.settle()
    lab.executor.succeed(lab.executor.task("item[1]"))
    lab.executor.succeed(lab.executor.task("item[2]"))
    lab.settle()
    before = {task.step for task in lab.executor.submitted}
    assert "item[6]" in before
    lab.restart()
    lab.executor.automatic = True
    lab.settle()
    assert lab.states(run)["item[6]"] == "running"
    lab.clock.advance(ADOPTION_SECONDS + 0.1)
    lab.settle()
    finished = lab.get(run)
    assert finished.summary.state == "succeeded"
    assert finished.outputs == {"sum": 121}
    assert {task.step for task in lab.executor.submitted} == {
        "item[3]", "item[4]", "item[5]", "item[6]", "join"
    }  # fmt: skip
    attempts = lab.step(run, "item[3]").attempts
    assert [(attempt.state, attempt.cause) for attempt in attempts] == [
        ("failed", "worker_lost"),
        ("succeeded", None),
    ]


def test_what_live_workers_hold_is_adopted(lab):
    lab.executor.automatic = False
    run = lab.submit(WIDE)
    lab.settle()
    task = lab.executor.task("first")
    lab.executor.start(task)
    lab.settle()
    lab.restart(workers_live=True)
    lab.settle()
    lab.clock.advance(60)
    lab.settle()
    assert lab.states(run)["first"] == "running"
    assert lab.step(run, "first").summary.attempt == 1
    lab.executor.automatic = True
    lab.executor.succeed(task)
    lab.settle()
    assert lab.get(run).summary.state == "succeeded"
    assert lab.step(run, "first").summary.attempt == 1


def test_a_time_limit_goes_on_counting_over_a_restart(lab):
    lab.executor.automatic = False
    text = "version: 1\nname: t\nsteps:\n  s: {uses: test.add@1, timeout: 60s}\n"
    run = lab.submit(text)
    lab.settle()
    lab.executor.start(lab.executor.task("s"))
    lab.settle()
    lab.clock.advance(50)
    lab.restart(workers_live=True)
    lab.settle()
    lab.clock.advance(9)
    lab.settle()
    assert lab.executor.cancelled == []
    lab.clock.advance(2)
    lab.settle()
    assert len(lab.executor.cancelled) == 1
    assert lab.states(run) == {"s": "running"}


def test_waiting_for_a_retry_survives_a_restart(lab):
    lab.executor.automatic = False
    text = (
        "version: 1\nname: t\nsteps:\n"
        "  s: {uses: test.add@1, retry: {max: 1, backoff: 30s, on: [user_error]}}\n"
    )
    run = lab.submit(text)
    lab.settle()
    lab.executor.fail(lab.executor.task("s"), Cause.USER_ERROR)
    lab.settle()
    lab.clock.advance(10)
    lab.restart()
    lab.settle()
    lab.clock.advance(19)
    lab.settle()
    assert lab.states(run) == {"s": "ready"}
    lab.clock.advance(2)
    lab.settle()
    assert lab.states(run) == {"s": "running"}
    lab.executor.fail(lab.executor.task("s"), Cause.USER_ERROR)
    lab.settle()
    assert lab.states(run) == {"s": "failed"}


def test_a_cancel_is_not_forgotten(lab):
    lab.executor.automatic = False
    run = lab.submit(WIDE)
    lab.settle()
    lab.restart(workers_live=True)
    lab.store.requests.request_cancel(run)
    lab.settle()
    lab.executor.fail(lab.executor.task("first"), Cause.CANCELLED)
    lab.settle()
    assert lab.get(run).summary.state == "cancelled"


def test_shutting_down_costs_nobody_an_attempt_of_theirs(lab):
    lab.executor.automatic = False
    run = lab.submit(WIDE)
    lab.settle()
    lab.scheduler.shut_down()
    step = lab.step(run, "first")
    assert step.summary.state == "ready"
    assert step.attempts[0].cause == "infrastructure"
    lab.restart()
    lab.executor.automatic = True
    lab.settle()
    assert lab.get(run).summary.state == "succeeded"
    assert lab.step(run, "first").summary.attempt == 2


@pytest.mark.parametrize("error", [StorageFull("full"), Unavailable("locked")])
def test_a_database_that_cannot_write_delays_and_loses_nothing(lab, monkeypatch, error):
    lab.executor.automatic = False
    run = lab.submit(WIDE)
    lab.settle()
    lab.executor.succeed(lab.executor.task("first"))
    real = lab.store.commits.commit

    def refuse(*_):
        raise error

    monkeypatch.setattr(lab.store.commits, "commit", refuse)
    polls = lab.executor.polls
    for _ in range(5):
        assert not lab.scheduler.tick()
        assert lab.scheduler.trouble is error
    # The report was taken once; asking again would have said that it is committed.
    assert lab.executor.polls == polls + 1
    assert lab.states(run)["first"] == "running"
    monkeypatch.setattr(lab.store.commits, "commit", real)
    lab.executor.automatic = True
    lab.settle()
    assert lab.scheduler.trouble is None
    assert lab.get(run).summary.state == "succeeded"
    assert lab.step(run, "first").summary.attempt == 1


def test_a_row_that_somebody_changed_makes_the_scheduler_look_again(lab):
    from sqlalchemy import text

    lab.executor.automatic = False
    run = lab.submit(WIDE)
    lab.settle()
    with lab.store.database.write() as connection:
        connection.execute(
            text("UPDATE step SET state = 'cancelled' WHERE run = :run AND id = 'first'"), {"run": run}
        )
    lab.executor.succeed(lab.executor.task("first"))
    assert not lab.scheduler.tick()
    assert isinstance(lab.scheduler.trouble, Diverged)
    lab.settle()
    assert lab.states(run)["first"] == "cancelled"
    assert lab.get(run).summary.state == "cancelled"


def test_there_is_one_scheduler_at_a_time(lab, parts):
    from foldase.scheduler import Scheduler

    lab.executor.automatic = False
    run = lab.submit(WIDE)
    lab.settle()
    other_executor = parts.FakeExecutor(lab.store, automatic=False)
    other = Scheduler(lab.store, lab.registry, other_executor)
    assert not other.tick()
    assert not other.leads
    # As long as the first shows signs of life, the other stays away.
    for _ in range(10):
        lab.clock.advance(RENEW_SECONDS)
        lab.settle()
        assert not other.tick()
    # It falls silent, for longer than its term.
    for _ in range(6):
        lab.clock.advance(RENEW_SECONDS)
        other.tick()
    assert other.leads
    # The first wakes up with a result, and must not be able to write it.
    lab.executor.succeed(lab.executor.task("first"))
    assert not lab.scheduler.tick()
    assert isinstance(lab.scheduler.trouble, LeaseLost)
    assert not lab.scheduler.leads
    assert lab.states(run)["first"] == "running"
