"""Any text at all becomes a document or a list of faults, soon, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from foldase_workflows.contracts import DocumentErrors, TooLarge
from foldase_workflows.spec import (
    ExperimentDocument,
    WorkflowDocument,
    check,
    from_json,
    load_experiment,
    load_workflow,
)
from foldase_workflows.spec.document.masking import mask, unmask
from foldase_workflows.spec.limits import MAX_BYTES

SECONDS = 10.0
"""Of processor time, for the worst megabyte there is; loaded machines are slow, so the margin is wide."""

PIECES = [
    *("version: 1\n", "name: w\n", "steps:\n", "  a:\n", "    uses: summarise@1\n", "    with: {"),
    *("inputs: {", "outputs:\n", "defaults: {retry: {max: 2}}\n", "x: {type: int, default: 3}\n"),
    *("each: {s: ", "if: ", "after: [a]\n", "${{ ", " }}", "inputs.x", "steps.a.b", "list[int]", "list["),
    *("[", "]", "{", "}", "}\n", ", ", ": ", "- ", "? ", "'", '"', "|\n", ">-\n", "#", "&a", "*a", "!!str "),
    *("<<: ", "---\n", "...\n", "%YAML 1.2\n", "@", "`", "\\", "\t", "\n", "  ", "    ", "\r\n", "\0"),
    *("\u202e", "\ue001", "\ufeff", "\ud800", "\u2028", "é", "😀", "0", "1e999", "012", ".nan", "true", "~"),
]


def outcome(work: Callable[[], Any]) -> Any:
    """The result or the faults; anything else fails the test."""
    try:
        return work()
    except (DocumentErrors, TooLarge) as refused:
        return refused


def load(text: str) -> Any:
    return outcome(lambda: load_workflow(text))


@settings(max_examples=400)
@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join))
def test_pieces_of_documents(text):
    check_outcome(text)


@given(st.text(max_size=200))
def test_any_characters(text):
    check_outcome(text)


@settings(max_examples=300)
@given(data=st.data())
def test_a_right_document_with_one_change(data, sweep, registry):
    at = data.draw(st.integers(0, len(sweep)))
    gone = data.draw(st.integers(0, 12))
    text = sweep[:at] + data.draw(st.sampled_from(["", *PIECES])) + sweep[at + gone :]
    found = check_outcome(text)
    if isinstance(found, WorkflowDocument):
        checked = outcome(lambda: check(found, registry))
        if isinstance(checked, DocumentErrors):
            assert all(error.hint and error.location.line for error in checked.errors)
        else:
            assert from_json(checked.to_json(), registry).digest == checked.digest


def check_outcome(text: str):
    found = load(text)
    if isinstance(found, DocumentErrors):
        lines = text.replace("\r\n", "\n").replace("\r", "\n").count("\n") + 2
        for error in found.errors:
            assert error.code
            assert error.hint
            assert 1 <= error.location.line <= lines, str(error)
            assert error.location.column >= 1
    else:
        assert isinstance(found, WorkflowDocument)
    return found


@given(st.text(max_size=50))
def test_any_experiment(text):
    found = outcome(lambda: load_experiment(text))
    assert isinstance(found, (ExperimentDocument, DocumentErrors))


@given(
    st.lists(st.sampled_from([piece for piece in PIECES if "\ue001" not in piece]), max_size=30).map("".join)
)
def test_masking_keeps_length_and_lines_and_can_be_undone(text):
    masked = mask(text)
    assert unmask(masked) == text
    assert len(masked) == len(text)
    assert masked.count("\n") == text.count("\n")


YAML_PIECES = [
    *(
        "a: ",
        "b: ",
        "key:\n",
        "- ",
        "- - ",
        "? ",
        "'",
        '"',
        "''",
        '\\"',
        "\\\\",
        "|\n",
        ">-\n",
        "|-2\n",
        "|\n  ",
    ),
    *(
        "\n",
        "\n  ",
        "\n    ",
        "\n ",
        "\n\n",
        "\r\n  ",
        "[",
        "]",
        "{",
        "}",
        ", ",
        ": ",
        " # c",
        "#",
        "it's",
        "x",
    ),
    *("${{ 'x' }}", '${{ "y" }}', "${{ z }}", "'a'", '"b"', "'a':", '"b":', "--- ", "\t", "!!str ", "&a "),
]


def events(text: str) -> list[tuple[str, str | None]] | None:
    """What YAML sees, or None where it is none."""
    try:
        found = list(yaml.parse(text, Loader=yaml.CSafeLoader))
    except yaml.YAMLError:
        return None
    return [(type(event).__name__, unmask(getattr(event, "value", None) or "")) for event in found]


@settings(max_examples=1500)
@given(st.lists(st.sampled_from(YAML_PIECES), max_size=20).map("".join))
def test_masking_changes_nothing_where_yaml_reads_expressions_by_itself(text):
    plain_events = events(text)
    if plain_events is not None:
        assert events(mask(text)) == plain_events


def megabyte(unit: str, start: str = "") -> str:
    return (start + unit * (MAX_BYTES // len(unit.encode("utf-8", "surrogatepass"))))[
        : MAX_BYTES - len(start) - 4
    ]


HEAD = "version: 1\nname: w\n"
WORST = {
    "brackets": megabyte("["),
    "braces": megabyte("{"),
    "dashes": megabyte("- "),
    "questions": megabyte("? "),
    "quotes": megabyte("'"),
    "colons": megabyte("a: "),
    "anchors": megabyte("&a "),
    "aliases": megabyte("*a, ", "x: ["),
    "tags": megabyte("!a "),
    "comments": megabyte("#\n"),
    "blank lines": megabyte("\n"),
    "tabs": megabyte("\t"),
    "one word": megabyte("x"),
    "words": megabyte("x "),
    "lines of words": megabyte("x\n"),
    "one number": megabyte("9", "x: "),
    "one fraction": megabyte("9", "x: 1."),
    "zeros": megabyte("0", "x: "),
    "block text": megabyte(" x\n", "a: |\n"),
    "documents": megabyte("--- a\n"),
    "directives": megabyte("%A b\n"),
    "empty items": megabyte(",", "x: [a"),
    "keys": "".join(f"k{number}: 1\n" for number in range(90_000)),
    "equal keys": megabyte("k: 1\n"),
    "equal steps": HEAD + "steps:\n" + megabyte("  s: 1\n")[:-100],
    "steps": HEAD + "steps:\n" + "".join(f"  s{number}: {{}}\n" for number in range(60_000)),
    "bidi": megabyte("\u202e"),
    "surrogates": megabyte("\ud800"),
    "emoji": megabyte("😀"),
    "expressions": megabyte("${{a}}", "x: "),
    "references": HEAD + 'outputs: {a: "' + megabyte("${{ inputs.a }}")[:-100] + '"}',
    "open expressions": megabyte("${{ '", "x: "),
    "openings": megabyte("${{", "x: "),
    "closings": megabyte("}}", "x: ${{"),
    "quotes in expressions": megabyte("${{ ' }}", "x: "),
    "escaped quotes in expressions": megabyte("${{ \\' }}", "x: "),
    "open quotes": megabyte("'a ", "x: ${{ "),
    "line of list types": megabyte("list[int], ", "x: ["),
    "nested list types": megabyte("list[", "x: ["),
    "wrong names": HEAD
    + "steps:\n"
    + "".join(f"  s-{number}: {{uses: a, after: [b]}}\n" for number in range(4_900)),
    "long path": "".join(f"{' ' * depth}a:\n" for depth in range(45)) + " " * 45 + megabyte("x")[:900_000],
    "escapes": 'x: "' + megabyte("\\u202e")[:-100] + '"',
}


@pytest.mark.parametrize("name", WORST)
def test_the_worst_megabyte_is_read_or_refused_soon(name):
    text = WORST[name]
    start = time.process_time()
    load(text)
    assert time.process_time() - start < SECONDS


def test_a_large_graph_of_wrong_references_is_checked_soon(registry):
    steps = "".join(
        f"  s{n}: {{uses: families.simulat@1, with: {{seed: '${{{{ steps.x{n}.a }}}}'}}}}\n"
        for n in range(4_900)
    )
    start = time.process_time()
    with pytest.raises(DocumentErrors) as caught:
        check(load_workflow(HEAD + "steps:\n" + steps), registry)
    assert len(caught.value.errors) == 101
    assert time.process_time() - start < SECONDS


def test_a_large_right_graph_is_checked_soon(registry):
    steps = "  s0: {uses: families.simulate@1, with: {seed: 0}}\n" + "".join(
        f"  s{n}: {{uses: families.simulate@1, with: {{seed: '${{{{ round(steps.s{n - 1}.entropy) }}}}'}}}}\n"
        for n in range(1, 4_900)
    )
    start = time.process_time()
    checked = check(load_workflow(HEAD + "steps:\n" + steps), registry)
    assert len(checked.steps) == 4_900
    assert time.process_time() - start < SECONDS


def test_the_language_needs_no_torch():
    code = (
        "import sys, foldase_workflows.spec; "
        "sys.exit(', '.join({'torch', 'ray', 'zarr', 'numpy', 'Bio'} & set(sys.modules)) or 0)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert (found.returncode, found.stderr) == (0, "")
