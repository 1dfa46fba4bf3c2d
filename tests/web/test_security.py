"""Hosts, origins, CSRF, headers: nobody gets in by the back door."""

from __future__ import annotations

import pytest
from web_support import API, Running, problem, raw_request

from foldase_web.security import CONTENT_SECURITY_POLICY, CSRF_HEADER

HEADERS = {
    "content-security-policy",
    "cross-origin-opener-policy",
    "cross-origin-resource-policy",
    "permissions-policy",
    "referrer-policy",
    "x-content-type-options",
    "x-frame-options",
}


@pytest.mark.parametrize(
    "path", ["/", "/runs/r1", "/nothing.js", f"{API}/health", f"{API}/runs", f"{API}/nowhere", "/ray/"]
)
def test_every_answer_carries_the_security_headers(running: Running, path: str) -> None:
    for client in (running.anonymous(), running.client()):
        answer = client.get(path)
        assert set(answer.headers) >= HEADERS, path
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_the_policy_allows_no_foreign_or_inline_script() -> None:
    directives = dict(part.strip().split(" ", 1) for part in CONTENT_SECURITY_POLICY.split(";"))
    assert directives["script-src"] == "'self'"
    assert directives["default-src"] == "'self'"
    assert directives["object-src"] == directives["base-uri"] == directives["frame-ancestors"] == "'none'"
    assert "unsafe-eval" not in CONTENT_SECURITY_POLICY


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "", "user@127.0.0.1", "127.0.0.1/x", "[::1", "localhost:x"],
)
def test_a_foreign_host_name_is_refused(running: Running, host: str) -> None:
    answer = raw_request(running.url, f"GET {API}/health HTTP/1.1\nHost: {host}\nConnection: close")
    assert answer.startswith(b"HTTP/1.1 400"), answer
    assert b'"bad_host"' in answer or b"Invalid HTTP request" in answer


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:9999", "[::1]:80"])
def test_loopback_names_are_fine_on_any_port(running: Running, host: str) -> None:
    """A tunnel may end on another port."""
    answer = raw_request(running.url, f"GET {API}/health HTTP/1.1\nHost: {host}\nConnection: close")
    assert answer.startswith(b"HTTP/1.1 200"), answer


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://["},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
    ],
)
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_a_change_asked_for_by_another_site_is_refused(
    running: Running, headers: dict[str, str], method: str
) -> None:
    browser = running.browser()
    problem(browser.request(method, f"{API}/session", headers=headers), 403, "foreign_origin")
    problem(
        running.anonymous().post(f"{API}/session", json={"code": "x"}, headers=headers), 403, "foreign_origin"
    )
    browser.get(f"{API}/session").raise_for_status()


def test_a_change_by_cookie_needs_the_header(running: Running) -> None:
    browser = running.browser()
    del browser.headers[CSRF_HEADER]
    problem(browser.delete(f"{API}/session"), 403, "csrf")
    problem(browser.delete(f"{API}/session", headers={CSRF_HEADER: "0"}), 403, "csrf")
    assert browser.delete(f"{API}/session", headers={CSRF_HEADER: "1"}).status_code == 204


def test_a_body_over_the_limit_is_refused_before_it_is_read(running: Running) -> None:
    head = (
        f"POST {API}/session HTTP/1.1\nHost: localhost\nContent-Type: application/json\n"
        "Content-Length: 10000000000"
    )
    answer = raw_request(running.url, head, b"{", until=b"}")
    assert answer.startswith(b"HTTP/1.1 413"), answer
    assert b'"body_too_large"' in answer


def test_a_body_without_a_length_is_cut_off_at_the_limit(running: Running) -> None:
    def endless() -> object:
        for _ in range(80):
            yield b" " * 65536

    answer = running.anonymous().post(
        f"{API}/session", content=endless(), headers={"Content-Type": "application/json"}
    )
    problem(answer, 413, "body_too_large")


def test_nothing_is_parsed_before_sign_in(running: Running) -> None:
    answer = running.anonymous().post(
        f"{API}/runs", content=b"{", headers={"Content-Type": "application/json"}
    )
    problem(answer, 401, "not_signed_in")
    assert answer.headers["www-authenticate"] == "Bearer"


def test_api_answers_are_not_kept(running: Running) -> None:
    assert running.client().get(f"{API}/runs").headers["cache-control"] == "no-store"


def test_websockets_are_not_spoken(running: Running) -> None:
    head = (
        "GET /ray/ws HTTP/1.1\nHost: localhost\nUpgrade: websocket\nConnection: Upgrade\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\nSec-WebSocket-Version: 13"
    )
    answer = raw_request(running.url, head, half_close=True)
    assert answer.startswith(b"HTTP/1.1 401"), answer
