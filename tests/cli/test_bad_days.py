"""The client when the server is busy, gone, restarted, or does not tell the truth."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import stat
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stub_server import Answer, Request, as_json, stub

from foldase.client import Client, transport
from foldase.client.events import parse_events
from foldase.client.outputs import plain_name, unique_names
from foldase.client.server import find_server
from foldase.client.transfers import unpack
from foldase_workflows.contracts import (
    Artifact,
    BadInput,
    Conflict,
    Damaged,
    DocumentErrors,
    FoldaseError,
    NotAllowed,
    NotFound,
    NotSignedIn,
    StorageFull,
    TooLarge,
    Unavailable,
    Unsatisfiable,
)

RUN = {"id": "r1", "name": "x", "workflow": {"name": "x", "digest": "d"}, "state": "running", "steps": []}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits between tries cost the tests no time."""
    monkeypatch.setattr(transport, "_WAITS", (0.0, 0.01, 0.01, 0.01))
    monkeypatch.setattr("foldase.client.events._FIRST_WAIT", 0.01)
    monkeypatch.setattr("foldase.client.events._LONGEST_WAIT", 0.02)


def client_of(url: str) -> Client:
    return Client(url, "secret", timeout_seconds=5.0)


@contextlib.contextmanager
def against(answer: Answer) -> Iterator[Client]:
    """A client of a server that always answers the same."""
    with stub(lambda n, r: answer) as server, client_of(server.url) as client:
        yield client


def failing(times: int, then: Any, how: Answer) -> Callable[[int, Request], Answer]:
    def answer(number: int, request: Request) -> Answer:
        return how if number < times else as_json(then)

    return answer


def test_every_request_carries_the_token() -> None:
    with stub(lambda n, r: as_json({"items": []})) as server, client_of(server.url) as client:
        client.operators()
    assert server.requests[0].headers["Authorization"] == "Bearer secret"
    assert server.requests[0].path == "/api/v1/operators"


@pytest.mark.parametrize(
    "how", [None, as_json({"code": "busy", "detail": "x"}, 503, Retry_After="0")], ids=["broken", "503"]
)
def test_reading_is_tried_again(how: Answer) -> None:
    with stub(failing(2, {"items": [1]}, how)) as server, client_of(server.url) as client:
        assert client.operators() == [1]
    assert len(server.requests) == 3


def test_a_submission_is_tried_again_under_one_key() -> None:
    def answer(number: int, request: Request) -> Answer:
        return None if number in (1, 2) else as_json({**RUN, "inputs": []})

    with stub(answer) as server, client_of(server.url) as client:
        client.run("x", {})
    posts = [request for request in server.requests if request.method == "POST"]
    assert len(posts) == 3
    assert len({request.headers["Idempotency-Key"] for request in posts}) == 1
    assert len({request.body for request in posts}) == 1


def test_what_must_not_be_repeated_is_not() -> None:
    with stub(failing(1, RUN, None)) as server, client_of(server.url) as client, pytest.raises(Unavailable):
        client.cancel("r1")
    assert len(server.requests) == 1


def test_an_upload_is_tried_again_from_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "big.bin"
    path.write_bytes(os.urandom(3 << 20))
    told = {"digest": "d", "type": "file", "size": 3 << 20, "name": "big.bin", "media_type": "m"}
    with stub(failing(1, told, None)) as server, client_of(server.url) as client:
        client.upload(path)
    assert [request.body for request in server.requests] == [path.read_bytes()] * 2
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert server.requests[0].headers["X-Content-SHA256"] == digest
    assert server.requests[0].path == "/api/v1/blobs?name=big.bin&type=file"


def test_nobody_there() -> None:
    with client_of("http://127.0.0.1:9") as client, pytest.raises(Unavailable) as caught:
        client.health()
    assert caught.value.code == "not_reachable"
    assert "127.0.0.1:9" in caught.value.message


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (401, "not_signed_in", NotSignedIn),
        (403, "csrf", NotAllowed),
        (404, "unknown_run", NotFound),
        (409, "run_finished", Conflict),
        (413, "body_too_large", TooLarge),
        (422, "fasta_letters", BadInput),
        (422, "unsatisfiable_resources", Unsatisfiable),
        (500, "damaged", Damaged),
        (500, "internal", FoldaseError),
        (503, "unavailable", Unavailable),
        (507, "storage_full", StorageFull),
    ],
)
def test_problems_are_the_errors_they_were(status: int, code: str, kind: type[FoldaseError]) -> None:
    problem = {"title": "T", "status": status, "code": code, "detail": "why", "hint": "do this"}
    problem["location"] = {"file": "f", "line": 3, "future": "field"}
    answer = as_json(problem, status, Retry_After="0")
    with against(answer) as client, pytest.raises(FoldaseError) as caught:
        client.get_run("r1")
    assert type(caught.value) is kind
    assert (caught.value.code, caught.value.message, caught.value.hint) == (code, "why", "do this")
    assert str(caught.value.location) == "f:3"


