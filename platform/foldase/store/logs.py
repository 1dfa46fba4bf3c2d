"""Logs and metrics of attempts: JSON lines, addressed by byte offsets.

While an attempt runs, its worker appends to ``logs/<run>/<step>/<attempt>.log.jsonl`` and
``....metrics.jsonl``; SQL and events carry only offsets. After the attempt has ended, the scheduler's
process moves the file into the blob store and notes its digest with the attempt (:mod:`archive`). Readers
look at the file first and at the blob then, so an offset means the same before and after.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Literal
from urllib.parse import quote

from foldase.store.jsontext import dumps, loads
from foldase.store.records import Json

Kind = Literal["log", "metrics"]

MAX_LINE_BYTES = 64 * 1024
"""A longer line is cut by the writer, so that a reader always gets a whole one."""


@dataclass(frozen=True, slots=True)
class Page:
    """Some whole lines: the offset behind them, and whether they reach the end of what is written."""

    lines: tuple[Json, ...]
    next: int
    end: bool


class AttemptLogs:
    """The files of all attempts below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def path(self, run: str, step: str, attempt: int, kind: Kind) -> Path:
        """Where an attempt writes; whether it did or not."""
        return self.root / run / _folder_name(step) / f"{attempt}.{kind}.jsonl"

    def writer(self, run: str, step: str, attempt: int, kind: Kind) -> LineWriter:
        """Open the file of an attempt for appending; its folder is made."""
        return LineWriter(self.path(run, step, attempt, kind))


class LineWriter:
    """Appends JSON lines, each in one write: readers and crashes see whole lines, or a cut last one."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Unbuffered and O_APPEND: what was written survives the death of the process.
        self._file = path.open("ab", buffering=0)
        self.offset = self._file.seek(0, os.SEEK_END)

    def __enter__(self) -> LineWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def write(self, entry: Json) -> int:
        """Append one line and return the offset behind it."""
        line = dumps(entry).encode("utf-8", errors="replace")
        if len(line) >= MAX_LINE_BYTES:
            line = dumps(_cut(entry)).encode("utf-8", errors="replace")
        self._file.write(line + b"\n")
        self.offset += len(line) + 1
        return self.offset

    def close(self) -> None:
        """Close the file; what was written stays."""
        self._file.close()


def read_page(file: BinaryIO, offset: int, limit: int) -> Page:
    """Whole lines from ``offset`` on, at most ``limit`` bytes of them but at least one line.

    A last line without its end (still being written, or cut by a crash) is left for the next call. An
    offset behind the end gives nothing. Lines that are no JSON objects become ``{"message": text}``.
    """
    size = file.seek(0, os.SEEK_END)
    start = min(max(offset, 0), size)
    file.seek(start)
    content = file.read(max(limit, MAX_LINE_BYTES + 1))
    if len(content) > limit:
        cut = content.rfind(b"\n", 0, limit) + 1 or content.find(b"\n", limit) + 1
        content = content[:cut]
    whole = content[: content.rfind(b"\n") + 1]
    following = start + len(whole)
    return Page(tuple(_parse(line) for line in whole.splitlines()), following, following >= size)


def _parse(line: bytes) -> Json:
    text = line.decode("utf-8", errors="replace")
    try:
        entry = loads(text)
    except ValueError:
        entry = None
    return entry if isinstance(entry, dict) else {"message": text}


def _cut(entry: Json) -> Json:
    """The entry with its texts shortened so that the line fits."""
    room = MAX_LINE_BYTES // (8 * max(1, len(entry)))
    return {
        name: value[:room] + " ... (cut)" if isinstance(value, str) and len(value) > room else value
        for name, value in entry.items()
    }


def _folder_name(step: str) -> str:
    """A folder name for a step id: safe characters stay, and a very long one ends in its hash."""
    name = quote(step, safe="[]-_. ,=+")
    if name.startswith("."):
        name = "%2E" + name[1:]
    if len(name) > 200:
        name = f"{name[:150]}~{hashlib.sha256(step.encode()).hexdigest()[:32]}"
    return name
