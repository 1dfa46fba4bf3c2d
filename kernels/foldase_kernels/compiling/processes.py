"""Compiler processes: a few at a time, heard in full, and ended with whatever they started."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from foldase_kernels.errors import KernelError


class Processes:
    """Runs compilers from several threads, at most ``jobs`` of them at once."""

    def __init__(self, jobs: int) -> None:
        self._slots = threading.BoundedSemaphore(jobs)
        self._guard = threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()
        self._stopped = False

    def run(self, command: Sequence[str], scratch: Path) -> str:
        """Run one command to its end; its temporary files go to ``scratch``. Returns all that it said.

        Raises:
            KernelError: ``compiler_failed`` with the command and everything it said, or ``stopped``.
        """
        with self._slots:
            process = self._start(command, scratch)
            try:
                said, _ = process.communicate()
            finally:
                with self._guard:
                    self._running.discard(process)
        if self._stopped:
            raise _stopped()
        if process.returncode != 0:
            raise KernelError(
                "compiler_failed",
                f"status {process.returncode} of the compiler\n$ {shlex.join(command)}\n{said.rstrip()}\n",
                "the command above can be run by hand",
            )
        return said

    def _start(self, command: Sequence[str], scratch: Path) -> subprocess.Popen[str]:
        with self._guard:
            if self._stopped:
                raise _stopped()
            try:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    errors="replace",
                    env={**os.environ, "TMPDIR": str(scratch)},
                    start_new_session=True,  # so that the passes which a compiler starts can be ended with it
                )
            except OSError as error:
                raise KernelError("broken_compiler", f"{command[0]} cannot be started: {error}") from error
            self._running.add(process)
            return process

    def stopped(self) -> bool:
        """Whether :meth:`stop` was called."""
        return self._stopped

    def stop(self) -> None:
        """End every process that runs and let none start."""
        with self._guard:
            self._stopped = True
            for process in self._running:
                if process.returncode is None:
                    with suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)


def _stopped() -> KernelError:
    return KernelError("stopped", "the build was stopped", "run it again; nothing half was left")