def test_all_faults_of_a_document_come_across() -> None:
    faults = [{"code": "a", "message": "A", "location": {"line": 1}}, {"code": "b", "message": "B"}]
    problem = {"code": "a", "detail": "A", "errors": faults}
    with against(as_json(problem, 422)) as client, pytest.raises(DocumentErrors) as caught:
        client.plan("x: 1\n")
    assert [(error.code, error.message) for error in caught.value.errors] == [("a", "A"), ("b", "B")]


def test_something_else_answers_at_that_address() -> None:
    page = (404, {"Content-Type": "text/html"}, b"<h1>hi</h1>")
    with against(page) as client, pytest.raises(NotFound) as caught:
        client.get_run("r1")
    assert caught.value.code == "unexpected_answer"


def test_something_that_is_no_json_is_an_error_too() -> None:
    with against((200, {}, b"<h1>hi</h1>")) as client, pytest.raises(FoldaseError) as caught:
        client.get_run("r1")
    assert caught.value.code == "unexpected_answer"


def frames(*events: tuple[int, str, dict[str, Any]]) -> bytes:
    return b"".join(
        f"id: {n}\nevent: {kind}\ndata: {json.dumps(data)}\n\n".encode() for n, kind, data in events
    )


def test_the_stream_goes_on_where_it_broke_off() -> None:
    first = b": hello\n\n" + frames((1, "step.log", {}), (2, "step.log", {})) + b"id: 3\nevent: step.log\nda"
    second = frames((3, "step.log", {}), (4, "run.state", {**RUN, "state": "failed"}))

    def answer(number: int, request: Request) -> Answer:
        kind = {"Content-Type": "text/event-stream"}
        if number == 0:
            return 200, {**kind, "Content-Length": "999999"}, first
        return None if number == 1 else (200, kind, second)

    with stub(answer) as server, client_of(server.url) as client:
        events = list(client.watch("r1"))
    assert [event.seq for event in events] == [1, 2, 3, 4]
    assert [request.headers.get("Last-Event-ID") for request in server.requests] == [None, "2", "2"]


def test_watching_gives_up_after_its_patience() -> None:
    with stub(lambda n, r: None) as server, client_of(server.url) as client, pytest.raises(Unavailable):
        list(client.watch("r1", patience_seconds=0.2))


def test_watching_a_run_that_is_not_there_fails_at_once() -> None:
    problem = {"code": "unknown_run", "detail": "no"}
    with against(as_json(problem, 404)) as client, pytest.raises(NotFound):
        next(client.watch("r1"))


def test_a_server_that_moved_is_found_again(tmp_path: Path) -> None:
    """Killed and started again on another port: the state folder says where."""

    def write(url: str) -> None:
        (tmp_path / "server.json").write_text(json.dumps({"url": url, "pid": os.getpid()}))

    (tmp_path / "token").write_text("secret\n")
    with stub(lambda n, r: as_json({"items": [1]})) as old, Client(home=tmp_path) as client:
        write(old.url)
        assert client.operators() == [1]
        old_url = old.url
    with stub(lambda n, r: as_json({"items": [2]})) as new:
        write(new.url)
        assert new.url != old_url
        assert client.operators() == [2]


def test_the_token_is_not_sent_to_the_port_of_a_dead_server(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / "token").write_text("secret")
    with stub(lambda n, r: as_json({})) as server:
        (tmp_path / "server.json").write_text(json.dumps({"url": server.url, "pid": dead.pid}))
        with Client(home=tmp_path) as client, pytest.raises(Unavailable) as caught:
            client.health()
    assert caught.value.code == "not_running"
    assert server.requests == []


def test_what_is_given_wins_over_what_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOLDASE_URL", "http://env:1/")
    monkeypatch.setenv("FOLDASE_TOKEN", "from env")
    assert find_server(home=tmp_path).url == "http://env:1"
    found = find_server("http://given:2", "given", tmp_path)
    assert (found.url, found.token) == ("http://given:2", "given")
    monkeypatch.delenv("FOLDASE_TOKEN")
    with pytest.raises(Unavailable) as caught:
        find_server(home=tmp_path)
    assert caught.value.code == "no_token"


def artifact(content: bytes, kind: str = "file") -> Artifact:
    return Artifact(f"sha256:{hashlib.sha256(content).hexdigest()}", kind, len(content), "a.txt", "m")


