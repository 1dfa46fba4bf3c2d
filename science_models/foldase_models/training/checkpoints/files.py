"""Files that are on the disk when they are said to be. Importable without torch."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

BLOCK = 4 * 2**20
"""Bytes that are read and written together; a multiple of the 4 KiB in which disks work."""
_SYNC_EVERY = 256 * 2**20

Told = Callable[[int], None]
"""Called with the bytes that were dealt with since the call before."""


def unheard(size: int) -> None:
    """Tell nobody."""


def write_durably(path: Path, raw: bytes) -> None:
    """Write a file so that after a crash it is there whole or not at all: write, flush, rename, flush.

    Raises:
        OSError: the disk is full or cannot be written; what was there before is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with HashedFile(temporary) as file:
            file.write(memoryview(raw))
        os.replace(temporary, path)  # noqa: PTH105  # a fault point of the tests, beside fsync
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class HashedFile:
    """A new file, written from the first byte to the last in whole blocks, with its SHA-256.

    Use it as a context: at the end of it the bytes are on the disk. However large, it takes one block of
    memory.
    """

    def __init__(self, path: Path, told: Told = unheard) -> None:
        self._path, self._told = path, told
        self._digest = hashlib.sha256()
        self._block = bytearray(BLOCK)
        self._filled = 0
        self._unsynced = 0
        self.size = 0

    @property
    def sha256(self) -> str:
        """Of all that was written, in hex; complete after the context."""
        return self._digest.hexdigest()

    def write(self, raw: memoryview) -> None:
        """Append bytes; a view of single ones."""
        while raw:
            size = min(len(raw), len(self._block) - self._filled)
            self._block[self._filled : self._filled + size] = raw[:size]
            self._filled += size
            raw = raw[size:]
            if self._filled == len(self._block):
                self._flush()

    def __enter__(self) -> HashedFile:
        self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            if kind is None:
                self._flush()
                os.fsync(self._descriptor)
        finally:
            os.close(self._descriptor)

    def _flush(self) -> None:
        with memoryview(self._block)[: self._filled] as block:
            self._digest.update(block)
            done = 0
            while done < len(block):
                done += os.write(self._descriptor, block[done:])
        self.size += self._filled
        self._unsynced += self._filled
        if self._unsynced >= _SYNC_EVERY:
            # Bit by bit, so that the last flush is short and whoever waits sees that something happens.
            os.fsync(self._descriptor)
            self._unsynced = 0
        self._told(self._filled)
        self._filled = 0


def sha256_of(path: Path, told: Told = unheard) -> tuple[str, int]:
    """Digest in hex and size of a file.

    Raises:
        OSError: it cannot be read.
    """
    digest, size = hashlib.sha256(), 0
    block = bytearray(BLOCK)
    with path.open("rb", buffering=0) as file:
        while read := file.readinto(block):
            digest.update(memoryview(block)[:read])
            size += read
            told(read)
    return digest.hexdigest(), size
