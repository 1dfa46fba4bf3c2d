"""Every way to write a document wrongly: its code, its line and column, and a hint.

The documents lie in ``bad_documents.txt``, each with a mark where its fault is to be shown.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from foldase_workflows.contracts import DocumentError, DocumentErrors, Operator, Ports, Registry, TooLarge
from foldase_workflows.spec import check, load_experiment, load_workflow

HEAD = "version: 1\nname: w\n"
MARK = "▸"


@dataclass(frozen=True)
class Bad:
    """A wrong document: ``marked`` has a mark before the character the fault is shown at."""

    name: str
    code: str
    hint: str
    message: str
    marked: str

    @property
    def text(self) -> str:
        return self.marked.replace(MARK, "")

    @property
    def place(self) -> tuple[int, int]:
        before = self.marked[: self.marked.index(MARK)]
        return before.count("\n") + 1, len(before) - before.rfind("\n")


def read_corpus() -> Iterator[Bad]:
    corpus = (Path(__file__).parent / "bad_documents.txt").read_text(encoding="utf-8")
    for block in re.split(r"^=== ", corpus, flags=re.MULTILINE)[1:]:
        head, _, marked = block.partition("\n---\n")
        name, *lines = head.splitlines()
        fields = dict(line.split(": ", 1) for line in lines)
        yield Bad(name, fields["code"], fields["hint"], fields.get("message", ""), marked.rstrip("\n") + "\n")


UNWRITABLE = [
    Bad("empty", "yaml_syntax", "version: 1", "empty", MARK),
    Bad("5,000 digits", "number_range", "quote it", "5000", HEAD + f"title: {MARK}" + "9" * 5000),
    Bad(
        "5,000 digits in an expression",
        "expression_limit",
        "split",
        "5002",
        HEAD + "steps: {a: {uses: summarise@1}}\noutputs: {a: ${{ " + MARK + "9" * 5000 + " }}}",
    ),
    Bad("NUL", "bad_characters", "delete", "U+0000", HEAD + f"title: a{MARK}\0b"),
    Bad("direction override", "bad_characters", "delete", "U+202E", HEAD + f"steps: {{a{MARK}\u202eb: 1}}"),
    Bad("lone surrogate", "bad_characters", "delete", "lone surrogate", HEAD + f"title: {MARK}\ud800"),
    Bad("line separator", "bad_characters", "delete", "U+2028", HEAD + f"title: a{MARK}\u2028b"),
    Bad("private character", "bad_characters", "delete", "U+E024", HEAD + f"title: {MARK}\ue024"),
]
"""What a text file cannot hold well."""

BAD = [*read_corpus(), *UNWRITABLE]


def faults_of(text: str, registry) -> list[DocumentError]:
    with pytest.raises(DocumentErrors) as caught:
        check(load_workflow(text, file="w.yaml"), registry)
    return list(caught.value.errors)


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name)
def test_a_bad_document_says_what_where_and_how_to_mend_it(bad, registry):
    found = faults_of(bad.text, registry)
    fitting = [fault for fault in found if fault.code == bad.code]
    assert fitting, f"wanted {bad.code}, got {[str(fault) for fault in found]}"
    fault = fitting[0]
    assert fault.location is not None
    assert fault.location.file == "w.yaml"
    assert (fault.location.line, fault.location.column) == bad.place
    assert bad.hint in (fault.hint or "")
    assert bad.message in fault.message
    assert fault.hint


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name)
def test_a_fault_is_reported_once(bad, registry):
    found = faults_of(bad.text, registry)
    places = [(fault.code, fault.location.line, fault.location.column) for fault in found]
    assert len(places) == len(set(places))


def test_all_faults_of_a_document_come_at_once(registry):
    text = """\
version: 1
name: many faults
inputs:
  a: {type: integer}
  b-c: {type: int}
steps:
  one:
    uses: 5
    timeot: 2h
    with: {x: ${{ 1 + }}}
outputs:
  d: ${{ }}
"""
    found = faults_of(text, registry)
    assert [(fault.location.line, fault.code) for fault in found] == [
        (2, "bad_name"),
        (4, "unknown_type"),
        (5, "bad_name"),
        (8, "type"),
        (9, "unknown_field"),
        (10, "expression_syntax"),
        (12, "expression_syntax"),
    ]


def test_what_cannot_be_read_is_said_first(registry):
    found = faults_of("title: a\ntitle: b\nname: !t 12\n", registry)
    assert [fault.code for fault in found] == [
        "yaml_duplicate_key",
        "yaml_tag",
        "missing_field",
        "missing_field",
    ]


def test_every_missing_input_is_named():
    class Two(Operator[Any, Any]):
        name, version, help = "two", 1, "Wants two inputs"

        class Inputs(Ports):
            a: int
            b: int

        class Outputs(Ports):
            c: int

        def run(self, inputs: Any, context: Any) -> Any:
            raise NotImplementedError

    found = faults_of(HEAD + "steps:\n  s: {uses: two@1}\n", Registry([Two()]))
    assert [(fault.code, fault.location.path) for fault in found] == [
        ("missing_input", "steps.s.with.a"),
        ("missing_input", "steps.s.with.b"),
    ]


def test_a_megabyte_is_the_limit():
    with pytest.raises(TooLarge) as caught:
        load_workflow("# " + "x" * 10_700_000)
    assert caught.value.code == "body_too_large"
    assert caught.value.message == "the document is too large: limit 1.0 MiB, got 10.2 MiB"
    with pytest.raises(TooLarge):
        load_workflow("é" * 600_000)


def test_too_many_steps():
    text = HEAD + "steps:\n" + "".join(f"  s{number}: {{uses: a@1}}\n" for number in range(5_001))
    with pytest.raises(DocumentErrors) as caught:
        load_workflow(text)
    [fault] = caught.value.errors
    assert (fault.code, fault.location.line) == ("too_many_steps", 5_004)


def test_too_many_values():
    with pytest.raises(DocumentErrors) as caught:
        load_workflow(HEAD + "steps: [" + "1," * 100_001 + "]")
    assert caught.value.code == "too_many_nodes"


def test_a_hundred_faults_are_enough():
    text = HEAD + "steps:\n" + "".join(f"  s{number}: {{use: a@1}}\n" for number in range(500))
    with pytest.raises(DocumentErrors) as caught:
        load_workflow(text)
    errors = caught.value.errors
    assert len(errors) == 101
    assert errors[-1].code == "too_many_faults"
    assert all(error.code in ("unknown_field", "missing_field") for error in errors[:-1])


@pytest.mark.parametrize(
    ("text", "code", "place"),
    [
        ("inputs: {}\n", "missing_field", (1, 1)),
        ("workflow: w\nsweep: {over: {a: [1]}}\n", "not_supported_yet", (2, 1)),
        ("workflow: w\nprioriti: high\n", "unknown_field", (2, 1)),
        ("workflow: w\npriority: urgent\n", "invalid_choice", (2, 11)),
        ("workflow: w\npriority: 1000\n", "number_range", (2, 11)),
        ("workflow: w\ninputs: {a b: 1}\n", "bad_name", (2, 10)),
        ("workflow: 3\n", "type", (1, 11)),
        ("workflow: w\nworkflow: v\n", "yaml_duplicate_key", (2, 1)),
    ],
)
def test_bad_experiments(text, code, place):
    with pytest.raises(DocumentErrors) as caught:
        load_experiment(text)
    fault = caught.value.errors[0]
    assert (fault.code, (fault.location.line, fault.location.column)) == (code, place)
    assert fault.hint
