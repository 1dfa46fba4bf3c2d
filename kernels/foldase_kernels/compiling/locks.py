"""A lock between processes, held by the operating system: it ends with its holder, however that ends."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from foldase_kernels.errors import KernelError

WAIT_SECONDS = 900.0
SAY_EVERY_SECONDS = 5.0
LOOK_EVERY_SECONDS = 0.1
NAMELESS_SECONDS = 1.0
"""How long a holder may take to write its name before it is spoken of without."""
HOLDER_BYTES = 200


@contextmanager
def held(
    path: Path,
    purpose: str,
    say: Callable[[str], None],
    wait_seconds: float = WAIT_SECONDS,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[None]:
    """Hold the lock of a file while the block runs; one thread of one process at a time.

    The file stays, and tells who holds the lock; its mere existence locks nothing.

    Args:
        path: of the lock file; its folder exists.
        purpose: what the holder does, for those who wait.
        say: gets a line at once and then every few seconds of waiting.
        wait_seconds: how long to wait.
        stopped: asked while waiting; True ends it.

    Raises:
        KernelError: ``lock_timeout``, naming the holder, ``stopped``, or ``lock_unsupported`` by the file
            system.
        OSError: the file cannot be opened for writing.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        _wait(file, path, purpose, say, wait_seconds, stopped)
        os.ftruncate(file, 0)
        since = time.strftime("%H:%M:%S")
        os.pwrite(file, f"process {os.getpid()} on {socket.gethostname()} since {since}".encode(), 0)
        try:
            yield
        finally:
            os.ftruncate(file, 0)  # or those who wait would take the next holder for this one
    finally:
        os.close(file)


def _wait(
    file: int,
    path: Path,
    purpose: str,
    say: Callable[[str], None],
    wait_seconds: float,
    stopped: Callable[[], bool],
) -> None:
    began = time.monotonic()
    said = -SAY_EVERY_SECONDS
    while not _try(file, path):
        if stopped():
            raise KernelError("stopped", f"{purpose} was stopped", "run it again")
        waited = time.monotonic() - began
        named = os.pread(file, HOLDER_BYTES, 0).decode(errors="replace")
        holder = named or "another process"
        if waited > wait_seconds:
            raise KernelError(
                "lock_timeout",
                f"{purpose}: {holder} has held {path} for the {wait_seconds:g} s waited for it",
                "end that process, which frees the lock, or wait longer with --wait",
            )
        if waited - said >= SAY_EVERY_SECONDS and (named or waited > NAMELESS_SECONDS):
            said = waited
            say(f"{purpose}: waiting for {holder} ({waited:.0f} s of {wait_seconds:g} s)")
        time.sleep(LOOK_EVERY_SECONDS)


def _try(file: int, path: Path) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise KernelError(
            "lock_unsupported",
            f"the file system of {path} takes no locks: {error}",
            "set FOLDASE_KERNELS_CACHE to a folder on a local disk",
        ) from error
    return True
