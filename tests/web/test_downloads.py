"""Downloads: whole files, ranges, trees as zip, and paths that lead nowhere."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import zipfile
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from web_support import API, Running, problem, raw_request, serving

from foldase_web.problems import HttpError
from foldase_web.services.downloads import attachment, parse_range
from foldase_workflows.contracts.artifacts import Artifact

CONTENT = bytes(range(256)) * 40


@pytest.fixture(scope="module")
def stored(running: Running) -> Artifact:
    artifact = running.store.blobs.put_stream(io.BytesIO(CONTENT), type="file", name="some file.bin")
    return running.store.requests.register_artifact(artifact)


@pytest.fixture(scope="module")
def tree(running: Running, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return put_tree(running, tmp_path_factory.mktemp("tree") / "results")


def put_tree(running: Running, folder: Path) -> Artifact:
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "one.cif").write_text("data_one\n")
    (folder / "deep" / "page.html").write_text("<script>alert(1)</script>")
    (folder / "deep" / "er" / "große.bin").write_bytes(CONTENT)
    (folder / "empty").write_bytes(b"")
    artifact = running.store.blobs.put_tree(folder, "structures")
    return running.store.requests.register_artifact(artifact)


def test_a_download_is_an_attachment_that_runs_nothing(client: httpx.Client, stored: Artifact) -> None:
    answer = client.get(f"{API}/artifacts/{stored.digest}/content")
    assert answer.content == CONTENT
    assert answer.headers["content-disposition"].startswith('attachment; filename="some file.bin"')
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in answer.headers["content-security-policy"]
    assert answer.headers["content-length"] == str(len(CONTENT))
    assert answer.headers["accept-ranges"] == "bytes"


@pytest.mark.parametrize(
    ("wanted", "start", "stop"),
    [("bytes=0-0", 0, 1), ("bytes=5-", 5, None), ("bytes=-7", -7, None), ("bytes=10-99999999", 10, None)],
)
def test_a_range(client: httpx.Client, stored: Artifact, wanted: str, start: int, stop: int | None) -> None:
    answer = client.get(f"{API}/artifacts/{stored.digest}/content", headers={"Range": wanted})
    assert answer.status_code == 206
    assert answer.content == CONTENT[start:stop]
    first = start % len(CONTENT)
    assert (
        answer.headers["content-range"] == f"bytes {first}-{first + len(answer.content) - 1}/{len(CONTENT)}"
    )


@pytest.mark.parametrize(
    "wanted",
    [
        "bytes=99999999-",
        "bytes=5-4",
        "bytes=-0",
        "bytes=0-1,3-4",
        "items=0-1",
        "bytes=",
        "bytes=a-b",
        "x",
        "bytes=" + ",".join(f"{i}-{i}" for i in range(5000)),
    ],
)
def test_a_range_that_cannot_be_given(client: httpx.Client, stored: Artifact, wanted: str) -> None:
    answer = client.get(f"{API}/artifacts/{stored.digest}/content", headers={"Range": wanted})
    problem(answer, 416, "bad_range")
    assert answer.headers["content-range"] == f"bytes */{len(CONTENT)}"


@given(st.text(max_size=30) | st.from_regex(r"bytes=\d*-\d*", fullmatch=True), st.integers(0, 1000))
def test_every_range_lies_in_the_file_or_is_refused(header: str, size: int) -> None:
    try:
        span = parse_range(header, size)
    except HttpError as error:
        if error.status != 416:
            raise
    else:
        assert span is not None
        assert 0 <= span.start < span.stop <= size


def test_what_a_client_has_is_not_sent_again(client: httpx.Client, stored: Artifact) -> None:
    address = f"{API}/artifacts/{stored.digest}/content"
    etag = client.get(address).headers["etag"]
    answer = client.get(address, headers={"If-None-Match": etag})
    assert answer.status_code == 304
    assert answer.content == b""


def test_the_files_of_a_tree(client: httpx.Client, tree: Artifact) -> None:
    described = client.get(f"{API}/artifacts/{tree.digest}").json()
    assert [file["path"] for file in described["files"]] == [
        "deep/er/große.bin",
        "deep/page.html",
        "empty",
        "one.cif",
    ]
    answer = client.get(f"{API}/artifacts/{tree.digest}/files/deep/er/{quote('große.bin')}")
    assert answer.content == CONTENT
    page = client.get(f"{API}/artifacts/{tree.digest}/files/deep/page.html")
    assert page.headers["content-disposition"].startswith("attachment")
    assert "sandbox" in page.headers["content-security-policy"]
    assert client.get(f"{API}/artifacts/{tree.digest}/files/empty").content == b""


def test_a_tree_comes_as_zip(client: httpx.Client, tree: Artifact, tmp_path: Path) -> None:
    answer = client.get(f"{API}/artifacts/{tree.digest}/content")
    assert answer.headers["content-type"] == "application/zip"
    assert 'filename="results.zip"' in answer.headers["content-disposition"]
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        assert archive.read("results/deep/er/große.bin") == CONTENT
        assert archive.read("results/empty") == b""
        assert len(archive.namelist()) == 4
    assert client.get(f"{API}/artifacts/{tree.digest}/content").content == answer.content, "deterministic"
    (tmp_path / "tree.zip").write_bytes(answer.content)
    tested = subprocess.run(["unzip", "-tqq", tmp_path / "tree.zip"], capture_output=True, check=False)
    assert tested.returncode == 0, tested.stdout


TRAVERSAL = [
    "../../etc/passwd",
    "..%2f..%2fetc%2fpasswd",
    "..%252f..%252fetc%252fpasswd",
    "%2e%2e/%2e%2e/etc/passwd",
    "/etc/passwd",
    "%2fetc%2fpasswd",
    "//etc/passwd",
    "deep/../../x",
    "deep/../one.cif",
    "./one.cif/.",
    "deep\\..\\..\\x",
    "..\\x",
    "..%5c..%5cx",
    "one.cif%00.png",
    "%00",
    "%c0%ae%c0%ae/x",
    "..%c0%af..%c0%afetc/passwd",
    "%ef%bc%8e%ef%bc%8e/x",
    "file:///etc/passwd",
    "http://127.0.0.1/x",
    "one.cif?x",
    "one.cif%3fx",
    "one.cif%23x",
    "~root",
    "$HOME",
    "deep",
    "deep/",
    "",
    ".",
    "..",
    "...",
    "con",
    "a" * 5000,
    "%ed%a0%80",
    "zarr.json",
    ";ls",
    "%0d%0aX-Injected:1",
]


@pytest.mark.parametrize("path", TRAVERSAL)
@pytest.mark.parametrize("route", ["files", "arrays", "attributes"])
def test_paths_that_lead_out_of_a_tree(running: Running, tree: Artifact, route: str, path: str) -> None:
    """As for any unknown name: 404, whatever it is made of. The bytes go out as they are written here."""
    head = (
        f"GET {API}/artifacts/{tree.digest}/{route}/{path} HTTP/1.1\nHost: localhost\nConnection: close\n"
        f"Authorization: Bearer {running.token}"
    )
    answer = raw_request(running.url, head)
    if path == "one.cif?x" and route == "files":
        assert answer.startswith(b"HTTP/1.1 200"), "a question mark begins the query"
        return
    assert answer.startswith((b"HTTP/1.1 404", b"HTTP/1.1 400 ")), answer[:300]
    assert b"root:" not in answer
    assert b"\r\nX-Injected" not in answer


@pytest.mark.parametrize(
    "digest",
    [
        "..%2f..%2fetc%2fpasswd",
        "0" * 64,
        "sha256:" + "0" * 64,
        "sha256:",
        "sha256:sha256:" + "0" * 64,
        "SHA256:" + "0" * 64,
        "x" * 64,
        "%00",
        "0" * 64 + "%0a",
        "tmp",
        ".",
    ],
)
@pytest.mark.parametrize("rest", ["", "/content", "/files/x", "/arrays/x", "/attributes", "/attributes/"])
def test_digests_that_are_none(client: httpx.Client, digest: str, rest: str) -> None:
    answer = client.get(f"{API}/artifacts/{digest}{rest}")
    assert answer.status_code == 404, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


def test_bytes_that_nobody_registered_cannot_be_had(client: httpx.Client, tree: Artifact) -> None:
    """The files of a tree are reached through the tree, not by their own digests."""
    problem(
        client.get(f"{API}/artifacts/{hashlib.sha256(CONTENT + b'!').hexdigest()}"), 404, "unknown_artifact"
    )
    member = hashlib.sha256(b"data_one\n").hexdigest()
    problem(client.get(f"{API}/artifacts/{member}/content"), 404, "unknown_artifact")


def test_a_file_is_no_tree(client: httpx.Client, stored: Artifact) -> None:
    for rest in ("files/x", "arrays/x", "attributes", "attributes/x"):
        problem(client.get(f"{API}/artifacts/{stored.digest}/{rest}"), 404, "not_a_tree")


def damage(running: Running, digest: str) -> None:
    path = running.store.blobs.path(digest)
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_damage_is_said_and_never_returned(home: Path, tmp_path: Path) -> None:
    with serving(home) as running, running.client() as client:
        blobs = running.store.blobs
        artifact = blobs.put_stream(io.BytesIO(CONTENT), type="file", name="f")
        running.store.requests.register_artifact(artifact)
        assert client.get(f"{API}/artifacts/{artifact.digest}/content").content == CONTENT
        damage(running, artifact.digest)
        for headers in ({}, {"Range": "bytes=0-10"}):
            answer = client.get(f"{API}/artifacts/{artifact.digest}/content", headers=headers)
            problem(answer, 500, "damaged")
        blobs.path(artifact.digest).unlink()
        problem(client.get(f"{API}/artifacts/{artifact.digest}/content"), 500, "damaged")

        tree = put_tree(running, tmp_path / "results")
        member = hashlib.sha256(CONTENT).hexdigest()
        damage(running, member)
        problem(client.get(f"{API}/artifacts/{tree.digest}/files/deep/er/große.bin"), 500, "damaged")
        with pytest.raises(httpx.RemoteProtocolError):
            client.get(f"{API}/artifacts/{tree.digest}/content")
        assert client.get(f"{API}/artifacts/{tree.digest}/files/one.cif").status_code == 200
        blobs.path(member).unlink()
        problem(client.get(f"{API}/artifacts/{tree.digest}/content"), 500, "damaged")
        damage(running, tree.digest)
        problem(client.get(f"{API}/artifacts/{tree.digest}"), 500, "damaged")


@given(st.text(min_size=1, max_size=60))
def test_a_name_cannot_break_its_header(name: str) -> None:
    name = name.encode("utf-8", "replace").decode()
    header = attachment(name)
    assert header.isascii()
    assert header.isprintable()
    assert header.count('"') == 2


def test_json_files_are_what_they_were(running: Running, client: httpx.Client) -> None:
    content = json.dumps({"precision": {"L": {"model": 0.9}}}).encode()
    artifact = running.store.blobs.put_stream(io.BytesIO(content), type="table", name="scores.json")
    running.store.requests.register_artifact(artifact)
    answer = client.get(f"{API}/artifacts/{artifact.digest}/content")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["precision"]["L"]["model"] == 0.9
