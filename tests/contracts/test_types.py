"""Types of the language: reading them, and which may be given where."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foldase_workflows.contracts.types import PortType, Storage, list_of, parse_type, type_names

TYPES = st.recursive(
    st.sampled_from(type_names()).map(PortType), lambda inner: inner.map(list_of), max_leaves=3
)


@given(TYPES)
def test_a_type_reads_back_from_its_text(kind: PortType) -> None:
    assert parse_type(str(kind)) == kind


@given(TYPES)
def test_every_type_accepts_itself(kind: PortType) -> None:
    assert kind.accepts(kind)


@pytest.mark.parametrize(
    ("wanted", "given_", "fits"),
    [
        ("float", "int", True),
        ("int", "float", False),
        ("int", "bool", False),
        ("file", "fasta", True),
        ("fasta", "file", False),
        ("fasta", "alignment", False),
        ("tree", "msa", True),
        ("list[float]", "list[int]", True),
        ("list[int]", "int", False),
        ("int", "list[int]", False),
        ("any", "list[msa]", True),
    ],
)
def test_what_may_be_given_where(wanted: str, given_: str, fits: bool) -> None:
    assert parse_type(wanted).accepts(parse_type(given_)) is fits


def test_values_lie_in_the_database_and_artifacts_in_the_store() -> None:
    assert parse_type("int").storage is Storage.VALUE
    assert parse_type("list[fasta]").storage is Storage.FILE
    assert parse_type("families").storage is Storage.TREE


@pytest.mark.parametrize("text", ["", "integer", "list", "list[]", "list[int", "LIST[int]"])
def test_an_unknown_type_is_named_with_those_that_exist(text: str) -> None:
    with pytest.raises(ValueError, match="known are any, int, float"):
        parse_type(text)
