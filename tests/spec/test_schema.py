"""The JSON Schema that editors and the page read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest

from foldase_workflows.spec import experiment_json_schema, load_workflow, workflow_json_schema
from foldase_workflows.spec.document.reader import read_tree
from foldase_workflows.spec.document.tree import plain as plain_values


@pytest.fixture(scope="module")
def plain():
    schema = workflow_json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.fixture(scope="module")
def typed(registry):
    schema = workflow_json_schema(registry)
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def document(**step):
    return {"version": 1, "name": "w", "steps": {"a": {"uses": "families.simulate@1", **step}}}


def test_what_the_loader_takes_the_schema_takes(plain, typed, sweep):
    found = load_workflow(sweep).to_json()
    plain.validate(found)
    typed.validate(found)


@pytest.mark.parametrize(
    "step",
    [
        {"with": {"seed": 1}},
        {"with": {"seed": "${{ inputs.n }}"}},
        {"with": {"seed": 1, "sizes": [1, "${{ inputs.n }}"]}, "each": {"a": "${{ inputs.l }}", "b": [1]}},
        {"with": {"seed": 1}, "resources": {"cpu": 0.5, "memory": "16GiB", "gpu": "1/2"}},
        {"with": {"seed": 1}, "resources": {"cpu": "auto", "memory": "auto"}},
        {
            "uses": "model.train@2",
            "with": {"families": "${{ inputs.f }}"},
            "resources": {"ranks": 4, "memory": "1GiB"},
        },
        {"with": {"seed": 1}, "retry": {"max": 3, "backoff": "5s..2m", "on": ["oom"]}},
        {"with": {"seed": 1}, "retry": {"on_oom": {"memory": "x2", "with.length": "/2"}}},
        {"with": {"seed": 1}, "timeout": "1h30m", "cache": "refresh", "if": "${{ true }}"},
        {"with": {"seed": 1}, "each": {"a": [1]}, "allow_failures": "5%", "after": ["b"]},
    ],
)
def test_right_steps(plain, typed, step):
    plain.validate(document(**step))
    typed.validate(document(**step))


@pytest.mark.parametrize(
    "step",
    [
        {"wiht": {}},
        {"timeout": 90},
        {"cache": "no"},
        {"resources": {"memory": 16}},
        {"resources": {"gpu": 0.5}},
        {"resources": {"ranks": 0}},
        {"resources": {"ranks": "4"}},
        {"retry": {"on": ["bad_input"]}},
        {"each": {"a": "all"}},
        {"if": "yes"},
        {"after": "a"},
    ],
)
def test_wrong_steps(plain, step):
    assert list(plain.iter_errors(document(**step)))


def test_several_ranks_are_for_gangs(plain, typed):
    several = document(**{"with": {"seed": 1}, "resources": {"ranks": 2}})
    plain.validate(several)
    assert list(typed.iter_errors(several)), "families.simulate is no gang"


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"seed": "one"},
        {"seed": -1},
        {"seed": 1, "lenght": 2},
        {"seed": 1, "letters": "rna"},
        {"seed": 1, "noise": 1},
        {"seed": 1, "sizes": []},
        {"seed": 1, "label": "x" * 21},
    ],
)
def test_with_an_operator_list_the_inputs_of_steps_are_checked(typed, plain, values):
    assert list(typed.iter_errors(document(**{"with": values})))
    plain.validate(document(**{"with": values}))


def test_a_file_can_only_come_from_an_expression(typed):
    step = {"uses": "alignment.read@1", "with": {"alignment": "./x.a3m"}}
    assert list(typed.iter_errors({"version": 1, "name": "w", "steps": {"a": step}}))
    step["with"]["alignment"] = "${{ inputs.x }}"
    typed.validate({"version": 1, "name": "w", "steps": {"a": step}})


def test_every_field_is_described(plain):
    for name, section in plain.schema["$defs"].items():
        for field, described in section["properties"].items():
            known = {"retry", "resources"}
            assert field in known or described.get("description"), f"{name}.{field} says nothing"


SHAPES = {"missing_field", "unknown_field", "unsupported_version", "bad_name"}


def corpus_of_shapes() -> Iterator[tuple[str, str]]:
    """Name and text of the bad documents that are refused for their shape."""
    corpus = (Path(__file__).parent / "bad_documents.txt").read_text(encoding="utf-8")
    for block in corpus.split("=== ")[1:]:
        head, _, text = block.partition("\n---\n")
        name, code = head.splitlines()[:2]
        if code.removeprefix("code: ") in SHAPES and name != "odd target":
            yield name, text.replace("▸", "")


@pytest.mark.parametrize(("name", "text"), list(corpus_of_shapes()))
def test_what_the_loader_refuses_for_its_shape_the_schema_refuses(plain, name, text):
    source, _ = read_tree(text)
    assert list(plain.iter_errors(plain_values(source.root))), name


def test_experiments():
    schema = experiment_json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    validator.validate({"workflow": "contacts", "inputs": {"a": 1}, "priority": "high"})
    for wrong in ({}, {"workflow": "w", "priority": "urgent"}, {"workflow": "w", "sweep": {}}):
        assert list(validator.iter_errors(wrong))
    json.dumps(schema)
