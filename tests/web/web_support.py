"""What the tests of the web share: a real server on a free port over a real store, and small helpers."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from foldase.store import NewStep, Run, Store, Submission
from foldase_web.app import create_app
from foldase_web.context import Services
from foldase_web.main import Server, listen, url_of
from foldase_web.security import CSRF_HEADER
from foldase_web.settings import Settings

API = "/api/v1"


@dataclass
class Running:
    """A server that serves, and its parts."""

    url: str
    services: Services
    server: Server
    thread: threading.Thread

    @property
    def store(self) -> Store:
        return self.services.store

    @property
    def home(self) -> Path:
        return self.services.settings.home

    @property
    def token(self) -> str:
        return (self.home / "token").read_text().strip()

    def client(self, **options: Any) -> httpx.Client:
        """Signed in with the token, as a program."""
        headers = {"Authorization": f"Bearer {self.token}", **options.pop("headers", {})}
        return httpx.Client(base_url=self.url, headers=headers, trust_env=False, timeout=30, **options)

    def anonymous(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, trust_env=False, timeout=30, **options)

    def browser(self) -> httpx.Client:
        """Signed in by cookie, with the headers that the page sends."""
        client = self.anonymous(
            headers={CSRF_HEADER: "1", "Origin": self.url, "Sec-Fetch-Site": "same-origin"}
        )
        code = self.services.accounts.new_code()
        client.post(f"{API}/session", json={"code": code}).raise_for_status()
        return client

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(20)
        assert not self.thread.is_alive(), "the server did not stop"


@contextlib.contextmanager
def serving(home: Path, **given: Any) -> Iterator[Running]:
    """A server for a with block."""
    settings = Settings(home=home, port=given.pop("port", 0), **given)
    services = Services.open(settings)
    with contextlib.closing(listen(settings)) as listener:
        url = url_of(settings.host, listener.getsockname()[1])
        server = Server(create_app(settings, services), services, listener, url)
        thread = threading.Thread(target=server.run_until_stopped, daemon=True)
        thread.start()
        running = Running(url, services, server, thread)
        wait_until(lambda: server.started)
        try:
            yield running
        finally:
            running.stop()


def wait_until(holds: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait for something that must come true."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.01)


def submit_bare_run(store: Store, name: str = "a run", steps: tuple[str, ...] = ("one", "two")) -> Run:
    """A run in the database, without a workflow that anybody could carry out."""
    submission = Submission(
        digest="sha256:" + "0" * 64,
        workflow="bare",
        document={},
        steps=tuple(NewStep(step, "nothing@1") for step in steps),
        inputs={},
        source="version: 1\n",
        name=name,
    )
    return store.requests.submit(submission)[0]


def problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The problem that an answer must be."""
    assert answer.status_code == status, (answer.status_code, answer.text)
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert body["code"] == code, body
    assert body["status"] == status
    assert body["title"]
    assert body["detail"]
    assert "Traceback" not in answer.text
    return body


def raw_request(
    url: str, head: str, body: bytes = b"", *, half_close: bool = False, until: bytes | None = None
) -> bytes:
    """Send bytes as they are and return everything that comes back, or what comes back up to an end."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(head.replace("\n", "\r\n").encode("latin-1") + b"\r\n\r\n" + body)
        if half_close:
            connection.shutdown(socket.SHUT_WR)
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while chunk := connection.recv(65536):
                received += chunk
                if until is not None and received.endswith(until):
                    break
        return received


@contextlib.contextmanager
def process(home: Path, *options: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    variables = {name: value for name, value in os.environ.items() if not name.startswith("FOLDASE_")}
    started = subprocess.Popen(
        [sys.executable, "-m", "foldase_web.main", "--home", str(home), *options],
        env={**variables, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield started
    finally:
        if started.poll() is None:
            started.kill()
        started.communicate(timeout=20)


def address(home: Path) -> str:
    file = home / "server.json"
    wait_until(file.exists, 60)
    return json.loads(file.read_text())["url"]
