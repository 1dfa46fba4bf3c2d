"""What a run would do, said before it does it."""

from __future__ import annotations

import json

import pytest

from foldase_workflows.contracts import (
    BadInput,
    DocumentErrors,
    Gpu,
    Hardware,
    NotFound,
    Registry,
    Resources,
)
from foldase_workflows.spec import bind_inputs, check, check_resources, load_workflow, plan, this_machine

GIB = 2**30
TRAIN = """\
version: 1
name: w
inputs: {f: {type: families}}
steps:
  t: {uses: model.train@2, with: {families: "${{ inputs.f }}"}}
"""
NODE = Hardware(cpus=4, memory_bytes=16 * GIB)


@pytest.fixture
def compared(sweep, registry):
    return check(load_workflow(sweep, file="sweep.yaml"), registry)


def families(size: int = 100) -> dict:
    return {
        "$artifact": {
            "digest": "sha256:" + "c" * 64,
            "type": "families",
            "size": size,
            "name": "f",
            "media_type": "application/octet-stream",
        }
    }


def test_a_plan_shows_every_step_with_its_defaults(compared, registry):
    found = plan(compared, bind_inputs(compared, {}), registry, NODE).to_json()
    simulate, train, compare = found["steps"]
    assert simulate["with"] == {
        "seed": 7,
        "length": 64,
        "noise": 0.1,
        "letters": "protein",
        "sizes": [100, 200],
        "label": "",
    }
    assert simulate["estimate"]["seconds"] == [64.0, 128.0]
    assert (train["after"], train["items"], train["each"]) == (["simulate"], 6, True)
    assert train["with"]["families"] == "${{ steps.simulate.families }}"
    assert train["with"]["rate"] == "${{ each.rate }}"
    assert train["with"]["chunk"] == 64
    assert train["estimate"] is None
    assert train["resources"] == {"cpu": 1.0, "memory_bytes": 4 * GIB, "gpu": 0.0}
    assert compare["runs"] is None, "it depends on results"
    assert compare["with"]["title"] == "3 seeds, noise 0.1"
    assert [step["cached"] for step in found["steps"]] == [None, None, False]
    assert found["seconds"] == [64.0, 128.0]
    assert found["unknown"] == 2
    assert found["memory_bytes"] == GIB
    json.dumps(found, allow_nan=False)


def test_expected_cache_hits_follow_the_graph(compared, registry):
    asked = []

    def probe(uses, inputs):
        asked.append((uses, inputs.get("rate")))
        if uses.startswith("families"):
            return {"families": families(), "entropy": 1.5}
        return {"model": {}, "loss": 0.5, "losses": {}} if inputs["rate"] == 0.001 else None

    found = plan(compared, bind_inputs(compared, {}), registry, NODE, cache_probe=probe)
    assert [step.cached for step in found.steps] == [True, False, False]
    assert found.cached == 1
    assert asked == [("families.simulate@1", None), ("model.train@2", 0.001), ("model.train@2", 0.01)]
    train = found.steps[1]
    assert train.estimate.memory_bytes == 400, "the size of the cached families is known"
    assert found.seconds[1] == 6 * 30


def test_a_second_run_is_all_cache_hits(compared, registry):
    model = families() | {}
    model["$artifact"] = {**model["$artifact"], "type": "model"}

    def probe(uses, inputs):
        return {"families": families(), "entropy": 1.0, "model": model, "loss": 0.5, "losses": {}}

    found = plan(compared, bind_inputs(compared, {}), registry, NODE, cache_probe=probe)
    assert [step.cached for step in found.steps] == [True, True, False], "summarise is not deterministic"
    assert found.steps[2].runs is True
    assert found.seconds == (0.0, 0.0)


def test_a_step_that_will_not_run_is_shown_so(registry):
    text = """\
version: 1
name: w
inputs: {big: {type: bool, default: false}}
steps:
  a: {uses: families.simulate@1, if: "${{ inputs.big }}", with: {seed: 1}}
  b: {uses: model.train@2, with: {families: "${{ steps.a.families }}"}}
  c: {uses: families.simulate@1, after: [a], with: {seed: 2}}
"""
    checked = check(load_workflow(text), registry)
    found = plan(checked, bind_inputs(checked, {}), registry, NODE)
    assert {step.name: step.runs for step in found.steps} == {"a": False, "b": False, "c": True}
    assert found.seconds == (64.0, 128.0)


