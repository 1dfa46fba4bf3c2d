"""What the scheduler asks of a checked workflow while it runs."""

from __future__ import annotations

import json
import time

import pytest

from foldase_workflows.contracts import (
    BadInput,
    Cause,
    DocumentErrors,
    Estimate,
    Hardware,
    Registry,
    Resources,
)
from foldase_workflows.spec import bind_inputs, check, from_json, load_workflow
from foldase_workflows.spec.graph import circles, topological

HEAD = "version: 1\nname: w\n"


def workflow(text: str, registry: Registry):
    return check(load_workflow(text if text.startswith("version") else HEAD + text, file="w.yaml"), registry)


@pytest.fixture
def compared(sweep, registry):
    return workflow(sweep, registry)


def test_a_step_gets_all_its_inputs_with_defaults_and_types(compared):
    scope = {"inputs": bind_inputs(compared, {"noise": 0.25}), "steps": {}}
    assert compared.resolve_with("simulate", scope) == {
        "seed": 7,
        "length": 64,
        "noise": 0.25,
        "letters": "protein",
        "sizes": [100, 200],
        "label": "",
    }


def test_a_whole_number_for_a_float_is_a_float(registry):
    found = workflow(
        "steps: {a: {uses: model.train@2, with: {families: '${{ steps.b.families }}', rate: 1}},"
        " b: {uses: families.simulate@1, with: {seed: 1}}}",
        registry,
    )
    scope = {"inputs": {}, "steps": {"b": {"families": tree("f")}}}
    rate = found.resolve_with("a", scope)["rate"]
    assert json.dumps(rate) == "1.0", "so that 1 and 1.0 have one identity"


def tree(name: str) -> dict:
    return {
        "$artifact": {
            "digest": "sha256:" + "b" * 64,
            "type": "families",
            "size": 10,
            "name": name,
            "media_type": "application/vnd.foldase.tree+json",
        }
    }


def test_items_are_the_cross_product_with_stable_keys(compared):
    scope = {"inputs": bind_inputs(compared, {"seeds": [5, 3]}), "steps": {}}
    items = compared.items("train", scope)
    assert [item.key for item in items] == ["5,0.001", "5,0.01", "3,0.001", "3,0.01"]
    assert items[1].values == {"seed": 5, "rate": 0.01}
    assert compared.items("simulate", scope) is None
    scope["steps"]["simulate"] = {"families": tree("f")}
    assert compared.resolve_with("train", scope, items[0])["steps"] == 500
    assert compared.resolve_with("train", scope, items[2])["rate"] == 0.001


def test_keys_name_files_and_fall_back_to_the_place(registry, artifact):
    found = workflow(
        """
inputs: {files: {type: list[alignment]}, words: {type: list[text]}}
steps:
  a: {uses: alignment.read@1, each: {f: "${{ inputs.files }}"}, with: {alignment: "${{ each.f }}"}}
  b: {uses: families.simulate@1, each: {w: "${{ inputs.words }}"}, with: {seed: 1, label: "${{ each.w }}"}}
""",
        registry,
    )
    files = [
        artifact(name="one.a3m"),
        artifact(name="two, with space.a3m"),
        artifact(name="one.a3m", digit="b"),
    ]
    given = {"files": files, "words": ["fast", "../etc", "fast", "é", "x" * 41]}
    scope = {"inputs": bind_inputs(found, given), "steps": {}}
    assert [item.key for item in found.items("a", scope)] == ["one.a3m", "@1", "@2"]
    assert [item.key for item in found.items("b", scope)] == ["fast", "@1", "@2", "@3", "@4"]


def test_a_key_does_not_change_when_other_items_come(compared):
    few = compared.items("train", {"inputs": {"seeds": [1, 2]}, "steps": {}})
    more = compared.items("train", {"inputs": {"seeds": [9, 1, 2, 8]}, "steps": {}})
    assert {item.key for item in few} < {item.key for item in more}


def test_too_many_items_are_refused(compared):
    with pytest.raises(BadInput) as caught:
        compared.items("train", {"inputs": {"seeds": list(range(5001))}, "steps": {}})
    assert caught.value.code == "too_many_steps"
    assert "10002" in caught.value.message


def test_nothing_to_scatter_over_is_no_items(compared):
    assert compared.items("train", {"inputs": {"seeds": []}, "steps": {}}) == []


