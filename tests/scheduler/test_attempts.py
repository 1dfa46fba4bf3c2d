"""Attempts: fences, retries by cause, losses, time limits, cancellation."""

from __future__ import annotations

import pytest

from foldase.scheduler import Failed, Started, Succeeded
from foldase.scheduler.attempts import GRACE_SECONDS, LEASE_SECONDS
from foldase.scheduler.retries import LOSS_CAP
from foldase_workflows.contracts import Cause

GIB = 2**30

ONE = """
version: 1
name: one
steps:
  work:
    uses: test.add@1
    with: {a: 2, b: 3}
    MORE
"""


def one(more: str = "") -> str:
    return ONE.replace("MORE", more)


@pytest.fixture
def held(lab):
    """The lab with an executor that waits for the test."""
    lab.executor.automatic = False
    return lab


def test_only_the_report_of_the_present_claim_is_committed(held):
    run = held.submit(one())
    held.settle()
    first = held.executor.task("work")
    held.executor.fail(first, Cause.WORKER_LOST)
    held.settle()
    second = held.executor.task("work")
    assert second.fence > first.fence
    # The first worker was only frozen, and wakes up with another answer.
    held.executor.reports.append(Succeeded(first.run, first.step, first.fence, {"sum": 666}))
    held.settle()
    assert held.states(run) == {"work": "running"}
    held.executor.succeed(second)
    # Reports come more than once, too.
    held.executor.reports *= 2
    held.executor.reports.append(Succeeded(first.run, first.step, first.fence, {"sum": 667}))
    held.settle()
    assert held.step(run, "work").outputs == {"sum": 5}
    assert [attempt.state for attempt in held.step(run, "work").attempts] == ["failed", "succeeded"]


def test_a_terminal_state_is_never_left(held):
    run = held.submit(one())
    held.settle()
    task = held.executor.task("work")
    held.executor.fail(task, Cause.BAD_INPUT)
    held.executor.reports.append(Succeeded(task.run, task.step, task.fence, {"sum": 1}))
    held.executor.reports.append(Started(task.run, task.step, task.fence, "w", "n", 1))
    held.settle()
    assert held.get(run).summary.state == "failed"
    assert held.step(run, "work").summary.state == "failed"
    assert held.step(run, "work").outputs is None


def test_causes_that_the_rules_name_are_retried_with_growing_waits(held):
    run = held.submit(one("retry: {max: 2, backoff: 4s..60s, on: [timeout]}"))
    held.settle()
    held.executor.fail(held.executor.task("work"), Cause.TIMEOUT)
    held.settle()
    waiting = held.step(run, "work").summary
    assert waiting.state == "ready"
    assert waiting.waiting_for == "a retry in 4 s"
    assert "retry 1 of 2" in waiting.message
    held.clock.advance(3.9)
    held.settle()
    assert held.states(run) == {"work": "ready"}
    held.clock.advance(0.2)
    held.settle()
    assert held.states(run) == {"work": "running"}
    held.executor.fail(held.executor.task("work"), Cause.TIMEOUT)
    held.settle()
    held.clock.advance(7.9)
    held.settle()
    assert held.states(run) == {"work": "ready"}
    held.clock.advance(0.2)
    held.settle()
    held.executor.fail(held.executor.task("work"), Cause.TIMEOUT)
    held.settle()
    detail = held.step(run, "work")
    assert detail.summary.state == "failed"
    assert detail.summary.error["cause"] == "timeout"
    assert [attempt.cause for attempt in detail.attempts] == ["timeout"] * 3


@pytest.mark.parametrize("cause", [Cause.BAD_INPUT, Cause.USER_ERROR])
def test_what_a_person_did_wrong_is_not_retried_unasked(held, cause):
    run = held.submit(one("retry: {max: 3}"))
    held.settle()
    held.executor.fail(held.executor.task("work"), cause)
    held.settle()
    assert held.step(run, "work").summary.state == "failed"
    assert held.step(run, "work").summary.attempt == 1


def test_losing_workers_costs_no_retries_but_has_an_end(held):
    run = held.submit(one("retry: {max: 1, backoff: 1s, on: [user_error]}"))
    held.settle()
    for loss in range(LOSS_CAP):
        held.executor.fail(held.executor.task("work"), Cause.WORKER_LOST if loss % 2 else Cause.NODE_LOST)
        held.settle()
        held.clock.advance(60)
        held.settle()
        assert held.states(run) == {"work": "running"}
    held.executor.fail(held.executor.task("work"), Cause.USER_ERROR)
    held.settle()
    held.clock.advance(60)
    held.settle()
    assert held.states(run) == {"work": "running"}
    held.executor.fail(held.executor.task("work"), Cause.WORKER_LOST)
    held.settle()
    failed = held.step(run, "work").summary
    assert failed.state == "failed"
    assert failed.error["cause"] == "worker_lost"
    assert "may be the reason" in failed.error["hint"]


