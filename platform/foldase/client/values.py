"""Values for the inputs of a run: paths become uploads where the workflow wants files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from foldase_workflows.contracts.artifacts import Artifact
from foldase_workflows.contracts.errors import BadInput, FoldaseError, Location
from foldase_workflows.contracts.types import PortType, Storage, parse_type

Store = Callable[[Path, str], Artifact]
"""Makes an artifact of a file, of a type of the language."""


def port_types(ports: Iterable[Mapping[str, Any]]) -> dict[str, PortType]:
    """The types of inputs as the API describes them."""
    return {port["name"]: parse_type(port["type"]) for port in ports}


def prepare(
    given: Mapping[str, Any], types: Mapping[str, PortType], store: Store, *, folder: Path = Path()
) -> dict[str, Any]:
    """Plain JSON for the API; it is the one to refuse inputs that the workflow does not have, and weights.

    Raises:
        BadInput: ``file_missing``, or what ``store`` finds wrong; the path names the input.
    """
    return {
        name: _value(value, types.get(name), f"inputs.{name}", store, folder) for name, value in given.items()
    }


def _value(value: Any, kind: PortType | None, place: str, store: Store, folder: Path) -> Any:
    if isinstance(value, Artifact):
        return value.to_json()
    if isinstance(value, list | tuple):
        item = kind.item if kind is not None else None
        return [_value(part, item, f"{place}[{index}]", store, folder) for index, part in enumerate(value)]
    if kind is None or not kind.is_artifact or kind.item is not None or not isinstance(value, str | Path):
        return str(value) if isinstance(value, Path) else value
    if kind.name == "weights":
        return str(value)
    if kind.storage is Storage.TREE:
        raise BadInput(
            f"a {kind} cannot be uploaded: it comes from another run",
            code="not_a_file",
            location=Location(path=place),
            hint=f"give the artifact itself, or let a step of the workflow make the {kind}",
        )
    path = Path(value).expanduser()
    try:
        return store(folder / path, kind.name).to_json()
    except FoldaseError as error:
        where = Location(
            file=str(folder / path),
            path=place,
            line=error.location.line if error.location else None,
            record=error.location.record if error.location else None,
        )
        raise type(error)(error.message, code=error.code, location=where, hint=error.hint) from error
