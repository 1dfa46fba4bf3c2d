"""Plans of memory: what is kept of them, what is learnt, and another attempt that saves more."""

from __future__ import annotations

import pytest

from foldase.scheduler.corrections import KEPT, LEAST, MOST, Corrections, correction, ratio_of
from foldase.scheduler.retries import MOST_FRUGAL_ATTEMPTS
from foldase_workflows.contracts import Cause, Resources

GIB = 2**30

ONE = """
version: 1
name: one
steps:
  work:
    uses: test.thrifty@1
    with: {a: 2, b: 3}
    MORE
"""


def one(more: str = "") -> str:
    return ONE.replace("MORE", more)


def plan(predicted: int, **more: object) -> dict[str, object]:
    return {"predicted_peak_bytes": predicted, "process_bytes": GIB, **more}


@pytest.fixture
def held(lab):
    """The lab with an executor that waits for the test."""
    lab.executor.automatic = False
    return lab


def out_of_memory(held, cause=Cause.OOM_HOST, **more):
    task = held.executor.task("work")
    held.executor.fail(task, cause, **more)
    held.settle()
    held.clock.advance(200)
    held.settle()
    return task


def test_a_plan_is_kept_as_soon_as_it_is_told(held):
    run = held.submit(one())
    held.settle()
    task = held.executor.task("work")
    held.executor.start(task)
    before = held.store.events.latest()
    held.executor.progress(task, 0.1, plan=plan(3 * GIB, options={"chunk": 4}))
    held.settle()
    told = held.step(run, "work").attempts[0].to_json()
    assert told["plan"] == {"predicted_peak_bytes": 3 * GIB, "process_bytes": GIB, "options": {"chunk": 4}}
    events = [event.to_json() for event in held.store.events.after(before, run=run)]
    assert [event["predicted_peak_bytes"] for event in events if "predicted_peak_bytes" in event] == [3 * GIB]
    # What the end adds, replaces it.
    held.executor.succeed(task, plan=plan(3 * GIB, measured_peak_bytes=4 * GIB))
    held.settle()
    assert held.step(run, "work").attempts[0].plan["measured_peak_bytes"] == 4 * GIB


@pytest.mark.parametrize("cause", [Cause.OOM_HOST, Cause.OOM_GPU])
def test_out_of_memory_is_tried_again_with_less(held, cause):
    run = held.submit(one("resources: {memory: 4GiB}"))
    held.settle()
    first = out_of_memory(held, cause, peak_memory_bytes=5 * GIB, plan=plan(2 * GIB))
    second = held.executor.task("work")
    assert (first.inputs["frugality"], second.inputs["frugality"]) == (0, 1)
    assert second.identity == first.identity, "its checkpoints are found again"
    more = 6 * GIB if cause is Cause.OOM_HOST else 4 * GIB
    assert second.resources.memory_bytes == more
    assert "saves memory with " in held.step(run, "work").summary.message
    held.executor.succeed(second, plan=plan(GIB))
    held.settle()
    detail = held.step(run, "work")
    assert detail.summary.state == "succeeded"
    assert [attempt.plan["predicted_peak_bytes"] for attempt in detail.attempts] == [2 * GIB, GIB]
    assert detail.attempts[0].changes is None
    assert detail.attempts[1].changes["frugality"] == [0, 1]
    assert detail.attempts[1].changes.get("memory_bytes") == ([4 * GIB, more] if more > 4 * GIB else None)


