"""Between plain values and what an operator sees: artifacts become paths, files become artifacts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticSerializationError

from foldase.runtime.failures import missing_input, port_path
from foldase.scheduler.executor import Task
from foldase.store.artifacts import BlobStore
from foldase.store.jsontext import dumps
from foldase_workflows.contracts.artifacts import Artifact
from foldase_workflows.contracts.errors import BadInput, Damaged, Location, NotFound, UserError
from foldase_workflows.contracts.ports import Port, Ports, ports_of
from foldase_workflows.contracts.types import PortType, Storage

MAX_VALUE_BYTES = 16 * 1024
"""A larger value does not belong into the database; it has to be an artifact."""

_NUMBER_FAULTS = ("greater_than", "less_than", "finite_number", "multiple_of")


@lru_cache(maxsize=256)
def cached_ports(model: type[BaseModel]) -> dict[str, Port]:
    """The ports of a model; reading them from the annotations takes longer than a small step."""
    return ports_of(model)


Find = Callable[[Artifact], Path | None]
"""Where an artifact lies that is not in the store; None for all others."""


def materialise(
    task: Task,
    ports: Mapping[str, Port],
    blobs: BlobStore,
    folder: Path,
    find: Find = lambda _: None,
) -> dict[str, Any]:
    """The inputs of a task with each artifact put below ``folder`` and replaced by its path.

    What ``find`` knows stays where it is.

    Raises:
        BadInput: with code ``missing_file``, the bytes of an artifact are gone; ``weights_changed``.
        Damaged: bytes of an artifact are not those that were stored.
    """
    values = dict(task.inputs)
    for name, value in task.inputs.items():
        port = ports.get(name)
        if port is None or not port.type.is_artifact or value is None:
            continue
        try:
            values[name] = _paths(value, blobs, folder / name, find)
        except (NotFound, FileNotFoundError) as error:
            raise missing_input(error, name, task.step) from error
        except Damaged as error:
            raise Damaged(
                error.message,
                code=error.code,
                location=Location(path=port_path(task.step, name)),
                hint=error.hint,
            ) from error
    return values


def _paths(value: Any, blobs: BlobStore, folder: Path, find: Find) -> Any:
    if Artifact.is_json(value):
        artifact = Artifact.from_json(value)
        return find(artifact) or blobs.materialise(artifact, folder)
    if isinstance(value, list):
        return [_paths(item, blobs, folder / str(index), find) for index, item in enumerate(value)]
    # A text would become a path: only what the platform stores or knows may.
    raise BadInput(f"{value!r:.80} is no reference to an artifact", code="type")


def validated(model: type[Ports], values: Mapping[str, Any], step: str) -> Ports:
    """The inputs as the operator's own model.

    Raises:
        BadInput: the model refuses them; the location is the path of the first port at fault.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False)
        raise BadInput(
            "; ".join(f"{_place(fault)}: {fault['msg']}" for fault in faults[:5]),
            code=_code(str(faults[0]["type"])),
            location=Location(path=port_path(step, _place(faults[0]))),
        ) from error


def published(
    model: type[BaseModel], result: object, blobs: BlobStore, *, made: Path | None
) -> dict[str, Any]:
    """The outputs as plain values, with every file and tree stored and replaced by its reference.

    Args:
        model: the operator's ``Outputs``.
        result: what ``run`` returned.
        blobs: where files and trees go.
        made: the folder of paths that the context handed out; files below it are moved, others are copied.

    Raises:
        UserError: the operator broke its own promise; code ``bad_output``, ``missing_output`` or
            ``value_too_large``.
        StorageFull: the disk is full.
    """
    if not isinstance(result, model):
        raise UserError(
            f"the operator returned {type(result).__name__} instead of its Outputs", code="bad_output"
        )
    ports = cached_ports(model)
    outputs = _values(result, {name for name, port in ports.items() if not port.type.is_artifact})
    store = _Publisher(blobs, made)
    for name, port in ports.items():
        if port.type.is_artifact:
            outputs[name] = store.put(name, getattr(result, name), port.type)
    return outputs


def _values(result: BaseModel, names: set[str]) -> dict[str, Any]:
    if not names:
        return {}
    try:
        values = result.model_dump(mode="json", include=names)
        sizes = {name: len(dumps(value).encode()) for name, value in values.items()}
    except (PydanticSerializationError, TypeError, ValueError) as error:
        raise UserError(f"an output is no JSON value: {error}", code="bad_output") from error
    for name, size in sizes.items():
        if size > MAX_VALUE_BYTES:
            raise UserError(
                f"output {name!r} has {size:,} bytes; a value may have {MAX_VALUE_BYTES:,}",
                code="value_too_large",
                location=Location(path=f"outputs.{name}"),
                hint="declare it as an artifact (`table`, `file` or a tree) and write it to a file",
            )
    return values


class _Publisher:
    """Stores the files and trees of one result; one path may be given at several ports."""

    def __init__(self, blobs: BlobStore, made: Path | None) -> None:
        self._blobs = blobs
        self._made = made
        self._stored: dict[tuple[Path, Storage], Artifact] = {}

    def put(self, name: str, value: Any, kind: PortType) -> Any:
        if value is None:
            return None
        if kind.item is not None:
            return [self.put(name, item, kind.item) for item in value]
        path = Path(value)
        stored = self._stored.get((path, kind.storage))
        if stored is None:
            stored = self._store(name, path, kind)
            self._stored[path, kind.storage] = stored
        return Artifact(stored.digest, str(kind), stored.size, stored.name, kind.media_type).to_json()

    def _store(self, name: str, path: Path, kind: PortType) -> Artifact:
        move = self._made is not None and path.is_relative_to(self._made)
        try:
            if kind.storage is Storage.TREE:
                return self._blobs.put_tree(path, str(kind), move=move)
            return self._blobs.put_file(path, str(kind), move=move)
        except BadInput as error:
            raise UserError(
                f"output {name!r}: {error.message}",
                code="missing_output",
                location=Location(path=f"outputs.{name}"),
                hint="write to the path that context.new_file or context.new_tree gave",
            ) from error


def _place(fault: Any) -> str:
    return ".".join(str(part) for part in fault["loc"])


def _code(kind: str) -> str:
    if kind == "missing":
        return "missing_input"
    if kind == "extra_forbidden":
        return "unknown_input"
    return "number_range" if kind.startswith(_NUMBER_FAULTS) else "type"
