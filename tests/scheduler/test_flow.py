"""How a run moves on: order, scattering, conditions, failures, outputs."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from foldase_workflows.contracts import Cause

DIAMOND = """
version: 1
name: diamond
inputs: {x: {type: int, default: 1}}
steps:
  top: {uses: test.add@1, with: {a: '${{ inputs.x }}', b: 1}}
  left: {uses: test.add@1, with: {a: '${{ steps.top.sum }}', b: 10}}
  right: {uses: test.add@1, with: {a: '${{ steps.top.sum }}', b: 100}}
  bottom: {uses: test.add@1, with: {a: '${{ steps.left.sum }}', b: '${{ steps.right.sum }}'}}
outputs: {sum: '${{ steps.bottom.sum }}'}
"""

SCATTER = """
version: 1
name: scatter
inputs: {n: {type: 'list[int]'}}
steps:
  item:
    uses: test.add@1
    each: {i: '${{ inputs.n }}'}
    with: {a: '${{ each.i }}', b: 1}
  join: {uses: test.add@1, with: {a: '${{ sum(steps.item.each.sum) }}'}}
outputs: {sum: '${{ steps.join.sum }}', all: '${{ steps.item.each.sum }}'}
"""


def test_data_flows_along_the_references(lab):
    run = lab.run(DIAMOND, {"x": 5})
    assert run.summary.state == "succeeded"
    assert run.outputs == {"sum": 16 + 106}
    order = [task.step for task in lab.executor.submitted]
    assert (order[0], order[-1]) == ("top", "bottom")
    assert run.summary.progress == 1.0
    assert run.summary.counts == {"succeeded": 4}


def test_scattered_items_have_stable_keys_and_are_gathered_in_order(lab):
    run = lab.run(SCATTER, {"n": [30, 10, 20]})
    assert [step.id for step in run.steps] == ["item", "item[30]", "item[10]", "item[20]", "join"]
    assert run.outputs == {"sum": 63, "all": [31, 11, 21]}
    # The scattered step itself is not counted beside its items.
    assert run.summary.counts == {"succeeded": 4}
    assert run.steps[0].items == 3


def test_a_step_scattered_over_nothing_succeeds(lab):
    run = lab.run(SCATTER, {"n": []})
    assert run.summary.state == "succeeded"
    assert run.outputs == {"sum": 0, "all": []}
    assert run.steps[0].items == 0
    assert run.summary.counts == {"succeeded": 2}


def test_a_failed_step_skips_what_follows_and_lets_the_rest_finish(lab):
    lab.executor.automatic = False
    run = lab.submit(DIAMOND)
    lab.settle()
    lab.executor.succeed(lab.executor.task("top"))
    lab.settle()
    lab.executor.fail(lab.executor.task("left"), Cause.BAD_INPUT)
    lab.settle()
    assert lab.states(run) == {
        "top": "succeeded",
        "left": "failed",
        "right": "running",
        "bottom": "skipped",
    }
    assert lab.get(run).summary.state == "running"
    lab.executor.succeed(lab.executor.task("right"))
    lab.settle()
    finished = lab.get(run)
    assert finished.summary.state == "failed"
    assert finished.summary.error["cause"] == "bad_input"
    assert finished.summary.error["step"] == "left"
    assert lab.step(run, "right").summary.state == "succeeded"
    assert lab.step(run, "bottom").summary.message == "step left failed"
    assert finished.outputs is None


def test_everything_behind_a_failure_names_the_step_that_failed(lab):
    lab.executor.automatic = False
    text = """
version: 1
name: line
steps:
  one: {uses: test.add@1}
  two: {uses: test.add@1, with: {a: '${{ steps.one.sum }}'}}
  three: {uses: test.add@1, after: [two]}
"""
    run = lab.submit(text)
    lab.settle()
    lab.executor.fail(lab.executor.task("one"), Cause.USER_ERROR)
    lab.settle()
    assert lab.states(run) == {"one": "failed", "two": "skipped", "three": "skipped"}
    assert lab.step(run, "three").summary.message == "step one failed"
    assert lab.step(run, "three").summary.error["step"] == "one"


CONDITION = """
version: 1
name: condition
inputs: {go: {type: bool}}
steps:
  maybe: {uses: test.add@1, if: '${{ inputs.go }}', with: {a: 1}}
  takes: {uses: test.add@1, with: {a: '${{ steps.maybe.sum }}'}}
  follows: {uses: test.add@1, after: [maybe], with: {a: 2}}
outputs: {maybe: '${{ steps.maybe.sum }}', follows: '${{ steps.follows.sum }}'}
"""


def test_a_false_condition_skips_a_step_and_what_takes_from_it(lab):
    run = lab.run(CONDITION, {"go": False})
    assert lab.states(run.id) == {"maybe": "skipped", "takes": "skipped", "follows": "succeeded"}
    assert run.summary.state == "succeeded"
    assert run.outputs == {"maybe": None, "follows": 2}
    assert lab.step(run.id, "maybe").summary.message == "its condition is false"
    assert "maybe" in lab.step(run.id, "takes").summary.message


def test_a_true_condition_changes_nothing(lab):
    run = lab.run(CONDITION, {"go": True})
    assert set(lab.states(run.id).values()) == {"succeeded"}


def test_an_expression_without_a_value_fails_the_step_as_bad_input(lab):
    text = """
version: 1
name: division
inputs: {n: {type: int}}
steps:
  one: {uses: test.add@1, with: {a: '${{ 10 // inputs.n }}'}}
  two: {uses: test.add@1, with: {a: 3}}
