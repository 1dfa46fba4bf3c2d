"""The inputs of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foldase_workflows.spec.checked import CheckedWorkflow
from foldase_workflows.spec.document.reader import read_tree
from foldase_workflows.spec.document.tree import plain
from foldase_workflows.spec.faults import Faults, Places
from foldase_workflows.spec.inputs import bind


def bind_inputs(
    checked: CheckedWorkflow, given: Mapping[str, Any], *, places: Places | None = None
) -> dict[str, Any]:
    """The value of every input: given or default, of the right type, within its limits.

    Files are references (``{"$artifact": ...}``); an optional input that was not given is None. ``places``
    are those of the experiment document that gives the values, where there is one.

    Raises:
        DocumentErrors: ``missing_input``, ``unknown_input``, ``type``, ``number_range`` and so on, each with
            the path ``inputs.NAME``.
    """
    faults = Faults(places)
    bound = bind(checked.document, given, faults)
    faults.raise_if_any()
    return bound


def read_argument(checked: CheckedWorkflow, name: str, text: str) -> Any:
    """The value of an input as typed on a command line: ``3``, ``[1, 2]``, ``fast``.

    Texts are taken as they are, and so are the paths of files, which the caller has to upload; all else is
    read as in a document. ``bind_inputs`` checks it.

    Raises:
        DocumentErrors: the text cannot be read; the location's file is ``--input NAME``.
    """
    kind = checked.input_types.get(name)
    if kind is None or kind.name == "text" or (kind.is_artifact and kind.item is None):
        return text
    file = f"--input {name}"
    source, faults = read_tree(text, file=file)
    faults.raise_if_any()
    return plain(source.root) if source.root is not None else None
