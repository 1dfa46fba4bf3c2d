"""JSON Schema of the documents: for completion in editors, for the form on the page, for other programs."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from foldase_workflows.contracts.operator import Signature
from foldase_workflows.contracts.ports import Port
from foldase_workflows.contracts.registry import Registry
from foldase_workflows.contracts.types import PortType
from foldase_workflows.spec.limits import MAX_NAME
from foldase_workflows.spec.models import ExperimentDocument, WorkflowDocument
from foldase_workflows.spec.values import EXPRESSION_PATTERN

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_NAMES = {"pattern": f"^[A-Za-z_][A-Za-z0-9_]{{0,{MAX_NAME - 1}}}$"}
_EXPRESSION = {"type": "string", "pattern": EXPRESSION_PATTERN}
_SCALARS: dict[str, dict[str, Any]] = {
    "int": {"type": "integer"},
    "float": {"type": "number"},
    "bool": {"type": "boolean"},
    "text": {"type": "string"},
    "json": {"type": "object"},
    "any": {},
}
_LIMITS = {
    "min": "minimum",
    "max": "maximum",
    "above": "exclusiveMinimum",
    "below": "exclusiveMaximum",
}


def workflow_json_schema(registry: Registry | None = None) -> dict[str, Any]:
    """The schema of a workflow; with a registry also of the inputs of each operator under ``with``."""
    schema = _titled(TypeAdapter(WorkflowDocument).json_schema(), "workflow-1.json", "foldase workflow")
    for field in ("inputs", "steps", "outputs"):
        schema["properties"][field]["propertyNames"] = _NAMES
    if registry is not None:
        step = schema["$defs"]["StepSpec"]
        operators = [operator.signature for operator in registry]
        step["properties"]["uses"]["examples"] = [signature.reference for signature in operators]
        step["allOf"] = [
            {
                "if": {"properties": {"uses": {"const": signature.reference}}},
                "then": _typed_step(signature),
            }
            for signature in operators
        ]
    return schema


def experiment_json_schema() -> dict[str, Any]:
    """The schema of an experiment."""
    return _titled(TypeAdapter(ExperimentDocument).json_schema(), "experiment-1.json", "foldase experiment")


def _titled(schema: dict[str, Any], name: str, title: str) -> dict[str, Any]:
    return {"$schema": _DIALECT, "$id": f"/api/v1/schema/{name}", **schema, "title": title}


def _typed_step(signature: Signature) -> dict[str, Any]:
    typed = _typed_inputs(signature.inputs)
    if not signature.gang:
        typed["properties"]["resources"] = {"properties": {"ranks": {"const": 1}}}
    return typed


def _typed_inputs(ports: dict[str, Port]) -> dict[str, Any]:
    required = [port.name for port in ports.values() if port.required]
    properties = {port.name: {"anyOf": [_EXPRESSION, port_schema(port)]} for port in ports.values()}
    typed: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
    if not required:
        typed["type"] = ["object", "null"]
        return {"properties": {"with": typed}}
    return {"required": ["with"], "properties": {"with": {**typed, "required": required}}}


def port_schema(port: Port) -> dict[str, Any]:
    """The schema of a literal value for a port."""
    schema = _type_schema(port.type)
    for name, limit in port.limits.items():
        if name in _LIMITS:
            schema[_LIMITS[name]] = limit
        else:
            schema[name.replace("_length", "Items" if port.type.item else "Length")] = int(limit)
    if port.choices:
        schema["enum"] = list(port.choices)
    if port.help:
        schema["description"] = port.help
    if not port.required:
        schema["default"] = port.default
        if port.default is None:
            return {"anyOf": [schema, {"type": "null"}]}
    return schema


def _type_schema(kind: PortType) -> dict[str, Any]:
    if kind.item is not None:
        return {"type": "array", "items": {"anyOf": [_EXPRESSION, _type_schema(kind.item)]}}
    # A file can only come from an expression, so its literal form is never right.
    return {"not": {}} if kind.is_artifact else dict(_SCALARS[kind.name])
