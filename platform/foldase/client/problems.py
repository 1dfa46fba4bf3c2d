"""Problem details of the API as the errors they were on the server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx

from foldase_workflows.contracts.errors import (
    BadInput,
    Conflict,
    Damaged,
    DocumentError,
    DocumentErrors,
    FoldaseError,
    Location,
    NotAllowed,
    NotFound,
    NotSignedIn,
    StorageFull,
    TooLarge,
    Unavailable,
    Unsatisfiable,
)

_BY_STATUS: dict[int, type[FoldaseError]] = {
    400: BadInput,
    401: NotSignedIn,
    403: NotAllowed,
    404: NotFound,
    409: Conflict,
    413: TooLarge,
    415: BadInput,
    422: BadInput,
    429: Unavailable,
    503: Unavailable,
    507: StorageFull,
}

_BY_CODE: dict[str, type[FoldaseError]] = {
    kind.default_code: kind for kind in (Damaged, Unsatisfiable, StorageFull, TooLarge)
}


def error_of(response: httpx.Response) -> FoldaseError:
    """The error that an answer above 399 stands for; its body must have been read."""
    try:
        problem = response.json()
    except ValueError:
        problem = None
    if not isinstance(problem, dict) or "code" not in problem:
        return unexpected(response)
    return error_from_json(problem, response.status_code)


def unexpected(response: httpx.Response) -> FoldaseError:
    """The error for an answer that no server of ours gives."""
    return _BY_STATUS.get(response.status_code, FoldaseError)(
        f"{response.request.url.host} answered {response.status_code} {response.reason_phrase}",
        code="unexpected_answer",
        hint="is this the address of a foldase server?",
    )


def error_from_json(problem: Mapping[str, Any], status: int) -> FoldaseError:
    """The error that a problem stands for."""
    faults = problem.get("errors")
    if faults:
        return DocumentErrors(fault_from_json(fault) for fault in faults)
    code = str(problem.get("code"))
    kind = _BY_CODE.get(code) or _BY_STATUS.get(status, FoldaseError)
    return kind(
        str(problem.get("detail") or problem.get("title") or "the server gave no reason"),
        code=code,
        location=_location(problem.get("location")),
        hint=problem.get("hint"),
    )


def fault_from_json(fault: Mapping[str, Any]) -> DocumentError:
    """One fault of a document, as problems and plans list them."""
    return DocumentError(
        str(fault.get("message", "")),
        code=fault.get("code"),
        location=_location(fault.get("location")),
        hint=fault.get("hint"),
    )


def _location(fields: Mapping[str, Any] | None) -> Location | None:
    if not fields:
        return None
    known = ("file", "line", "column", "path", "record")
    return Location(**{name: fields[name] for name in known if fields.get(name) is not None})
