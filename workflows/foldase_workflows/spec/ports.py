"""Values against the ports of an operator: the language's types first, then the pydantic field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from foldase_workflows.contracts.operator import Operator, Signature
from foldase_workflows.contracts.ports import Port
from foldase_workflows.spec.conform import Refuse, conform
from foldase_workflows.spec.faults import Path
from foldase_workflows.spec.shape import code_of, in_words

AnyOperator = Operator[Any, Any]


@dataclass(frozen=True, slots=True)
class OperatorPorts:
    """The input ports of one operator, with what is needed to check values quickly."""

    signature: Signature
    adapters: Mapping[str, TypeAdapter[Any]]

    def check(self, name: str, value: Any, refuse: Refuse) -> Any:
        """The value for port ``name``, made a float where one is wanted; faults go to ``refuse``."""
        port = self.signature.inputs[name]
        refused = False

        def first(path: Path, code: str, message: str, hint: str) -> None:
            nonlocal refused
            refused = True
            refuse(path, code, message, hint)

        value = conform(value, port.type, first, limits=port.limits, choices=port.choices)
        adapter = self.adapters.get(name)
        if adapter is not None and not refused:
            try:
                adapter.validate_python(value)
            except ValidationError as error:
                for detail in error.errors(include_url=False):
                    message, hint = in_words(detail)
                    refuse(detail["loc"], code_of(detail["type"]), message, hint)
        return value


_PLAIN = (int, float, bool, str)
_KNOWN: dict[type[AnyOperator], OperatorPorts] = {}


def ports_of_operator(operator: AnyOperator) -> OperatorPorts:
    """The input ports of an operator, worked out once per operator class."""
    known = _KNOWN.get(type(operator))
    if known is None:
        known = _KNOWN[type(operator)] = _work_out(operator)
    return known


def _work_out(operator: AnyOperator) -> OperatorPorts:
    signature = operator.signature
    fields: type[BaseModel] = operator.Inputs
    adapters: dict[str, TypeAdapter[Any]] = {}
    for name, info in fields.model_fields.items():
        port: Port = signature.inputs[name]
        if port.type.is_artifact or (info.annotation in _PLAIN and not info.metadata):
            continue
        field: Any = info.annotation
        if info.metadata:
            field = Annotated[(info.annotation, *info.metadata)]
        adapters[name] = TypeAdapter(field)
    return OperatorPorts(signature, adapters)
