"""Errors as people and programs see them: RFC 9457 problem details with our four fields.

The one place that turns the tree of errors into status codes. Whatever is not in the tree is a fault of
ours: it is logged with its traceback and answered with a bare 500.
"""

from __future__ import annotations

import errno
import http
import logging
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from foldase_workflows.contracts.errors import (
    BadInput,
    Cancelled,
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
    UserError,
)

logger = logging.getLogger("foldase.web")

MEDIA_TYPE = "application/problem+json"

_STATUS: dict[type[FoldaseError], int] = {
    BadInput: 422,
    Cancelled: 409,
    Conflict: 409,
    Damaged: 500,
    DocumentError: 422,
    DocumentErrors: 422,
    NotAllowed: 403,
    NotFound: 404,
    NotSignedIn: 401,
    StorageFull: 507,
    TooLarge: 413,
    Unavailable: 503,
    Unsatisfiable: 422,
    UserError: 422,
}

_HEADERS: dict[int, dict[str, str]] = {
    401: {"WWW-Authenticate": "Bearer"},
    503: {"Retry-After": "2"},
}

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})

_OWN_CODES = frozenset({"bad_characters", "number_range", "too_deep"})

_REQUEST_CODES = {
    "finite_number": "number_range",
    "missing": "missing_field",
    "extra_forbidden": "unknown_field",
    "json_invalid": "json_syntax",
}


class HttpError(FoldaseError):
    """An error of the protocol itself, with the status it is answered with."""

    default_code = "bad_request"

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        code: str | None = None,
        location: Location | None = None,
        hint: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, code=code, location=location, hint=hint)
        self.status = status
        self.headers = dict(headers or {})


class Place(BaseModel):
    """Where a fault lies; only the fields that are known."""

    file: str | None = None
    line: int | None = None
    column: int | None = None
    path: str | None = None
    record: str | None = None


class Fault(BaseModel):
    """One of several faults."""

    code: str
    message: str
    location: Place | None = None
    hint: str | None = None


class Problem(BaseModel):
    """What every answer above 399 holds."""

    type: str = "about:blank"
    title: str
    status: int
    code: str
    detail: str
    location: Place | None = None
    hint: str | None = None
    errors: list[Fault] | None = None


def status_of(error: FoldaseError) -> int:
    """The HTTP status of an error of the tree."""
    if isinstance(error, HttpError):
        return error.status
    for kind in type(error).__mro__:
        if kind in _STATUS:
            return _STATUS[kind]
    return 500


def problem_of(error: FoldaseError) -> Problem:
    """The body that stands for an error."""
    fields: dict[str, Any] = error.to_json()
    status = status_of(error)
    detail = fields.pop("message")
    return Problem(title=http.HTTPStatus(status).phrase, status=status, detail=detail, **fields)


def answer(error: FoldaseError) -> JSONResponse:
    """The response that stands for an error."""
    problem = problem_of(error)
    headers = dict(_HEADERS.get(problem.status, {}))
    if isinstance(error, HttpError):
        headers.update(error.headers)
    return JSONResponse(
        problem.model_dump(mode="json", exclude_none=True),
        status_code=problem.status,
        headers=headers,
        media_type=MEDIA_TYPE,
    )


def translate(error: BaseException) -> FoldaseError | None:
    """What an exception of a library means for a person; None where it is a fault of ours."""
    if isinstance(error, FoldaseError):
        return error
    if isinstance(error, OSError) and error.errno in _FULL:
        return StorageFull("the disk is full", hint="free some space and try again; nothing was written")
    return None


def respond(error: Exception, where: str) -> JSONResponse:
    """The answer to any exception; those that are a fault of ours are logged with their traceback."""
    known = translate(error)
    if known is None:
        logger.error("unexpected error in %s", where, exc_info=error)
        known = HttpError(
            "something went wrong on the server; its log says more", status=500, code="internal"
        )
    elif status_of(known) >= 500:
        logger.error("%s in %s", known, where)
    return answer(known)


def _of_validation(error: RequestValidationError) -> FoldaseError:
    faults = [
        DocumentError(
            _sentence(item),
            code=_REQUEST_CODES.get(item["type"], item["type"] if item["type"] in _OWN_CODES else "type"),
            location=Location(path=".".join(str(part) for part in item["loc"])),
        )
        for item in error.errors()
    ]
    return DocumentErrors(faults)


def _sentence(item: Mapping[str, Any]) -> str:
    reason = item.get("ctx", {}).get("error")
    return f"{item['msg']}: {reason}" if item["type"] == "json_invalid" and reason else str(item["msg"])


def _of_http(error: HTTPException) -> FoldaseError:
    headers = error.headers
    if error.status_code == 404:
        return HttpError("there is nothing at this address", status=404, code="not_found")
    if error.status_code == 405:
        return HttpError("this address does not take that method", status=405, code="method", headers=headers)
    if error.status_code == 400:
        return HttpError(str(error.detail), code="bad_request", headers=headers)
    code = "body_too_large" if error.status_code == 413 else None
    return HttpError(str(error.detail), status=error.status_code, code=code, headers=headers)


def install(app: FastAPI) -> None:
    """Make every error of ``app`` a problem."""

    async def on_known(request: Request, error: Exception) -> JSONResponse:
        return respond(error, f"{request.method} {request.url.path}")

    async def on_validation(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return answer(_of_validation(error))

    async def on_http(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        return answer(_of_http(error))

    app.add_exception_handler(FoldaseError, on_known)
    app.add_exception_handler(RequestValidationError, on_validation)
    app.add_exception_handler(HTTPException, on_http)
