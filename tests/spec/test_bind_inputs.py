"""The values given to a run."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foldase_workflows.contracts import DocumentErrors
from foldase_workflows.spec import bind_inputs, check, load_experiment, load_workflow, read_argument

WORKFLOW = """\
version: 1
name: w
inputs:
  n: {type: int, min: 1, max: 10, help: How many}
  x: {type: float, default: 0.5, min: 0}
  on: {type: bool, default: false}
  mode: {type: text, default: fast, choices: [fast, slow]}
  label: {type: text, default: "", max_length: 5}
  msa: {type: alignment, default: null}
  files: {type: list[fasta], default: null}
  few: {type: int, default: 1, choices: [1, 2]}
  seeds: {type: list[int], default: [1], min: 0, min_length: 1, max_length: 3}
  options: {type: json, default: {}}
  weights: {type: weights, default: null}
  peers: {type: "list[weights]", default: null}
steps:
  a: {uses: families.simulate@1, with: {seed: 1}}
"""


@pytest.fixture
def checked(registry):
    return check(load_workflow(WORKFLOW), registry)


def test_defaults_are_filled_in(checked):
    assert bind_inputs(checked, {"n": 3}) == {
        "n": 3,
        "x": 0.5,
        "on": False,
        "mode": "fast",
        "label": "",
        "msa": None,
        "files": None,
        "few": 1,
        "seeds": [1],
        "options": {},
        "weights": None,
        "peers": None,
    }


@pytest.mark.parametrize("name", ["esmfold_v1", "facebook/esmfold_v1", "a/b/c-1.2+x"])
def test_weights_are_given_by_name_or_by_what_a_step_made(checked, artifact, name):
    assert bind_inputs(checked, {"n": 1, "weights": name, "peers": [name]})["peers"] == [name]
    made = artifact("weights")
    assert bind_inputs(checked, {"n": 1, "weights": made})["weights"] == made


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("", "bad_weights_name"),
        ("..", "bad_weights_name"),
        ("/etc/passwd", "bad_weights_name"),
        ("a/../b", "bad_weights_name"),
        ("a\\b", "bad_weights_name"),
        ("x" * 201, "bad_weights_name"),
        (3, "type"),
        ({"path": "/etc"}, "type"),
    ],
)
def test_a_name_of_weights_is_never_a_path(checked, name, code):
    with pytest.raises(DocumentErrors) as caught:
        bind_inputs(checked, {"n": 1, "weights": name})
    assert (caught.value.code, caught.value.location.path) == (code, "inputs.weights")


def test_a_workflow_may_say_which_weights_it_means(registry):
    text = WORKFLOW.replace("weights, default: null}", "weights, default: esmfold_v1}")
    assert bind_inputs(check(load_workflow(text), registry), {"n": 1})["weights"] == "esmfold_v1"
    with pytest.raises(DocumentErrors) as caught:
        check(load_workflow(text.replace("esmfold_v1", "/esmfold")), registry)
    assert caught.value.code == "bad_weights_name"


def test_what_is_given_wins(checked, artifact):
    given = {
        "n": 1,
        "x": 2,
        "on": True,
        "mode": "slow",
        "msa": artifact(),
        "files": [artifact("fasta")],
        "options": {"a": [1, None]},
    }
    bound = bind_inputs(checked, given)
    assert bound | given == bound
    assert isinstance(bound["x"], float)


@pytest.mark.parametrize(
    ("given", "code", "path", "hint"),
    [
        ({}, "missing_input", "inputs.n", "How many"),
        ({"n": 3, "sedes": 1}, "unknown_input", "inputs.sedes", "did you mean 'seeds'"),
        ({"n": None}, "missing_input", "inputs.n", "How many"),
        ({"n": "3"}, "type", "inputs.n", "without quotes"),
        ({"n": 3.0}, "type", "inputs.n", "write 3"),
        ({"n": True}, "number_range", "inputs.n", "finite"),
        ({"n": 0}, "number_range", "inputs.n", "at least 1"),
        ({"n": 11}, "number_range", "inputs.n", "at most 10"),
        ({"n": 10**5000}, "number_range", "inputs.n", "smaller"),
        ({"n": 3, "few": 3}, "invalid_choice", "inputs.few", "one of 1, 2"),
        ({"n": 3, "few": -(10**5000)}, "number_range", "inputs.few", "smaller"),
        ({"n": 3, "mode": 10**5000}, "type", "inputs.mode", "quote it"),
        ({"n": 3, "x": math.nan}, "number_range", "inputs.x", "finite"),
        ({"n": 3, "x": math.inf}, "number_range", "inputs.x", "finite"),
        ({"n": 3, "x": "NaN"}, "number_range", "inputs.x", "finite"),
        ({"n": 3, "x": -1}, "number_range", "inputs.x", "at least 0"),
        ({"n": 3, "on": "yes"}, "type", "inputs.on", "true or false"),
        ({"n": 3, "on": 1}, "type", "inputs.on", "true or false"),
        ({"n": 3, "mode": "fats"}, "invalid_choice", "inputs.mode", "'fast'"),
        ({"n": 3, "label": 12}, "type", "inputs.label", 'quote it: "12"'),
        ({"n": 3, "label": "too long"}, "length_range", "inputs.label", "at most 5"),
        ({"n": 3, "label": "a\0"}, "bad_characters", "inputs.label", "delete"),
        ({"n": 3, "label": "\ud800"}, "bad_characters", "inputs.label", "delete"),
        ({"n": 3, "seeds": []}, "length_range", "inputs.seeds", "at least 1"),
        ({"n": 3, "seeds": [1, 2, 3, 4]}, "length_range", "inputs.seeds", "at most 3"),
        ({"n": 3, "seeds": [1, "a"]}, "type", "inputs.seeds.1", "digits"),
        ({"n": 3, "seeds": [1, -2]}, "number_range", "inputs.seeds.1", "at least 0"),
        ({"n": 3, "seeds": 3}, "type", "inputs.seeds", "[a, b]"),
        ({"n": 3, "msa": "./a.a3m"}, "type", "inputs.msa", "upload"),
        ({"n": 3, "msa": {"$artifact": {}}}, "type", "inputs.msa", "upload"),
        ({"n": 3, "options": [1]}, "type", "inputs.options", "{name: value}"),
        ({"n": 3, "options": {"a": {"b": math.nan}}}, "number_range", "inputs.options.a.b", "finite"),
        ({"n": 3, "options": {"a\0": 1}}, "bad_characters", "inputs.options", "delete"),
    ],
)
def test_wrong_values_are_refused_with_their_path(checked, given, code, path, hint):
    with pytest.raises(DocumentErrors) as caught:
        bind_inputs(checked, given)
    [fault] = caught.value.errors
    assert (fault.code, fault.location.path) == (code, path)
    assert hint in fault.hint


def test_all_wrong_values_come_at_once(checked):
    with pytest.raises(DocumentErrors) as caught:
        bind_inputs(checked, {"x": "a", "y": 1, "seeds": [-1, "b"]})
    assert [error.code for error in caught.value.errors].count("type") == 2
    assert {error.code for error in caught.value.errors} == {
        "type",
        "unknown_input",
        "missing_input",
        "number_range",
    }


@pytest.mark.parametrize(
    ("kind", "change", "fine"),
    [
        ("alignment", {}, True),
        ("file", {}, True),
        ("fasta", {}, False),
        ("msa", {}, False),
        ("alignment", {"digest": "sha256:../../etc/passwd"}, False),
        ("alignment", {"digest": "md5:" + "a" * 64}, False),
        ("alignment", {"size": -1}, False),
        ("alignment", {"size": True}, False),
        ("alignment", {"type": "pickle"}, False),
        ("alignment", {"more": 1}, False),
    ],
)
def test_references_to_files_are_complete_and_of_the_right_kind(checked, artifact, kind, change, fine):
    reference = artifact(kind)
    reference["$artifact"].update(change)
    if fine:
        assert bind_inputs(checked, {"n": 3, "msa": reference})["msa"] == reference
        return
    with pytest.raises(DocumentErrors) as caught:
        bind_inputs(checked, {"n": 3, "msa": reference})
    assert caught.value.code == "type"


def test_an_experiment_shows_the_line_of_a_wrong_value(checked):
    experiment = load_experiment("workflow: w\ninputs:\n  n: 99\n", file="try.yaml")
    with pytest.raises(DocumentErrors) as caught:
        bind_inputs(checked, experiment.inputs, places=experiment.places)
    assert str(caught.value.location) == "try.yaml:3:6, inputs.n"


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("n", "3", 3),
        ("x", "1e-3", 0.001),
        ("on", "true", True),
        ("mode", "yes", "yes"),
        ("label", "012", "012"),
        ("msa", "./a: b.a3m", "./a: b.a3m"),
        ("files", "[a.fa, b.fa]", ["a.fa", "b.fa"]),
        ("seeds", "[1, 2]", [1, 2]),
        ("options", "{a: 1}", {"a": 1}),
        ("unheard", "of", "of"),
    ],
)
def test_arguments_of_the_command_line(checked, name, text, value):
    assert read_argument(checked, name, text) == value


def test_a_wrong_argument_names_its_option(checked):
    with pytest.raises(DocumentErrors) as caught:
        read_argument(checked, "seeds", "[1, 2")
    assert str(caught.value.location) == "--input seeds:1:1"


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=10)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=10), inner, max_size=4)
    ),
    max_leaves=10,
)


@given(
    values=st.dictionaries(
        st.sampled_from(["n", "x", "on", "mode", "label", "msa", "files", "seeds", "options", "z"]), JSON
    )
)
def test_any_values_are_bound_or_refused(values, registry):
    checked = check(load_workflow(WORKFLOW), registry)
    try:
        bound = bind_inputs(checked, values)
    except DocumentErrors as refused:
        faults = refused.errors
    else:
        faults = ()
        assert set(bound) == set(checked.input_types)
        assert 1 <= bound["n"] <= 10
        assert bound["mode"] in ("fast", "slow")
    assert all(fault.hint and fault.location.path.startswith("inputs") for fault in faults)


def test_deep_and_long_values_are_refused(checked):
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    for options in ({"a": deep}, {"a": [0] * 200_000}, {"a": "x" * 100_000}):
        with pytest.raises(DocumentErrors) as caught:
            bind_inputs(checked, {"n": 3, "options": options})
        assert caught.value.code == "too_large"
