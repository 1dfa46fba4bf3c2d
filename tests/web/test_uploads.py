"""Uploads: what arrives is whole, is what was announced, and nothing remains of what is refused."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from web_support import API, Running, problem, raw_request, serving, wait_until

from foldase.store import faults

FASTA = b">one\nMKTAYIAKQR\n"


def upload(
    client: httpx.Client, content: object, headers: dict[str, str] | None = None, **query: str
) -> httpx.Response:
    return client.post(f"{API}/blobs", params=query, content=content, headers=headers or {})


def files_in_blobs(running: Running) -> list[Path]:
    return [path for path in (running.home / "blobs").rglob("*") if path.is_file()]


@pytest.fixture
def nothing_stored(running: Running) -> Iterator[None]:
    """Whatever the test does, it must leave no file behind."""
    before = set(files_in_blobs(running))
    yield
    wait_until(lambda: set(files_in_blobs(running)) <= before)


def test_a_file_comes_back_as_it_went_in(client: httpx.Client) -> None:
    digest = hashlib.sha256(FASTA).hexdigest()
    answer = upload(client, FASTA, {"X-Content-SHA256": digest}, name="one.fasta", type="fasta")
    assert answer.status_code == 201
    assert answer.json() == {
        "digest": f"sha256:{digest}",
        "type": "fasta",
        "size": len(FASTA),
        "name": "one.fasta",
        "media_type": "text/x-fasta",
    }
    for name in (digest, f"sha256:{digest}"):
        described = client.get(f"{API}/artifacts/{name}").json()
        assert described == {**answer.json(), "files": None}
        assert client.get(f"{API}/artifacts/{name}/content").content == FASTA


def test_the_same_bytes_twice_are_one_blob(client: httpx.Client, running: Running) -> None:
    first = upload(client, b"twice the same", name="a").json()
    before = files_in_blobs(running)
    second = upload(client, b"twice the same", name="b").json()
    assert first["digest"] == second["digest"]
    assert second["name"] == "b"
    assert files_in_blobs(running) == before


@pytest.mark.parametrize("announce", [True, False], ids=["length", "chunked"])
def test_a_large_upload_is_streamed(client: httpx.Client, announce: bool) -> None:
    block, blocks = bytes(range(256)) * 4096, 24
    digest = hashlib.sha256(block * blocks).hexdigest()
    headers = {"X-Content-SHA256": digest}
    if announce:
        headers["Content-Length"] = str(len(block) * blocks)
    answer = upload(client, (block for _ in range(blocks)), headers, name="large.bin")
    assert answer.status_code == 201, answer.text
    assert answer.json()["digest"] == f"sha256:{digest}"


@pytest.mark.usefixtures("nothing_stored")
def test_an_empty_file(client: httpx.Client) -> None:
    problem(upload(client, b"", name="empty.fasta"), 422, "empty_file")


@pytest.mark.usefixtures("nothing_stored")
def test_other_bytes_than_announced(client: httpx.Client) -> None:
    headers = {"X-Content-SHA256": "0" * 64}
    problem(upload(client, b"these are other bytes", headers), 422, "digest_mismatch")


@pytest.mark.parametrize("digest", ["0" * 63, "0" * 65, "x" * 64, "md5:" + "0" * 64])
def test_a_digest_that_is_none(client: httpx.Client, digest: str) -> None:
    problem(upload(client, b"bytes", {"X-Content-SHA256": digest}), 422, "bad_digest")


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/b", "a\\b", "..", ".", ""])
def test_a_name_is_no_path(client: httpx.Client, name: str) -> None:
    problem(upload(client, b"bytes", name=name), 422, "bad_name")


@pytest.mark.parametrize("name", ["a\0b", "a\nb", "a\x1b[31m", "ab\u202ecod.exe", "x" * 201])
def test_a_name_that_deceives(client: httpx.Client, name: str) -> None:
    answer = upload(client, b"bytes", name=name)
    assert answer.status_code == 422, answer.text
    assert answer.json()["code"] in ("bad_characters", "type")


@pytest.mark.parametrize("kind", ["int", "tree", "model", "list[file]", "nonsense", "predictions", ""])
def test_a_type_that_is_no_file(client: httpx.Client, kind: str) -> None:
    problem(upload(client, b"bytes", type=kind), 422, "unknown_type")


def torch_checkpoint() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"weights": [1, 2]}))
    return file.getvalue()


class Canary:
    """Shows whether anybody unpickled it."""

    path = Path("/nonexistent")

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.usefixtures("nothing_stored")
@pytest.mark.parametrize("kind", ["file", "fasta", "alignment"])
def test_pickles_are_refused_and_never_opened(client: httpx.Client, kind: str, tmp_path: Path) -> None:
    Canary.path = tmp_path / "opened"
    for protocol in (2, 3, 4, 5):
        body = problem(
            upload(client, pickle.dumps(Canary(), protocol=protocol), type=kind), 415, "pickle_refused"
        )
        assert "safetensors" in body["hint"]
    problem(upload(client, torch_checkpoint(), type=kind), 415, "pickle_refused")
    problem(upload(client, b"(dp0\n.", name="weights.pt", type=kind), 415, "pickle_refused")
    assert not Canary.path.exists()


@pytest.mark.usefixtures("nothing_stored")
@pytest.mark.parametrize(
    "content", [gzip.compress(FASTA), b"\xff\xfe>\0o\0", b">one\nMK\0TA\n", b"PK\x03\x04...."], ids=range(4)
)
@pytest.mark.parametrize("kind", ["fasta", "alignment", "structure"])
def test_an_archive_where_text_is_expected(client: httpx.Client, content: bytes, kind: str) -> None:
    problem(upload(client, content, type=kind, name="one.a3m"), 422, "not_text")


def test_an_archive_as_a_plain_file_is_fine(client: httpx.Client) -> None:
    assert upload(client, gzip.compress(FASTA), type="file").status_code == 201


def test_the_limit(home: Path) -> None:
    with serving(home, upload_limit_bytes=100_000) as running, running.client() as client:
        assert upload(client, b"x" * 100_000).status_code == 201
        before = files_in_blobs(running)
        problem(upload(client, b"x" * 100_001), 413, "body_too_large")
        problem(upload(client, (b"x" * 1000 for _ in range(5000))), 413, "body_too_large")
        head = (
            f"POST {API}/blobs HTTP/1.1\nHost: localhost\nAuthorization: Bearer {running.token}\n"
            "Content-Length: 99999999999"
        )
        answer = raw_request(running.url, head, until=b"}")
        assert answer.startswith(b"HTTP/1.1 413"), "refused by its announced length"
        assert files_in_blobs(running) == before


@pytest.mark.usefixtures("nothing_stored")
def test_an_upload_that_breaks_off(running: Running) -> None:
    head = (
        f"POST {API}/blobs HTTP/1.1\nHost: localhost\nAuthorization: Bearer {running.token}\n"
        "Content-Length: 1000"
    )
    raw_request(running.url, head, b"only this", half_close=True)


@pytest.mark.usefixtures("nothing_stored")
def test_a_full_disk(client: httpx.Client) -> None:
    def full(name: str) -> None:
        if name == "blob.fsync.before":
            raise OSError(errno.ENOSPC, "No space left on device")

    faults.install(full)
    try:
        problem(upload(client, b"does not fit"), 507, "storage_full")
    finally:
        faults.install(None)


def test_space_returns(client: httpx.Client) -> None:
    assert upload(client, b"does fit").status_code == 201


@pytest.mark.usefixtures("nothing_stored")
def test_a_full_disk_under_the_database(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("foldase.store.requests.record_artifacts", full)
    problem(upload(client, b"twice the same"), 507, "storage_full")


def test_signing_in_comes_before_uploading(running: Running) -> None:
    problem(upload(running.anonymous(), b"x" * 1_000_000), 401, "not_signed_in")
