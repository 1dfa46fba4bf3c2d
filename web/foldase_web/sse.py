"""Server-sent events, straight from the event table.

The table is the truth and its ``seq`` is the id that clients resume from. One poller per process asks for
news while anybody listens and keeps the newest events in a bounded window; a stream reads from the window
while it keeps up and from the table when it does not, so no client has a queue of its own and none misses
or repeats an event, however slow it is.

``fastapi.sse`` is not used: it logs an exception group whenever a client leaves.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection
from typing import Protocol

import anyio
import anyio.to_thread
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from foldase.store.records import Event
from foldase_web.problems import HttpError

logger = logging.getLogger("foldase.web")

_WINDOW = 5000
_PAGE = 500
_ID = re.compile(r"[0-9]{1,19}")

MAX_ID = 2**63 - 1
"""The greatest number that a database keeps."""


class EventLog(Protocol):
    """The reading side of the event table. Both calls may block."""

    def latest(self) -> int:
        """The newest id, 0 for an empty table."""

    def after(
        self, seq: int, *, run: str | None = None, kinds: Collection[str] | None = None, limit: int = 500
    ) -> list[Event]:
        """Events with greater ids, in order, of one run or of all, of some kinds or of all."""


class Filter:
    """Which events a stream is for."""

    def __init__(self, run: str | None = None, kinds: Collection[str] | None = None) -> None:
        self.run = run
        self.kinds = frozenset(kinds) if kinds is not None else None

    def __call__(self, event: Event) -> bool:
        """Whether the stream gets this event."""
        return (self.run is None or event.run == self.run) and (
            self.kinds is None or event.kind in self.kinds
        )


Row = tuple[Event, bytes]
"""An event and its form on the wire, encoded once for all streams."""


class Hub:
    """Polls the event table for all streams of this process."""

    def __init__(self, log: EventLog, *, poll_seconds: float, max_streams: int) -> None:
        self._log = log
        self._poll_seconds = poll_seconds
        self._max_streams = max_streams
        self._window: deque[Row] = deque()
        self._floor = 0  # the window holds all events with floor < seq <= head
        self._head = 0
        self._news = asyncio.Event()
        self._streams = 0
        self._starting = asyncio.Lock()
        self._poller: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def streams(self) -> int:
        """How many streams are open."""
        return self._streams

    def close(self) -> None:
        """End all streams, so that the server can stop; clients resume by their last id."""
        self._closed = True
        self._wake()
        if self._poller is not None:
            self._poller.cancel()

    def check_room(self) -> None:
        """Refuse another stream where too many are open.

        Raises:
            HttpError: 429, with the time to wait.
        """
        if self._streams >= self._max_streams:
            raise HttpError(
                "too many event streams are open",
                status=429,
                code="too_many_streams",
                headers={"Retry-After": "5"},
            )

    async def follow(
        self, wanted: Filter, after: int | None, *, heartbeat_seconds: float
    ) -> AsyncGenerator[bytes, None]:
        """The stream: everything after an id, then what happens from now on; ``None`` skips the past."""
        clock = asyncio.get_running_loop().time
        async with self._listening():
            newest = await anyio.to_thread.run_sync(self._log.latest)
            cursor = newest if after is None else after
            yield b"retry: 1000\n: connected\n\n"
            if cursor > newest:
                # An id of another life of this database: the client has to look at everything anew.
                cursor = newest
                yield frame("resync", cursor, f'{{"seq":{cursor}}}')
            silent_since = clock()
            while not self._closed:
                news = self._news
                frames, reached = await self._after(cursor, wanted)
                if frames:
                    yield b"".join(frames)
                    silent_since = clock()
                if reached > cursor:
                    cursor = reached
                    continue
                remaining = silent_since + heartbeat_seconds - clock()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(remaining, 0.0)):
                        await news.wait()
                if clock() >= silent_since + heartbeat_seconds:
                    yield b": still here\n\n"
                    silent_since = clock()

    async def _after(self, cursor: int, wanted: Filter) -> tuple[list[bytes], int]:
        """What a stream is to send next, and the id up to which it then has sent everything."""
        floor = self._floor
        if cursor >= floor:
            frames = [data for event, data in self._window if event.seq > cursor and wanted(event)]
            return frames, max(cursor, self._head)
        page = await anyio.to_thread.run_sync(self._read, cursor, wanted)
        if len(page) == _PAGE:
            return [data for _, data in page], page[-1][0].seq
        # What lies beyond the floor is in the window, and may have grown since the table was read.
        return [data for event, data in page if event.seq <= floor], floor

    def _read(self, after: int, wanted: Filter) -> list[Row]:
        events = self._log.after(after, run=wanted.run, kinds=wanted.kinds, limit=_PAGE)
        return [(event, frame(event.kind, event.seq, event.json_text)) for event in events]

    @contextlib.asynccontextmanager
    async def _listening(self) -> AsyncIterator[None]:
        self._streams += 1
        try:
            async with self._starting:
                if self._poller is None or self._poller.done():
                    self._window.clear()
                    self._floor = self._head = await anyio.to_thread.run_sync(self._log.latest)
                    self._poller = asyncio.create_task(self._poll(), name="foldase-events")
            yield
        finally:
            self._streams -= 1

    async def _poll(self) -> None:
        everything = Filter()
        while self._streams and not self._closed:
            try:
                news = await anyio.to_thread.run_sync(self._read, self._head, everything)
            except Exception as error:  # noqa: BLE001  # the database may be back at the next try
                logger.warning("cannot read the event table: %s", error)
                await asyncio.sleep(1.0)
                continue
            if news:
                self._window.extend(news)
                self._head = news[-1][0].seq
                while len(self._window) > _WINDOW:
                    self._floor = self._window.popleft()[0].seq
                self._wake()
            if len(news) < _PAGE:
                await asyncio.sleep(self._poll_seconds)

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


def frame(kind: str, seq: int, text: str) -> bytes:
    """One event on the wire. JSON has no raw line breaks, so the data is always one line."""
    return f"id: {seq}\nevent: {kind}\ndata: {text}\n\n".encode(errors="replace")


def resume_point(last_event_id: str | None, after: int | None) -> int | None:
    """The id to go on from: what the browser sends when it reconnects wins over the address.

    Raises:
        HttpError: 400, the header holds no id of ours.
    """
    if last_event_id is None or last_event_id == "":
        return after
    if _ID.fullmatch(last_event_id) is None or int(last_event_id) > MAX_ID:
        raise HttpError("Last-Event-ID is not an id of this stream", code="bad_event_id")
    return int(last_event_id)


class EventStream(Response):
    """The response: writes until the stream or the client ends, and is silent about the latter."""

    media_type = "text/event-stream"

    def __init__(self, chunks: Callable[[], AsyncGenerator[bytes, None]]) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._chunks = chunks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the head and then every chunk as it comes."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})

        async def until_client_leaves() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            group.start_soon(until_client_leaves)
            try:
                async with contextlib.aclosing(self._chunks()) as chunks:
                    async for chunk in chunks:
                        await send({"type": "http.response.body", "body": chunk, "more_body": True})
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            except Exception as error:  # noqa: BLE001  # the client resumes by its last id
                logger.warning("an event stream ended early: %s", error)
            group.cancel_scope.cancel()
