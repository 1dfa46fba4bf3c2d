"""Keeps the two processes of the platform running: the web server and the runtime.

One supervisor per state folder, held by a lock that the kernel gives back however the process ends. What it
starts it notes with pid and start time, so that the next one finds and ends what a killed one left behind.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from foldase.cli.listener import KeptListener
from foldase.cli.processes import alive, end_groups, mark_of, pid_of, signal_group
from foldase_workflows.contracts.errors import Conflict, FoldaseError

LOCK_FILE = "up.lock"
STATE_FILE = "up.json"
LOG_FOLDER = "services"

GRACE_SECONDS = 45.0
"""Between asking a process to end and killing it; the runtime gives Ray 30 s to stop."""

_FIRST_WAIT = 0.5
_LONGEST_WAIT = 30.0
_STEADY_SECONDS = 60.0
_LOG_BYTES = 10 << 20
_TAIL_BYTES = 4000

Commands = Mapping[str, Sequence[str]]
"""Argument lists by the name of the service."""


def service_commands(
    home: Path, port: int | None, *, ray: bool = True, weights: Path | None = None
) -> dict[str, list[str]]:
    """How the platform's processes are started; without ``ray`` steps run in threads of the runtime."""
    web = [sys.executable, "-m", "foldase_web.main", "--home", str(home)]
    runtime = [sys.executable, "-m", "foldase.runtime.service", "--home", str(home)]
    if port is not None:
        web += ["--port", str(port)]
    if weights is not None:
        web += ["--weights", str(weights)]
    if not ray:
        runtime.append("--no-ray")
    return {"web": web, "runtime": runtime}


@dataclass(slots=True)
class Service:
    """One process that is kept running."""

    name: str
    command: list[str]
    process: subprocess.Popen[bytes] | None = None
    mark: str = ""
    started: float = 0.0
    wait: float = _FIRST_WAIT
    due: float = 0.0
    restarts: int = field(default=0)


class Supervisor:
    """Starts services, starts them again when they end, and ends them all.

    Args:
        home: the state folder.
        commands: what to run.
        say: told in words what happens.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        home: Path,
        commands: Commands,
        *,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.home = home
        self.services = {name: Service(name, list(command)) for name, command in commands.items()}
        self._say = say
        self._clock = clock
        self._lock: IO[str] | None = None
        self._guard = threading.RLock()
        self._listener = KeptListener()

    def start(self) -> None:
        """Take the state folder, end what an earlier supervisor left, start the first service.

        Raises:
            Conflict: ``already_running``, another supervisor has the folder.
        """
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self.home / LOG_FOLDER).mkdir(exist_ok=True)
        self._lock = take_lock(self.home)
        left = [mark for mark in left_over(self.home) if alive(mark)]
        if left:
            self._say(f"ending {len(left)} processes that an earlier start left behind")
            end_groups(left, grace_seconds=GRACE_SECONDS)
        self._spawn(next(iter(self.services.values())))

    def start_others(self) -> None:
        """Start the services after the first, which then has had the processors for itself."""
        for service in self.services.values():
            if not service.mark:
                self._spawn(service)

    def tick(self) -> None:
        """Notice services that ended, and start again those whose time has come."""
        with self._guard:
            if self._lock is not None:
                for service in self.services.values():
                    self._look_after(service, self._clock())

    def _look_after(self, service: Service, now: float) -> None:
        if service.process is None:
            if now >= service.due:
                service.restarts += 1
                self._spawn(service)
            return
        status = service.process.poll()
        if status is None:
            if now - service.started > _STEADY_SECONDS:
                service.wait = _FIRST_WAIT
            return
        # What it started must not live on beside its successor.
        signal_group(service.process.pid, signal.SIGKILL)
        service.process = None
        service.due = now + service.wait
        self._say(
            f"{service.name} ended ({_ending(status)}); starting it again in {service.wait:g} s, "
            f"its log is {self.log_of(service.name)}"
        )
        service.wait = min(service.wait * 2, _LONGEST_WAIT)

    def ended(self, name: str) -> bool:
        """Whether a service is not running now."""
        process = self.services[name].process
        return process is None or process.poll() is not None

    def pid(self, name: str) -> int | None:
        """The pid of a running service."""
        process = self.services[name].process
        return process.pid if process is not None else None

    def stop(self, *, grace_seconds: float = GRACE_SECONDS) -> None:
        """End everything that was started, and whatever that started; give the folder back."""
        with self._guard:
            running = [service for service in self.services.values() if service.process is not None]
            end_groups([service.mark for service in running], grace_seconds=grace_seconds)
            for service in running:
                assert service.process is not None
                with contextlib.suppress(subprocess.TimeoutExpired):
                    service.process.wait(timeout=5.0)
                service.process = None
            if self._lock is not None:
                (self.home / STATE_FILE).unlink(missing_ok=True)
                self._lock.close()
                self._lock = None
            self._listener.close()

    def log_of(self, name: str) -> Path:
        """The file that takes a service's output."""
        return self.home / LOG_FOLDER / f"{name}.log"

    def log_tail(self, name: str) -> str:
        """The last lines of a service's output."""
        return tail(self.log_of(name))

    def _spawn(self, service: Service) -> None:
        path = self.log_of(service.name)
        if path.exists() and path.stat().st_size > _LOG_BYTES:
            path.replace(path.with_suffix(".log.1"))
        command: list[str] = service.command
        descriptors: tuple[int, ...] = ()
        if service.name == "web":
            self._listener.take()
            command, descriptors = [*command, *self._listener.arguments], self._listener.descriptors
        with path.open("ab") as log:
            # A session of its own: Ctrl-C reaches the supervisor only, and it ends the group in order.
            service.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=descriptors,
            )
        service.mark = mark_of(service.process.pid)
        service.started = self._clock()
        self._note()

    def _note(self) -> None:
        content = {
            "supervisor": mark_of(os.getpid()),
            "services": {service.name: service.mark for service in self.services.values() if service.mark},
        }
        path = self.home / STATE_FILE
        temporary = path.with_name(f"{STATE_FILE}.new")
        temporary.write_text(json.dumps(content) + "\n", encoding="utf-8")
        temporary.chmod(0o600)
        temporary.replace(path)


