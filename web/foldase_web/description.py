"""The OpenAPI document.

FastAPI describes the routes; what holds for all of them (sign-in, problems) is added here once.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from foldase_web.problems import MEDIA_TYPE, Problem
from foldase_web.security import CSRF_HEADER, PREFIX

_OPEN = frozenset({("get", f"{PREFIX}/health"), ("post", f"{PREFIX}/session")})
_PROBLEM = {"$ref": "#/components/schemas/Problem"}


def document(app: FastAPI) -> dict[str, Any]:
    """The description of all routes."""
    described = get_openapi(title=app.title, version=app.version, routes=app.routes)
    components = described.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    schemas.pop("HTTPValidationError", None)
    schemas.pop("ValidationError", None)
    problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    for name, schema in problem.pop("$defs", {}).items():
        schemas.setdefault(name, schema)
    schemas["Problem"] = problem
    components["securitySchemes"] = {
        "session": {
            "type": "apiKey",
            "in": "cookie",
            "name": "foldase_session_*",
            "description": f"Set by POST {PREFIX}/session. Changes also need the header {CSRF_HEADER}: 1.",
        },
        "token": {"type": "http", "scheme": "bearer"},
    }
    described["security"] = [{"session": []}, {"token": []}]
    for path, item in described["paths"].items():
        for method, operation in item.items():
            _complete(method, path, operation)
    return described


def _complete(method: str, path: str, operation: dict[str, Any]) -> None:
    answers = operation["responses"]
    answers.pop("422", None)
    answers["default"] = {
        "description": "What went wrong, and how to mend it.",
        "content": {MEDIA_TYPE: {"schema": _PROBLEM}},
    }
    if (method, path) in _OPEN:
        operation["security"] = []


def install(app: FastAPI) -> None:
    """Make the document that ``app`` serves complete; it is put together on first use."""

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = document(app)
        return app.openapi_schema

    app.openapi = described  # type: ignore[method-assign]  # FastAPI's documented way to extend it
