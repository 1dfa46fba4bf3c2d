"""Text to a checked document: syntax, shape and limits. Operators and types come later, in ``check``."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import ValidationError

from foldase_workflows.spec.document.reader import read_tree
from foldase_workflows.spec.document.tree import Source, plain
from foldase_workflows.spec.expressions.nodes import ExpressionFault
from foldase_workflows.spec.expressions.template import read_value
from foldase_workflows.spec.faults import Faults, Path
from foldase_workflows.spec.inputs import check_declarations
from foldase_workflows.spec.models import ExperimentDocument, WorkflowDocument
from foldase_workflows.spec.shape import add_shape_faults
from foldase_workflows.spec.values import is_name, name_hint

DocumentT = TypeVar("DocumentT", WorkflowDocument, ExperimentDocument)


def load_workflow(text: str, *, file: str = "<text>") -> WorkflowDocument:
    """Read a workflow document.

    Raises:
        DocumentErrors: everything that is wrong with its syntax and shape, each fault with its place.
        TooLarge: more than 1 MiB.
    """
    source, faults = read_tree(text, file=file)
    faults.next_stage()
    return _workflow(_data(source), source, faults).placed(source)


def load_experiment(text: str, *, file: str = "<text>") -> ExperimentDocument:
    """Read an experiment document; raises like :func:`load_workflow`."""
    source, faults = read_tree(text, file=file)
    faults.next_stage()
    data = _data(source)
    document = _validated(ExperimentDocument, data, source, faults)
    _check_names(("inputs",), data, faults)
    faults.raise_if_any()
    assert document is not None
    return document.placed(source)


def workflow_from_json(data: Any) -> WorkflowDocument:
    """The document that ``WorkflowDocument.to_json`` gave; places are paths only.

    Raises:
        DocumentErrors: ``data`` is no such document.
    """
    return _workflow(data, None, Faults())


def _data(source: Source) -> Any:
    assert source.root is not None
    return plain(source.root)


def _workflow(data: Any, source: Source | None, faults: Faults) -> WorkflowDocument:
    document = _validated(WorkflowDocument, data, source, faults)
    # These look at the plain data, so that they report what they find beside the faults of the shape.
    for section in ("inputs", "steps", "outputs"):
        _check_names((section,), data, faults)
    for name, step in _mapping(data, "steps").items():
        _check_step(name, step, faults)
    _check_syntax(_mapping(data, "outputs"), ("outputs",), faults)
    _check_on_oom(("defaults",), _mapping(data, "defaults"), faults)
    if document is not None:
        check_declarations(document, faults)
    faults.raise_if_any()
    assert document is not None
    return document


def _validated(model: type[DocumentT], data: Any, source: Source | None, faults: Faults) -> DocumentT | None:
    try:
        return model.model_validate(data)
    except ValidationError as error:
        add_shape_faults(model, error, source, faults)
        return None


def _mapping(data: Any, name: str) -> dict[str, Any]:
    """The mapping under ``name``, or an empty one where the document has something else there."""
    found = data.get(name) if isinstance(data, dict) else None
    return found if isinstance(found, dict) else {}


def _check_names(path: Path, data: Any, faults: Faults) -> None:
    for name in _mapping(data, str(path[-1])):
        if not is_name(name):
            message = f"{name[:80]!r} cannot be a name here"
            faults.add("bad_name", message, (*path, name), key=True, hint=name_hint(name))


def _check_step(name: str, step: Any, faults: Faults) -> None:
    path: Path = ("steps", name)
    _check_names((*path, "each"), step, faults)
    for field in ("with", "each"):
        _check_syntax(_mapping(step, field), (*path, field), faults)
    if isinstance(step, dict):
        _check_syntax({"if": step.get("if")}, path, faults)
        if "allow_failures" in step and not step.get("each"):
            message = "`allow_failures` counts the items of a scattered step, and this step has no `each`"
            hint = "add `each`, or leave it out"
            faults.add("not_scattered", message, (*path, "allow_failures"), key=True, hint=hint)
    _check_on_oom(path, step, faults)


def _check_syntax(values: dict[str, Any], path: Path, faults: Faults) -> None:
    """Read every expression below ``path`` once, for its faults."""

    def report(place: Path, fault: ExpressionFault) -> None:
        faults.add(fault.code, fault.message, place, offset=fault.offset, hint=fault.hint)

    for name, value in values.items():
        read_value(value, report, (*path, name))


def _check_on_oom(path: Path, section: Any, faults: Faults) -> None:
    """The targets of ``on_oom`` are ``memory``, ``cpu`` or ``with.NAME``."""
    for target in _mapping(_mapping(section, "retry"), "on_oom"):
        if target not in ("memory", "cpu") and not (target.startswith("with.") and is_name(target[5:])):
            message = f"{target[:80]!r} cannot be changed after running out of memory"
            hint = "write memory, cpu or with.NAME"
            faults.add("unknown_field", message, (*path, "retry", "on_oom", target), key=True, hint=hint)
