"""A checked workflow: what the scheduler asks it at run time, and the form it is stored in."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from foldase_workflows.contracts.artifacts import ARTIFACT_KEY, Artifact
from foldase_workflows.contracts.errors import BadInput
from foldase_workflows.contracts.types import PortType
from foldase_workflows.spec.expressions.evaluator import Scope
from foldase_workflows.spec.expressions.nodes import ExpressionFault
from foldase_workflows.spec.expressions.template import Template, resolve
from foldase_workflows.spec.faults import Path
from foldase_workflows.spec.inputs import describe_inputs
from foldase_workflows.spec.limits import MAX_ITEMS
from foldase_workflows.spec.models import WorkflowDocument
from foldase_workflows.spec.ports import ports_of_operator
from foldase_workflows.spec.steps import CheckedStep, Item

_SAFE_KEY = re.compile(r"[A-Za-z0-9._+-]{1,40}", re.ASCII)


@dataclass(frozen=True)
class CheckedWorkflow:
    """A workflow whose names and types are right. All methods are pure and quick.

    ``steps`` are in topological order. A scope is ``{"inputs": {name: value}, "steps": {name: {output:
    value}}}`` with artifacts as references; a scattered step holds ``{"each": {output: [values in the order
    of its items]}}``, a skipped one None.
    """

    document: WorkflowDocument
    steps: Mapping[str, CheckedStep]
    input_types: Mapping[str, PortType]
    outputs: Mapping[str, Template]
    output_types: Mapping[str, PortType]

    @property
    def name(self) -> str:
        """The name of the workflow."""
        return str(self.document.name)

    @property
    def title(self) -> str:
        """The title, or the name where there is none."""
        return self.document.title or self.name

    def to_json(self) -> dict[str, Any]:
        """The canonical document; ``from_json`` with a registry makes the workflow again.

        The order of its mappings matters (of inputs in the form, of ``each`` in the items), so it is to be
        stored as text.
        """
        return self.document.to_json()

    @cached_property
    def canonical(self) -> str:
        """The canonical document as JSON text without spaces."""
        return json.dumps(self.to_json(), ensure_ascii=False, separators=(",", ":"), allow_nan=False)

    @cached_property
    def digest(self) -> str:
        """``sha256:...`` of the canonical text: the same for documents that differ in layout alone."""
        return "sha256:" + hashlib.sha256(self.canonical.encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        """For the API and the page: name, title, description, inputs, steps, outputs."""
        return {
            "name": self.name,
            "title": self.title,
            "description": self.document.description,
            "inputs": describe_inputs(self.document),
            "steps": [
                {
                    "name": step.name,
                    "uses": step.uses,
                    "after": list(step.needs),
                    "each": step.scattered,
                    "conditional": step.condition is not None,
                }
                for step in self.steps.values()
            ],
            "outputs": [{"name": name, "type": str(kind)} for name, kind in self.output_types.items()],
        }

    def condition(self, name: str, scope: Scope) -> bool:
        """Whether the step runs.

        Raises:
            BadInput: the expression has no value in this scope.
        """
        template = self.steps[name].condition
        if template is None:
            return True
        path: Path = ("steps", name, "if")
        value = self._resolved(template, scope, path)
        if isinstance(value, bool):
            return value
        raise self._bad_input(path, "type", f"the condition gave {value!r:.60}", "it must be true or false")

    def items(self, name: str, scope: Scope) -> list[Item] | None:
        """The items of a scattered step, the last variable changing fastest; None if it has no ``each``.

        Raises:
            BadInput: a list cannot be had, or there are more than 10,000 items (``too_many_steps``).
        """
        step = self.steps[name]
        if not step.each:
            return None
        lists: list[list[Any]] = []
        for variable, template in step.each.items():
            path: Path = ("steps", name, "each", variable)
            values = self._resolved(template, scope, path)
            if values is not None and not isinstance(values, list):
                message = f"{variable!r} is no list"
                raise self._bad_input(path, "type", message, "`each` takes lists")
            lists.append(values or [])
        count = math.prod(len(values) for values in lists)
        if count > MAX_ITEMS:
            message = f"the step would run {count} times, the limit is {MAX_ITEMS}"
            hint = "scatter over fewer values, or over larger ones"
            raise self._bad_input(("steps", name, "each"), "too_many_steps", message, hint)
        keys = itertools.product(*(_key_parts(values) for values in lists))
        combined = itertools.product(*lists)
        return [
            Item(",".join(key), dict(zip(step.each, values, strict=True)))
            for key, values in zip(keys, combined, strict=True)
        ]

    def resolve_with(self, name: str, scope: Scope, item: Item | None = None) -> dict[str, Any]:
        """The value of every input port of the step, defaults filled in, checked against the ports.

        Raises:
            BadInput: an expression has no value in this scope, or a port refuses it; with the path.
        """
        ports = ports_of_operator(self.steps[name].operator).signature.inputs
        inner = _inside(scope, item)
        return {port: self.input_value(name, port, inner) for port in ports}

    def input_value(self, name: str, port: str, scope: Scope, item: Item | None = None) -> Any:
        """The value of one input port; raises like :meth:`resolve_with`."""
        step = self.steps[name]
        ports = ports_of_operator(step.operator)
        template, declared = step.inputs.get(port), ports.signature.inputs[port]
        path: Path = ("steps", name, "with", port)
        value = None if template is None else self._resolved(template, _inside(scope, item), path)
        if value is None and not declared.required:
            return declared.default
        if value is None:
            message = f"the input {port!r} of {step.uses} got no value"
            hint = "the input or the step that it comes from gave none"
            raise self._bad_input(path, "missing_input", message, hint)
        faults: list[tuple[Path, str, str, str]] = []
        checked = ports.check(port, value, lambda *fault: faults.append(fault))
        for below, code, message, hint in faults:
            raise self._bad_input((*path, *below), code, message, hint)
        return checked

    def resolve_outputs(self, scope: Scope) -> dict[str, Any]:
        """The outputs of the run; null where a step that an output comes from was skipped.

        Raises:
            BadInput: an expression has no value in this scope.
        """
        return {
            name: self._resolved(template, scope, ("outputs", name))
            for name, template in self.outputs.items()
        }

    def _resolved(self, template: Template, scope: Scope, path: Path) -> Any:
        try:
            return resolve(template, scope)
        except ExpressionFault as fault:
            raise self._bad_input(path, fault.code, fault.message, fault.hint, fault.offset) from None

    def _bad_input(
        self, path: Path, code: str, message: str, hint: str, offset: int | None = None
    ) -> BadInput:
        location = self.document.places.locate(path, offset=offset)
        return BadInput(message, code=code, location=location, hint=hint)


def _inside(scope: Scope, item: Item | None) -> Scope:
    """The scope of one item of a scattered step."""
    return scope if item is None else {**scope, "each": item.values}


def _key_parts(values: Sequence[Any]) -> Iterator[str]:
    """For each value a short text that stays the same when other values come or go.

    A value without a readable text, or one that came before, is named by its place: ``@3``.
    """
    seen: set[str] = set()
    for place, value in enumerate(values):
        text = _readable(value)
        if text is None or text in seen:
            text = f"@{place}"
        seen.add(text)
        yield text


def _readable(value: Any) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    if Artifact.is_json(value):
        value = value[ARTIFACT_KEY]["name"]
    if isinstance(value, (int, float)):
        value = repr(value)
    return value if isinstance(value, str) and _SAFE_KEY.fullmatch(value) else None
