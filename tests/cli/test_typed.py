"""``--input name=value``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foldase.cli.typed import assignments, typed
from foldase_workflows.contracts import BadInput, parse_type


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("3", "int", 3),
        ("-1", "int", -1),
        ("1e-3", "float", 0.001),
        ("2", "float", 2.0),
        ("true", "bool", True),
        ("False", "bool", False),
        ("12", "text", "12"),
        ("", "text", ""),
        ("@not a file", "text", "@not a file"),
        ("a=b", "text", "a=b"),
        ("1,2, 3", "list[int]", [1, 2, 3]),
        ("[1, 2]", "list[int]", [1, 2]),
        ("", "list[int]", []),
        ('["a, b"]', "list[text]", ["a, b"]),
        ('{"a": [1]}', "json", {"a": [1]}),
        ("7", "any", 7),
        ("seven", "any", "seven"),
        ("@x.fasta", "fasta", Path("x.fasta")),
        ("x.fasta", "fasta", Path("x.fasta")),
        ("@a,@b", "list[file]", [Path("a"), Path("b")]),
    ],
)
def test_texts_become_values(text: str, kind: str, value: Any) -> None:
    found = typed(text, parse_type(kind), "inputs.x")
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("1.5", "int"),
        ("x", "int"),
        ("", "int"),
        ("nan", "float"),
        ("inf", "float"),
        ("yes", "bool"),
        ("1,x", "list[int]"),
        ("[1", "list[int]"),
        ("{", "json"),
        ("@nothing.json", "json"),
    ],
)
def test_what_does_not_fit_names_the_input_and_a_hint(text: str, kind: str) -> None:
    with pytest.raises(BadInput) as caught:
        typed(text, parse_type(kind), "inputs.x")
    assert caught.value.location is not None
    assert (caught.value.location.path or "").startswith("inputs.x")
    assert caught.value.hint


def test_values_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "v.json"
    path.write_text('{"a": 1}')
    assert typed(f"@{path}", parse_type("json"), "inputs.x") == {"a": 1}
    path.write_text("[1, 2]")
    assert typed(f"@{path}", parse_type("list[int]"), "inputs.x") == [1, 2]


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=5))
def test_any_json_comes_back(value: Any) -> None:
    assert typed(json.dumps(value), parse_type("any"), "inputs.x") == value


@given(st.dictionaries(st.text(st.characters(exclude_characters="="), min_size=1), st.text()))
def test_assignments_split_at_the_first_equals_sign(given_values: dict[str, str]) -> None:
    assert assignments(f"{name}={value}" for name, value in given_values.items()) == given_values
