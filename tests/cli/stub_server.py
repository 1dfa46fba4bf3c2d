"""A server that answers what a test tells it to, for what a real one does only on bad days."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Request:
    """What came in."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


Answer = tuple[int, dict[str, str], bytes] | None
"""Status, headers and body; None breaks the connection off without a word."""


@dataclass
class Stub:
    """The running server and what it was asked."""

    url: str
    requests: list[Request] = field(default_factory=list)


def as_json(content: Any, status: int = 200, **headers: str) -> Answer:
    kind = "application/json" if status < 400 else "application/problem+json"
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return status, {"Content-Type": kind, **named}, json.dumps(content).encode()


@contextlib.contextmanager
def stub(answer: Callable[[int, Request], Answer]) -> Iterator[Stub]:
    """A server that answers the n-th request (from 0) by ``answer(n, request)``."""
    found = Stub("")
    guard = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def __getattr__(self, name: str) -> object:
            if name.startswith("do_"):
                return self.respond
            raise AttributeError(name)

        def respond(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            request = Request(self.command, self.path, dict(self.headers), self.rfile.read(length))
            with guard:
                number = len(found.requests)
                found.requests.append(request)
            told = answer(number, request)
            if told is None:
                self.close_connection = True
                return
            status, headers, body = told
            self.send_response(status)
            # A length that the body does not reach is how an answer breaks off.
            length = headers.get("Content-Length", str(len(body)))
            for name, value in {**headers, "Content-Length": length}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
            self.close_connection = int(length) != len(body)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    found.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
