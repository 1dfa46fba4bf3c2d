"""Text files of unknown origin, line by line and within limits.

The readers of this package take files that strangers made. This module turns everything that is no text
(an archive with the wrong name, a binary, another encoding) and everything too large into an error that
names the line, before a parser sees it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from foldase_workflows.contracts.errors import BadInput, Location

_MAGIC: tuple[tuple[bytes, str, str], ...] = (
    (b"\x1f\x8b", "a gzip archive", "unpack it first: `gunzip FILE`"),
    (b"BZh", "a bzip2 archive", "unpack it first: `bunzip2 FILE`"),
    (b"\xfd7zXZ", "an xz archive", "unpack it first: `unxz FILE`"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", "unpack it first: `unzstd FILE`"),
    (b"PK\x03\x04", "a zip archive", "unpack it first: `unzip FILE`"),
    (b"\xff\xfe", "text in UTF-16", "save it as plain text in UTF-8"),
    (b"\xfe\xff", "text in UTF-16", "save it as plain text in UTF-8"),
)
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class TextLimits:
    """How much a reader accepts, in bytes of the whole file and of one line."""

    file_bytes: int = 1 << 30
    line_bytes: int = 1 << 26


class LineReader:
    """The lines of a file, without their ends, as text; LF, CRLF, CR and a byte order mark are accepted.

    Memory holds one line at a time. ``number`` is the line handed out last, counted from 1. The object also
    serves as the text handle that parsers of other libraries read from (:meth:`readline`).

    Raises:
        BadInput: ``not_text``, ``file_too_large`` or ``line_too_long``, with the line.
        FileNotFoundError: there is no such file.
    """

    def __init__(self, path: Path, *, name: str | None = None, limits: TextLimits | None = None) -> None:
        self.name = name or path.name
        self.number = 0
        self._limits = limits or TextLimits()
        self._bytes_read = 0
        self._pending: list[bytes] = []
        self._file = path.open("rb")
        try:
            self._check_start()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[str]:
        while (line := self._next()) is not None:
            yield line

    def readline(self) -> str:
        """The next line with a line feed at its end, or nothing at the end of the file."""
        line = self._next()
        return "" if line is None else line + "\n"

    def location(
        self, *, record: str | None = None, line: int | None = None, column: int | None = None
    ) -> Location:
        """A place in this file: the present line where none is given."""
        return Location(file=self.name, line=line or self.number or None, column=column, record=record)

    def error(
        self,
        code: str,
        message: str,
        *,
        record: str | None = None,
        line: int | None = None,
        column: int | None = None,
        hint: str | None = None,
    ) -> BadInput:
        """An error about this file at the present or the given line."""
        place = self.location(record=record, line=line, column=column)
        return BadInput(message, code=code, location=place, hint=hint)

    def _check_start(self) -> None:
        start = self._file.read(8)
        for magic, what, hint in _MAGIC:
            if start.startswith(magic):
                raise self.error("not_text", f"this is {what}, not plain text", hint=hint)
        self._file.seek(len(_BYTE_ORDER_MARK) if start.startswith(_BYTE_ORDER_MARK) else 0)

    def _next(self) -> str | None:
        raw = self._pending.pop() if self._pending else self._read_raw()
        if raw is None:
            return None
        self.number += 1
        if b"\0" in raw:
            raise self.error("not_text", "a NUL byte: this is a binary file, not plain text")
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.error(
                "not_text",
                f"byte {raw[error.start]:#04x} is not UTF-8",
                column=error.start + 1,
                hint="save the file as plain text in UTF-8",
            ) from None

    def _read_raw(self) -> bytes | None:
        raw = self._file.readline(self._limits.line_bytes + 1)
        if not raw:
            return None
        self._bytes_read += len(raw)
        if self._bytes_read > self._limits.file_bytes:
            raise self.error(
                "file_too_large", f"the file is larger than the limit of {self._limits.file_bytes:,} bytes"
            )
        if len(raw) > self._limits.line_bytes:
            raise self.error(
                "line_too_long",
                f"the line is longer than the limit of {self._limits.line_bytes:,} bytes",
                line=self.number + 1,
            )
        raw = raw.removesuffix(b"\n").removesuffix(b"\r")
        if b"\r" in raw:
            self._pending = raw.split(b"\r")[::-1]
            return self._pending.pop()
        return raw