def take_lock(home: Path) -> IO[str]:
    """The lock of a state folder.

    Raises:
        Conflict: ``already_running``.
    """
    lock = (home / LOCK_FILE).open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise Conflict(f"foldase already runs for {home}", code="already_running") from None
    return lock


def is_locked(home: Path) -> bool:
    """Whether a supervisor has the state folder."""
    if not (home / LOCK_FILE).exists():
        return False
    try:
        take_lock(home).close()
    except Conflict:
        return True
    return False


def read_state(home: Path) -> dict[str, Any]:
    """What the last supervisor noted: its own mark and those of its services."""
    try:
        content = json.loads((home / STATE_FILE).read_text(encoding="utf-8"))
        return {
            "supervisor": str(content["supervisor"]),
            "services": {str(name): str(mark) for name, mark in content["services"].items()},
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {"supervisor": "", "services": {}}


def left_over(home: Path) -> list[str]:
    """The marks of services that the last supervisor noted."""
    return list(read_state(home)["services"].values())


def stop_other(home: Path, *, patience_seconds: float = GRACE_SECONDS + 15.0) -> bool:
    """End the supervisor of a folder with all its services, or what a killed one left behind.

    Returns:
        Whether there was anything to end.

    Raises:
        FoldaseError: it did not end.
    """
    known = read_state(home)
    supervisor, services = known["supervisor"], list(known["services"].values())
    if not is_locked(home):
        left = [mark for mark in services if alive(mark)]
        end_groups(left, grace_seconds=GRACE_SECONDS)
        return bool(left)
    if alive(supervisor):
        os.kill(pid_of(supervisor), signal.SIGTERM)
    until = time.monotonic() + patience_seconds
    while is_locked(home) and time.monotonic() < until:
        time.sleep(0.1)
    if is_locked(home):
        if alive(supervisor):
            os.kill(pid_of(supervisor), signal.SIGKILL)
        end_groups(list(read_state(home)["services"].values()), grace_seconds=0.0)
        time.sleep(0.2)
    if is_locked(home):
        raise FoldaseError(f"the processes of {home} do not end", code="still_running")
    return True


def tail(path: Path) -> str:
    """The last lines of a text file."""
    try:
        with path.open("rb") as file:
            file.seek(max(path.stat().st_size - _TAIL_BYTES, 0))
            return file.read().decode("utf-8", "replace").strip()
    except OSError:
        return ""


def _ending(status: int) -> str:
    if status >= 0:
        return f"status {status}"
    try:
        return f"signal {signal.Signals(-status).name}"
    except ValueError:
        return f"signal {-status}"
