"""The files in which a rank tells of itself, as its leader reads them while they grow."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from foldase.runtime.rank_work import ERRORS, EVENTS, OUTPUT

_READ_BYTES = 1 << 20


class RankFiles:
    """The folder of one rank in one life of its gang."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._events = _Growing(folder / EVENTS)
        self._printed = ((_Growing(folder / OUTPUT), "info"), (_Growing(folder / ERRORS), "warning"))

    def messages(self) -> Iterator[tuple[str, list[Any]]]:
        """What the rank has told since the last call, as kind and values."""
        for line in self._events.lines():
            with suppress(ValueError):
                kind, *said = json.loads(line)
                yield str(kind), said

    def printed(self, *, whole: bool = False) -> Iterator[tuple[str, str]]:
        """Lines printed since the last call with their level; ``whole`` takes an unfinished last one too."""
        for stream, level in self._printed:
            for line in stream.lines(whole=whole):
                # A progress bar redraws its line with carriage returns; the last state is what counts.
                text = line.decode(errors="replace").rstrip().rsplit("\r", 1)[-1]
                if text:
                    yield text, level


class _Growing:
    """A file that someone else appends to; it may come into being later."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = 0

    def lines(self, *, whole: bool = False) -> list[bytes]:
        """Lines that were completed since the last call."""
        try:
            file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return []
        found: list[bytes] = []
        rest = b""
        try:
            position = self._position
            while chunk := os.pread(file, _READ_BYTES, position):
                position += len(chunk)
                *lines, rest = (rest + chunk).split(b"\n")
                found += lines
        finally:
            os.close(file)
        # A line without an end for so long is one that will not get an end.
        if rest and (whole or len(rest) > _READ_BYTES):
            found.append(rest)
            rest = b""
        self._position = position - len(rest)
        return found
