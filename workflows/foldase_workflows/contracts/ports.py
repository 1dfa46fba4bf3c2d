"""How an operator's pydantic models become typed ports.

An operator declares its inputs and outputs as two pydantic models. Values are plain annotations (``int``,
``float``, ``bool``, ``str``, ``Literal[...]``, ``list[...]``); artifacts are the aliases below, which are
paths inside ``run`` and references everywhere else.
"""

from __future__ import annotations

import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import annotated_types
from pydantic import BaseModel, ConfigDict
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from foldase_workflows.contracts.types import PortType, list_of, parse_type


@dataclass(frozen=True, slots=True)
class ArtifactType:
    """Marks a ``Path`` annotation with its type in the language."""

    name: str


File = Annotated[Path, ArtifactType("file")]
Fasta = Annotated[Path, ArtifactType("fasta")]
Alignment = Annotated[Path, ArtifactType("alignment")]
Structure = Annotated[Path, ArtifactType("structure")]
Report = Annotated[Path, ArtifactType("report")]
Table = Annotated[Path, ArtifactType("table")]
Tree = Annotated[Path, ArtifactType("tree")]
Msa = Annotated[Path, ArtifactType("msa")]
Families = Annotated[Path, ArtifactType("families")]
Model = Annotated[Path, ArtifactType("model")]
Predictions = Annotated[Path, ArtifactType("predictions")]
Weights = Annotated[Path, ArtifactType("weights")]
Structures = Annotated[Path, ArtifactType("structures")]
Json = dict[str, Any]


class Ports(BaseModel):
    """Base of every ``Inputs`` and ``Outputs`` model: immutable, strict about unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, ser_json_inf_nan="constants")


@dataclass(frozen=True, slots=True)
class Port:
    """One named, typed place of an operator, as the language, the API and the page see it."""

    name: str
    type: PortType
    required: bool
    default: Any = None
    help: str = ""
    choices: tuple[Any, ...] = ()
    limits: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """For the API: the type as text, the default only where there is one."""
        described: dict[str, Any] = {
            "name": self.name,
            "type": str(self.type),
            "required": self.required,
            "help": self.help,
        }
        if not self.required:
            described["default"] = self.default
        if self.choices:
            described["choices"] = list(self.choices)
        if self.limits:
            described["limits"] = dict(self.limits)
        return described


def ports_of(model: type[BaseModel]) -> dict[str, Port]:
    """The ports a model declares, in its order.

    Raises:
        TypeError: a field has an annotation that the language has no type for.
    """
    return {name: _port(name, info) for name, info in model.model_fields.items()}


def _port(name: str, info: FieldInfo) -> Port:
    annotation, markers = info.annotation, list(info.metadata)
    choices = _choices(annotation)
    required = info.is_required()
    default = None if required else info.get_default(call_default_factory=True, validated_data={})
    return Port(
        name=name,
        type=_type_of(name, annotation, markers),
        required=required,
        default=to_jsonable_python(default),
        help=info.description or "",
        choices=choices,
        limits=_limits(markers),
    )


_SCALARS: dict[Any, str] = {int: "int", float: "float", bool: "bool", str: "text", Any: "any"}


def _type_of(name: str, annotation: Any, markers: list[Any]) -> PortType:
    for marker in markers:
        if isinstance(marker, ArtifactType):
            return parse_type(marker.name)
    if annotation in _SCALARS:
        return parse_type(_SCALARS[annotation])
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _type_of(name, arguments[0], list(arguments[1:]))
    if origin in (typing.Union, types.UnionType):
        present = [argument for argument in arguments if argument is not type(None)]
        if len(present) == 1:
            return _type_of(name, present[0], markers)
    if origin is list:
        return list_of(_type_of(name, arguments[0], []))
    if origin is Literal:
        return _type_of(name, type(arguments[0]), [])
    if origin is dict:
        return parse_type("json")
    raise TypeError(f"port {name!r}: the language has no type for {annotation!r}")


def _choices(annotation: Any) -> tuple[Any, ...]:
    if typing.get_origin(annotation) is Literal:
        return typing.get_args(annotation)
    if typing.get_origin(annotation) is Annotated:
        return _choices(typing.get_args(annotation)[0])
    return ()


def _limits(markers: list[Any]) -> dict[str, float]:
    limits: dict[str, float] = {}
    for marker in markers:
        if isinstance(marker, annotated_types.Ge):
            limits["min"] = float(marker.ge)  # type: ignore[arg-type]  # a number in our models
        elif isinstance(marker, annotated_types.Gt):
            limits["above"] = float(marker.gt)  # type: ignore[arg-type]
        elif isinstance(marker, annotated_types.Le):
            limits["max"] = float(marker.le)  # type: ignore[arg-type]
        elif isinstance(marker, annotated_types.Lt):
            limits["below"] = float(marker.lt)  # type: ignore[arg-type]
        elif isinstance(marker, annotated_types.MinLen):
            limits["min_length"] = float(marker.min_length)
        elif isinstance(marker, annotated_types.MaxLen):
            limits["max_length"] = float(marker.max_length)
    return limits