def test_out_of_memory_gets_more_memory_and_smaller_pieces(held):
    text = """
version: 1
name: one
steps:
  work:
    uses: test.add@1
    with: {a: 2, chunk: 64}
    resources: {memory: 6GiB}
    retry: {max: 3, backoff: 1s, on_oom: {memory: x2, with.chunk: /2}}
"""
    run = held.submit(text)
    held.settle()
    first = held.executor.task("work")
    seen = []
    for _ in range(3):
        task = held.executor.task("work")
        seen.append((task.resources.memory_bytes // GIB, task.inputs["chunk"]))
        held.executor.fail(task, Cause.OOM_HOST)
        held.settle()
        held.clock.advance(10)
        held.settle()
    # The largest node has 16 GiB.
    assert seen == [(6, 64), (12, 32), (16, 16)]
    last = held.executor.task("work")
    assert last.inputs["chunk"] == 8
    # Other parameters make another result, so they have another identity.
    assert last.identity != first.identity
    held.executor.succeed(last)
    held.settle()
    detail = held.step(run, "work")
    assert detail.summary.state == "succeeded"
    assert detail.inputs["chunk"] == 8
    assert [attempt.cause for attempt in detail.attempts] == ["oom_host"] * 3 + [None]
    assert detail.attempts[1].resources["memory_bytes"] == 12 * GIB


def test_out_of_memory_with_nothing_left_to_give_ends_the_step(held):
    run = held.submit(one("resources: {memory: 16GiB}\n    retry: {max: 3, on_oom: {memory: x2}}"))
    held.settle()
    held.executor.fail(held.executor.task("work"), Cause.OOM_HOST)
    held.settle()
    failed = held.step(run, "work").summary
    assert failed.state == "failed"
    assert "largest node" in failed.error["hint"]


def test_without_a_reservation_the_observed_peak_is_the_base(held):
    run = held.submit(one("retry: {max: 1, backoff: 1s, on_oom: {memory: x2}}"))
    held.settle()
    held.executor.fail(held.executor.task("work"), Cause.OOM_HOST, peak_memory_bytes=3 * GIB)
    held.settle()
    held.clock.advance(2)
    held.settle()
    assert held.executor.task("work").resources.memory_bytes == 6 * GIB
    assert "6.0 GiB" in held.step(run, "work").summary.message


def test_a_step_that_runs_too_long_is_stopped(held):
    run = held.submit(one("timeout: 10s"))
    held.settle()
    task = held.executor.task("work")
    assert task.timeout_seconds == 10
    # The limit counts from the beginning, not from the claim.
    held.clock.advance(8)
    held.executor.start(task)
    held.settle()
    held.clock.advance(9)
    held.settle()
    assert held.executor.cancelled == []
    held.clock.advance(1.5)
    held.settle()
    assert held.executor.cancelled == [(held.executor_id(task), GRACE_SECONDS)]
    held.executor.fail(task, Cause.CANCELLED)
    held.settle()
    failed = held.step(run, "work").summary
    assert failed.state == "failed"
    assert failed.error["cause"] == "timeout"


def test_cancel_stops_everything_and_ends_cancelled(held):
    text = """
version: 1
name: cancel
steps:
  one: {uses: test.add@1}
  two: {uses: test.add@1, with: {a: '${{ steps.one.sum }}'}}
  big: {uses: test.add@1, with: {a: 1}, resources: {cpu: 4}}
"""
    run = held.submit(text)
    held.settle()
    assert held.states(run) == {"one": "running", "two": "pending", "big": "ready"}
    summary = held.store.requests.request_cancel(run)
    assert summary.cancel_requested
    held.settle()
    assert held.states(run) == {"one": "running", "two": "cancelled", "big": "cancelled"}
    assert held.get(run).summary.state == "running"
    assert [grace for _, grace in held.executor.cancelled] == [GRACE_SECONDS]
    held.executor.fail(held.executor.task("one"), Cause.CANCELLED)
    held.settle()
    finished = held.get(run)
    assert finished.summary.state == "cancelled"
    assert held.states(run)["one"] == "cancelled"
    assert len(held.executor.submitted) == 1


def test_a_run_cancelled_before_it_began_never_runs(held):
    run = held.submit(one())
    held.store.requests.request_cancel(run)
    held.settle()
    assert held.get(run).summary.state == "cancelled"
    assert held.executor.submitted == []


def test_a_result_that_was_ready_before_the_cancel_is_kept(held):
    run = held.submit(one())
    held.settle()
    held.store.requests.request_cancel(run)
    held.settle()
    held.executor.succeed(held.executor.task("work"))
    held.settle()
    assert held.step(run, "work").summary.state == "succeeded"
    assert held.get(run).summary.state == "succeeded"


def test_a_cancelled_step_whose_worker_is_silent_ends_after_its_lease(held):
    run = held.submit(one())
    held.settle()
    held.store.requests.request_cancel(run)
    held.settle()
    held.executor.vanish(held.executor.task("work"))
    held.clock.advance(LEASE_SECONDS + 1)
    held.settle()
    assert held.get(run).summary.state == "cancelled"


def test_a_step_that_no_worker_holds_is_lost_after_its_lease(held):
    run = held.submit(one())
    held.settle()
    first = held.executor.task("work")
    held.executor.vanish(first)
    held.clock.advance(LEASE_SECONDS - 1)
    held.settle()
    assert held.states(run) == {"work": "running"}
    assert len(held.executor.submitted) == 1
    held.clock.advance(2)
    held.settle()
    assert len(held.executor.submitted) == 2
    # Should the old one live after all, it is told to stop at once.
    assert held.executor.cancelled == [(held.executor_id(first), 0.0)]
    assert held.step(run, "work").attempts[0].cause == "worker_lost"


def test_a_worker_that_still_holds_its_step_is_never_given_up(held):
    run = held.submit(one())
    held.settle()
    for _ in range(20):
        held.clock.advance(LEASE_SECONDS - 1)
        held.settle()
    assert held.states(run) == {"work": "running"}
    assert len(held.executor.submitted) == 1


def test_jumps_of_the_wall_clock_expire_nothing(held):
    run = held.submit(one("timeout: 60s\n    retry: {max: 1, backoff: 5s, on: [user_error]}"))
    held.settle()
    held.executor.start(held.executor.task("work"))
    held.settle()
    for jump in (86400, -86400, -3600, 3600):
        held.clock.jump += jump
        held.settle()
    assert held.states(run) == {"work": "running"}
    held.executor.fail(held.executor.task("work"), Cause.USER_ERROR)
    held.settle()
    held.clock.jump -= 86400
    held.clock.advance(6)
    held.settle()
    assert held.states(run) == {"work": "running"}


def test_progress_logs_and_metrics_become_events(held):
    run = held.submit(one())
    held.settle()
    task = held.executor.task("work")
    held.executor.start(task)
    held.executor.progress(task, 0.25, message="a quarter", log_offset=100, metrics_offset=20)
    held.settle()
    step = held.step(run, "work").summary
    assert (step.progress, step.message, step.waiting_for) == (0.25, "a quarter", None)
    assert held.get(run).summary.progress == 0.25
    kinds = {event.kind: event.to_json() for event in held.store.events.after(0, run=run)}
    assert kinds["step.log"]["offset"] == 100
    assert kinds["step.log"]["attempt"] == 1
    assert kinds["step.metrics"]["offset"] == 20
    before = held.store.events.latest()
    held.executor.progress(task, 0.5, message="half")
    held.settle()
    new = held.store.events.after(before, run=run)
    assert [event.kind for event in new if event.kind.startswith("step")] == ["step.progress"]
    assert new[0].to_json()["progress"] == 0.5


def test_what_an_attempt_took_is_kept(held):
    run = held.submit(one())
    held.settle()
    task = held.executor.task("work")
    held.executor.start(task)
    held.executor.vanish(task)
    held.executor.reports.append(
        Succeeded(task.run, task.step, task.fence, {"sum": 5}, peak_memory_bytes=77, cpu_seconds=1.5)
    )
    held.settle()
    attempt = held.step(run, "work").attempts[0]
    assert (attempt.worker, attempt.node, attempt.pid) == ("worker-1", "node-1", 4711)
    assert (attempt.peak_memory_bytes, attempt.cpu_seconds) == (77, 1.5)


def test_an_output_that_is_no_json_fails_the_step_and_not_the_scheduler(held):
    run = held.submit(one())
    held.settle()
    held.executor.succeed(held.executor.task("work"), {"sum": float("nan")})
    held.settle()
    failed = held.step(run, "work").summary
    assert failed.state == "failed"
    assert failed.error["code"] == "bad_output"


def test_an_error_that_is_no_json_does_not_stop_the_scheduler(held):
    run = held.submit(one())
    held.settle()
    task = held.executor.task("work")
    held.executor.reports.append(
        Failed(task.run, task.step, task.fence, Cause.USER_ERROR, {"code": "x", "message": object()})
    )
    held.settle()
    assert held.step(run, "work").summary.error["code"] == "unreadable_error"


def test_texts_that_no_database_takes_are_mended(held):
    run = held.submit(one())
    held.settle()
    task = held.executor.task("work")
    held.executor.progress(task, 0.5, message="half \udcff\x00 way")
    held.settle()
    assert held.step(run, "work").summary.message == "half ?\ufffd way"
    held.executor.succeed(task)
    held.settle()
    assert held.get(run).summary.state == "succeeded"
