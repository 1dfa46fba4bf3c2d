"""The expression language: what it computes, what it refuses, and that it always ends."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from foldase_workflows.contracts import BadInput, list_of, parse_type
from foldase_workflows.spec import evaluate
from foldase_workflows.spec.expressions import nodes
from foldase_workflows.spec.expressions.evaluator import compute
from foldase_workflows.spec.expressions.functions import FUNCTIONS
from foldase_workflows.spec.expressions.inference import Names, StepType, infer
from foldase_workflows.spec.expressions.nodes import ExpressionFault
from foldase_workflows.spec.expressions.parser import parse
from foldase_workflows.spec.limits import INT_MAX, MAX_ITEMS, MAX_TEXT

SCOPE = {
    "inputs": {
        "n": 3,
        "x": 0.5,
        "on": True,
        "name": "fold",
        "seeds": [3, 1, 2],
        "none": None,
        "words": ["b", "a"],
    },
    "steps": {
        "a": {"loss": 1.25, "table": {"rows": [{"id": "x"}], "two words": 2}},
        "many": {"each": {"loss": [1.0, 2.0, 4.5]}},
        "skipped": None,
    },
    "each": {"seed": 7},
}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1 + 2 * 3", 7),
        ("(1 + 2) * 3", 9),
        ("2 - 3 - 4", -5),
        ("7 / 2", 3.5),
        ("6 / 2", 3.0),
        ("7 // 2", 3),
        ("-7 // 2", -4),
        ("7 % 3", 1),
        ("-inputs.n", -3),
        ("- - 3", 3),
        ("1e3", 1000.0),
        (".5 + 1", 1.5),
        ("1 < 2 and 2 < 3", True),
        ("true or 1 / 0 > 1", True),
        ("false and 1 / 0 > 1", False),
        ("not true or true", True),
        ("not (true or true)", False),
        ("!true || true && false", False),
        ("not 1 > 2", True),
        ("inputs.on ? 'yes' : 'no'", "yes"),
        ("false ? 1 : false ? 2 : 3", 3),
        ("1 == 1.0", True),
        ("true == 1", False),
        ("'a' < 'b'", True),
        ("inputs.none == null", True),
        ("steps.skipped.loss == null", True),
        ("inputs.n != null", True),
        ("2 in inputs.seeds", True),
        ("9 not in inputs.seeds", True),
        ("'ol' in inputs.name", True),
        ("'rows' in steps.a.table", True),
        ("true in [1, 2]", False),
        ("inputs.seeds[0] + inputs.seeds[-1]", 5),
        ("steps.a.table.rows[0].id", "x"),
        ("steps.a.table['two words']", 2),
        ("steps.many.each.loss[2]", 4.5),
        ("each.seed * 2", 14),
        ("[1, 2] + [3]", [1, 2, 3]),
        ("'a' + \"b\"", "ab"),
        (r"'it\'s\n\\'", "it's\n\\"),
        ("[]", []),
        ("[1, 2,]", [1, 2]),
        ("len(inputs.seeds)", 3),
        ("len('four')", 4),
        ("min(3, 1, 2)", 1),
        ("max(inputs.seeds)", 3),
        ("sum(steps.many.each.loss)", 7.5),
        ("sum([])", 0),
        ("mean([1, 2])", 1.5),
        ("range(3)", [0, 1, 2]),
        ("range(5, 0, -2)", [5, 3, 1]),
        ("range(5, 0)", []),
        ("round(2.6)", 3),
        ("round(2.345, 1)", 2.3),
        ("floor(-1.5)", -2),
        ("ceil(1.2)", 2),
        ("abs(-2)", 2),
        ("lower('AB') + upper('c')", "abC"),
        ("starts_with(inputs.name, 'fo') and ends_with(inputs.name, 'ld')", True),
        ("join(inputs.words, ', ')", "b, a"),
        ("join([1, 2.5, true], '-')", "1-2.5-true"),
        ("sorted(inputs.seeds)", [1, 2, 3]),
        ("sorted(inputs.words)", ["a", "b"]),
        ("unique([1, 1.0, 2, true])", [1, 2, True]),
        ("coalesce(inputs.none, inputs.n)", 3),
        ("text(0.1) + text(3) + text(true)", "0.13true"),
    ],
)
def test_an_expression_has_a_value_and_keeps_its_type(text, value):
    found = evaluate("${{ " + text + " }}", SCOPE)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("no expression", "no expression"),
        ("  ${{ inputs.n }}  ", 3),
        ("n=${{ inputs.n }}", "n=3"),
        ("${{ inputs.n }}${{ inputs.on }}", "3true"),
        ("$${{ inputs.n }}", "${{ inputs.n }}"),
        ("a $${{ b }} ${{ inputs.x }}", "a ${{ b }} 0.5"),
        ([1, "${{ inputs.x }}", {"a": "${{ inputs.seeds }}"}], [1, 0.5, {"a": [3, 1, 2]}]),
        (5, 5),
        (None, None),
    ],
)
def test_only_expressions_are_replaced(value, found):
    assert evaluate(value, SCOPE) == found


@pytest.mark.parametrize(
    ("text", "code", "column"),
    [
        ("${{ 1 / 0 }}", "division_by_zero", 7),
        ("${{ 1 % (2 - 2) }}", "division_by_zero", 7),
        ("${{ inputs.seeds[3] }}", "index_range", 17),
        ("${{ inputs.m }}", "unknown_input", 5),
        ("${{ steps.later.loss }}", "unavailable", 5),
        ("${{ steps.a.gain }}", "unknown_output", 5),
        ("${{ steps.a.table.columns }}", "unknown_field", 18),
        ("${{ each.s }}", "unknown_each", 5),
        ("${{ 9223372036854775807 + 1 }}", "number_range", 25),
        ("${{ 1e308 * 10 }}", "number_range", 11),
        ("${{ inputs.n and true }}", "type", 5),
        ("${{ inputs.name < 3 }}", "type", 17),
        ("${{ -inputs.name }}", "type", 5),
        ("${{ inputs.n[0] }}", "type", 13),
        ("${{ inputs.n.field }}", "type", 13),
        ("${{ 3 in 3 }}", "type", 7),
        ("${{ [1] == [1] }}", "type", 9),
        ("${{ mean([]) }}", "empty_list", 5),
        ("${{ range(1000000) }}", "too_large", 5),
        ("${{ range(0, 5, 0) }}", "number_range", 5),
        ("${{ range(-9223372036854775807, 9223372036854775807) }}", "too_large", 5),
        ("${{ round(1.5, 99) }}", "number_range", 5),
        ("${{ sum(['a']) }}", "type", 5),
        ("${{ join(range(9999), inputs.name + inputs.name + inputs.name) }}", "too_large", 5),
        ("a ${{ inputs.seeds }}", "type", 7),
        ("a ${{ inputs.none }}", "type", 7),
        ("${{ nothing(1) }}", "unknown_function", 5),
        ("${{ 1 + }}", "expression_syntax", 9),
        ("${{ 'a\\q' }}", "expression_syntax", 7),
        ("${{ 1 2 }}", "expression_syntax", 7),
        ("${{ inputs['n'] }}", "expression_syntax", 11),
        ("${{ inputs }}", "expression_syntax", 12),
        ("${{ steps.a }}", "expression_syntax", 13),
        ("${{ true ? 1 }}", "expression_syntax", 14),
    ],
)
def test_a_fault_has_a_code_and_a_column(text, code, column):
    with pytest.raises(BadInput) as caught:
        evaluate(text, SCOPE)
    assert caught.value.code == code
    assert caught.value.location.column == column
    assert caught.value.hint


def test_nothing_grows_without_bounds():
    words = {"inputs": {"t": "x" * MAX_TEXT, "l": list(range(MAX_ITEMS))}}
    many = "${{ inputs.t }}" * 1000
    for text in (
        "${{ inputs.t + inputs.t }}",
        "${{ inputs.l + inputs.l }}",
        "${{ join(inputs.l, inputs.t) }}",
        many,
    ):
        start = time.process_time()
        with pytest.raises(BadInput) as caught:
            evaluate(text, words)
        assert caught.value.code == "too_large"
        assert time.process_time() - start < 2


@pytest.mark.parametrize(
    "text",
    ["1" + "+1" * 1000, "not " * 500 + "true", "-" * 500 + "1", "(" * 500, "[" * 500, "x" * 5000, "a(" * 500],
)
def test_long_and_deep_expressions_are_refused(text):
    with pytest.raises(ExpressionFault) as caught:
        parse(text)
    assert caught.value.code == "expression_limit"


NAMES = Names(
    inputs={
        "n": parse_type("int"),
        "x": parse_type("float"),
        "on": parse_type("bool"),
        "name": parse_type("text"),
        "seeds": parse_type("list[int]"),
        "words": parse_type("list[text]"),
        "file": parse_type("fasta"),
    },
    steps={
        "a": StepType({"loss": parse_type("float"), "table": parse_type("json")}, scattered=False),
        "many": StepType({"model": parse_type("model")}, scattered=True),
        "unknown": StepType(None, scattered=False),
    },
    each={"seed": parse_type("int")},
)


def types_of(text: str) -> tuple[str, list[tuple[str, int]]]:
    faults: list[ExpressionFault] = []
    kind = infer(parse(text), NAMES, faults.append)
    return str(kind), [(fault.code, fault.offset) for fault in faults]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("inputs.n + 1", "int"),
        ("inputs.n + inputs.x", "float"),
        ("inputs.n / 2", "float"),
        ("inputs.n // 2", "int"),
        ("inputs.seeds[0]", "int"),
        ("inputs.seeds + [1.5]", "list[float]"),
        ("[inputs.file, inputs.file]", "list[fasta]"),
        ("steps.many.each.model", "list[model]"),
        ("steps.a.table.anything.at[0]", "any"),
        ("steps.unknown.anything", "any"),
        ("inputs.on ? inputs.n : inputs.x", "float"),
        ("inputs.on ? inputs.n : null", "int"),
        ("inputs.n in inputs.seeds", "bool"),
        ("inputs.file == null", "bool"),
        ("len(inputs.words) > 0", "bool"),
        ("round(inputs.x)", "int"),
        ("round(inputs.x, 2)", "float"),
        ("min(inputs.n, inputs.x)", "float"),
        ("max(inputs.seeds)", "int"),
        ("mean(inputs.seeds)", "float"),
        ("range(each.seed)", "list[int]"),
        ("sorted(inputs.words)", "list[text]"),
        ("coalesce(null, inputs.n)", "int"),
        ("[]", "list[any]"),
        ("not inputs.on", "bool"),
    ],
)
def test_types_are_known_before_a_run(text, kind):
    assert types_of(text) == (kind, [])


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("inputs.name + 1", [("type", 12)]),
        ("inputs.file + inputs.file", [("type", 12)]),
        ("inputs.on + 1", [("type", 10)]),
        ("inputs.n and inputs.on", [("type", 0)]),
        ("inputs.n ? 1 : 2", [("type", 0)]),
        ("inputs.on ? 1 : 'a'", [("type", 10)]),
        ("[1, 'a']", [("type", 4)]),
        ("inputs.n[0]", [("type", 8)]),
        ("inputs.file.name", [("type", 11)]),
        ("inputs.seeds['a']", [("type", 13)]),
        ("'a' in inputs.seeds", [("type", 4)]),
        ("1 in 2", [("type", 2)]),
        ("inputs.name == 1", [("type", 12)]),
        ("inputs.file == inputs.file", [("type", 12)]),
        ("inputs.name < inputs.n", [("type", 12)]),
        ("len(inputs.n)", [("type", 4)]),
        ("max(inputs.words)", [("type", 4)]),
        ("max(1, 'a')", [("type", 7)]),
        ("range(1.5)", [("type", 6)]),
        ("upper(1)", [("type", 6)]),
        ("coalesce(1, 'a')", [("type", 12)]),
        ("sorted([[1]])", [("type", 7)]),
        ("inputs.m + steps.b.x + each.t", [("unknown_input", 0), ("unknown_step", 11), ("unknown_each", 23)]),
    ],
)
def test_wrong_types_are_found_before_a_run(text, faults):
    assert types_of(text)[1] == faults


def test_every_function_is_described_by_its_usage():
    for name, function in FUNCTIONS.items():
        assert function.usage.startswith(f"{name}(")
        assert 1 <= function.low <= function.high


def written(node: nodes.Node) -> str:
    """An expression as text, every part in brackets."""
    match node:
        case nodes.Literal():
            text = json.dumps(node.value) if not isinstance(node.value, str) else quoted(node.value)
            return (
                f"({text})"
                if isinstance(node.value, (int, float)) and not isinstance(node.value, bool)
                else text
            )
        case nodes.InputRef():
            return f"inputs.{node.name}"
        case nodes.EachRef():
            return f"each.{node.name}"
        case nodes.StepRef():
            return (
                f"steps.{node.step}.each.{node.output}"
                if node.gathered
                else f"steps.{node.step}.{node.output}"
            )
        case nodes.ListOf():
            return "[" + ", ".join(map(written, node.items)) + "]"
        case nodes.Field():
            return f"({written(node.base)}).{node.name}"
        case nodes.Index():
            return f"({written(node.base)})[{written(node.index)}]"
        case nodes.Unary():
            return f"({node.operator} {written(node.operand)})"
        case nodes.Binary():
            return f"({written(node.left)} {node.operator} {written(node.right)})"
        case nodes.Choice():
            return f"({written(node.condition)} ? {written(node.then)} : {written(node.otherwise)})"
        case nodes.Call():
            return f"{node.name}({', '.join(map(written, node.arguments))})"
    raise AssertionError(node)


def quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


LEAVES = st.one_of(
    st.builds(
        nodes.Literal,
        st.one_of(
            st.integers(0, INT_MAX),
            st.floats(0, 1e300, allow_subnormal=False),
            st.booleans(),
            st.none(),
            st.text(max_size=8),
        ),
    ),
    st.builds(nodes.InputRef, st.sampled_from([*SCOPE["inputs"], "missing"])),
    st.sampled_from(
        [
            nodes.StepRef("a", "loss"),
            nodes.StepRef("a", "table"),
            nodes.StepRef("many", "loss", gathered=True),
            nodes.StepRef("skipped", "loss"),
            nodes.StepRef("nowhere", "loss"),
            nodes.EachRef("seed"),
        ]
    ),
)
OPERATORS = ["+", "-", "*", "/", "//", "%", "==", "!=", "<", "<=", ">", ">=", "in", "not in", "and", "or"]
EXPRESSIONS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(nodes.Unary, st.sampled_from(["-", "not"]), inner),
        st.builds(nodes.Binary, st.sampled_from(OPERATORS), inner, inner),
        st.builds(nodes.Choice, inner, inner, inner),
        st.builds(nodes.Index, inner, inner),
        st.builds(nodes.Field, inner, st.sampled_from(["rows", "id", "in"])),
        st.builds(nodes.ListOf, st.lists(inner, max_size=3).map(tuple)),
        st.builds(
            nodes.Call, st.sampled_from([*FUNCTIONS, "nothing"]), st.lists(inner, max_size=3).map(tuple)
        ),
    ),
    max_leaves=12,
)


def outcome(work: Callable[[], Any]) -> Any:
    """The value, or the fault."""
    try:
        return work()
    except (ExpressionFault, BadInput) as fault:
        return fault


@given(EXPRESSIONS)
def test_what_is_written_is_what_is_read(node):
    assert parse(written(node)) == node


@given(EXPRESSIONS)
def test_every_expression_has_a_value_or_a_fault_with_a_place(node):
    text = written(node)
    found = outcome(lambda: compute(parse(text), SCOPE))
    if isinstance(found, ExpressionFault):
        assert 0 <= found.offset <= len(text)
        assert found.hint
    else:
        assert json.loads(json.dumps(found, allow_nan=False)) == found


@given(EXPRESSIONS)
def test_the_type_is_always_inferred_and_is_right(node):
    """Where inference finds no fault, the value fits the type it promised."""
    kind, faults = types_of(written(node)) if not refers_to_unknown(node) else ("any", ["unknown"])
    if faults:
        return
    found = outcome(lambda: compute(node, SCOPE))
    if not isinstance(found, ExpressionFault):
        assert fits_type(found, kind), f"{found!r} is no {kind}"


def refers_to_unknown(node: nodes.Node) -> bool:
    known = {"n", "x", "on", "name", "seeds", "words"}
    return any(
        (isinstance(part, nodes.InputRef) and part.name not in known)
        or (isinstance(part, nodes.StepRef) and part.step != "a")
        for part in nodes.walk(node)
    )


def fits_type(value, kind: str) -> bool:
    if kind in ("any", "null") or value is None:
        return True
    if kind.startswith("list["):
        return isinstance(value, list) and all(fits_type(item, kind[5:-1]) for item in value)
    kinds = {"int": (int,), "float": (int, float), "bool": (bool,), "text": (str,), "json": (dict,)}[kind]
    return isinstance(value, kinds) and (kind == "bool" or not isinstance(value, bool))


PIECES = [*"ab19.+-*/%<>=!&|?:()[],'\"\\ \n_${}€", "inputs.", " in ", " not ", "${{", "}}", "1e999"]


@given(st.lists(st.sampled_from(PIECES), max_size=60).map("".join))
@example("${{" * 20)
@example("${{ 'a }} b' }}")
def test_any_text_is_a_template_or_a_fault(text):
    for wrapped in (text, f"${{{{{text}}}}}"):
        found = outcome(lambda value=wrapped: evaluate(value, SCOPE))
        if isinstance(found, BadInput):
            assert 1 <= found.location.column <= len(wrapped) + 1
            assert found.hint


def test_lists_join_to_the_common_kind_of_file():
    assert types_of("[inputs.file]")[0] == str(list_of(parse_type("fasta")))
