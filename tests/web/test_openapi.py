"""The description of the API, and what every route that it lists has in common."""

from __future__ import annotations

import io
import json
import random
import subprocess
import sys
import zlib
from typing import Any

import httpx
import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from web_operators import ADD, COUNT
from web_support import API, Running, problem, submit_bare_run

from foldase_web.app import create_app
from foldase_web.security import CSRF_HEADER
from foldase_web.settings import Settings
from foldase_workflows.formats.zarr_tree import TreeWriter

DOCUMENT: dict[str, Any] = create_app(Settings()).openapi()
OPERATIONS = [
    (method.upper(), path, operation)
    for path, item in DOCUMENT["paths"].items()
    for method, operation in item.items()
]
NAMES = [operation["operationId"] for _, _, operation in OPERATIONS]
OPEN = {("GET", f"{API}/health"), ("POST", f"{API}/session")}
EXPECTED = {
    "GET /health",
    "POST /session",
    "GET /session",
    "DELETE /session",
    "POST /session/codes",
    "POST /blobs",
    "GET /artifacts/{digest}",
    "GET /artifacts/{digest}/content",
    "GET /artifacts/{digest}/files/{path}",
    "GET /artifacts/{digest}/arrays/{path}",
    "GET /artifacts/{digest}/attributes",
    "GET /artifacts/{digest}/attributes/{path}",
    "GET /operators",
    "GET /weights",
    "GET /workflows",
    "GET /workflows/{name}",
    "GET /schema/workflow-1.json",
    "GET /schema/experiment-1.json",
    "POST /check",
    "POST /plan",
    "POST /runs",
    "GET /runs",
    "GET /runs/{run}",
    "POST /runs/{run}/cancel",
    "POST /runs/{run}/resume",
    "GET /runs/{run}/events",
    "GET /events",
    "GET /runs/{run}/steps/{step}",
    "GET /runs/{run}/steps/{step}/why",
    "GET /runs/{run}/steps/{step}/logs",
    "GET /runs/{run}/steps/{step}/metrics",
    "GET /runs/{run}/artifacts",
    "GET /cluster",
}


def filled(path: str) -> str:
    return path.replace("{", "").replace("}", "")


def test_the_routes_are_those_that_were_agreed() -> None:
    assert {f"{method} {path.removeprefix(API)}" for method, path, _ in OPERATIONS} == EXPECTED
    assert len(set(NAMES)) == len(NAMES)
    assert all(name.isidentifier() and name.islower() for name in NAMES)


@pytest.mark.parametrize(("method", "path", "operation"), OPERATIONS, ids=NAMES)
def test_every_answer_is_typed(method: str, path: str, operation: dict[str, Any]) -> None:
    answers = operation["responses"]
    assert "422" not in answers
    assert answers["default"]["content"]["application/problem+json"]["schema"] == {
        "$ref": "#/components/schemas/Problem"
    }
    good = answers[next(status for status in answers if status.startswith("2"))]
    if operation["operationId"] != "sign_out":
        ((media_type, content),) = good["content"].items()
        assert content["schema"] or media_type == "*/*", operation["operationId"]
    assert operation["summary"]
    assert operation["description"]


def test_the_document_can_be_printed_without_a_server(tmp_path: object) -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "foldase_web.openapi"],
        capture_output=True,
        check=True,
        text=True,
        cwd=str(tmp_path),
    )
    assert json.loads(printed.stdout) == DOCUMENT
    assert list(tmp_path.iterdir()) == [], "nothing was opened"  # type: ignore[attr-defined]


def test_the_server_gives_the_same_document(client: httpx.Client) -> None:
    assert client.get(f"{API}/openapi.json").json() == DOCUMENT


@pytest.mark.parametrize(("method", "path", "operation"), OPERATIONS, ids=NAMES)
def test_nothing_without_signing_in(
    running: Running, method: str, path: str, operation: dict[str, Any]
) -> None:
    """The matrix: every route without credentials, with wrong ones, and by a cookie without the header."""
    if (method, path) in OPEN:
        assert operation["security"] == []
        assert running.anonymous().request(method, path).status_code in (200, 422)
        return
    assert "security" not in operation, "the rule for all applies"
    address = filled(path)
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Cookie": "foldase_session=x"}):
        answer = running.anonymous().request(method, address, headers=headers)
        problem(answer, 401, "not_signed_in")
    name = running.services.settings.cookie_name
    wrong_cookie = running.anonymous().request(method, address, headers={"Cookie": f"{name}=wrong"})
    problem(wrong_cookie, 401, "not_signed_in")
    if method != "GET":
        browser = running.browser()
        del browser.headers[CSRF_HEADER]
        problem(browser.request(method, address), 403, "csrf")


def test_unlisted_addresses_are_closed_too(running: Running) -> None:
    for path in (f"{API}/openapi.json", f"{API}/nothing", "/ray/", "/api", f"{API}/health/x"):
        problem(running.anonymous().get(path), 401, "not_signed_in")


SCHEMA = schemathesis.openapi.from_dict(DOCUMENT).exclude(operation_id=["stream_events", "stream_run_events"])
"""The streams never end; they have tests of their own."""

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
GENERATED = {
    "deadline": None,
    "database": None,
    "derandomize": True,
    "suppress_health_check": list(HealthCheck),
}


@pytest.fixture(scope="module")
def real(running: Running, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Values that exist, so that generated requests get beyond "not found"."""
    folder = tmp_path_factory.mktemp("zarr") / "tree"
    writer = TreeWriter(folder, "predictions")
    writer.group("target", {"length": 3})
    writer.array("target/map", np.eye(3, dtype=np.float32))
    writer.complete({})
    blobs = running.store.blobs
    stored = [
        blobs.put_tree(folder, "predictions", "result"),
        blobs.put_stream(io.BytesIO(b"some bytes"), type="file", name="file"),
    ]
    for artifact in stored:
        running.store.requests.register_artifact(artifact)
    return {
        "run": [submit_bare_run(running.store).id],
        "step": ["one"],
        "digest": [artifact.digest for artifact in stored],
        "path": ["target/map", "target", "manifest.json"],
        "source": [ADD, COUNT],
    }


def send(case: schemathesis.Case, running: Running, real: dict[str, list[str]]) -> None:
    """Send a generated request and look at the answer; most of them name something that exists."""
    chance = random.Random(zlib.crc32(repr((case.path_parameters, case.query, case.body)).encode()))
    for values in (case.path_parameters, case.body):
        for name in real.keys() & (values.keys() if isinstance(values, dict) else ()):
            if chance.random() < 0.7:
                values[name] = chance.choice(real[name])
    headers = {"Authorization": f"Bearer {running.token}"}
    case.call_and_validate(base_url=running.url, headers=headers, checks=CHECKS)


@SCHEMA.parametrize()
@settings(max_examples=8, **GENERATED)
def test_generated_requests(case: schemathesis.Case, running: Running, real: dict[str, list[str]]) -> None:
    send(case, running, real)


@pytest.mark.verify
@SCHEMA.parametrize()
@settings(max_examples=300, **GENERATED)
def test_many_generated_requests(
    case: schemathesis.Case, running: Running, real: dict[str, list[str]]
) -> None:
    send(case, running, real)
