"""Operators: ports from annotations, and finding them by name and version."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from foldase_workflows.contracts import NotFound, Operator, Ports, Registry, StepContext, default_registry
from foldase_workflows.contracts.ports import Fasta, Report, ports_of


class TrimInputs(Ports):
    sequences: Fasta = Field(description="What to trim")
    length: int = Field(100, ge=1, le=1000)
    keep: Literal["start", "end"] = "start"
    labels: list[str] = []
    reference: Fasta | None = None


class TrimOutputs(Ports):
    report: Report
    mean_length: float


class Trim(Operator[TrimInputs, TrimOutputs]):
    name, version, help = "sequences.trim", 2, "Cut sequences to a length"
    Inputs, Outputs = TrimInputs, TrimOutputs

    def run(self, inputs: TrimInputs, context: StepContext) -> TrimOutputs:
        return TrimOutputs(report=Path("report.html"), mean_length=float(inputs.length))


def test_ports_carry_type_default_limits_choices_and_help() -> None:
    ports = ports_of(TrimInputs)
    assert {name: str(port.type) for name, port in ports.items()} == {
        "sequences": "fasta",
        "length": "int",
        "keep": "text",
        "labels": "list[text]",
        "reference": "fasta",
    }
    assert ports["sequences"].required
    assert ports["sequences"].help == "What to trim"
    assert ports["length"].limits == {"min": 1.0, "max": 1000.0}
    assert ports["keep"].choices == ("start", "end")
    assert not ports["reference"].required
    assert ports["reference"].default is None


def test_an_annotation_without_a_type_is_refused() -> None:
    class Odd(Ports):
        when: Annotated[complex, "no such type"]

        model_config = {"arbitrary_types_allowed": True}

    with pytest.raises(TypeError, match="'when'"):
        ports_of(Odd)


def test_a_registry_hands_out_operators_by_name_and_version() -> None:
    registry = Registry([Trim()])
    assert registry.get("sequences.trim@2").help == "Cut sequences to a length"
    assert [operator.reference for operator in registry] == ["sequences.trim@2"]


@pytest.mark.parametrize(
    ("asked", "code", "hint"),
    [
        ("sequences.trim@9", "unknown_operator_version", "use sequences.trim@2"),
        ("sequences.trim", "unknown_operator_version", "use sequences.trim@2"),
        ("sequence.trim@2", "unknown_operator", "did you mean 'sequences.trim'?"),
    ],
)
def test_what_is_not_there_is_said_with_a_suggestion(asked: str, code: str, hint: str) -> None:
    with pytest.raises(NotFound) as caught:
        Registry([Trim()]).get(asked)
    assert caught.value.code == code
    assert caught.value.hint == hint


def test_two_operators_cannot_share_a_name() -> None:
    class Other(Trim):
        pass

    with pytest.raises(ValueError, match=r"sequences\.trim@2"):
        Registry([Trim(), Other()])


class Thrifty(Operator[TrimInputs, TrimOutputs]):
    name, version, help = "sequences.thrifty", 1, "Cut sequences with less memory"
    Inputs, Outputs = TrimInputs, TrimOutputs
    frugality = "length"

    def run(self, inputs: TrimInputs, context: StepContext) -> TrimOutputs:
        return TrimOutputs(report=Path("report.html"), mean_length=context.correction)


def test_frugality_names_an_integer_input_with_a_maximum(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Registry([Thrifty()]).signature("sequences.thrifty@1").frugality == "length"
    for wrong in ("keep", "labels", "sequences", "width"):
        monkeypatch.setattr(Thrifty, "frugality", wrong)
        with pytest.raises(ValueError, match=f"{wrong!r}, which is no integer input"):
            Registry([Thrifty()])


def test_a_lab_adds_its_own_operators_by_an_environment_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("lab_operators")
    module.OPERATORS = (Trim(),)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lab_operators", module)
    monkeypatch.setenv("FOLDASE_OPERATORS", "lab_operators")
    default_registry.cache_clear()
    try:
        assert "sequences.trim@2" in default_registry()
    finally:
        default_registry.cache_clear()


def test_tolerances_are_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Thrifty, "tolerances", frozenset({"keep"}))
    assert Registry([Thrifty()]).signature("sequences.thrifty@1").tolerances == {"keep"}
    monkeypatch.setattr(Thrifty, "tolerances", frozenset({"keep", "kept"}))
    with pytest.raises(ValueError, match="tolerances name 'kept', which is no input"):
        Registry([Thrifty()])


def test_added_inputs_have_a_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Thrifty, "added", frozenset({"keep"}))
    assert Registry([Thrifty()]).signature("sequences.thrifty@1").added == {"keep"}
    for wrong in ("kept", "sequences"):
        monkeypatch.setattr(Thrifty, "added", frozenset({"keep", wrong}))
        with pytest.raises(ValueError, match=f"added names '{wrong}', which is no input with a default"):
            Registry([Thrifty()])
