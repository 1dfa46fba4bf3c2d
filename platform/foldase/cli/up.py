"""``foldase up`` and ``foldase down``."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
import time
import webbrowser
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from foldase.cli.outcome import Exit, print_json
from foldase.cli.supervisor import LOG_FOLDER, Supervisor, is_locked, service_commands, stop_other, tail
from foldase.client import Client
from foldase.client.server import home_folder
from foldase_workflows.contracts.errors import BadInput, Conflict, FoldaseError

_START_SECONDS = 60.0
_TICK_SECONDS = 0.2
_HEALTH_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Address:
    """Where the platform answers, and a link that signs a browser in once."""

    url: str
    sign_in: str


class Stop(BaseException):
    """A signal asked for the end."""


def up(
    home: Path | None,
    port: int | None,
    *,
    background: bool,
    open_page: bool,
    ray: bool,
    weights: Path | None,
    quiet: bool,
    as_json: bool,
) -> Exit:
    """Start the platform and run it until a signal comes; in the background, return when it answers.

    ``quiet`` is for the process in the background: its log must not hold a link that signs in.
    """
    folder = home_folder(home).resolve()
    check_port(port)
    weights = _checked_weights(weights)
    _refuse_second(folder)
    if background:
        _start_in_background(folder, port, ray=ray, weights=weights)
        address = wait_for_address(folder, lambda: None)
        announce(address, folder, as_json=as_json, background=True)
        _open(address, wanted=open_page)
        return Exit.OK
    supervisor = Supervisor(folder, service_commands(folder, port, ray=ray, weights=weights), say=_say)
    with stopping(supervisor):
        address = start(supervisor)
        if quiet:
            _say(f"foldase is at {address.url}")
        else:
            announce(address, folder, as_json=as_json, background=False)
            _open(address, wanted=open_page)
        keep_running(supervisor)
    return Exit.OK


def down(home: Path | None, *, as_json: bool) -> Exit:
    """Stop the platform of a state folder, and whatever a killed one left behind."""
    folder = home_folder(home).resolve()
    stopped = stop_other(folder)
    if as_json:
        print_json({"stopped": stopped, "home": str(folder)})
    else:
        print("stopped" if stopped else f"nothing runs for {folder}")
    return Exit.OK


def start(supervisor: Supervisor) -> Address:
    """Start the services and wait until the web server answers; Ray may take longer.

    Raises:
        Conflict: the platform runs already.
        FoldaseError: ``start_failed``, with the end of the server's log.
    """
    supervisor.start()

    def check() -> None:
        if supervisor.ended("web"):
            reason = supervisor.log_tail("web").splitlines()
            raise FoldaseError(
                f"the web server did not start: {reason[-1] if reason else 'it said nothing'}",
                code="start_failed",
                hint=f"its log is {supervisor.log_of('web')}",
            )

    address = wait_for_address(supervisor.home, check, pid=supervisor.pid("web"))
    supervisor.start_others()
    return address


def wait_for_address(home: Path, check: Callable[[], None], *, pid: int | None = None) -> Address:
    """Wait until the server of a state folder answers.

    Raises:
        FoldaseError: ``start_failed``, it took too long, or whatever ``check`` raises.
    """
    until = time.monotonic() + _START_SECONDS
    with Client(home=home) as client:
        while time.monotonic() < until:
            check()
            try:
                return Address(client.url, client.sign_in_link())
            except FoldaseError:
                client.close()
                time.sleep(0.05)
    log = tail(home / LOG_FOLDER / "web.log")
    raise FoldaseError(
        f"the web server does not answer{f' (process {pid})' if pid else ''}",
        code="start_failed",
        hint=log.splitlines()[-1] if log else None,
    )


def keep_running(supervisor: Supervisor) -> None:
    """Watch over the services, and say when the cluster changes, until :class:`Stop` is raised."""
    cluster, asked = "starting", time.monotonic()
    with Client(home=supervisor.home, timeout_seconds=2.0) as client:
        while True:
            supervisor.tick()
            if time.monotonic() - asked > _HEALTH_SECONDS and not supervisor.ended("web"):
                asked = time.monotonic()
                with contextlib.suppress(FoldaseError):
                    now = client.health()["cluster"]
                    # Until the runtime has begun, its last words are those of the time before.
                    if now["state"] not in (cluster, "stopped"):
                        cluster = now["state"]
                        more = now["message"] if now["message"] != cluster else ""
                        _say(f"cluster {cluster}{': ' if more else ''}{more}")
            time.sleep(_TICK_SECONDS)


@contextlib.contextmanager
def stopping(supervisor: Supervisor) -> Iterator[None]:
    """End all services at the end, and on SIGINT, SIGTERM and SIGHUP; a second signal does not wait."""
    asked = 0

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise Stop
        supervisor.stop(grace_seconds=0.0)
        os._exit(Exit.INTERRUPTED)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, on_signal) for number in numbers}
    try:
        with contextlib.suppress(Stop):
            yield
    finally:
        asked = max(asked, 1)
        supervisor.stop()
        for number, handler in before.items():
            signal.signal(number, handler)


def announce(address: Address, home: Path, *, as_json: bool, background: bool) -> None:
    """Print where the platform is."""
    if as_json:
        print_json({"url": address.url, "sign_in": address.sign_in, "home": str(home)})
        return
    print(f"foldase is at {address.url}")
    print(f"sign in: {address.sign_in}  (works once, within 10 minutes)")
    print(f"state lies in {home}; the cluster is starting")
    print("stop it with `foldase down`" if background else "stop it with Ctrl-C", flush=True)


def check_port(port: int | None) -> None:
    """Refuse a port that is taken before anything is started.

    Raises:
        Conflict: ``port_taken``.
        FoldaseError: the port cannot be used for another reason.
    """
    if not port:
        return
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise Conflict(
                    f"port {port} is taken by another program",
                    code="port_taken",
                    hint="choose another one, or leave --port out to take the first free one",
                ) from None
            raise FoldaseError(f"port {port} cannot be used: {error.strerror}", code="bad_port") from None


def _refuse_second(home: Path) -> None:
    if not is_locked(home):
        return
    hint = "stop it with `foldase down`"
    with contextlib.suppress(FoldaseError), Client(home=home, timeout_seconds=5.0) as client:
        hint = f"sign in there: {client.sign_in_link()}  (or stop it with `foldase down`)"
    raise Conflict(f"foldase already runs for {home}", code="already_running", hint=hint)


def _checked_weights(weights: Path | None) -> Path | None:
    """The folder as it is called from anywhere; refuse one that is not there before anything is started."""
    if weights is None:
        return None
    folder = weights.expanduser().resolve()
    if not folder.is_dir():
        raise BadInput(
            f"{weights} is no folder", code="file_missing", hint="--weights names a folder of weights"
        )
    return folder


def _start_in_background(home: Path, port: int | None, *, ray: bool, weights: Path | None) -> None:
    """Start a supervisor that outlives this terminal."""
    (home / LOG_FOLDER).mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "foldase.cli.main", "up", "--home", str(home), "--quiet"]
    if port is not None:
        command += ["--port", str(port)]
    if not ray:
        command.append("--no-ray")
    if weights is not None:
        command += ["--weights", str(weights)]
    log_path = home / LOG_FOLDER / "up.log"
    with log_path.open("ab") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    until = time.monotonic() + _START_SECONDS
    while not is_locked(home) and time.monotonic() < until:
        if process.poll() is not None:
            raise FoldaseError(
                f"the start failed: {(tail(log_path).splitlines() or ['no reason given'])[-1]}",
                code="start_failed",
                hint=f"see {log_path}",
            )
        time.sleep(0.05)


def _open(address: Address, *, wanted: bool) -> None:
    # Without a display webbrowser would start a browser inside this terminal.
    has_display = bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    if wanted and has_display and sys.stdout.isatty():
        webbrowser.open(address.sign_in)


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)
