"""The Ray dashboard behind our sign-in, against a dashboard that tells what it was asked."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from web_support import Running, problem, raw_request, serving

from foldase_web.proxy import _below_prefix, _normal

TOKEN = "the-token-of-ray"
PAGE = b'<!doctype html><script src="./static/js/main.js"></script>'


class FakeDashboard(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    asked: list[tuple[str, str, dict[str, str]]] = []

    def do_GET(self) -> None:
        self.asked.append(
            (self.command, self.path, {name.lower(): value for name, value in self.headers.items()})
        )
        if self.headers.get("X-Ray-Authorization") != f"Bearer {TOKEN}":
            self.reply(401, b"no token")
        elif self.path == "/":
            self.reply(200, PAGE, ("Content-Type", "text/html"), ("Set-Cookie", "ray-authentication-token=x"))
        elif self.path.startswith("/moved"):
            self.reply(302, b"", ("Location", self.path.partition("?to=")[2]))
        elif self.path == "/zipped":
            self.reply(200, gzip.compress(b"x" * 1000), ("Content-Encoding", "gzip"))
        elif self.path == "/endless":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for _ in range(3):
                self.wfile.write(b"5\r\nchunk\r\n")
            self.wfile.write(b"0\r\n\r\n")
        elif self.path == "/cut":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"half")
            self.close_connection = True
        else:
            self.reply(200, json.dumps({"path": self.path}).encode(), ("Content-Type", "application/json"))

    do_HEAD = do_GET  # noqa: N815

    def reply(self, status: int, body: bytes, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def dashboard(running: Running) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), FakeDashboard)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    (running.home / "ray.json").write_text(json.dumps({"dashboard": url, "token": TOKEN}))
    yield url
    (running.home / "ray.json").unlink()
    server.shutdown()
    server.server_close()


@pytest.fixture
def browser(running: Running, dashboard: str) -> httpx.Client:
    FakeDashboard.asked.clear()
    return running.browser()


def test_the_page_and_its_relative_files(browser: httpx.Client) -> None:
    answer = browser.get("/ray/")
    assert answer.content == PAGE
    assert "frame-ancestors 'self'" in answer.headers["content-security-policy"]
    assert answer.headers["x-frame-options"] == "SAMEORIGIN"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "set-cookie" not in answer.headers
    assert browser.get("/ray/static/js/main.js?v=1").json() == {"path": "/static/js/main.js?v=1"}


def test_without_the_slash(browser: httpx.Client) -> None:
    answer = browser.get("/ray")
    assert answer.status_code == 308
    assert answer.headers["location"] == "/ray/"


def test_credentials_go_neither_way(browser: httpx.Client, running: Running) -> None:
    browser.get("/ray/api/v0/tasks", headers={"Authorization": f"Bearer {running.token}", "X-Secret": "s"})
    ((_, _, headers),) = FakeDashboard.asked
    assert headers["x-ray-authorization"] == f"Bearer {TOKEN}"
    assert "cookie" not in headers
    assert "authorization" not in headers
    assert set(headers) <= {"host", "connection", "accept", "accept-encoding", "x-ray-authorization"}
    everything = [browser.get("/ray/"), browser.get("/ray/moved?to=/x"), browser.head("/ray/")]
    for answer in everything:
        assert TOKEN not in answer.text + str(answer.headers)


def test_signing_in_comes_first(running: Running, browser: httpx.Client) -> None:
    for path in ("/ray", "/ray/", "/ray/api/v0/tasks", "/ray/%2e%2e/"):
        problem(running.anonymous().get(path), 401, "not_signed_in")
    assert FakeDashboard.asked == []


def test_a_person_who_is_not_signed_in_is_sent_to_the_page(running: Running, browser: httpx.Client) -> None:
    answer = running.anonymous().get("/ray/", headers={"Accept": "text/html,*/*"})
    assert answer.status_code == 303
    assert answer.headers["location"] == "/"
    assert FakeDashboard.asked == []


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"])
def test_reading_only(browser: httpx.Client, method: str) -> None:
    answer = browser.request(method, "/ray/api/jobs/", headers={"X-Foldase-CSRF": "1"})
    problem(answer, 405, "method")
    assert FakeDashboard.asked == []


@pytest.mark.parametrize(
    "path",
    [
        "worker/traceback?pid=1",
        "worker/cpu_profile",
        "task/traceback",
        "memory_profile?pid=1",
        "//worker/traceback",
        "./worker/traceback",
        "static/../worker/traceback",
        "static/%2e%2e/worker/traceback",
        "%77orker/traceback",
        "worker%2Ftraceback",
        "worker\\traceback",
        "api/v0/delay/99",
        "api/packages/gcs/x",
    ],
)
def test_what_attaches_to_workers_is_closed(running: Running, browser: httpx.Client, path: str) -> None:
    head = (
        f"GET /ray/{path} HTTP/1.1\nHost: localhost\nAuthorization: Bearer {running.token}\nConnection: close"
    )
    assert raw_request(running.url, head).startswith(b"HTTP/1.1 403")
    assert FakeDashboard.asked == []


@pytest.mark.parametrize(
    ("to", "seen"),
    [
        ("/login", "/ray/login"),
        ("relative", "relative"),
        ("https://evil.example/x", "/ray/"),
        ("//evil.example/x", "/ray/"),
        ("/a?b=c#d", "/ray/a?b=c#d"),
    ],
)
def test_redirects_stay_below_the_prefix(browser: httpx.Client, to: str, seen: str) -> None:
    answer = browser.get(f"/ray/moved?to={to.replace('#', '%23')}")
    assert answer.status_code == 302
    assert answer.headers["location"].replace("%23", "#") == seen


def test_absolute_redirects_of_the_dashboard_itself() -> None:
    assert _below_prefix("http://127.0.0.1:8265/x?y", "http://127.0.0.1:8265") == "/ray/x?y"
    assert _below_prefix("http://127.0.0.1:8265", "http://127.0.0.1:8265") == "/ray/"
    assert _below_prefix("http://127.0.0.1:1/x", "http://127.0.0.1:8265") == "/ray/"


def test_bodies_pass_as_they_are(browser: httpx.Client) -> None:
    answer = browser.get("/ray/zipped")
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.content == b"x" * 1000
    assert browser.get("/ray/endless").content == b"chunk" * 3
    head = browser.head("/ray/")
    assert head.headers["content-length"] == str(len(PAGE))
    assert head.content == b""


def test_an_answer_that_breaks_off_is_not_taken_for_whole(browser: httpx.Client) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        browser.get("/ray/cut")


def test_odd_paths_reach_the_dashboard_unchanged(browser: httpx.Client) -> None:
    assert browser.get("/ray/a%20b/%C3%BC?x=%26").json() == {"path": "/a%20b/%C3%BC?x=%26"}


@pytest.mark.parametrize("content", [None, "", "{", "[]", "{}", '{"dashboard": 5}', '{"dashboard": ""}'])
def test_while_the_cluster_starts(home: Path, content: str | None) -> None:
    with serving(home) as running:
        if content is not None:
            (home / "ray.json").write_text(content)
        answer = running.client().get("/ray/")
        assert answer.status_code == 503
        assert answer.headers["content-type"].startswith("text/html")
        assert "not up yet" in answer.text
        assert answer.headers["retry-after"]


def test_when_the_dashboard_is_gone(home: Path) -> None:
    with serving(home) as running:
        (home / "ray.json").write_text(json.dumps({"dashboard": "127.0.0.1:1", "token": "t"}))
        answer = running.client().get("/ray/")
        assert answer.status_code == 503
        assert "does not answer" in answer.text


def test_normal() -> None:
    assert _normal("/a/./b//c/../d") == "a/b/d"
    assert _normal("/../a") is None
    assert _normal("") == ""
