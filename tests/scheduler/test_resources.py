"""Who may start: room, rank, requests that nothing can meet, and a cluster that is not there yet."""

from __future__ import annotations

import pytest

from foldase.scheduler.capacity import PATIENCE_SECONDS, Capacity
from foldase.scheduler.model import Shape
from foldase_workflows.contracts import Cause, Hardware, Resources

GIB = 2**30


def workflow(*steps: str) -> str:
    lines = "\n".join(f"  s{index}: {{uses: test.add@1, {step}}}" for index, step in enumerate(steps))
    return f"version: 1\nname: room\nsteps:\n{lines}\n"


@pytest.fixture
def held(lab):
    lab.executor.automatic = False
    return lab


def running(lab):
    return [task.step for task in lab.executor.submitted if lab.executor_id(task) in lab.executor.held]


def test_no_more_starts_than_there_is_room_for(held):
    run = held.submit(workflow(*(f"with: {{a: {n}}}, resources: {{cpu: 1.5}}" for n in range(4))))
    held.settle()
    assert running(held) == ["s0", "s1"]
    held.clock.advance(5)
    held.settle()
    assert held.step(run, "s2").summary.waiting_for == "free cores"
    held.executor.succeed(held.executor.task("s0"))
    held.settle()
    assert running(held) == ["s1", "s2"]


def test_memory_is_a_reservation(held):
    held.submit(workflow(*(f"with: {{a: {n}}}, resources: {{memory: 7GiB}}" for n in range(3))))
    held.settle()
    assert running(held) == ["s0", "s1"]


def test_a_request_that_no_node_can_meet_fails_at_once_and_clearly(held):
    run = held.submit(workflow("resources: {cpu: 64}", "with: {a: 1}"))
    held.settle()
    held.executor.succeed(held.executor.task("s1"))
    held.settle()
    failed = held.step(run, "s0").summary
    assert failed.state == "failed"
    assert failed.error["code"] == "unsatisfiable_resources"
    assert failed.error["cause"] == "bad_input"
    assert "64 cores, the largest node has 4" in failed.error["message"]
    assert failed.error["hint"]
    assert held.get(run).summary.state == "failed"


@pytest.mark.parametrize(
    ("request_text", "words"),
    [("{memory: 100GiB}", "100.0 GiB of memory"), ("{gpu: 1}", "1 GPUs, the largest node has 0")],
)
def test_memory_and_gpus_that_no_node_has(held, request_text, words):
    run = held.submit(workflow(f"resources: {request_text}"))
    held.settle()
    assert words in held.step(run, "s0").summary.error["message"]


def test_auto_asks_the_estimate(held):
    text = (
        "version: 1\nname: auto\nsteps:\n  s: {uses: test.large@1, with: {a: 3}, resources: {memory: auto}}\n"
    )
    run = held.submit(text)
    held.settle()
    assert held.executor.task("s").resources.memory_bytes == 3 * GIB
    assert held.step(run, "s").estimate["basis"] == "a GiB each"
    too_large = held.submit(text.replace("a: 3", "a: 30"))
    held.settle()
    assert held.step(too_large, "s").summary.error["code"] == "unsatisfiable_resources"


def test_while_the_cluster_starts_steps_wait_and_say_so(held):
    held.executor.largest = None
    held.executor.capacity = Resources(0.0, 0, 0.0)
    run = held.submit(workflow("with: {a: 1}"))
    held.settle()
    step = held.step(run, "s0").summary
    assert step.state == "ready"
    assert "starting" in step.waiting_for
    assert held.get(run).summary.state == "pending"
    queue = held.store.cluster.read().queue
    assert [(entry.run, entry.step, entry.reason) for entry in queue] == [(run, "s0", step.waiting_for)]
    held.executor.largest = Hardware(cpus=4.0, memory_bytes=16 * GIB)
    held.executor.capacity = Resources(4.0, 16 * GIB, 0.0)
    held.settle()
    assert running(held) == ["s0"]


def test_priority_first_then_age(held):
    held.executor.capacity = Resources(1.0, 16 * GIB, 0.0)
    first = held.submit(workflow("with: {a: 1}", "with: {a: 2}"))
    second = held.submit(workflow("with: {a: 3}"))
    urgent = held.submit(workflow("with: {a: 4}"), priority=10)
    order = []
    held.settle()
    while held.executor.held:
        task = next(iter(held.executor.held.values()))
        order.append((task.run, task.step))
        held.executor.succeed(task)
        held.settle()
    assert order == [(urgent, "s0"), (first, "s0"), (first, "s1"), (second, "s0")]