def test_requests_that_no_node_can_meet_are_refused_with_their_place(sweep, registry):
    text = sweep.replace("{cpu: 1, memory: 4GiB}", "{cpu: 64, memory: 400GiB, gpu: 1}")
    checked = check(load_workflow(text, file="sweep.yaml"), registry)
    with pytest.raises(DocumentErrors) as caught:
        plan(checked, bind_inputs(checked, {}), registry, NODE)
    assert [(error.code, error.location.path, error.location.line) for error in caught.value.errors] == [
        ("unsatisfiable_resources", "steps.train.resources.cpu", 21),
        ("unsatisfiable_resources", "steps.train.resources.memory", 21),
        ("unsatisfiable_resources", "steps.train.resources.gpu", 21),
    ]
    first = caught.value.errors[0]
    assert first.message == "the step 'train' asks for 64 cores, the largest node has 4 cores"
    assert "at most 4 cores" in first.hint
    with_gpu = Hardware(64, 400 * GIB, (Gpu("a", 80 * GIB),))
    check_resources(checked, with_gpu)


def test_ranks_that_no_cluster_has_room_for_are_refused_with_their_place(sweep, registry):
    text = sweep.replace("{cpu: 1, memory: 4GiB}", "{cpu: 1, memory: 4GiB, ranks: 6}")
    checked = check(load_workflow(text, file="sweep.yaml"), registry)
    check_resources(checked, NODE)
    check_resources(checked, NODE, cluster=Resources(cpu=8.0, memory_bytes=24 * GIB))
    with pytest.raises(DocumentErrors) as caught:
        plan(checked, bind_inputs(checked, {}), registry, NODE, cluster=Resources(8.0, 23 * GIB))
    (error,) = caught.value.errors
    assert (error.code, error.location.path) == ("unsatisfiable_resources", "steps.train.resources.ranks")
    assert error.message == "the step 'train' asks for 6 ranks, all nodes have room for 5"
    assert "at most 5" in error.hint


def test_an_operator_that_wants_more_than_there_is_says_so(compared, registry):
    checked = check(load_workflow(TRAIN), registry)
    with pytest.raises(DocumentErrors) as caught:
        check_resources(checked, Hardware(cpus=1, memory_bytes=16 * GIB))
    assert caught.value.location.path == "steps.t.uses"


def test_an_estimate_over_the_memory_is_a_warning(registry):
    checked = check(load_workflow(TRAIN), registry)
    found = plan(checked, {"f": families(size=8 * GIB)}, registry, NODE)
    assert found.steps[0].fits is False
    assert found.warnings == ("t: needs about 32.0 GiB of memory, the node has 16.0 GiB",)


def test_inputs_that_make_an_expression_fail_are_refused(registry):
    text = """\
version: 1
name: w
inputs: {n: {type: int}}
steps:
  a: {uses: families.simulate@1, with: {seed: "${{ 1 // inputs.n }}"}}
"""
    checked = check(load_workflow(text), registry)
    with pytest.raises(BadInput) as caught:
        plan(checked, {"n": 0}, registry, NODE)
    assert caught.value.code == "division_by_zero"
    check_resources(checked, NODE)


def test_a_condition_guards_the_inputs_of_its_step(registry):
    text = """\
version: 1
name: w
inputs: {n: {type: int}}
steps:
  a:
    if: ${{ inputs.n != 0 }}
    uses: families.simulate@1
    with: {seed: "${{ 1 // inputs.n }}"}
"""
    checked = check(load_workflow(text), registry)
    assert plan(checked, {"n": 0}, registry, NODE).steps[0].runs is False
    assert plan(checked, {"n": 1}, registry, NODE).steps[0].inputs["seed"] == 1


def test_a_plan_without_a_cluster_is_for_this_machine(compared, registry):
    assert this_machine().cpus >= 1
    assert this_machine().memory_bytes > 2**28
    assert len(plan(compared, bind_inputs(compared, {}), registry).steps) == 3


def test_a_plan_needs_the_operators(compared):
    with pytest.raises(NotFound):
        plan(compared, bind_inputs(compared, {}), Registry(), NODE)


