"""The inputs of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foldase_workflows.spec.checked import CheckedWorkflow
from foldase_workflows.spec.faults import Faults
from foldase_workflows.spec.inputs import bind


def bind_inputs(checked: CheckedWorkflow, given: Mapping[str, Any]) -> dict[str, Any]:
    """The value of every input: given or default, of the right type, within its limits.

    Files are references (``{"$artifact": ...}``); an optional input that was not given is None.

    Raises:
        DocumentErrors: ``missing_input``, ``unknown_input``, ``type``, ``number_range`` and so on, each with
            the path ``inputs.NAME``.
    """
    faults = Faults()
    bound = bind(checked.document, given, faults)
    faults.raise_if_any()
    return bound
