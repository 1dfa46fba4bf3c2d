"""The server process: ``python -m foldase_web.main --home PATH``.

Listens on loopback unless told otherwise, writes its address to ``server.json`` in the state folder, and on
SIGTERM or SIGINT ends the event streams first, so that stopping takes moments and not minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import fcntl
import json
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import ValidationError

from foldase_web.app import create_app
from foldase_web.context import Services
from foldase_web.settings import DEFAULT_PORTS, Settings, is_loopback
from foldase_workflows.contracts.errors import FoldaseError

SERVER_FILE = "server.json"
_GRACE_SECONDS = 5
_KEEP_ALIVE_SECONDS = 30


class Server(uvicorn.Server):
    """uvicorn, with an address file and an end that event streams do not hold up."""

    def __init__(self, app: FastAPI, services: Services, listener: socket.socket, url: str) -> None:
        config = uvicorn.Config(
            app,
            loop="asyncio",
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
        super().__init__(config)
        self.url = url
        self._services = services
        self._listener = listener
        self._file = services.settings.home / SERVER_FILE

    def run_until_stopped(self) -> None:
        """Serve until a signal comes."""
        self.run(sockets=[self._listener])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say where."""
        await super().startup(sockets)
        write_private(
            self._file,
            {
                "url": self.url,
                "pid": os.getpid(),
                "version": self._services.version,
                "started_at": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            },
        )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End what would go on for ever, then stop as usual."""
        self._file.unlink(missing_ok=True)
        self._services.hub.close()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop on signals without raising them again: being asked to stop is a normal end."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        handled = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in handled}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def write_private(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file that only this account can read, whole or not at all."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
        file.write("\n")
    temporary.replace(path)


def listen(settings: Settings) -> socket.socket:
    """A listening socket on the wished port, or on the first free default port.

    Raises:
        OSError: the port is taken, or the address is not of this machine.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    ports = DEFAULT_PORTS if settings.port is None else (settings.port,)
    for port in ports:
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((settings.host, port))
            listener.listen(128)
            listener.setblocking(False)
        except OSError as error:
            listener.close()
            if error.errno == errno.EADDRINUSE and port != ports[-1]:
                continue
            raise
        return listener
    raise AssertionError("there is always a last port")


def url_of(host: str, port: int) -> str:
    """The address that people open."""
    shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host  # noqa: S104  # compared, not bound
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"


@contextlib.contextmanager
def only_server(home: Path) -> Iterator[None]:
    """Hold the state folder for this process.

    Raises:
        FoldaseError: another server has it.
    """
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (home / "web.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise FoldaseError(
                f"another foldase server already serves {home}",
                code="already_running",
                hint=f"its address is in {home / SERVER_FILE}",
            ) from None
        yield


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; everything else comes from the environment."""
    parser = argparse.ArgumentParser(prog="foldase_web", description="The HTTP server of foldase.")
    parser.add_argument("--home", type=Path, help="state folder (FOLDASE_HOME, default ./.foldase)")
    parser.add_argument("--host", help="address to listen on (FOLDASE_HOST, default 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port to listen on, 0 for any (FOLDASE_PORT)")
    parser.add_argument("--listener-fd", type=int, help="a socket that listens already, inherited")
    parser.add_argument("--keeper-fd", type=int, help="a socket that is sent a copy of the listening one")
    parser.add_argument("--allow-remote", action="store_true", default=None, help="allow a public address")
    parser.add_argument("--allowed-host", action="append", help="a further name of this server; repeatable")
    parser.add_argument("--weights", type=Path, help="folder of public weights (FOLDASE_WEIGHTS)")
    return parser.parse_args(argv)


def inherited(settings: Settings, descriptor: int) -> socket.socket:
    """The listening socket of an earlier server of the same address.

    Raises:
        OSError: it is no socket, or listens somewhere else than the settings say.
    """
    listener = socket.socket(fileno=descriptor)
    listener.set_inheritable(False)
    host, port = listener.getsockname()[:2]
    if port != (settings.port or port) or is_loopback(host) < is_loopback(settings.host):
        listener.close()
        raise OSError(errno.EADDRNOTAVAIL, f"the inherited socket listens on {host}:{port}")
    return listener


def serve(settings: Settings, *, listener_fd: int | None = None, keeper_fd: int | None = None) -> None:
    """Run the server until it is told to stop.

    Args:
        settings: where and how.
        listener_fd: an inherited socket that listens already.
        keeper_fd: an inherited Unix socket that is sent a copy of the listening one, so that a successor of
            this process can be given it.

    Raises:
        FoldaseError: another server holds the folder, or the database cannot be opened.
        OSError: the port cannot be had.
    """
    opened = listen(settings) if listener_fd is None else inherited(settings, listener_fd)
    with only_server(settings.home), contextlib.closing(opened) as listener:
        if keeper_fd is not None:
            with socket.socket(fileno=keeper_fd) as keeper:
                socket.send_fds(keeper, [b"l"], [listener.fileno()])
        url = url_of(settings.host, listener.getsockname()[1])
        services = Services.open(settings)
        server = Server(create_app(settings, services), services, listener, url)
        if sys.stdout.isatty():
            print(f"foldase is at {url}/#code={services.accounts.new_code()}", flush=True)  # noqa: T201
        server.run_until_stopped()


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    logging.basicConfig(
        level=logging.WARNING, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("foldase").setLevel(logging.INFO)
    given = vars(parse(argv))
    hosts, listener_fd, keeper_fd = (given.pop(name) for name in ("allowed_host", "listener_fd", "keeper_fd"))
    given["allowed_hosts"] = tuple(hosts) if hosts else None
    try:
        serve(Settings.load(given), listener_fd=listener_fd, keeper_fd=keeper_fd)
    except ValidationError as error:
        for item in error.errors():
            place = ".".join(str(part) for part in item["loc"])
            print(f"foldase_web: {place + ': ' if place else ''}{item['msg']}", file=sys.stderr)  # noqa: T201
        return 2
    except FoldaseError as error:
        print(f"foldase_web: {error}", file=sys.stderr)  # noqa: T201
        return 1
    except OSError as error:
        print(f"foldase_web: cannot listen: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
