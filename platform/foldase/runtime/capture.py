"""Brings what an operator prints into the log of its attempt.

In a worker process the two output streams themselves are redirected to files, so that the output of C code
and of child processes is caught as well, and a stuck reader can never block the writer. Where attempts share
a process, only Python's ``print`` is caught, by thread.
"""

from __future__ import annotations

import io
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TextIO

from foldase.runtime.context import RunningStep

_READ_BYTES = 1 << 20
_STREAMS = ((1, "info"), (2, "warning"))


class Capture(Protocol):
    """Sends output to the attempt that runs."""

    @contextmanager
    def into(self, step: RunningStep) -> Iterator[None]:
        """While the block runs, what is printed goes to the log of ``step``."""
        yield

    def pump(self) -> None:
        """Bring what was printed so far into the log; called from time to time."""


class ProcessCapture:
    """Redirects the streams of this process into files of ``folder``, for good.

    ``pump`` copies what is new to the log of the running attempt; it is called from time to time and at the
    end of each attempt.
    """

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._streams = [_Stream(number, level, folder / f"{name}.{number}") for number, level in _STREAMS]
        self._step: RunningStep | None = None
        self._lock = threading.Lock()

    @contextmanager
    def into(self, step: RunningStep) -> Iterator[None]:
        """While the block runs, both streams go to the log of ``step``."""
        with self._lock:
            self._step = step
            for stream in self._streams:
                stream.skip()
        try:
            yield
        finally:
            _flush()
            with self._lock:
                for stream in self._streams:
                    stream.copy_to(step, whole=True)
                    stream.empty()
                self._step = None

    def pump(self) -> None:
        """Copy the lines printed since the last call."""
        with self._lock:
            if self._step is not None:
                for stream in self._streams:
                    stream.copy_to(self._step, whole=False)


class _Stream:
    """One file descriptor that now points to a file, and how far that file is read."""

    def __init__(self, number: int, level: str, path: Path) -> None:
        self._level = level
        self._position = 0
        self._rest = b""
        # O_APPEND, so that writing goes on at the new end after the file is emptied.
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        os.dup2(self._file, number)

    def skip(self) -> None:
        self._position = os.fstat(self._file).st_size
        self._rest = b""

    def empty(self) -> None:
        if self._position:
            os.ftruncate(self._file, 0)
            self._position = 0

    def copy_to(self, step: RunningStep, *, whole: bool) -> None:
        while chunk := os.pread(self._file, _READ_BYTES, self._position):
            self._position += len(chunk)
            *lines, self._rest = (self._rest + chunk).split(b"\n")
            for line in lines:
                self._write(step, line)
        if self._rest and (whole or len(self._rest) > _READ_BYTES):
            self._write(step, self._rest)
            self._rest = b""

    def _write(self, step: RunningStep, line: bytes) -> None:
        # A progress bar redraws its line with carriage returns; the last state is what counts.
        text = line.decode(errors="replace").rstrip().rsplit("\r", 1)[-1]
        if text:
            step.log(text, level=self._level)


class ThreadCapture:
    """Sends what Python code prints to the attempt whose thread prints it."""

    def __init__(self) -> None:
        self._local = threading.local()
        self._streams = [_ThreadStream(sys.stdout, "info", self), _ThreadStream(sys.stderr, "warning", self)]
        sys.stdout, sys.stderr = self._streams

    def close(self) -> None:
        """Give the streams back, unless someone else has replaced them since."""
        if sys.stdout is self._streams[0]:
            sys.stdout = self._streams[0].original
        if sys.stderr is self._streams[1]:
            sys.stderr = self._streams[1].original

    def pump(self) -> None:
        """Nothing to do: each line goes straight to the log."""

    @property
    def step(self) -> RunningStep | None:
        """The attempt of the calling thread."""
        return getattr(self._local, "step", None)

    @contextmanager
    def into(self, step: RunningStep) -> Iterator[None]:
        """While the block runs, what this thread prints goes to the log of ``step``."""
        self._local.step = step
        try:
            yield
        finally:
            for stream in self._streams:
                stream.end_line()
            self._local.step = None


class _ThreadStream(io.TextIOBase):
    def __init__(self, original: TextIO, level: str, capture: ThreadCapture) -> None:
        self.original = original
        self._level = level
        self._capture = capture
        self._local = threading.local()

    def write(self, text: str) -> int:
        step = self._capture.step
        if step is None:
            return self.original.write(text)
        *lines, rest = (getattr(self._local, "rest", "") + text).split("\n")
        self._local.rest = rest
        for line in filter(None, (line.rstrip() for line in lines)):
            step.log(line, level=self._level)
        return len(text)

    def end_line(self) -> None:
        if getattr(self._local, "rest", ""):
            self.write("\n")

    def flush(self) -> None:
        self.original.flush()

    def writable(self) -> bool:
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]  # read-only here
        return self.original.encoding


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            continue
