"""The event stream of a run: read to its end, taken up again where it broke off."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator

import httpx

from foldase.client.models import Event
from foldase.client.transport import Transport
from foldase_workflows.contracts.errors import Unavailable

_SILENCE_SECONDS = 45.0
"""The server says something every 15 s."""

_FIRST_WAIT = 0.5
_LONGEST_WAIT = 5.0


def parse_events(lines: Iterable[str]) -> Iterator[Event]:
    """Events of a text/event-stream; comments are left out, an event that was cut off too."""
    kind, number, data = "", "", ""
    for line in lines:
        if not line:
            if number.isdigit() and data:
                content = json.loads(data)
                yield Event.from_json({**content, "seq": int(number), "kind": kind})
            kind, number, data = "", "", ""
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            kind = value
        elif name == "id":
            number = value
        elif name == "data":
            data = f"{data}\n{value}" if data else value


def follow(
    transport: Transport, path: str, *, after: int | None = None, patience_seconds: float = 60.0
) -> Iterator[Event]:
    """Events without end, each once and in order, also over restarts of the server.

    Raises:
        Unavailable: the server stayed away for longer than ``patience_seconds``.
        FoldaseError: what it answers to the request, for instance that there is no such run.
    """
    seen = after
    wait, last_contact = _FIRST_WAIT, time.monotonic()
    while True:
        headers = {} if seen is None else {"Last-Event-ID": str(seen)}
        try:
            with transport.open(
                "GET", path, headers=headers, repeatable=False, silence_seconds=_SILENCE_SECONDS
            ) as response:
                for event in parse_events(response.iter_lines()):
                    seen = event.seq
                    wait = _FIRST_WAIT
                    yield event
                    last_contact = time.monotonic()
                last_contact = time.monotonic()
        except (Unavailable, httpx.StreamError):
            if time.monotonic() - last_contact > patience_seconds:
                raise
            transport.close()
        time.sleep(wait)
        wait = min(wait * 2, _LONGEST_WAIT)
