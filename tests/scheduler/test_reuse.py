"""Results that are reused: the cache, equal work under way, resumed runs; and why something ran again."""

from __future__ import annotations

from foldase_workflows.contracts import Cause

CHAIN = """
version: 1
name: chain
inputs: {x: {type: int, default: 1}, y: {type: int, default: 2}}
steps:
  first: {uses: test.add@1, with: {a: '${{ inputs.x }}'}}
  second: {uses: test.add@1, with: {a: '${{ steps.first.sum }}', b: '${{ inputs.y }}'}}
  third: {uses: test.add@1, with: {a: '${{ steps.second.sum }}'}}
outputs: {sum: '${{ steps.third.sum }}'}
"""

FILES = """
version: 1
name: files
inputs: {text: {type: text}}
steps:
  write: {uses: test.write@1, with: {text: '${{ inputs.text }}'}}
  count: {uses: test.count@1, with: {file: '${{ steps.write.file }}'}}
"""


def cached(lab, run):
    return {step.id: step.cached for step in lab.get(run).steps}


def test_the_same_workflow_again_runs_nothing(lab):
    first = lab.run(CHAIN)
    executed = len(lab.executor.submitted)
    second = lab.run(CHAIN)
    assert len(lab.executor.submitted) == executed == 3
    assert cached(lab, second.id) == {"first": True, "second": True, "third": True}
    assert second.outputs == first.outputs
    assert second.summary.counts == {"succeeded": 3}
    assert all(step.attempt == 0 for step in second.steps)
    why = lab.store.explain.why(second.id, "second")
    assert not why.ran
    assert why.compared_with == (first.id, "second")


def test_a_changed_parameter_reruns_only_what_depends_on_it_and_why_names_it(lab):
    first = lab.run(CHAIN, {"x": 1, "y": 2})
    second = lab.run(CHAIN, {"x": 1, "y": 3})
    assert cached(lab, second.id) == {"first": True, "second": False, "third": False}
    why = lab.store.explain.why(second.id, "second").to_json()
    assert why["ran"]
    assert why["differs"] == [{"component": "parameters.b", "before": 2, "now": 3}]
    assert why["compared_with"] == {"run": first.id, "step": "second"}
    third = lab.store.explain.why(second.id, "third")
    assert [difference.component for difference in third.differs] == ["parameters.a"]


def test_other_bytes_are_another_input_and_other_names_are_not(lab):
    lab.run(FILES, {"text": "one"})
    again = lab.run(FILES.replace("name: files", "name: renamed"), {"text": "one"})
    assert cached(lab, again.id) == {"write": True, "count": True}
    other = lab.run(FILES, {"text": "two!"})
    assert cached(lab, other.id) == {"write": False, "count": False}
    why = lab.store.explain.why(other.id, "count")
    assert [difference.component for difference in why.differs] == ["inputs.file"]
    assert why.differs[0].now["digest"].startswith("sha256:")


def test_a_new_version_of_an_operator_runs_again_and_why_says_so(lab):
    lab.run(CHAIN)
    second = lab.run(CHAIN.replace("second: {uses: test.add@1", "second: {uses: test.add@2"))
    assert cached(lab, second.id) == {"first": True, "second": False, "third": True}
    why = lab.store.explain.why(second.id, "second")
    assert [(d.component, d.before, d.now) for d in why.differs] == [("version", 1, 2)]


def test_a_lost_blob_is_no_hit(lab):
    first = lab.run(FILES, {"text": "one"})
    digest = lab.store.queries.artifacts(first.id)[0].artifact.digest
    path = lab.store.blobs.path(digest)
    path.unlink()
    second = lab.run(FILES, {"text": "one"})
    # The file is made again; its content is the same, so what depends on it need not run.
    assert cached(lab, second.id) == {"write": False, "count": True}
    assert path.exists()
    assert "not in the store any more" in lab.store.explain.why(second.id, "write").reason


def test_cache_policies(lab):
    lab.run(CHAIN)
    off = CHAIN.replace("second: {", "second: {cache: false, ")
    run = lab.run(off)
    assert cached(lab, run.id) == {"first": True, "second": False, "third": True}
    assert "cache: false" in lab.store.explain.why(run.id, "second").reason
    refresh = CHAIN.replace("second: {", "second: {cache: refresh, ")
    run = lab.run(refresh)
    assert cached(lab, run.id) == {"first": True, "second": False, "third": True}
    assert "refresh" in lab.store.explain.why(run.id, "second").reason
    entry = lab.store.explain.why(lab.run(CHAIN).id, "second")
    assert entry.compared_with == (run.id, "second")


def test_results_that_are_not_kept_are_not_found(lab):
    text = CHAIN.replace("first: {", "first: {cache: false, ")
    lab.run(text)
    again = lab.run(CHAIN)
    assert cached(lab, again.id)["first"] is False


def test_operators_that_are_not_deterministic_always_run(lab):
    text = CHAIN.replace("first: {uses: test.add@1", "first: {uses: test.dice@1")
    lab.run(text)
    again = lab.run(text)
    assert cached(lab, again.id) == {"first": False, "second": True, "third": True}


