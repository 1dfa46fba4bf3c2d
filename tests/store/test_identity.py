"""The identity of a result: equal for equal work, different for any difference, and never by accident."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foldase.store import environment, identify
from foldase.store.identity import SHOWN_BYTES, flatten
from foldase_workflows.contracts import Artifact, Operator, Ports, StepContext
from foldase_workflows.contracts.ports import File


class Inputs(Ports):
    rate: float = 0.1
    steps: int = 1
    rates: list[float] = []
    options: dict[str, Any] = {}
    file: File | None = None
    files: list[File] = []


class Train(Operator[Inputs, Ports]):
    name = "test.train"
    version = 3
    help = "trains"
    Inputs = Inputs
    Outputs = Ports

    def run(self, inputs: Inputs, context: StepContext) -> Ports:
        raise NotImplementedError


SIGNATURE = Train().signature
VERSIONS = {"python": "3.11", "torch": "2.13.0"}
BASE = {"rate": 0.1, "steps": 1, "rates": [], "options": {}, "file": None, "files": []}


def key(**changes: Any) -> str:
    return identify(SIGNATURE, {**BASE, **changes}, versions=VERSIONS).key


def file(digest: str, name: str = "a", kind: str = "file", size: int = 1) -> dict[str, Any]:
    return Artifact(f"sha256:{digest * 64}", kind, size, name).to_json()


def test_the_key_stays_what_it_is():
    """A change of this value makes every stored result useless: do it knowingly."""
    assert key() == "sha256:fa135739aec2da77e45e0f0bcfdc4746aa04d43808cfe17cf3f8cd617fbd77e5"


def test_what_makes_no_difference():
    assert key(rate=1) == key(rate=1.0)
    assert key(rates=[1, 2]) == key(rates=[1.0, 2.0])
    assert key(options={"a": 1, "b": 2}) == key(options={"b": 2, "a": 1})
    assert key(file=file("a", name="x", size=1)) == key(file=file("a", name="y", size=2))
    shuffled = dict(reversed(list(BASE.items())))
    assert identify(SIGNATURE, shuffled, versions=VERSIONS).key == key()


def test_an_input_that_came_later_leaves_results_from_before_it_valid():
    grown = replace(SIGNATURE, added=frozenset({"steps", "rate"}))
    before = {name: value for name, value in BASE.items() if name not in grown.added}
    usual = identify(grown, {**before, "rate": 0.1, "steps": 1}, versions=VERSIONS)
    assert usual == identify(grown, before, versions=VERSIONS)
    other = identify(grown, {**before, "rate": 0.1, "steps": 2}, versions=VERSIONS)
    assert other.key != usual.key
    assert other.components["parameters"]["steps"] == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"rate": 0.2},
        {"steps": 2},
        {"rates": [0.1]},
        {"options": {"a": None}},
        {"options": {"a": "1"}},
        {"options": {"a": 1}},
        {"options": {"a": True}},
        {"file": file("a")},
        {"file": file("b")},
        {"file": file("a", kind="fasta")},
        {"files": [file("a"), file("b")]},
        {"files": [file("b"), file("a")]},
        {"options": {"long": "x" * SHOWN_BYTES}},
        {"options": {"long": "x" * (SHOWN_BYTES + 1)}},
    ],
)
def test_what_makes_a_difference(changes):
    others = [{}, {"rate": 0.3}, {"options": {"a": "true"}}, {"files": [file("a")]}]
    assert key(**changes) not in {key(**other) for other in others}


def test_operator_version_and_environment_count():
    class Newer(Train):
        version = 4

    assert identify(Newer().signature, BASE, versions=VERSIONS).key != key()
    other = {**VERSIONS, "torch": "2.13.1"}
    assert identify(SIGNATURE, BASE, versions=other).key != key()


def test_components_are_named_and_long_values_shortened():
    found = identify(SIGNATURE, {**BASE, "file": file("a"), "options": {"long": "x" * 5000}})
    flat = flatten(found.components)
    assert flat["operator"] == "test.train"
    assert flat["version"] == 3
    assert flat["parameters.rate"] == 0.1
    assert flat["inputs.file"] == {"type": "file", "digest": "sha256:" + "a" * 64}
    assert flat["parameters.options"]["bytes"] > 5000
    assert re.fullmatch("[0-9a-f]{64}", flat["parameters.options"]["sha256"])
    assert {name for name in flat if name.startswith("environment.")} == {
        f"environment.{name}" for name in ("python", "foldase", "numpy", "torch")
    }


def test_the_environment_is_found_without_importing_it():
    versions = environment()
    assert re.fullmatch(r"3\.\d+", versions["python"])
    assert re.match(r"\d+\.\d+", versions["torch"])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=8,
)


@given(JSON, JSON)
def test_keys_are_equal_exactly_when_values_are(first, second):
    def exact(value: Any) -> Any:
        """The value with the types of its parts: to Python 1 equals True."""
        if isinstance(value, dict):
            return {name: exact(item) for name, item in value.items()}
        if isinstance(value, list):
            return [exact(item) for item in value]
        return (type(value).__name__, value)

    same = key(options={"v": first}) == key(options={"v": second})
    assert same is (exact(first) == exact(second))


def test_what_is_no_json_has_no_identity():
    for wrong in (float("nan"), object(), {1, 2}):
        with pytest.raises((ValueError, TypeError)):
            key(options={"v": wrong})
