"""Documents that are right: what they mean, and that their layout does not matter."""

from __future__ import annotations

import pytest

from foldase_workflows.contracts import DocumentErrors
from foldase_workflows.spec import check, load_experiment, load_workflow
from foldase_workflows.spec.document.reader import read_tree
from foldase_workflows.spec.document.tree import plain


def value_of(text: str):
    source, faults = read_tree(f"key: {text}\n")
    faults.raise_if_any()
    return plain(source.root)["key"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("1e3", 1000.0),
        ("1.", 1.0),
        (".5", 0.5),
        ("-3", -3),
        ("+3", 3),
        ("0", 0),
        ("012", 12),
        ("0x1F", 31),
        ("0o17", 15),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("2026-11-21", "2026-11-21"),
        ("9223372036854775807", 2**63 - 1),
        ("'012'", "012"),
        ('"1"', "1"),
        ("1.2.3", "1.2.3"),
        ("[1, a, null]", [1, "a", None]),
        ("{a: {b: 1}}", {"a": {"b": 1}}),
    ],
)
def test_plain_scalars_mean_what_yaml_1_2_says(text, value):
    found = value_of(text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "written",
    [
        "with: {seed: ${{ inputs.a ? 1 : 2 }}, b: [${{ x[0] }}, '${{ \"}}\" }}']}",
        'with: {seed: "${{ inputs.a ? 1 : 2 }}", b: ["${{ x[0] }}", "${{ \\"}}\\" }}"]}',
        'with:\n  seed: ${{ inputs.a ? 1 : 2 }}  # and ${{\n  b:\n  - ${{ x[0] }}\n  - ${{ "}}" }}',
        'with:\n  seed: >-\n    ${{ inputs.a ?\n    1 : 2 }}\n  b: [ ${{ x[0] }} , ${{ "}}" }} ]',
        "# it's 'quoted\nwith: {seed: ${{ inputs.a ? 1 : 2 }}, b: [${{ x[0] }}, ${{ \"}}\" }}]}",
    ],
)
def test_expressions_stand_wherever_a_value_may(written):
    source, faults = read_tree(written)
    faults.raise_if_any()
    values = {"seed": "${{ inputs.a ? 1 : 2 }}", "b": ["${{ x[0] }}", '${{ "}}" }}']}
    assert plain(source.root) == {"with": values}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: it's\nb: {c: ${{ 1 ? 2 : 3 }}}", {"a": "it's", "b": {"c": "${{ 1 ? 2 : 3 }}"}}),
        ("a: |\n  'open\nb: {c: ${{ {} }}}", {"a": "'open\n", "b": {"c": "${{ {} }}"}}),
        ("- |\n 'x\n- {c: ${{ [] }}}", ["'x\n", {"c": "${{ [] }}"}]),
        ("- a: >\n    'x\n  b: {c: ${{ [] }}}", [{"a": "'x\n", "b": {"c": "${{ [] }}"}}]),
        ("a: one\n 'two\nb: {c: ${{ [] }}}", {"a": "one 'two", "b": {"c": "${{ [] }}"}}),
        ("a: 'one\n\n  two'\nb: {c: ${{ [] }}}", {"a": "one\ntwo", "b": {"c": "${{ [] }}"}}),
        ("a: x#y ${{ 'b # c' }}", {"a": "x#y ${{ 'b # c' }}"}),
        (
            "a: {t: list[list[int]], u: [list[fasta], b]}",
            {"a": {"t": "list[list[int]]", "u": ["list[fasta]", "b"]}},
        ),
        ("a: [list, [int]]", {"a": ["list", ["int"]]}),
        ("a: $${{ not one }}", {"a": "$${{ not one }}"}),
    ],
)
def test_what_is_around_an_expression_stays_yaml(text, value):
    source, faults = read_tree(text)
    faults.raise_if_any()
    assert plain(source.root) == value


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_line_endings_and_byte_order_mark_do_not_shift_places(ending, mark):
    text = mark + "version: 1\nname: w\ntitle: é😀\nsteps:\n  a: {uses: 5}\n".replace("\n", ending)
    with pytest.raises(DocumentErrors) as caught:
        load_workflow(text)
    [fault] = caught.value.errors
    assert (fault.code, fault.location.line, fault.location.column) == ("type", 5, 13)


def test_the_whole_language_in_one_document(sweep, registry):
    checked = check(load_workflow(sweep, file="sweep.yaml"), registry)
    assert list(checked.steps) == ["simulate", "train", "compare"]
    train = checked.steps["train"]
    assert train.uses == "model.train@2"
    assert train.needs == ("simulate",)
    assert train.scattered
    assert train.request.memory_bytes == 4 * 2**30
    assert train.timeout_seconds == 7200
    assert train.retry.max == 2
    assert train.retry.backoff == (5, 120)
    assert {str(cause) for cause in train.retry.on} == {"oom_host", "oom_gpu", "timeout"}
    assert [(target, str(factor)) for target, factor in train.retry.on_oom] == [
        ("memory", "x2"),
        ("with.chunk", "/2"),
    ]
    assert train.failures_allowed(6) == 3
    assert checked.steps["compare"].cache == "off", "an operator that is not deterministic is never cached"
    assert train.cache == "use"
    assert {name: str(kind) for name, kind in checked.output_types.items()} == {
        "best": "model",
        "entropy": "float",
    }


def test_the_digest_is_of_the_meaning_not_of_the_layout(sweep, registry):
    def digest(text: str) -> str:
        return check(load_workflow(text), registry).digest

    spaced = sweep.replace(
        "{seed: 7, noise: ${{ inputs.noise }}}", "\n      seed: 7\n      noise: '${{ inputs.noise }}'"
    )
    assert digest(spaced + "# a comment\n") == digest(sweep)
    assert digest(sweep.replace("seed: 7", "seed: 8")) != digest(sweep)
    assert digest(sweep).startswith("sha256:")


def test_an_experiment_names_a_workflow_and_its_inputs():
    experiment = load_experiment(
        "workflow: contacts\ninputs: {seed: 3, msa: ./a.a3m}\npriority: high\nname: third try\n"
    )
    assert (experiment.workflow, experiment.is_path, experiment.priority_number) == ("contacts", False, 10)
    assert experiment.inputs == {"seed": 3, "msa": "./a.a3m"}
    assert load_experiment("workflow: ./mine.yaml\npriority: -5\n").is_path
    assert load_experiment("workflow: ./mine.yaml\npriority: -5\n").priority_number == -5
    assert load_experiment("workflow: w\n").priority_number == 0


def test_json_is_yaml():
    document = load_workflow(
        '{"version": 1, "name": "w", "steps": {"a": {"uses": "summarise@1", "with": null}}}'
    )
    assert document.steps["a"].uses == "summarise@1"
