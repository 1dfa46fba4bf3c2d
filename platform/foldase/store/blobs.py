"""Immutable bytes, found by their SHA-256.

A file lies at ``<root>/<first two digits>/<64 hex digits>``, read-only. It gets there in one step: written
below ``<root>/tmp``, synced to disk, renamed, and the folder synced; so a name that exists is complete, and
whatever a crash leaves lies in ``tmp``. Two writers of the same bytes do no harm: the content is the name.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import socket
import uuid
from collections.abc import Iterable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from foldase.store.faults import faultpoint
from foldase.store.processes import alive, process_mark
from foldase_workflows.contracts.errors import BadInput, Damaged, NotFound, StorageFull, TooLarge

CHUNK_BYTES = 1 << 20
STALE_SECONDS = 24 * 3600.0
"""Litter of another machine is removed at this age: there is no asking whether its writer lives."""

_DIGEST = re.compile(r"(?:sha256:)?([0-9a-f]{64})\Z")
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class Blobs:
    """Files by digest.

    Args:
        root: the folder; made where it is missing. It must lie on one file system.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self._tmp = self.root / "tmp"
        with storage_errors():
            self._tmp.mkdir(parents=True, exist_ok=True)
        # (digest, inode, mtime, size) of files that this process has hashed and found right.
        self._verified: set[tuple[str, int, int, int]] = set()

    def path(self, digest: str) -> Path:
        """Where the bytes of a digest lie, whether they are there or not.

        Raises:
            NotFound: this is no digest.
        """
        digits = hex_digits(digest)
        return self.root / digits[:2] / digits

    def exists(self, digest: str) -> bool:
        """Whether the bytes are there; says nothing of damage."""
        return self.path(digest).is_file()

    def size(self, digest: str) -> int:
        """Bytes stored under a digest (of a tree: of its manifest).

        Raises:
            NotFound: nothing is stored under it.
        """
        try:
            return self.path(digest).stat().st_size
        except FileNotFoundError as error:
            raise _missing(digest) from error

    def open(self, digest: str) -> BufferedReader:
        """The bytes, for reading; seekable. Call :meth:`verify` where damage must not pass.

        Raises:
            NotFound: nothing is stored under this digest.
        """
        try:
            return self.path(digest).open("rb")
        except FileNotFoundError as error:
            raise _missing(digest) from error

    def verify(self, digest: str) -> None:
        """Read the bytes and compare them with their digest; a file is read once per process.

        Raises:
            NotFound: nothing is stored under it.
            Damaged: the bytes are others than those that were stored.
        """
        path = self.path(digest)
        with self.open(digest) as file:
            status = os.fstat(file.fileno())
            mark = (path.name, status.st_ino, status.st_mtime_ns, status.st_size)
            if mark in self._verified:
                return
            if hashlib.file_digest(file, "sha256").hexdigest() != path.name:
                raise Damaged(
                    f"the stored bytes of sha256:{path.name} are damaged",
                    hint="run the step that made them again with `cache: refresh`",
                )
        self._verified.add(mark)

    def read(self, digest: str) -> bytes:
        """All bytes of a small blob, verified; raises like :meth:`verify`."""
        with self.open(digest) as file:
            content = file.read()
        if hashlib.sha256(content).hexdigest() != hex_digits(digest):
            raise Damaged(f"the stored bytes of {digest} are damaged")
        return content

    def writer(self, *, limit: int | None = None) -> BlobWriter:
        """Begin a new blob of at most ``limit`` bytes; see :class:`BlobWriter`."""
        return BlobWriter(self, self._tmp / _litter_name(), limit)

    def adopt(self, path: Path, *, sync_folder: bool = True) -> tuple[str, int]:
        """Take a finished file over: it is moved where that is possible and copied otherwise.

        Args:
            path: a file that nobody writes to any more.
            sync_folder: False when the caller syncs the folders of many blobs together.

        Returns:
            Its digest (``sha256:...``) and size in bytes.

        Raises:
            StorageFull: the disk is full; the file is still where it was.
        """
        temporary = self._tmp / _litter_name()
        try:
            path.rename(temporary)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            stored = self.copy(path, sync_folder=sync_folder)
            path.unlink()
            return stored
        try:
            with storage_errors(), temporary.open("rb") as file:
                digits = hashlib.file_digest(file, "sha256").hexdigest()
                os.fsync(file.fileno())
            size = temporary.stat().st_size
            self.publish(temporary, digits, sync_folder=sync_folder)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.rename(path)
            raise
        return f"sha256:{digits}", size

    def copy(self, path: Path, *, sync_folder: bool = True) -> tuple[str, int]:
        """Store a copy of a file; arguments, result and errors as of :meth:`adopt`."""
        with path.open("rb") as source, self.writer() as writer:
            while chunk := source.read(CHUNK_BYTES):
                writer.write(chunk)
            return writer.publish(sync_folder=sync_folder)

    def publish(self, temporary: Path, digits: str, *, sync_folder: bool = True) -> None:
        """Give a complete, synced file below ``tmp`` its final name."""
        target = self.root / digits[:2] / digits
        with storage_errors():
            if target.exists() and target.stat().st_size == temporary.stat().st_size:
                temporary.unlink()
                return
            temporary.chmod(0o444)
            if not target.parent.is_dir():
                target.parent.mkdir(exist_ok=True)
                sync_folder_of(target.parent)
            faultpoint("blob.rename.before")
            temporary.rename(target)
            faultpoint("blob.rename.after")
            if sync_folder:
                sync_folder_of(target)
            faultpoint("blob.publish.after")

    def link_or_copy(self, digest: str, target: Path) -> None:
        """Put the bytes at ``target``, read-only: as a hard link, or as a copy on another file system.

        Raises:
            NotFound: nothing is stored under this digest.
            StorageFull: there is no space for a copy.
        """
        source = self.path(digest)
        try:
            os.link(source, target)
        except FileNotFoundError as error:
            if source.exists():
                raise
            raise _missing(digest) from error
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP):
                raise
            with storage_errors():
                shutil.copyfile(source, target)
                target.chmod(0o444)

    def remove_litter(self, *, now: float) -> int:
        """Remove what crashed writers left below ``tmp``; returns how many files.

        Files of living processes stay; files of other machines stay for a day. ``now`` is in seconds since
        1970.
        """
        removed = 0
        for entry in self._tmp.iterdir():
            host, mark, _ = (*entry.name.split("~", 2), "", "")[:3]
            if host == _host() and alive(mark):
                continue
            with contextlib.suppress(OSError):
                if host != _host() and now - entry.stat().st_mtime < STALE_SECONDS:
                    continue
                if entry.is_dir():
                    shutil.rmtree(entry)
                else:
                    entry.unlink()
                removed += 1
        return removed


