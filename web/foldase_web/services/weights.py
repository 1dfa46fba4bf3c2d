"""Names of weights in the inputs of a run become references to what lies under them now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foldase.store.weights import WeightsLibrary
from foldase_workflows.contracts.errors import BadInput, DocumentError, DocumentErrors, Location, Unavailable
from foldase_workflows.contracts.types import PortType


def with_weights(
    library: WeightsLibrary,
    types: Mapping[str, PortType],
    inputs: Mapping[str, Any],
    *,
    wait: bool,
) -> dict[str, Any]:
    """The same inputs, with every name of weights replaced by its reference.

    Args:
        library: the weights there are.
        types: of the inputs.
        inputs: bound, so that names have the form of names.
        wait: refuse weights that are still being read; else their names stay as they are.

    Raises:
        DocumentErrors: ``unknown_weights`` and whatever else is wrong with them, with the path of each input.
        Unavailable: ``weights_not_ready``.
    """
    faults: list[DocumentError] = []

    def known(value: Any, kind: PortType, path: str) -> Any:
        if kind.item is not None and isinstance(value, list):
            return [known(part, kind.item, f"{path}.{index}") for index, part in enumerate(value)]
        if kind.name != "weights" or not isinstance(value, str):
            return value
        try:
            return library.artifact(value).to_json()
        except BadInput as error:
            place = Location(path=path)
            faults.append(DocumentError(error.message, code=error.code, location=place, hint=error.hint))
        except Unavailable:
            if wait:
                raise
        return value

    found = {name: known(value, types[name], f"inputs.{name}") for name, value in inputs.items()}
    if faults:
        raise DocumentErrors(faults)
    return found
