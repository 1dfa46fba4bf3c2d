"""The page: hashed files for ever, one HTML file for every address, and a plain word when it is not built."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from web_support import API, Running, problem, raw_request, serving

SCRIPT = "console.log('hello');" * 500


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("static")
    (folder / "assets").mkdir()
    (folder / "index.html").write_text("<!doctype html><title>the app</title>")
    (folder / "assets" / "main-a1b2c3.js").write_text(SCRIPT)
    (folder / "favicon.svg").write_text("<svg/>")
    (folder.parent / "secret.txt").write_text("secret")
    (folder / "assets" / "out.txt").symlink_to(folder.parent / "secret.txt")
    with serving(tmp_path_factory.mktemp("page") / "home", static=folder) as running:
        yield running


@pytest.mark.parametrize(
    "path", ["/", "/runs", "/runs/r123/steps", "/new/contacts", "/artifacts/sha256:ab", "/cluster"]
)
def test_every_address_of_the_app_gives_its_page(built: Running, path: str) -> None:
    answer = built.anonymous().get(path)
    assert answer.status_code == 200
    assert "the app" in answer.text
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["etag"]


def test_names_with_dots_in_addresses(built: Running) -> None:
    visit = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    assert "the app" in built.anonymous().get("/runs/r1/steps/fold[1abc.cif]", headers=visit).text
    problem(built.anonymous().get("/assets/gone.js", headers=visit), 404, "not_found")


def test_hashed_files_are_kept_and_compressed(built: Running) -> None:
    answer = built.anonymous().get("/assets/main-a1b2c3.js")
    assert answer.text == SCRIPT
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert answer.headers["content-encoding"] == "gzip"
    assert "javascript" in answer.headers["content-type"]
    again = built.anonymous().get("/favicon.svg")
    assert again.headers["cache-control"] == "no-cache"
    cached = built.anonymous().get("/favicon.svg", headers={"If-None-Match": again.headers["etag"]})
    assert cached.status_code == 304


@pytest.mark.parametrize("path", ["/assets/main-000000.js", "/robots.txt", "/assets/x.css.map"])
def test_files_that_are_not_there(built: Running, path: str) -> None:
    problem(built.anonymous().get(path), 404, "not_found")


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.txt",
        "/assets/../../secret.txt",
        "/..%2fsecret.txt",
        "/assets/..%2f..%2fsecret.txt",
        "/%2e%2e/secret.txt",
        "//secret.txt",
        "/%2fetc%2fpasswd",
        "/..\\secret.txt",
        "/assets/out.txt",
        "/secret.txt%00.html",
        "/%00",
        "/" + "a" * 5000,
    ],
)
def test_no_way_out_of_the_folder(built: Running, path: str) -> None:
    answer = raw_request(built.url, f"GET {path} HTTP/1.1\nHost: localhost\nConnection: close")
    assert answer.startswith((b"HTTP/1.1 404", b"HTTP/1.1 200", b"HTTP/1.1 400")), answer
    assert b"secret" not in answer.partition(b"\r\n\r\n")[2] or b"there is nothing" in answer
    assert b"root:" not in answer


def test_reading_only(built: Running) -> None:
    client = built.client()
    for method in ("POST", "PUT", "DELETE"):
        problem(client.request(method, "/index.html"), 405, "method")
    assert client.head("/").status_code == 200


@pytest.mark.parametrize(
    "path", [f"{API}/nowhere", "/api", "/api/", "/api/v2/runs", f"{API}/runs/", f"{API}//runs"]
)
def test_unknown_addresses_of_the_api_are_errors_not_pages(built: Running, path: str) -> None:
    problem(built.client().get(path), 404, "not_found")


def test_wrong_methods_of_the_api(built: Running) -> None:
    client = built.client()
    problem(client.put(f"{API}/runs"), 405, "method")
    problem(client.get(f"{API}/session/codes"), 405, "method")


def test_without_the_build_the_page_says_how(home: Path) -> None:
    with serving(home, static=home / "nothing") as running:
        for path in ("/", "/runs/r1"):
            answer: httpx.Response = running.anonymous().get(path)
            assert answer.status_code == 200
            assert "npm run build" in answer.text
            assert answer.headers["cache-control"] == "no-store"
        problem(running.anonymous().get("/assets/main.js"), 404, "not_found")
        assert running.anonymous().get(f"{API}/health").json()["status"] == "ok", "the API works without it"
