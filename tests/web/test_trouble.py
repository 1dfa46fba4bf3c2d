"""When something breaks under the server: full and locked databases, death in the middle, heavy load."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy import event
from web_operators import ADD
from web_support import (
    API,
    Running,
    address,
    problem,
    process,
    serving,
    submit_bare_run,
    wait_until,
)

from foldase.store import Store
from foldase.store.clock import milliseconds
from foldase.store.database import sqlite_module
from foldase.store.events import NewEvent, append

SOURCE = """\
version: 1
name: one
steps:
  one: {uses: test.add@1}
"""
OPERATORS = {"FOLDASE_OPERATORS": "operators_for_tests"}


@contextlib.contextmanager
def full_database(store: Store) -> Iterator[None]:
    """SQLite may not let the file grow any more: what it says then is what it says on a full disk."""
    engine = store.database.engine

    def limit(connection: object, _: object) -> None:
        cursor = connection.cursor()  # type: ignore[attr-defined]
        pages = cursor.execute("PRAGMA page_count").fetchone()[0]
        cursor.execute(f"PRAGMA max_page_count={pages}")

    event.listen(engine, "connect", limit)
    engine.dispose()
    try:
        yield
    finally:
        event.remove(engine, "connect", limit)
        engine.dispose()


def test_a_full_database_refuses_and_recovers(home: Path) -> None:
    with serving(home) as running, running.client() as client:
        kept = client.post(f"{API}/runs", json={"source": ADD}).json()
        with full_database(running.store):
            answers = []
            for _ in range(200):
                answers.append(client.post(f"{API}/runs", json={"source": ADD + "# " + "x" * 50_000}))
                if answers[-1].status_code != 201:
                    break
            problem(answers[-1], 507, "storage_full")
            assert client.get(f"{API}/runs/{kept['id']}").json() == kept, "reading goes on"
            assert client.get(f"{API}/health").json()["status"] == "ok"
        accepted = 1 + sum(answer.status_code == 201 for answer in answers)
        assert client.post(f"{API}/runs", json={"source": ADD}).status_code == 201, "space came back"
        assert len(running.store.queries.runs(limit=200)[0]) == accepted + 1, "nothing half written"


def test_a_locked_database_is_busy_not_broken(home: Path) -> None:
    with serving(home) as running, running.client() as client:
        other = sqlite_module().connect(str(home / "foldase.db"), isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        try:
            answer = client.post(f"{API}/runs", json={"source": ADD})
            problem(answer, 503, "database_busy")
            assert int(answer.headers["retry-after"]) > 0
            assert client.get(f"{API}/runs").json()["items"] == [], "reading goes on"
        finally:
            other.execute("ROLLBACK")
            other.close()
        assert client.post(f"{API}/runs", json={"source": ADD}).status_code == 201


@pytest.mark.parametrize(("point", "status"), [("commit.before", 201), ("commit.after", 200)])
def test_death_between_asking_and_answering(home: Path, point: str, status: int) -> None:
    """The client cannot know whether its run was written; asking again with the same key is always right."""
    Store.at(home).close()
    with process(home, "--port", "0", **OPERATORS):
        address(home)
        headers = {
            "Authorization": f"Bearer {(home / 'token').read_text().strip()}",
            "Idempotency-Key": "in-doubt",
        }
    (home / "server.json").unlink(missing_ok=True)
    with process(home, "--port", "0", FOLDASE_FAULT=f"{point}:1", **OPERATORS) as server:
        url = address(home)
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.post(f"{url}{API}/runs", json={"source": SOURCE}, headers=headers, trust_env=False)
        assert server.wait(10) == 137
    (home / "server.json").unlink(missing_ok=True)
    with process(home, "--port", "0", **OPERATORS):
        url = address(home)
        answer = httpx.post(f"{url}{API}/runs", json={"source": SOURCE}, headers=headers, trust_env=False)
        assert answer.status_code == status, answer.text
        listed = httpx.get(f"{url}{API}/runs", headers=headers, trust_env=False).json()["items"]
        assert [run["id"] for run in listed] == [answer.json()["id"]]


def peak_bytes(pid: int) -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) * 1024


@pytest.mark.verify
def test_a_gibibyte_goes_through_in_constant_memory(home: Path) -> None:
    block = b"\x5a" * (1 << 20)
    with process(home, "--port", "0", **OPERATORS) as server:
        url = address(home)
        headers = {"Authorization": f"Bearer {(home / 'token').read_text().strip()}"}
        client = httpx.Client(base_url=url, headers=headers, trust_env=False, timeout=300)
        client.post(f"{API}/blobs", content=b"warm").raise_for_status()
        before = peak_bytes(server.pid)
        stored = client.post(f"{API}/blobs", content=(block for _ in range(1024)))
        assert stored.json()["size"] == 1 << 30
        received = 0
        with client.stream("GET", f"{API}/artifacts/{stored.json()['digest']}/content") as answer:
            for chunk in answer.iter_raw():
                received += len(chunk)
        assert received == 1 << 30
        assert peak_bytes(server.pid) - before < 64 << 20


async def listen_for(running: Running, run: str, expected: int) -> list[int]:
    """A client as small as can be: the ids of the events of a run."""
    host, _, port = running.url.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    request = (
        f"GET {API}/runs/{run}/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {running.token}"
    )
    writer.write(f"{request}\r\n\r\n".encode())
    found: list[int] = []
    while len(found) < expected:
        line = await reader.readline()
        assert line, "the stream ended"
        if line.startswith(b"id: "):
            found.append(int(line[4:]))
    writer.close()
    return found


def broadcast(running: Running, clients: int, events: int) -> None:
    run = submit_bare_run(running.store).id
    store = running.store

    def write_events() -> None:
        wait_until(lambda: running.services.hub.streams == clients, 120)
        for number in range(events):
            with store.database.write() as connection:
                event = NewEvent("step.progress", run, "one", f'{{"number":{number}}}')
                append(connection, [event], milliseconds(store.clock))
            time.sleep(0.02)

    async def scenario() -> None:
        writer = asyncio.create_task(asyncio.to_thread(write_events))
        found = await asyncio.gather(*(listen_for(running, run, events + 3) for _ in range(clients)))
        await writer
        expected = [event.seq for event in store.events.after(0, run=run)]
        assert all(ids == expected for ids in found)

    asyncio.run(scenario())
    wait_until(lambda: running.services.hub.streams == 0, 60)


def test_every_listener_gets_every_event(running: Running) -> None:
    broadcast(running, clients=60, events=20)


@pytest.mark.verify
def test_a_thousand_listeners_get_every_event(home: Path) -> None:
    with serving(home) as running:
        broadcast(running, clients=1000, events=30)