class BlobWriter:
    """Bytes on their way into the store. Use it in a ``with`` block; without ``publish`` nothing remains."""

    def __init__(self, blobs: Blobs, temporary: Path, limit: int | None) -> None:
        self._blobs = blobs
        self._temporary = temporary
        self._limit = limit
        self._hash = hashlib.sha256()
        self._published = False
        self.size = 0
        with storage_errors():
            self._file = temporary.open("xb")

    def __enter__(self) -> BlobWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, chunk: bytes) -> None:
        """Append bytes.

        Raises:
            TooLarge: with code ``body_too_large``, more bytes than the limit.
            StorageFull: the disk is full.
        """
        self.size += len(chunk)
        if self._limit is not None and self.size > self._limit:
            raise TooLarge(f"more than the limit of {self._limit:,} bytes", code="body_too_large")
        self._hash.update(chunk)
        with storage_errors():
            faultpoint("blob.write")
            self._file.write(chunk)

    def publish(self, *, expected: str | None = None, sync_folder: bool = True) -> tuple[str, int]:
        """Make the bytes durable under their digest; returns it (``sha256:...``) and the size.

        Args:
            expected: the digest that the sender announced.
            sync_folder: False when the caller syncs the folders of many blobs together.

        Raises:
            BadInput: with code ``digest_mismatch``, the bytes are not those that were announced.
            StorageFull: the disk is full.
        """
        digits = self._hash.hexdigest()
        if expected is not None and expected.lower().removeprefix("sha256:") != digits:
            raise BadInput(
                f"the bytes have the digest sha256:{digits}, announced was {expected}", code="digest_mismatch"
            )
        with storage_errors():
            self._file.flush()
            faultpoint("blob.fsync.before")
            os.fsync(self._file.fileno())
            self._file.close()
        self._blobs.publish(self._temporary, digits, sync_folder=sync_folder)
        self._published = True
        return f"sha256:{digits}", self.size

    def close(self) -> None:
        """Give up: remove what was written, unless it was published."""
        # Closing flushes, which fails again on a full disk; the bytes are not wanted any more.
        with contextlib.suppress(OSError):
            self._file.close()
        if not self._published:
            self._temporary.unlink(missing_ok=True)


def hex_digits(digest: str) -> str:
    """The 64 digits of a digest given with or without ``sha256:``.

    Raises:
        NotFound: it is no digest; the same answer as for an unknown one.
    """
    match = _DIGEST.match(digest)
    if match is None:
        raise _missing(digest)
    return match.group(1)


def sync_folder_of(path: Path) -> None:
    """Make the entry of ``path`` in its folder durable."""
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def storage_errors() -> Iterator[None]:
    """Turn a full disk into ``StorageFull``; other errors of the system pass."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StorageFull(
                "the disk that holds the blob store is full", hint="free some space and try again"
            ) from error
        raise


def chunks_of(stream: BinaryIO | Iterable[bytes]) -> Iterator[bytes]:
    """The bytes of a file or of an iterable, in pieces."""
    if isinstance(stream, Iterable) and not hasattr(stream, "read"):
        yield from stream
        return
    while chunk := stream.read(CHUNK_BYTES):
        yield chunk


def _host() -> str:
    return socket.gethostname().replace("~", "-")


def _litter_name() -> str:
    return f"{_host()}~{process_mark()}~{uuid.uuid4().hex}"


def _missing(digest: str) -> NotFound:
    return NotFound(f"there is no artifact {digest}", code="unknown_artifact")