def test_small_steps_pass_a_large_one_but_not_for_ever(held):
    text = workflow(
        "with: {a: 1}, resources: {cpu: 2}",
        "with: {a: 2}, resources: {cpu: 4}",
        *(f"with: {{a: {n}}}, resources: {{cpu: 2}}" for n in range(10, 14)),
    )
    held.submit(text)
    held.settle()
    assert running(held) == ["s0", "s2"]
    held.clock.advance(PATIENCE_SECONDS + 1)
    held.executor.succeed(held.executor.task("s2"))
    held.settle()
    # The large one has waited long enough: nobody of lower rank passes it any more.
    assert running(held) == ["s0"]
    held.executor.succeed(held.executor.task("s0"))
    held.settle()
    assert running(held) == ["s1"]


def test_tiny_steps_queue_behind_each_other(held):
    held.executor.depth = 8
    held.submit(workflow(*(f"with: {{a: {n}}}" for n in range(100))))
    held.settle()
    assert len(running(held)) == 4 * 8


def test_tiny_steps_leave_room_that_longer_ones_hold():
    long, tiny = Shape(Resources(cpu=3.0), 1), Shape(Resources(cpu=1.0), 10)
    capacity = Capacity(Resources(4.0, GIB, 0.0), [long])
    for _ in range(10):
        assert capacity.fits(tiny)
        capacity.take(tiny)
    assert not capacity.fits(tiny)
    assert capacity.fits(Shape(Resources(cpu=1.0), 1))
    assert not capacity.fits(Shape(Resources(cpu=1.5), 1))


def test_shares_of_a_gpu_add_up():
    third = Shape(Resources(cpu=0.0, gpu=1 / 3), 1)
    capacity = Capacity(Resources(4.0, GIB, 1.0), [])
    for _ in range(3):
        assert capacity.fits(third)
        capacity.take(third)
    assert capacity.lacking(third) == "free GPUs"


GANG = """
version: 1
name: gangs
steps:
  first:
    uses: test.together@1
    with: {a: 1}
    resources: {ranks: 3, cpu: 1, memory: 2GiB}
    retry: {on_oom: {memory: x4}}
  other: {uses: test.add@1, with: {a: 2}, resources: {cpu: 2}}
  small: {uses: test.add@1, with: {a: 3}}
"""


def test_a_gang_takes_the_room_of_all_its_ranks(held):
    run = held.submit(GANG)
    held.settle()
    assert running(held) == ["first", "small"]
    assert held.executor.task("first").resources == Resources(1.0, 2 * GIB, 0.0, ranks=3)
    assert held.step(run, "first").to_json()["resources"] == {
        "cpu": 1.0,
        "memory_bytes": 2 * GIB,
        "gpu": 0.0,
        "ranks": 3,
    }


def test_ranks_for_which_there_never_is_room_are_refused(held):
    run = held.submit(GANG.replace("ranks: 3", "ranks: 9"))
    held.settle()
    error = held.step(run, "first").summary.error
    assert error["code"] == "unsatisfiable_resources"
    assert "9 ranks, and all nodes together have room for 4" in error["message"]


def test_a_gang_that_has_run_goes_on_with_the_ranks_that_are_left(held):
    run = held.submit(GANG)
    held.settle()
    held.executor.capacity = Resources(2.0, 16 * GIB, 0.0)
    held.executor.fail(held.executor.task("first"), Cause.NODE_LOST)
    held.executor.succeed(held.executor.task("small"))
    held.settle()
    assert held.executor.task("first").resources == Resources(1.0, 2 * GIB, 0.0, ranks=2)
    fresh = held.submit(GANG.replace("a: 1", "a: 7"))
    held.settle()
    assert held.step(fresh, "first").summary.error["code"] == "unsatisfiable_resources"
    assert held.step(run, "first").summary.state == "running"


def test_after_running_out_of_memory_each_rank_gets_what_all_can_have(held):
    held.executor.capacity = Resources(8.0, 16 * GIB, 0.0)
    held.submit(GANG)
    held.settle()
    held.executor.fail(held.executor.task("first"), Cause.OOM_HOST, peak_memory_bytes=2 * GIB)
    held.settle()
    held.clock.advance(60)
    held.settle()
    again = held.executor.task("first").resources
    assert again.ranks == 3
    assert again.memory_bytes == 16 * GIB // 3, "and not four times as much, which no node has thrice"
