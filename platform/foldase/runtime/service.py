"""The supervised process of the runtime: keeps a cluster with a scheduler alive until it is told to stop.

It imports no Ray and so answers at once; the cluster starts in a child. When the cluster dies, whatever is
left of it is ended and a new one is started, which takes the work up from the database.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from foldase.runtime.cluster import clean_up
from foldase.runtime.head import parser as head_parser
from foldase.runtime.in_process import InProcessExecutor
from foldase.runtime.loop import SchedulerLoop
from foldase.runtime.machine import memory_used
from foldase.runtime.view import View, hardware_json
from foldase.runtime.workplace import Workplace, remove_folder
from foldase.store.store import Store
from foldase_workflows.contracts.errors import Conflict, FoldaseError
from foldase_workflows.contracts.registry import default_registry

logger = logging.getLogger(__name__)

START_SECONDS = 240.0
STOP_SECONDS = 30.0
MAX_LOG_BYTES = 16 << 20
BACKOFF_SECONDS = (1.0, 30.0)
_STEADY_SECONDS = 60.0
_POLL_SECONDS = 0.1


def main(argv: list[str] | None = None) -> int:
    """Run the service; returns 0 after it was asked to stop."""
    options = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    home = options.home.resolve()
    home.mkdir(parents=True, exist_ok=True)
    asked = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: asked.set())
    try:
        # A broken operator module would let every scheduler die; better not to begin.
        default_registry()
        with _only_one(home):
            store = Store.at(home)
            if options.no_ray:
                _serve_in_process(home, store, asked)
            else:
                Supervisor(home, store, options, asked).run()
            _record(store, "stopped", "stopped")
            store.close()
    except (FoldaseError, ImportError) as error:
        logger.error("%s", error)
        return 1
    return 0


class Supervisor:
    """Keeps the head alive, one after the other."""

    def __init__(self, home: Path, store: Store, options: argparse.Namespace, asked: threading.Event) -> None:
        self._home = home
        self._store = store
        self._options = options
        self._asked = asked
        self._told: dict[str, str] = {}

    def run(self) -> None:
        """Start clusters until asked to stop; then nothing of ours runs any more."""
        pause = BACKOFF_SECONDS[0]
        message = "the cluster is starting"
        left = clean_up(self._home)
        if left:
            logger.warning("%d processes of an earlier cluster were still running and are ended", left)
        while not self._asked.is_set():
            _record(self._store, "starting", message)
            Workplace(self._home).remove_litter()
            # No worker lives now; what lies there is of those that died with their cluster.
            remove_folder(self._home / "workers")
            began = time.monotonic()
            reason = self._one_cluster()
            clean_up(self._home)
            if self._asked.is_set():
                return
            pause = BACKOFF_SECONDS[0] if time.monotonic() - began > _STEADY_SECONDS else pause
            logger.error("the cluster is lost: %s; the next one starts in %.0f s", reason, pause)
            _record(self._store, "lost", reason)
            self._asked.wait(pause)
            pause = min(2 * pause, BACKOFF_SECONDS[1])
            message = f"the cluster is starting again: {reason}"

    def _one_cluster(self) -> str:
        """Run one head to its end; returns why it ended."""
        self._told = {}
        with _log_file(self._home).open("ab") as log:
            head = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        reader = threading.Thread(target=self._listen, args=(head,), daemon=True)
        reader.start()
        deadline = time.monotonic() + START_SECONDS
        while head.poll() is None and not self._asked.wait(_POLL_SECONDS):
            if "ready" not in self._told and time.monotonic() > deadline:
                head.kill()
                self._told["failed"] = f"it did not start within {START_SECONDS:g} s"
                break
        self._end(head)
        reader.join(timeout=5.0)
        return self._told.get("failed") or self._told.get("lost") or f"its process ended ({head.returncode})"

    def _command(self) -> list[str]:
        options = self._options
        command = [sys.executable, "-m", "foldase.runtime.head", "--home", str(self._home)]
        command += ["--parent", str(os.getpid()), "--lease-seconds", str(options.lease_seconds)]
        command += ["--ray-address", options.ray_address]
        if options.worker_memory is not None:
            command += ["--worker-memory", f"{options.worker_memory}B"]
        for name, value in (("--cpus", options.cpus), ("--dashboard-port", options.dashboard_port)):
            if value is not None:
                command += [name, str(value)]
        return command

    def _end(self, head: subprocess.Popen[bytes]) -> None:
        """A head that is ready takes its cluster down itself; any other is not worth waiting for."""
        if head.poll() is None and "ready" in self._told:
            head.terminate()
            try:
                head.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                logger.warning("the head did not stop by itself and is killed")
        if head.poll() is None:
            head.kill()
        head.wait()

    def _listen(self, head: subprocess.Popen[bytes]) -> None:
        assert head.stdout is not None
        with head.stdout as lines:
            for line in lines:
                try:
                    told = json.loads(line)
                    self._told[told["state"]] = told["message"]
                except (ValueError, KeyError, TypeError):
                    logger.info("%s", line.decode(errors="replace").rstrip())


def _log_file(home: Path) -> Path:
    """Where the head and Ray write what nobody reads until something goes wrong."""
    path = home / "runtime.log"
    if path.exists() and path.stat().st_size > MAX_LOG_BYTES:
        path.replace(path.with_suffix(".log.1"))
    return path


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="foldase-runtime", parents=[head_parser(add_help=False)], description="Runs workflows."
    )
    parser.add_argument("--no-ray", action="store_true", help="run steps in threads of this process")
    return parser


def _serve_in_process(home: Path, store: Store, asked: threading.Event) -> None:
    executor = InProcessExecutor(home)
    loop = SchedulerLoop(store, default_registry(), executor, lambda: _this_machine(executor))

    def stop() -> None:
        asked.wait()
        loop.stop()

    threading.Thread(target=stop, daemon=True).start()
    loop.run()


def _this_machine(executor: InProcessExecutor) -> View:
    hardware = executor.largest_node()
    assert hardware is not None
    described = hardware_json(hardware)
    node = {
        "id": "local",
        "name": "this process",
        "alive": True,
        "cpus": hardware.cpus,
        "cpus_used": executor.cpus_used(),
        "memory_bytes": hardware.memory_bytes,
        "memory_used": memory_used(),
        "gpus": described["gpus"],
        "labels": {},
    }
    return View(nodes=(node,), hardware=hardware)


def _record(store: Store, state: str, message: str) -> None:
    try:
        store.cluster.record(state, message)
    except FoldaseError as error:
        logger.warning("the state of the cluster cannot be written: %s", error)


class _only_one:  # noqa: N801  # used like a function
    """Holds the lock of a state folder.

    Raises:
        Conflict: another service runs on this folder.
    """

    def __init__(self, home: Path) -> None:
        self._path = home / "runtime.lock"
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def __enter__(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._file)
            raise Conflict(
                f"another runtime serves {self._path.parent}", hint="stop it first: `foldase down`"
            ) from error

    def __exit__(self, *_: object) -> None:
        os.close(self._file)


if __name__ == "__main__":
    sys.exit(main())