def test_the_most_frugal_plan_is_the_last(held):
    run = held.submit(one("resources: {memory: 10GiB}"))
    held.settle()
    seen = []
    for _ in range(3):
        task = out_of_memory(held)
        seen.append((task.inputs["frugality"], task.resources.memory_bytes // GIB))
    # The largest node has 16 GiB.
    assert seen == [(0, 10), (1, 15), (2, 16)]
    failed = held.step(run, "work").summary
    assert failed.state == "failed"
    assert failed.error["cause"] == "oom_host"
    assert "up to frugality 2" in failed.error["hint"]


def test_what_a_person_wrote_about_memory_is_respected(held):
    for more in ("retry: {max: 0}", "retry: {max: 3, on: [timeout]}"):
        run = held.submit(one(more))
        held.settle()
        out_of_memory(held)
        assert held.step(run, "work").summary.state == "failed"
        assert held.step(run, "work").summary.attempt == 1


def test_a_persons_own_rules_come_on_top_and_after(held):
    text = one(
        "resources: {memory: 2GiB}\n    retry: {max: 1, backoff: 1s, on_oom: {memory: x2, with.chunk: /2}}"
    )
    run = held.submit(text)
    held.settle()
    seen = []
    for _ in range(4):
        task = out_of_memory(held)
        seen.append((task.inputs["frugality"], task.inputs["chunk"], task.resources.memory_bytes // GIB))
    # The last one is the one retry that was granted.
    assert seen == [(0, 64, 2), (1, 32, 4), (2, 16, 8), (2, 8, 16)]
    assert held.step(run, "work").summary.state == "failed"


def test_a_frugality_without_end_has_one_all_the_same(held, monkeypatch):
    monkeypatch.setattr("foldase.scheduler.retries.MOST_FRUGAL_ATTEMPTS", 2)
    assert MOST_FRUGAL_ATTEMPTS > 2
    run = held.submit(one())
    held.settle()
    out_of_memory(held)
    out_of_memory(held)
    assert held.step(run, "work").summary.attempt == 2
    assert held.states(run) == {"work": "failed"}


def test_frugality_is_no_part_of_what_a_result_is(held):
    frugal = held.submit(one().replace("b: 3", "b: 3, frugality: 2"))
    plain = held.submit(one())
    held.settle()
    assert len(held.executor.submitted) == 1, "the other waits for the same work"
    held.executor.succeed(held.executor.task("work"))
    held.settle()
    assert held.step(frugal, "work").cache_key == held.step(plain, "work").cache_key
    assert [held.step(run, "work").summary.cached for run in (frugal, plain)] == [False, True]


def test_who_waits_for_the_same_work_goes_on_waiting(held):
    first = held.submit(one())
    second = held.submit(one())
    held.settle()
    out_of_memory(held)
    assert [task.run for task in held.executor.submitted] == [first, first]
    held.executor.succeed(held.executor.task("work"))
    held.settle()
    assert held.get(second).summary.state == "succeeded"


def test_a_restart_between_two_plans_loses_nothing(held):
    run = held.submit(one())
    held.settle()
    task = held.executor.task("work")
    held.executor.progress(task, 0.5, plan=plan(GIB))
    held.settle()
    held.restart(workers_live=True)
    held.settle()
    # The plan that came with progress is known to the new scheduler, too.
    room, held.executor.capacity = held.executor.capacity, Resources(cpu=0.0)
    held.executor.fail(task, Cause.OOM_HOST, peak_memory_bytes=4 * GIB)
    held.settle()
    assert held.states(run) == {"work": "ready"}
    held.restart()
    held.executor.capacity = room
    held.settle()
    again = held.executor.task("work")
    assert again.inputs["frugality"] == 1
    assert again.corrections == {"": 3.0}
    assert held.step(run, "work").attempts[1].changes["frugality"] == [0, 1]


def test_later_attempts_hear_how_far_off_earlier_ones_were(held):
    held.submit(one())
    held.settle()
    task = held.executor.task("work")
    assert task.corrections == {}
    held.executor.succeed(task, peak_memory_bytes=4 * GIB, plan=plan(2 * GIB, key="small"))
    held.settle()
    held.submit(one().replace("a: 2", "a: 9"))
    held.settle()
    assert held.executor.task("work").corrections == {"": 1.5, "small": 1.5}
    held.restart()
    held.submit(one().replace("a: 2", "a: 10"))
    held.settle()
    assert held.executor.submitted[-1].corrections == {"": 1.5, "small": 1.5}


# What is learnt from an attempt


def test_a_ratio_leaves_out_the_correction_that_was_in_the_prediction():
    assert ratio_of(plan(2 * GIB), 4 * GIB, None) == 1.5
    assert ratio_of(plan(3 * GIB, correction=1.5), 4 * GIB, None) == 1.5


def test_what_the_operator_counted_comes_before_what_we_saw():
    assert ratio_of(plan(1000, measured_peak_bytes=1100), 4 * GIB, None) == 1.1


@pytest.mark.parametrize(
    ("told", "peak", "cause"),
    [
        (None, GIB, None),
        ({"options": {}}, GIB, None),
        ({"predicted_peak_bytes": GIB}, 2 * GIB, None),
        (plan(GIB), 0, None),
        (plan(1 << 20), 2 * GIB, None),
        (plan(2 * GIB), 2 * GIB, Cause.OOM_HOST),
        (plan(GIB), 9 * GIB, Cause.TIMEOUT),
        (plan(GIB, device="gpu"), 9 * GIB, Cause.OOM_GPU),
        (plan(GIB, ranks=4), 9 * GIB, None),
    ],
    ids=[
        "no plan",
        "no prediction",
        "nothing held",
        "no peak",
        "noise",
        "less than predicted",
        "cut short",
        "a GPU's",
        "of processes of ranks",
    ],
)
def test_what_tells_nothing_teaches_nothing(told, peak, cause):
    assert ratio_of(told, peak, cause) is None


def test_one_odd_attempt_changes_little_and_the_old_are_forgotten():
    known = Corrections(list)
    for _ in range(7):
        known.learn("fold@1", "small", 1.1)
    known.learn("fold@1", "small", 50.0)
    assert known.of("fold@1") == {"": 1.1, "small": 1.1}
    for _ in range(KEPT):
        changed = known.learn("fold@1", "large", 0.9)
    assert changed == {"": [0.9] * KEPT, "large": [0.9] * KEPT}
    assert known.of("fold@1") == {"": 0.9, "small": 1.1, "large": 0.9}
    assert known.of("other@1") == {}


def test_a_correction_is_bounded():
    assert correction([100.0]) == MOST
    assert correction([0.01]) == LEAST
    assert correction([1.0, 1.2, 1.1, 1.3]) == 1.3