def test_conditions_and_outputs(compared):
    scope = {
        "inputs": {"seeds": [1], "noise": 0.1},
        "steps": {
            "simulate": {"families": tree("f"), "entropy": 2.345},
            "train": {"each": {"model": [tree("m")], "loss": [1.0]}},
        },
    }
    assert compared.condition("simulate", scope) is True
    assert compared.condition("compare", scope) is False
    scope["steps"]["compare"] = None
    assert compared.resolve_outputs(scope) == {"best": None, "entropy": 2.35}
    scope["steps"]["train"]["each"]["model"] *= 2
    assert compared.condition("compare", scope) is True


def test_a_value_that_a_port_refuses_is_bad_input_with_its_place(registry):
    found = workflow(
        "inputs: {n: {type: int}}\nsteps:\n  a:\n    uses: families.simulate@1\n"
        "    with: {seed: '${{ inputs.n - 10 }}'}\n",
        registry,
    )
    with pytest.raises(BadInput) as caught:
        found.resolve_with("a", {"inputs": {"n": 3}, "steps": {}})
    assert caught.value.code == "number_range"
    assert str(caught.value.location) == "w.yaml:7:18, steps.a.with.seed"
    assert "-7 is out of range" in caught.value.message


def test_an_expression_that_fails_is_bad_input_with_its_place(registry):
    found = workflow(
        "inputs: {n: {type: int}}\nsteps:\n  a:\n    uses: families.simulate@1\n"
        "    with: {seed: '${{ 10 // inputs.n }}'}\n",
        registry,
    )
    with pytest.raises(BadInput) as caught:
        found.resolve_with("a", {"inputs": {"n": 0}, "steps": {}})
    assert caught.value.code == "division_by_zero"
    assert (caught.value.location.line, caught.value.location.column) == (7, 26)


def test_an_optional_input_that_is_missing_leaves_the_default(registry, artifact):
    found = workflow(
        "inputs: {q: {type: fasta, default: null}, m: {type: alignment}}\nsteps:\n"
        "  a: {uses: alignment.read@1, with: {alignment: '${{ inputs.m }}', query: '${{ inputs.q }}'}}\n",
        registry,
    )
    inputs = bind_inputs(found, {"m": artifact()})
    assert inputs["q"] is None
    values = found.resolve_with("a", {"inputs": inputs, "steps": {}})
    assert values == {"alignment": artifact(), "query": None, "options": {}}
    with pytest.raises(BadInput) as caught:
        found.resolve_with("a", {"inputs": {"m": None, "q": None}, "steps": {}})
    assert caught.value.code == "missing_input"


def test_a_workflow_is_rebuilt_from_what_is_stored(compared, registry):
    again = from_json(json.loads(compared.canonical), registry)
    assert again.digest == compared.digest
    assert list(again.steps) == list(compared.steps)
    scope = {"inputs": {"seeds": [1, 2], "noise": 0.1}, "steps": {}}
    assert again.items("train", scope) == compared.items("train", scope)
    assert again.describe() == compared.describe()


def test_a_stored_workflow_without_its_operator_says_so(compared):
    with pytest.raises(DocumentErrors) as caught:
        from_json(compared.to_json(), Registry())
    assert {error.code for error in caught.value.errors} == {"unknown_operator"}
    assert caught.value.errors[0].location.path == "steps.simulate.uses"
    for wrong in (None, [], {"version": 1}, {"version": 1, "name": "w", "steps": {"a": 3}}):
        with pytest.raises(DocumentErrors):
            from_json(wrong, Registry())


def test_described_for_the_page(compared):
    described = compared.describe()
    assert described["title"] == "Train a few models and compare them"
    assert described["inputs"][0] == {
        "name": "seeds",
        "type": "list[int]",
        "required": False,
        "default": [1, 2, 3],
        "help": "One model for each",
        "limits": {},
        "choices": [],
    }
    assert described["inputs"][1]["limits"] == {"min": 0, "max": 1}
    assert described["steps"][1] == {
        "name": "train",
        "uses": "model.train@2",
        "after": ["simulate"],
        "each": True,
        "conditional": False,
    }
    assert described["outputs"] == [{"name": "best", "type": "model"}, {"name": "entropy", "type": "float"}]