"""
    run = lab.run(text, {"n": 0})
    assert run.summary.state == "failed"
    error = lab.step(run.id, "one").summary.error
    assert error["cause"] == "bad_input"
    assert error["code"] == "division_by_zero"
    assert error["location"]["path"] == "steps.one.with.a"
    assert lab.step(run.id, "two").summary.state == "succeeded"


def test_outputs_that_cannot_be_had_fail_the_run(lab):
    text = """
version: 1
name: outputs
steps:
  one: {uses: test.add@1}
outputs: {wrong: '${{ 1 // steps.one.sum }}'}
"""
    run = lab.run(text)
    assert run.summary.state == "failed"
    assert run.summary.error["code"] == "division_by_zero"


@pytest.mark.parametrize(
    ("allowed", "state"), [("0", "failed"), ("1", "failed"), ("2", "succeeded"), ("50%", "succeeded")]
)
def test_failures_that_are_allowed_are_left_out(lab, allowed, state):
    lab.executor.automatic = False
    text = SCATTER.replace("each: {i", f"allow_failures: {allowed}\n    each: {{i")
    run = lab.submit(text, {"n": [1, 2, 3, 4]})
    lab.settle()
    for key in ("1", "3"):
        lab.executor.fail(lab.executor.task(f"item[{key}]"), Cause.USER_ERROR)
    for key in ("2", "4"):
        lab.executor.succeed(lab.executor.task(f"item[{key}]"))
    lab.executor.automatic = True
    lab.settle()
    finished = lab.get(run)
    assert finished.summary.state == state
    if state == "succeeded":
        assert finished.outputs["all"] == [3, 5]
        assert "2 of 4 items failed" in lab.step(run, "item").summary.message
    else:
        assert "2 of 4 items failed" in lab.step(run, "item").summary.error["message"]
        assert lab.step(run, "join").summary.state == "skipped"


def test_files_go_from_step_to_step_by_reference(lab):
    text = """
version: 1
name: files
steps:
  write: {uses: test.write@1, with: {text: hello}}
  count: {uses: test.count@1, with: {file: '${{ steps.write.file }}'}}
outputs: {file: '${{ steps.write.file }}', size: '${{ steps.count.sum }}'}
"""
    run = lab.run(text)
    assert run.outputs["size"] == 5
    found = lab.store.queries.artifacts(run.id)
    assert [(item.step, item.output, item.run_output) for item in found] == [
        (None, "file", True),
        ("write", "file", False),
    ]
    digest = found[0].artifact.digest
    assert lab.store.queries.artifact(digest).size == 5
    assert lab.store.blobs.open(digest).read() == b"hello"


def test_a_run_whose_operator_is_gone_fails_and_says_so(lab):
    run = lab.submit(DIAMOND)
    lab.registry._operators.pop("test.add@1")
    lab.settle()
    finished = lab.get(run)
    assert finished.summary.state == "failed"
    assert finished.summary.error["cause"] == "bad_input"
    assert "test.add" in finished.summary.error["message"]
    assert set(lab.states(run).values()) == {"skipped"}


@pytest.mark.parametrize("port", ["a", "c"])
def test_an_operator_with_bugs_ends_its_own_step_only(lab, port):
    text = f"""
version: 1
name: bugs
steps:
  bug: {{uses: test.broken@1, with: {{{port}: '${{{{ 12 + 1 }}}}'}}}}
  fine: {{uses: test.add@1, with: {{a: 1}}}}
"""
    run = lab.run(text)
    assert lab.states(run.id) == {"bug": "failed", "fine": "succeeded"}
    error = lab.step(run.id, "bug").summary.error
    assert error["code"] == "operator_error"
    assert "a bug in the" in error["message"]


def test_what_an_estimate_refuses_never_starts(lab):
    run = lab.run("version: 1\nname: refused\nsteps:\n  large: {uses: test.large@1, with: {a: -1}}\n")
    failed = lab.step(run.id, "large").summary
    assert failed.state == "failed"
    assert failed.error == {
        "cause": "bad_input",
        "code": "bad_config",
        "message": "a must not be negative",
        "location": {"path": "with.a"},
        "hint": "leave it out",
    }
    assert lab.executor.submitted == []


def test_a_run_that_makes_no_sense_does_not_stop_the_others(lab):
    broken, fine = lab.submit(DIAMOND), lab.submit(DIAMOND, {"x": 9})
    with lab.store.database.write() as connection:
        connection.execute(
            text("UPDATE step SET name = 'nobody' WHERE run = :run AND id = 'left'"), {"run": broken}
        )
    lab.settle()
    assert lab.get(fine).summary.state == "succeeded"
    assert lab.get(broken).summary.error["code"] == "unreadable_run"


def test_events_tell_the_whole_story_in_order(lab):
    run = lab.run(DIAMOND)
    found = lab.store.events.after(0, run=run.id)
    assert [event.seq for event in found] == sorted({event.seq for event in found})
    assert found[0].kind == "run.created"
    assert found[-1].kind == "run.state"
    assert found[-1].to_json()["state"] == "succeeded"
    assert sum(event.kind == "run.outputs" for event in found) == 1
    last = {event.step: event.to_json()["state"] for event in found if event.kind == "step.state"}
    assert last == lab.states(run.id)
    for event in found:
        data = event.to_json()
        assert data["seq"] == event.seq
        assert data["run"] == run.id
        assert data["time"].endswith("Z")