@pytest.mark.parametrize("there", [None, "old"])
def test_a_damaged_download_leaves_nothing_behind(tmp_path: Path, there: str | None) -> None:
    target = tmp_path / "a.txt"
    if there is not None:
        target.write_text(there)
    with against((200, {}, b"other")) as client, pytest.raises(Damaged):
        client.download(artifact(b"right"), target, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == (["a.txt"] if there else [])
    assert there is None or target.read_text() == there


def test_a_download_that_breaks_off_leaves_nothing_behind(tmp_path: Path) -> None:
    with against((200, {"Content-Length": "100"}, b"half")) as client, pytest.raises(Unavailable):
        client.download(artifact(b"right"), tmp_path / "a.txt")
    assert list(tmp_path.iterdir()) == []


def test_a_download_does_not_overwrite_unasked(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("mine")
    with stub(lambda n, r: (200, {}, b"right")) as server, client_of(server.url) as client:
        with pytest.raises(Conflict):
            client.download(artifact(b"right"), tmp_path / "a.txt")
        assert server.requests == []
        client.download(artifact(b"right"), tmp_path / "a.txt", overwrite=True)
    assert (tmp_path / "a.txt").read_text() == "right"


def archive(*members: tuple[str, bytes, int]) -> bytes:
    held = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(held, "w") as made:
        warnings.simplefilter("ignore")  # of two members with one name
        for name, content, mode in members:
            entry = zipfile.ZipInfo(name)
            entry.external_attr = mode << 16
            made.writestr(entry, content)
    return held.getvalue()


REGULAR = stat.S_IFREG | 0o644


@pytest.mark.parametrize(
    "members",
    [
        [("t/../../evil", b"x", REGULAR)],
        [("/t/evil", b"x", REGULAR)],
        [("t\\..\\evil", b"x", REGULAR)],
        [("top-level", b"x", REGULAR)],
        [("t/link", b"/etc/passwd", stat.S_IFLNK | 0o777)],
        [("t/folder/", b"", stat.S_IFDIR | 0o755)],
        [("t/device", b"", stat.S_IFCHR | 0o600)],
        [("t/a", b"x", REGULAR), ("t/a", b"y", REGULAR)],
        [("t/a", b"x", REGULAR), ("t/a/b", b"y", REGULAR)],
        [("t/large", b"x" * 101, REGULAR)],
    ],
)
def test_an_archive_that_is_no_tree_is_refused(tmp_path: Path, members: list[tuple[str, bytes, int]]) -> None:
    path = tmp_path / "in.zip"
    path.write_bytes(archive(*members))
    with pytest.raises(Damaged):
        unpack(path, tmp_path / "out", most_bytes=100)
    outside = [found for found in tmp_path.rglob("*") if not found.is_relative_to(tmp_path / "out")]
    assert outside == [path]


def test_a_tree_whose_files_were_exchanged_is_damaged(tmp_path: Path) -> None:
    sent = archive(("t/a", b"evil", REGULAR))
    manifest = {"files": [{"path": "a", "sha256": hashlib.sha256(b"good").hexdigest(), "size": 4}]}
    text = json.dumps(manifest, separators=(",", ":"), sort_keys=True)
    known = Artifact(f"sha256:{hashlib.sha256(text.encode()).hexdigest()}", "tree", 4, "t", "m")
    with against((200, {}, sent)) as client, pytest.raises(Damaged):
        client.download(known, tmp_path / "t")
    assert list(tmp_path.iterdir()) == []


@given(st.text())
def test_names_of_others_stay_in_their_folder(name: str) -> None:
    plain = plain_name(name)
    assert plain
    assert (Path("folder") / plain).parent == Path("folder")
    assert plain not in (".", "..")
    assert not plain.startswith(".")


@given(st.lists(st.sampled_from(["a.cif", "a-2.cif", "a", "b/c", "..", ""]), max_size=12))
def test_each_name_is_used_once(names: list[str]) -> None:
    chosen = unique_names(names)
    assert len(set(chosen)) == len(names)


@given(
    st.lists(st.tuples(st.integers(0, 2**40), st.text("abc.", min_size=1), st.text()), max_size=8), st.data()
)
def test_events_survive_any_cut(events: list[tuple[int, str, str]], data: st.DataObject) -> None:
    whole = frames(*((seq, kind, {"text": text}) for seq, kind, text in events)).decode()
    cut = data.draw(st.integers(0, len(whole)))
    found = list(parse_events(whole[:cut].split("\n")))
    assert [(event.seq, event.kind, event.raw["text"]) for event in found] == events[: len(found)]
    assert len(list(parse_events(whole.split("\n")))) == len(events)
