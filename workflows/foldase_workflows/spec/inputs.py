"""The inputs of a workflow: their declarations, and the values given to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foldase_workflows.contracts.types import PortType, parse_type
from foldase_workflows.spec.conform import conform
from foldase_workflows.spec.faults import Faults, Path, did_you_mean
from foldase_workflows.spec.models import InputSpec, WorkflowDocument


def input_type(spec: InputSpec) -> PortType:
    """The type of an input."""
    return parse_type(spec.type)


def limits_of(spec: InputSpec) -> dict[str, float]:
    """The limits that are set, by name."""
    named = {"min": spec.min, "max": spec.max, "min_length": spec.min_length, "max_length": spec.max_length}
    return {name: limit for name, limit in named.items() if limit is not None}


def describe_inputs(document: WorkflowDocument) -> list[dict[str, Any]]:
    """For the form and the API: name, type, whether it is required, default, help, limits, choices."""
    described = []
    for name, spec in document.inputs.items():
        fields: dict[str, Any] = {"name": name, "type": str(input_type(spec)), "required": spec.required}
        if not spec.required:
            fields["default"] = spec.default
        fields |= {"help": spec.help, "limits": limits_of(spec), "choices": spec.choices or []}
        described.append(fields)
    return described


def check_declarations(document: WorkflowDocument, faults: Faults) -> None:
    """Limits that suit the type, and defaults that keep to them."""
    for name, spec in document.inputs.items():
        path: Path = ("inputs", name)
        kind = input_type(spec)
        _check_limits(spec, kind, path, faults)
        if spec.default is None:
            continue
        if kind.is_artifact and kind.name != "weights":
            message = f"an input of type {kind} cannot have a default"
            faults.add(
                "type", message, (*path, "default"), hint="leave it out, or write null to make it optional"
            )
            continue
        _conform(spec, spec.default, (*path, "default"), faults)


def _check_limits(spec: InputSpec, kind: PortType, path: Path, faults: Faults) -> None:
    innermost = kind
    while innermost.item is not None:
        innermost = innermost.item
    numeric = innermost.name in ("int", "float")
    measured = kind.item is not None or kind.name == "text"
    for name in limits_of(spec):
        if name in ("min", "max") and not numeric:
            hint = "use min_length and max_length" if measured else "leave it out"
            faults.add("type", f"`{name}` is for numbers, not for {kind}", (*path, name), key=True, hint=hint)
        if name in ("min_length", "max_length") and not measured:
            message = f"`{name}` is for texts and lists, not for {kind}"
            faults.add("type", message, (*path, name), key=True, hint="leave it out")
    for low, high in (("min", "max"), ("min_length", "max_length")):
        bounds = limits_of(spec)
        if low in bounds and high in bounds and bounds[low] > bounds[high]:
            message = f"`{low}` {bounds[low]:g} is over `{high}` {bounds[high]:g}"
            faults.add("number_range", message, (*path, low), hint="exchange the two")
    if spec.choices is not None:
        if kind.item is not None or innermost.is_artifact or innermost.name in ("json", "bool"):
            message = f"`choices` is for numbers and texts, not for {kind}"
            faults.add("type", message, (*path, "choices"), key=True, hint="leave it out")
        else:
            for place, choice in enumerate(spec.choices):
                unlimited = spec.model_copy(update={"choices": None})
                _conform(unlimited, choice, (*path, "choices", place), faults)


def _conform(spec: InputSpec, value: Any, path: Path, faults: Faults) -> Any:
    def refuse(below: Path, code: str, message: str, hint: str) -> None:
        faults.add(code, message, (*path, *below), hint=hint)

    kind = input_type(spec)
    return conform(value, kind, refuse, limits=limits_of(spec), choices=spec.choices or ())


def bind(document: WorkflowDocument, given: Mapping[str, Any], faults: Faults) -> dict[str, Any]:
    """The value of every input of the workflow, from what was given and the defaults."""
    for name in given:
        if name not in document.inputs:
            hint = did_you_mean(str(name), document.inputs, otherwise=None)
            message = f"the workflow has no input {str(name)[:80]!r}"
            faults.add("unknown_input", message, ("inputs", str(name)[:80]), key=True, hint=hint)
    bound: dict[str, Any] = {}
    for name, spec in document.inputs.items():
        value = given.get(name, spec.default)
        if value is not None:
            bound[name] = _conform(spec, value, ("inputs", name), faults)
        elif spec.required:
            kind = input_type(spec)
            hint = f"give it: {spec.help}" if spec.help else f"give it a value of type {kind}: {kind.help}"
            faults.add("missing_input", f"the input {name!r} is missing", ("inputs", name), hint=hint)
        else:
            bound[name] = None
    return bound