def test_defaults_are_joined_field_by_field(registry):
    found = workflow(
        """
defaults:
  timeout: 1h
  cache: refresh
  resources: {cpu: 2, memory: 1GiB}
  retry: {max: 5, backoff: 1s}
steps:
  a:
    uses: families.simulate@1
    with: {seed: 1}
    resources: {memory: 2GiB}
    retry: {max: 1}
    cache: true
  b: {uses: families.simulate@1, with: {seed: 1}, after: [a], timeout: 5s}
""",
        registry,
    )
    a, b = found.steps["a"], found.steps["b"]
    assert (a.request.cpu, a.request.memory_bytes, a.request.gpu) == (2, 2**31, None)
    assert (a.retry.max, a.retry.backoff, a.cache, a.timeout_seconds) == (1, (1, 1), "use", 3600)
    assert (b.retry.max, b.cache, b.timeout_seconds) == (5, "refresh", 5)
    assert (b.needs, b.sources, b.after) == (("a",), (), ("a",))


def test_waiting_doubles_up_to_the_longest(compared):
    retry = compared.steps["train"].retry
    assert [retry.wait_seconds(count) for count in (1, 2, 3, 4, 5, 6, 100)] == [5, 10, 20, 40, 80, 120, 120]
    assert Cause.TIMEOUT in retry.on
    assert Cause.USER_ERROR not in retry.on


def test_after_running_out_of_memory_the_next_attempt_is_more_frugal(compared):
    retry = compared.steps["train"].retry
    before = Resources(cpu=1.0, memory_bytes=2**30)
    resources, inputs = retry.after_oom(before, {"chunk": 64, "rate": 0.1}, 2)
    assert resources == Resources(cpu=1.0, memory_bytes=2**32)
    assert inputs == {"chunk": 16, "rate": 0.1}
    assert retry.after_oom(before, {"chunk": 64}, 0) == (before, {"chunk": 64})


def test_auto_asks_the_estimate(registry):
    found = workflow(
        "steps: {a: {uses: families.simulate@1, with: {seed: 1}, resources: {memory: auto}}}", registry
    )
    hardware = Hardware(cpus=4, memory_bytes=2**34)
    assert found.steps["a"].resources({"length": 64}, hardware).memory_bytes == 2**30
    assert found.steps["a"].resources({}, hardware).memory_bytes == 0, "an estimate that fails is none"
    assert isinstance(found.steps["a"].estimate({"length": 64}, hardware), Estimate)


def test_ranks_of_the_defaults_are_for_gangs_alone(registry):
    found = workflow(
        """
inputs: {f: {type: families}}
defaults: {resources: {ranks: 4, cpu: 0.5}}
steps:
  a: {uses: families.simulate@1, with: {seed: 1}}
  b: {uses: model.train@2, with: {families: "${{ inputs.f }}"}}
  c: {uses: model.train@2, with: {families: "${{ inputs.f }}"}, resources: {ranks: 2, memory: 1GiB}}
  d: {uses: families.simulate@1, with: {seed: 1}, resources: {ranks: 1}}
""",
        registry,
    )
    wanted = {name: step.resources({}, None) for name, step in found.steps.items()}
    assert {name: one.ranks for name, one in wanted.items()} == {"a": 1, "b": 4, "c": 2, "d": 1}
    assert wanted["c"].total == Resources(cpu=1.0, memory_bytes=2**31)
    assert wanted["b"].to_json()["ranks"] == 4


def test_order_is_that_of_the_document_where_it_is_free():
    assert topological({"c": [], "b": ["a"], "a": [], "d": ["b", "c"]}) == ["c", "a", "b", "d"]
    assert topological({"a": ["b"], "b": ["a"], "c": ["a"], "d": []}) == ["d"]


def test_every_group_of_circles_is_found():
    needs = {"a": ["b"], "b": ["a"], "c": ["d", "a"], "d": ["e"], "e": ["c"], "f": ["c"], "g": ["g"], "h": []}
    assert circles(needs) == [["a", "b", "a"], ["c", "d", "e", "c"], ["g", "g"]]


def test_chains_of_thousands_of_steps_need_no_recursion():
    chain = {f"s{n}": [f"s{n + 1}"] for n in range(5000)} | {"s5000": []}
    assert topological(chain)[0] == "s5000"
    assert circles(chain | {"s5000": ["s0"]})[0][:2] == ["s0", "s1"]


def test_thousands_of_steps_a_second(compared):
    """Counted in processor time, with a wide margin: the scheduler resolves each step once."""
    scope = {
        "inputs": {"seeds": list(range(1000)), "noise": 0.1},
        "steps": {"simulate": {"families": tree("f")}},
    }
    start = time.process_time()
    items = compared.items("train", scope)
    for item in items:
        compared.resolve_with("train", scope, item)
    assert len(items) == 2000
    assert time.process_time() - start < 2
