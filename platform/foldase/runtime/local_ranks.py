"""Ranks as processes of this machine: for the executor that runs steps in threads, and for tests.

Each is a Python of its own that is told what to do, and answers, through a pair of sockets; it ends when the
other end is closed, and with the thread that started it.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from foldase.runtime.gang_life import NoRoom
from foldase.runtime.processes import kill_tree, status_of
from foldase.runtime.rank_work import Raised, RankHello, RankJob, Returned
from foldase_workflows.contracts.failures import Cause

_MODULE = "foldase.runtime.rank_process"


class LocalHosts:
    """Starts as many processes as there is room for; ``room`` says how many that is now."""

    def __init__(self, room: Callable[[], int] | None = None) -> None:
        self._room = room
        self._processes: list[LocalRank] = []

    def start(self, size: int, *, within_seconds: float) -> Sequence[LocalRank]:
        """Start the processes; they come up side by side."""
        room = size if self._room is None else self._room()
        if room < size:
            raise NoRoom(room)
        self._processes = [LocalRank() for _ in range(size)]
        return self._processes

    def why(self, error: BaseException) -> tuple[Cause, str]:
        """A process that ended says how by itself."""
        return Cause.WORKER_LOST, str(error)

    def end(self) -> None:
        """Kill all, and what they have started."""
        for process in self._processes:
            process.kill()
        self._processes = []

    def close(self) -> None:
        """Nothing was reserved."""


class LocalRank:
    """One process; calls go to it in order, and their answers come back in the same."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._popen = subprocess.Popen(
                [sys.executable, "-m", _MODULE, str(theirs.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                # A Ctrl-C of the terminal is for whoever leads.
                start_new_session=True,
            )
        status = status_of(self._popen.pid)
        self._process = status.id if status is not None else None
        self._connection = Connection(ours.detach())
        self._waiting: list[Future[Any]] = []
        self._lock = threading.Lock()
        self._gone: str | None = None
        threading.Thread(target=self._listen, daemon=True, name="foldase-rank").start()

    def hello(self) -> Future[RankHello]:
        """Who it is."""
        return self._call("hello")

    def choose_port(self) -> Future[int]:
        """A free port."""
        return self._call("choose_port")

    def run(self, job: RankJob) -> Future[Returned | Raised]:
        """Do the work."""
        return self._call("run", job)

    def cancel(self) -> None:
        """Someone asks to stop; there is no answer."""
        with self._lock, suppress(OSError):
            self._connection.send(("cancel",))

    def kill(self) -> None:
        """End the process and all below it; returns when they are gone."""
        if self._process is not None:
            kill_tree(self._process)
        self._popen.kill()
        self._popen.wait()

    def _call(self, name: str, *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        with self._lock:
            if self._gone is None:
                self._waiting.append(future)
                with suppress(OSError):
                    self._connection.send((name, *arguments))
                return future
        future.set_exception(ConnectionError(self._gone))
        return future

    def _listen(self) -> None:
        while True:
            try:
                answer = self._connection.recv()
            except (EOFError, OSError):
                break
            with self._lock:
                future = self._waiting.pop(0)
            future.set_result(answer)
        status = self._popen.wait()
        how = f"killed by signal {-status}" if status < 0 else f"its process ended with status {status}"
        with self._lock:
            self._gone = how
            waiting, self._waiting = self._waiting, []
            self._connection.close()
        for future in waiting:
            future.set_exception(ConnectionError(how))