def test_equal_work_is_done_once_at_a_time(lab):
    lab.executor.automatic = False
    text = """
version: 1
name: twins
steps:
  one: {uses: test.add@1, with: {a: 1, b: 2}}
  two: {uses: test.add@1, with: {a: 1, b: 2}}
"""
    first, second = lab.submit(text), lab.submit(text)
    lab.settle()
    assert len(lab.executor.submitted) == 1
    waiting = lab.step(first, "two").summary
    assert waiting.state == "ready"
    assert waiting.waiting_for == "the same work in step one"
    assert lab.step(second, "one").summary.waiting_for == f"the same work in step one of run {first}"
    lab.executor.succeed(lab.executor.task("one"))
    lab.settle()
    assert cached(lab, first) == {"one": False, "two": True}
    assert cached(lab, second) == {"one": True, "two": True}
    assert lab.get(second).summary.state == "succeeded"


def test_when_the_first_fails_the_next_tries_itself(lab):
    lab.executor.automatic = False
    text = """
version: 1
name: twins
steps:
  one: {uses: test.add@1, with: {a: 1, b: 2}}
  two: {uses: test.add@1, with: {a: 1, b: 2}}
"""
    run = lab.submit(text)
    lab.settle()
    lab.executor.fail(lab.executor.task("one"), Cause.USER_ERROR)
    lab.settle()
    assert lab.states(run) == {"one": "failed", "two": "running"}
    lab.executor.succeed(lab.executor.task("two"))
    lab.settle()
    assert lab.states(run) == {"one": "failed", "two": "succeeded"}


def test_cancelling_the_first_lets_the_next_run_go_on(lab):
    lab.executor.automatic = False
    first, second = lab.submit(CHAIN), lab.submit(CHAIN)
    lab.settle()
    lab.store.requests.request_cancel(first)
    lab.settle()
    lab.executor.fail(lab.executor.task("first"), Cause.CANCELLED)
    lab.executor.automatic = True
    lab.settle()
    # The one task that was claimed while the executor still waited for the test.
    lab.executor.succeed(lab.executor.task("first"), None) if lab.executor.held else None
    lab.settle()
    assert lab.get(first).summary.state == "cancelled"
    assert lab.get(second).summary.state == "succeeded"


def test_resume_reuses_what_was_finished_and_inherits_checkpoints(lab):
    lab.executor.automatic = False
    text = CHAIN.replace("uses: test.add@1", "cache: false, uses: test.add@1")
    first = lab.submit(text)
    lab.settle()
    lab.executor.succeed(lab.executor.task("first"))
    lab.settle()
    failed = lab.executor.task("second")
    lab.executor.fail(failed, Cause.USER_ERROR)
    lab.settle()
    assert lab.get(first).summary.state == "failed"
    second, new = lab.store.requests.resume(first)
    assert new
    assert second.summary.resumed_from == first
    lab.settle()
    assert lab.states(second.id) == {"first": "succeeded", "second": "running", "third": "pending"}
    assert lab.step(second.id, "first").summary.message == f"taken over from run {first}"
    retried = lab.executor.task("second")
    assert retried.identity == failed.identity
    lab.executor.fail(retried, Cause.USER_ERROR)
    lab.settle()
    third, _ = lab.store.requests.resume(second.id)
    lab.settle()
    assert lab.executor.task("second").identity == failed.identity
    lab.executor.automatic = True
    lab.executor.succeed(lab.executor.task("second"))
    lab.settle()
    assert lab.get(third.id).summary.state == "succeeded"
    assert sum(task.step == "first" for task in lab.executor.submitted) == 1


def test_results_that_are_not_shared_have_their_own_checkpoints(lab):
    lab.executor.automatic = False
    text = CHAIN.replace("first: {", "first: {cache: refresh, ")
    for _ in range(2):
        lab.submit(text)
    lab.settle()
    one, two = lab.executor.submitted
    assert one.inputs == two.inputs
    assert one.identity != two.identity


def test_items_of_a_scattered_step_are_cached_one_by_one(lab):
    text = """
version: 1
name: scatter
inputs: {n: {type: 'list[int]'}}
steps:
  item: {uses: test.add@1, each: {i: '${{ inputs.n }}'}, with: {a: '${{ each.i }}'}}
outputs: {all: '${{ steps.item.each.sum }}'}
"""
    lab.run(text, {"n": [1, 2, 3]})
    run = lab.run(text, {"n": [3, 4, 1]})
    assert cached(lab, run.id) == {"item": False, "item[3]": True, "item[4]": False, "item[1]": True}
    assert run.outputs == {"all": [3, 4, 1]}
    why = lab.store.explain.why(run.id, "item[4]")
    assert [difference.component for difference in why.differs] == ["parameters.a"]
    assert "ask for one of them" in lab.store.explain.why(run.id, "item").reason


def test_checkpoints_outlive_a_change_of_what_only_judges_the_work(lab):
    lab.executor.automatic = False
    text = (
        "version: 1\nname: judged\nsteps:\n  work: {uses: test.judged@1, with: {a: 1, b: 2, allowed: 0.5}}\n"
    )
    for one in (text, text.replace("0.5", "0.9"), text.replace("b: 2", "b: 3")):
        lab.submit(one)
    lab.settle()
    lenient, more_lenient, other = lab.executor.submitted
    assert lenient.identity == more_lenient.identity != other.identity
    keys = {task.run: lab.step(task.run, "work").cache_key for task in lab.executor.submitted}
    assert len(set(keys.values())) == 3, "the result may be another, so it is not shared"
