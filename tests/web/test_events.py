"""Event streams: no gap, no duplicate, whatever breaks in between."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from web_support import API, Running, problem, serving, submit_bare_run, wait_until

from foldase.store import Event, Store
from foldase.store.clock import milliseconds
from foldase.store.events import NewEvent, append
from foldase_web.problems import HttpError
from foldase_web.sse import Filter, Hub, resume_point


@dataclass
class Message:
    id: int
    kind: str
    data: dict[str, object]


def emit(store: Store, run: str, count: int, kind: str = "step.progress") -> None:
    """Events as the scheduler writes them."""
    with store.database.write() as connection:
        events = [NewEvent(kind, run, "one", json.dumps({"number": number})) for number in range(count)]
        append(connection, events, milliseconds(store.clock))


@contextlib.contextmanager
def opened(
    client: httpx.Client, path: str, headers: dict[str, str] | None = None, **query: int
) -> Iterator[tuple[httpx.Response, Iterator[Message]]]:
    with client.stream("GET", f"{API}/{path}", params=query, headers=headers or {}, timeout=30) as answer:
        assert answer.status_code == 200, answer.read()
        yield answer, messages(answer.iter_lines())


def messages(lines: Iterator[str]) -> Iterator[Message]:
    fields: dict[str, str] = {}
    for line in lines:
        if line == "":
            if "data" in fields:
                yield Message(int(fields["id"]), fields["event"], json.loads(fields["data"]))
            fields = {}
        elif not line.startswith(":"):
            name, _, value = line.partition(": ")
            assert name in ("id", "event", "data", "retry")
            fields[name] = value


def take(stream: Iterator[Message], count: int) -> list[Message]:
    return [next(stream) for _ in range(count)]


def test_the_past_then_the_present(running: Running, client: httpx.Client) -> None:
    run = submit_bare_run(running.store)
    other = submit_bare_run(running.store)
    with opened(client, f"runs/{run.id}/events") as (answer, stream):
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-accel-buffering"] == "no"
        past = take(stream, 3)
        assert [message.kind for message in past] == ["run.created", "step.state", "step.state"]
        emit(running.store, other.id, 5)
        emit(running.store, run.id, 3)
        present = take(stream, 3)
    assert [message.data["number"] for message in present] == [0, 1, 2]
    for message in past + present:
        assert message.data["seq"] == message.id
        assert message.data["run"] == run.id
        assert str(message.data["time"]).endswith("Z")
    assert [message.id for message in past + present] == sorted({message.id for message in past + present})


def test_only_what_concerns_everybody_on_the_common_stream(running: Running, client: httpx.Client) -> None:
    with opened(client, "events", after=running.store.events.latest()) as (_, stream):
        run = submit_bare_run(running.store)
        emit(running.store, run.id, 10)
        running.store.requests.request_cancel(run.id)
        running.store.cluster.record("ready", "all is well")
        assert [message.kind for message in take(stream, 3)] == ["run.created", "run.state", "cluster.state"]


def test_the_common_stream_begins_now(running: Running, client: httpx.Client) -> None:
    submit_bare_run(running.store, name="past")
    with opened(client, "events") as (_, stream):
        wait_until(lambda: running.services.hub.streams > 0)
        time.sleep(0.3)
        submit_bare_run(running.store, name="present")
        assert next(stream).data["name"] == "present"


def test_resuming_by_header_or_address(running: Running, client: httpx.Client) -> None:
    run = submit_bare_run(running.store)
    emit(running.store, run.id, 10)
    with opened(client, f"runs/{run.id}/events") as (_, stream):
        everything = take(stream, 13)
    middle = everything[5].id
    with opened(client, f"runs/{run.id}/events", {"Last-Event-ID": str(middle)}) as (_, stream):
        assert take(stream, 7) == everything[6:]
    with opened(client, f"runs/{run.id}/events", after=middle) as (_, stream):
        assert take(stream, 7) == everything[6:]
    with opened(client, f"runs/{run.id}/events", {"Last-Event-ID": str(middle)}, after=0) as (_, stream):
        assert take(stream, 7) == everything[6:], "what the browser says last wins"


@pytest.mark.parametrize(
    "given", ["x", "-1", "1.5", "1e3", "9" * 30, "1 2", "0x1", "٣".encode().decode("latin-1")]
)
def test_a_last_id_that_is_none(running: Running, client: httpx.Client, given: str) -> None:
    run = submit_bare_run(running.store)
    for path in (f"runs/{run.id}/events", "events"):
        answer = client.get(f"{API}/{path}", headers={"Last-Event-ID": given.encode("latin-1")})
        problem(answer, 400, "bad_event_id")
    assert client.get(f"{API}/events?after=x").status_code == 422
    assert client.get(f"{API}/events?after={2**63}").status_code == 422


def test_an_id_of_another_life_asks_the_client_to_start_over(running: Running, client: httpx.Client) -> None:
    latest = running.store.events.latest()
    with opened(client, "events", {"Last-Event-ID": str(latest + 1000)}) as (_, stream):
        assert next(stream) == Message(latest, "resync", {"seq": latest})
        submit_bare_run(running.store)
        assert next(stream).kind == "run.created"


def test_no_gap_and_no_duplicate_over_cuts_and_restarts(home: Path) -> None:
    """A client that loses its connection, and a server that is started anew, in the middle of a flood."""
    total, batch = 3000, 30
    port = 0
    seen: list[int] = []
    with serving(home) as running:
        run = submit_bare_run(running.store).id
        port = int(running.url.rpartition(":")[2])
    store = Store.at(home)

    def flood() -> None:
        for _ in range(total // batch):
            emit(store, run, batch)
            time.sleep(0.005)

    writer = threading.Thread(target=flood)
    writer.start()
    expected = total + 3
    cuts = 0
    while len(seen) < expected:
        with serving(home, port=port) as running, running.client() as client:
            for _ in range(4):
                headers = {"Last-Event-ID": str(seen[-1])} if seen else {}
                with opened(client, f"runs/{run}/events", headers) as (_, stream):
                    portion = min(expected - len(seen), 250 + 37 * cuts)
                    seen += [message.id for message in take(stream, portion)]
                cuts += 1
                if len(seen) >= expected:
                    break
    writer.join()
    assert cuts >= 5
    assert seen == [event.seq for event in store.events.after(0, run=run, limit=10_000)]
    store.close()


class FakeLog:
    """An event table in memory that grows whenever it is told to."""

    def __init__(self) -> None:
        self.rows: list[Event] = []
        self.reads = 0

    def grow(self, count: int, run: str = "r") -> None:
        first = len(self.rows) + 1
        self.rows += [Event(seq, "k", 0, run, None, "{}") for seq in range(first, first + count)]

    def latest(self) -> int:
        return len(self.rows)

    def after(
        self, seq: int, *, run: str | None = None, kinds: object = None, limit: int = 500
    ) -> list[Event]:
        self.reads += 1
        found = [row for row in self.rows[seq:] if run is None or row.run == run]
        return found[:limit]


def ids(frames: bytes) -> list[int]:
    return [int(line[4:]) for line in frames.decode().splitlines() if line.startswith("id: ")]


async def collect(hub: Hub, wanted: Filter, after: int | None, count: int, pause: float = 0.0) -> list[int]:
    found: list[int] = []
    async with contextlib.aclosing(hub.follow(wanted, after, heartbeat_seconds=5)) as stream:
        async for frames in stream:
            found += ids(frames)
            if len(found) >= count:
                return found
            await asyncio.sleep(pause)
    return found


def test_slow_and_fast_readers_of_a_flood_get_everything() -> None:
    """The window overflows many times; who falls behind reads from the table."""

    async def scenario() -> None:
        log = FakeLog()
        log.grow(700)
        hub = Hub(log, poll_seconds=0.001, max_streams=10)

        async def flood() -> None:
            for number in range(120):
                log.grow(400, run="r" if number % 2 else "other")
                await asyncio.sleep(0.002)

        total = 700 + 120 * 400
        of_run = 700 + 60 * 400
        fast, slow, filtered, _ = await asyncio.gather(
            collect(hub, Filter(), 0, total),
            collect(hub, Filter(), 0, total, pause=0.02),
            collect(hub, Filter(run="r"), 0, of_run, pause=0.01),
            flood(),
        )
        assert fast == slow == list(range(1, total + 1))
        assert filtered == [row.seq for row in log.rows if row.run == "r"]
        assert len(hub._window) <= 5000
        assert hub.streams == 0
        hub.close()

    asyncio.run(scenario())


def test_one_poller_serves_all_streams_and_rests_without_any() -> None:
    async def scenario() -> None:
        log = FakeLog()
        hub = Hub(log, poll_seconds=0.01, max_streams=1000)
        readers = [asyncio.create_task(collect(hub, Filter(), 0, 50)) for _ in range(100)]
        await asyncio.sleep(0.1)
        log.reads = 0
        started = time.monotonic()
        await asyncio.sleep(0.3)
        assert log.reads <= (time.monotonic() - started) / 0.01 + 2, "not once per stream"
        log.grow(50)
        for reader in readers:
            assert await reader == list(range(1, 51))
        await asyncio.sleep(0.1)
        log.reads = 0
        await asyncio.sleep(0.1)
        assert log.reads == 0, "nobody listens, nobody asks"
        log.grow(10)
        assert await collect(hub, Filter(), 55, 5) == list(range(56, 61)), "it starts again"
        hub.close()

    asyncio.run(scenario())


def test_a_failing_database_does_not_end_the_poller(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        log = FakeLog()
        hub = Hub(log, poll_seconds=0.001, max_streams=10)
        reader = asyncio.create_task(collect(hub, Filter(), 0, 3))
        await asyncio.sleep(0.05)
        working, log.after = log.after, None  # type: ignore[assignment, method-assign]
        await asyncio.sleep(0.05)
        log.after = working  # type: ignore[method-assign]
        log.grow(3)
        assert await asyncio.wait_for(reader, 5) == [1, 2, 3]
        hub.close()

    asyncio.run(scenario())
    assert "cannot read the event table" in caplog.text


def test_silence_is_filled(home: Path) -> None:
    with serving(home, heartbeat_seconds=0.2) as running, running.client() as client:
        run = submit_bare_run(running.store)
        other = submit_bare_run(running.store)
        stop = threading.Event()

        def chatter() -> None:
            while not stop.is_set():
                emit(running.store, other.id, 1)
                time.sleep(0.02)

        noise = threading.Thread(target=chatter)
        noise.start()
        try:
            with client.stream("GET", f"{API}/runs/{run.id}/events") as answer:
                beats = 0
                for line in answer.iter_lines():
                    beats += line == ": still here"
                    if beats == 3:
                        break
        finally:
            stop.set()
            noise.join()


def test_a_client_that_leaves_is_no_news(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    run = submit_bare_run(running.store)
    with caplog.at_level(logging.INFO):
        for _ in range(5):
            with running.client() as client, opened(client, f"runs/{run.id}/events") as (_, stream):
                next(stream)
                emit(running.store, run.id, 200)
        wait_until(lambda: running.services.hub.streams == 0)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_too_many_streams(home: Path) -> None:
    with serving(home, max_streams=2) as running, running.client() as client:
        with opened(client, "events"), opened(client, "events"):
            wait_until(lambda: running.services.hub.streams == 2)
            answer = client.get(f"{API}/events")
            problem(answer, 429, "too_many_streams")
            assert answer.headers["retry-after"]
        wait_until(lambda: running.services.hub.streams == 0)
        with opened(client, "events"):
            pass


def test_stopping_the_server_ends_streams_at_once(home: Path) -> None:
    with serving(home) as running:
        client = running.client()
        with opened(client, "events") as (_, stream):
            wait_until(lambda: running.services.hub.streams == 1)
            started = time.monotonic()
            stopper = threading.Thread(target=running.stop)
            stopper.start()
            assert list(stream) == [], "it ends like a finished answer, not like a broken one"
            stopper.join()
            assert time.monotonic() - started < 3


def test_resume_point() -> None:
    assert resume_point(None, None) is None
    assert resume_point("", 7) == 7
    assert resume_point("0", 7) == 0
    assert resume_point(str(2**63 - 1), None) == 2**63 - 1
    for bad in (str(2**63), "+1", " 1", "1\n", "０"):
        with pytest.raises(HttpError):
            resume_point(bad, None)