REFUSED = """\
version: 1
name: w
inputs: {families: {type: families}, wanted: {type: int, default: 0}}
steps:
  train: {uses: model.train@2, with: {families: "${{ inputs.families }}", steps: "${{ inputs.wanted }}"}}
"""


def refusals_of(text: str, registry: Registry, **inputs: object) -> list[BadInput | None]:
    checked = check(load_workflow(text, file="w.yaml"), registry)
    bound = bind_inputs(checked, {"families": families(), **inputs})
    return [step.refusal for step in plan(checked, bound, registry, NODE).steps]


def test_what_an_operator_would_refuse_is_said_with_its_place(registry):
    checked = check(load_workflow(REFUSED, file="w.yaml"), registry)
    found = plan(checked, bind_inputs(checked, {"families": families()}), registry, NODE)
    assert (found.refused, found.unknown) == (1, 0)
    (step,) = found.to_json()["steps"]
    assert step["estimate"] is None
    assert step["refusal"] == {
        "code": "bad_config",
        "message": "steps must be at least 1",
        "location": {"file": "w.yaml", "line": 5, "column": 82, "path": "steps.train.with.steps"},
        "hint": "leave it out",
    }
    assert refusals_of(REFUSED, registry, wanted=10) == [None]


def test_what_a_step_asks_for_is_refused_where_the_document_asks_for_it(registry):
    text = REFUSED.replace("default: 0", "default: 5").replace("name: w", "name: w\nREQUEST")
    own = "train: {resources: {ranks: 3}, uses"
    (refusal,) = refusals_of(text.replace("\nREQUEST", "").replace("train: {uses", own), registry)
    assert (refusal.location.path, refusal.location.line) == ("steps.train.resources.ranks", 5)
    (refusal,) = refusals_of(text.replace("REQUEST", "defaults: {resources: {ranks: 3}}"), registry)
    assert (refusal.location.path, refusal.location.line) == ("defaults.resources.ranks", 3)


def test_nothing_is_refused_while_a_value_is_unknown_or_the_step_will_not_run(registry):
    """The families of the second are unknown too, but they are a file: no value hangs on them."""
    simulated = """\
version: 1
name: w
inputs: {steps: {type: int, default: 0}}
steps:
  make: {uses: families.simulate@1, with: {seed: 1}}
  train: {uses: model.train@2, with: {families: "${{ steps.make.families }}", VALUE}}
"""
    unknown = simulated.replace("VALUE", 'rate: "${{ steps.make.entropy }}", steps: 0')
    checked = check(load_workflow(unknown), registry)
    assert plan(checked, bind_inputs(checked, {}), registry, NODE).unknown == 1
    known = simulated.replace("VALUE", "steps: 0")
    checked = check(load_workflow(known), registry)
    assert plan(checked, bind_inputs(checked, {}), registry, NODE).refused == 1
    skipped = known.replace("train: {", 'train: {if: "${{ inputs.steps > 0 }}", ')
    checked = check(load_workflow(skipped), registry)
    assert plan(checked, bind_inputs(checked, {}), registry, NODE).refused == 0


def test_every_item_of_a_scattered_step_is_held_against_what_is_refused(registry):
    text = REFUSED.replace("wanted: {type: int, default: 0}", "wanted: {type: list[int], default: [5, 0, 7]}")
    text = text.replace("train: {", 'train: {each: {wanted: "${{ inputs.wanted }}"}, ')
    text = text.replace('steps: "${{ inputs.wanted }}"', 'steps: "${{ each.wanted }}"')
    (refusal,) = refusals_of(text, registry)
    assert refusal.message == "item 0: steps must be at least 1"
    assert refusals_of(text, registry, wanted=[5, 7]) == [None]


def test_a_request_of_auto_is_met_although_the_inputs_are_refused(registry):
    text = REFUSED.replace("train: {", "train: {resources: {memory: auto}, ")
    checked = check(load_workflow(text), registry)
    bound = bind_inputs(checked, {"families": families()})
    (step,) = plan(checked, bound, registry, NODE).steps
    assert step.refusal is not None
    assert step.resources.memory_bytes == 2 * GIB, "the operator's own"
