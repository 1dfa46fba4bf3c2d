"""Downloads: files with ranges, and trees as zip archives made while they are sent."""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import BinaryIO
from urllib.parse import quote

from foldase_web.problems import HttpError
from foldase_workflows.contracts.errors import Damaged, NotFound

CHUNK_BYTES = 256 * 1024
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})\Z", re.ASCII)
_EPOCH = (1980, 1, 1, 0, 0, 0)
_ZIP64_FROM = 2**31


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a file: ``start`` and the byte after the last, counted from 0."""

    start: int
    stop: int


def parse_range(header: str | None, size: int) -> Span | None:
    """What part of a file of ``size`` bytes is asked for; None for all of it.

    Raises:
        HttpError: 416, the range lies outside, is malformed, or there are several.
    """
    if header is None:
        return None
    match = _RANGE.match(header.replace(" ", ""))
    start, stop = match.groups() if match else ("", "")
    if start:
        span = Span(int(start), min(int(stop) + 1, size) if stop else size)
    elif stop:
        span = Span(max(size - int(stop), 0), size)
    else:
        span = Span(0, 0)
    if span.start >= span.stop:
        raise HttpError(
            "this range cannot be given; ask for one range inside the file",
            status=416,
            code="bad_range",
            headers={"Content-Range": f"bytes */{size}"},
        )
    return span


def chunks(file: BinaryIO, span: Span) -> Iterator[bytes]:
    """The bytes of a part of a file, which is closed afterwards."""
    with file:
        file.seek(span.start)
        left = span.stop - span.start
        while left > 0:
            chunk = file.read(min(CHUNK_BYTES, left))
            if not chunk:
                raise Damaged("a stored file ended early")
            left -= len(chunk)
            yield chunk


def attachment(name: str) -> str:
    """A Content-Disposition that saves under ``name`` and never shows anything."""
    plain = re.sub(r"[^A-Za-z0-9._ -]", "_", name).strip(" .") or "download"
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


@dataclass(frozen=True, slots=True)
class Member:
    """A file on its way into an archive."""

    path: str
    size: int
    sha256: str
    open: Callable[[], BinaryIO]


class _Outbox(io.RawIOBase):
    """Takes what zipfile writes and hands it on; it cannot seek, so zipfile makes a streamable archive."""

    def __init__(self) -> None:
        super().__init__()
        self._held = bytearray()

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def write(self, data: bytes) -> int:  # type: ignore[override]  # zipfile writes bytes only
        self._held += data
        return len(data)

    def take(self) -> bytes:
        taken = bytes(self._held)
        self._held.clear()
        return taken


def zip_stream(folder: str, members: Iterable[Member]) -> Iterator[bytes]:
    """An uncompressed zip archive of a tree, below one folder, equal bytes for equal trees.

    Stored arrays and weights are dense already. Every file is compared with its digest on the way.

    Raises:
        Damaged: a file is not what was stored; the archive breaks off and cannot be opened.
    """
    outbox = _Outbox()
    with zipfile.ZipFile(outbox, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for member in members:
            entry = zipfile.ZipInfo(f"{folder}/{member.path}", date_time=_EPOCH)
            entry.external_attr = 0o644 << 16
            seen = hashlib.sha256()
            with (
                archive.open(entry, "w", force_zip64=member.size >= _ZIP64_FROM) as target,
                member.open() as source,
            ):
                while chunk := source.read(CHUNK_BYTES):
                    seen.update(chunk)
                    target.write(chunk)
                    yield outbox.take()
            if seen.hexdigest() != member.sha256.removeprefix("sha256:"):
                raise Damaged(f"{member.path} is damaged: it is not what was stored")
            yield outbox.take()
    yield outbox.take()


def member_path(path: str) -> str:
    """A path inside a tree, as the manifest writes it.

    Raises:
        NotFound: it tries to leave the tree, or could not be in a manifest; as for an unknown one.
    """
    parts = PurePosixPath(path).parts
    if not parts or "/".join(parts) != path or ".." in parts or "\0" in path or "\\" in path:
        raise unknown_file(path)
    return path


def unknown_file(path: str) -> NotFound:
    """The error for a path that is not in a tree."""
    return NotFound(f"there is no file {path[:200]!r} in this artifact", code="unknown_file")
