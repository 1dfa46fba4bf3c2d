"""The process that owns the Ray cluster: starts it, watches it, and takes it down.

It is a child of the service and dies with it; Ray's processes are its children and die with it. It speaks
to the service by lines of JSON on its standard output and by its exit status.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import secrets
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from foldase.runtime.cluster import Record, connect_ray, prepare_environment, start_ray, write_record
from foldase.runtime.processes import (
    ProcessId,
    alive,
    descendants,
    die_with_parent,
    send,
    status_of,
)
from foldase.runtime.settings import (
    HEARTBEAT_SECONDS,
    LEASE_SECONDS,
    NAMESPACE,
    SCHEDULER,
    WORKER_MEMORY_VARIABLE,
    RuntimeSettings,
)
from foldase_workflows.contracts.errors import FoldaseError
from foldase_workflows.spec.quantities import parse_bytes

logger = logging.getLogger(__name__)

LOCAL = "local"
WATCH_SECONDS = 1.0
STOP_SECONDS = 20.0
SCHEDULER_SILENCE_SECONDS = 30.0
_FIRST_SILENCE_SECONDS = 120.0

EXIT_LOST = 3
EXIT_START = 4


def main(argv: list[str] | None = None) -> int:
    """Run until the cluster dies or a signal asks to stop; returns the exit status."""
    options = parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    die_with_parent(signal.SIGKILL)
    if os.getppid() != options.parent:
        return EXIT_LOST
    voice = Voice()
    asked = threading.Event()
    head = Head(options.home.resolve(), settings_of(options))
    try:
        if options.ray_address == LOCAL:
            head.start(cpus=options.cpus, dashboard_port=options.dashboard_port)
        else:
            head.connect(options.ray_address)
    except FoldaseError as error:
        voice.tell("failed", str(error))
        return EXIT_START
    # Only now: Ray installs handlers of its own when it starts.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: asked.set())
    voice.tell("ready", "ready")
    while not asked.wait(WATCH_SECONDS):
        fault = head.fault()
        if fault is not None:
            voice.tell("lost", fault)
            # A farewell to a dead cluster takes seconds; the service ends what is left of it at once.
            os._exit(EXIT_LOST)
    head.stop()
    return 0


def parser(*, add_help: bool = True) -> argparse.ArgumentParser:
    """The options; the service hands its own on."""
    options = argparse.ArgumentParser(prog="foldase-runtime", add_help=add_help)
    options.add_argument("--home", type=Path, required=True)
    options.add_argument("--cpus", type=float, help="cores for steps; all of this machine by default")
    options.add_argument("--dashboard-port", type=int, help="of our own Ray; the first free one by default")
    options.add_argument("--ray-address", default=LOCAL, help="of a Ray that somebody else runs")
    options.add_argument("--lease-seconds", type=float, default=LEASE_SECONDS)
    options.add_argument(
        "--worker-memory",
        type=parse_bytes,
        default=os.environ.get(WORKER_MEMORY_VARIABLE) or None,
        help=f"a worker that holds more is ended, for example 16GiB ({WORKER_MEMORY_VARIABLE})",
    )
    options.add_argument("--parent", type=int, default=os.getppid())
    return options


def settings_of(options: argparse.Namespace) -> RuntimeSettings:
    """The settings that the options name."""
    lease = options.lease_seconds
    return RuntimeSettings(
        home=options.home.resolve(),
        lease_seconds=lease,
        heartbeat_seconds=min(HEARTBEAT_SECONDS, lease / 4),
        worker_memory_bytes=options.worker_memory,
    )


class Voice:
    """The way to the service: standard output, taken away from Ray, which would talk there as well."""

    def __init__(self) -> None:
        self._file = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)

    def tell(self, state: str, message: str) -> None:
        """One line."""
        self._file.write(json.dumps({"state": state, "message": message}) + "\n")
        self._file.flush()


class Head:
    """The cluster of one state folder."""

    def __init__(self, home: Path, settings: RuntimeSettings) -> None:
        self._home = home
        self._settings = settings
        self._cluster = secrets.token_hex(16)
        self._record = Record(self._cluster, "")
        self._own = False
        self._vital: dict[str, ProcessId] = {}
        self._scheduler: Any = None
        self._ping: Any = None
        self._heard_at = 0.0
        self._heard_once = False
        self._scheduler_process: ProcessId | None = None

    def start(self, *, cpus: float | None, dashboard_port: int | None) -> None:
        """Start Ray and the scheduler in it.

        Raises:
            Unavailable: Ray did not start.
        """
        prepare_environment(self._home, self._cluster)
        temporary = start_ray(self._home, self._cluster, cpus=cpus, dashboard_port=dashboard_port)
        self._record = Record(self._cluster, str(temporary))
        self._own = True
        self._vital = _vital_processes()
        self._remember()
        self._start_scheduler()

    def connect(self, address: str) -> None:
        """Use a Ray that somebody else runs.

        Raises:
            Unavailable: it does not answer.
        """
        connect_ray(self._home, address)
        write_record(self._home, self._record)
        self._start_scheduler()

    def _start_scheduler(self) -> None:
        from foldase.runtime.scheduler_actor import start_scheduler

        self._scheduler = start_scheduler(self._settings, name=SCHEDULER, namespace=NAMESPACE)
        self._heard_at = time.monotonic()

    def fault(self) -> str | None:
        """What is wrong with the cluster beyond repair, or None; also renews the record of its processes."""
        for name, process in self._vital.items():
            if not alive(process):
                return f"{name} of Ray has died"
        self._remember()
        self._hear_scheduler()
        return None

    def stop(self) -> None:
        """End all workers and the scheduler in good order, then Ray."""
        import ray

        try:
            ray.get(self._scheduler.stop.remote(), timeout=STOP_SECONDS)
        except Exception as error:  # noqa: BLE001  # it is being taken down in any case
            logger.warning("the scheduler did not stop by itself: %s", error)
        if not self._own:
            ray.kill(self._scheduler, no_restart=True)
        ray.shutdown()

    def _hear_scheduler(self) -> None:
        """Ray notices when the scheduler's process dies; that it stands still only we notice."""
        import ray

        now = time.monotonic()
        if self._ping is None:
            self._ping = self._scheduler.ping.remote()
        if ray.wait([self._ping], timeout=0)[0]:
            ping, self._ping = self._ping, None
            try:
                self._scheduler_process = ProcessId.parse(ray.get(ping)[0])
                self._heard_at, self._heard_once = now, True
            except ray.exceptions.RayActorError:
                return
        patience = SCHEDULER_SILENCE_SECONDS if self._heard_once else _FIRST_SILENCE_SECONDS
        if now - self._heard_at > patience and self._scheduler_process is not None:
            logger.error("the scheduler has been silent for %.0f s and is killed", now - self._heard_at)
            send(self._scheduler_process, signal.SIGKILL)
            self._heard_at, self._heard_once, self._ping = now, False, None

    def _remember(self) -> None:
        marks = tuple(sorted(process.mark for process in descendants(os.getpid())))
        if marks != self._record.processes:
            self._record = Record(self._cluster, self._record.temporary, marks)
            write_record(self._home, self._record)


def _vital_processes() -> dict[str, ProcessId]:
    """The processes without which the cluster is dead, by name."""
    found = {}
    for process in descendants(os.getpid()):
        name = _name_of(process.pid)
        if name in ("gcs_server", "raylet"):
            found[name] = process
    return found


def _name_of(pid: int) -> str:
    status = status_of(pid)
    if status is None:
        return ""
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


if __name__ == "__main__":
    sys.exit(main())
