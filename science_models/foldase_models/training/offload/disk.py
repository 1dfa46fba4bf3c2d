"""One file a rank on a fast disk, read and written directly, past the page cache.

The file has its full size from the start, so a disk that is too small is known before the first step, and no
name: it is unlinked as soon as it is open, so that a process that is killed leaves nothing behind. Transfers
are cut into parts that a few threads carry out with the interpreter's lock released; they need buffers,
offsets and lengths that are multiples of :data:`BLOCK`. Where the file system knows no direct transfers, they
go through the page cache and are dropped from it at once, which :attr:`DiskFile.notes` says.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from functools import partial
from pathlib import Path
from typing import Any

import torch

from foldase_models.errors import ModelError
from foldase_models.training.clock import Clock
from foldase_models.training.ledger import Ledger
from foldase_models.training.offload.crew import Crew
from foldase_models.training.offload.pinned import BLOCK, DEADLINE_SECONDS, aligned, padded

PART_BYTES = 2**20
"""Of one request to the disk."""
THREADS = 4
"""Requests under way at once."""
_NO_DIRECT = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP)
_UNNAMED_REFUSED = (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CLOSED_TO_US = (errno.EACCES, errno.EPERM, errno.EROFS)


class Transfer:
    """A read or write under way."""

    def __init__(self, file: DiskFile, doing: str, parts: list[Future[None]]) -> None:
        self._file, self._doing, self._parts = file, doing, parts

    def wait(self) -> None:
        """Return when the buffer may be used again.

        Raises:
            ModelError: ``bad_disk``: it failed, or did not come to an end within the deadline.
        """
        parts, self._parts = self._parts, []
        late = wait(parts, self._file.deadline_seconds, FIRST_EXCEPTION).not_done
        if any(part.exception() for part in parts if part.done()):
            # The others still use the buffer, and the first one that failed says most.
            wait(late, self._file.deadline_seconds)
            failed = next(filter(None, (part.exception() for part in parts if part.done())))
            if isinstance(failed, OSError):
                raise disk_error(self._file.folder, failed, self._doing) from failed
            raise failed
        if late:
            raise ModelError(
                f"the disk of {self._file.folder} did not end {self._doing} within "
                f"{self._file.deadline_seconds:g} s",
                code="bad_disk",
                location="offload.folder",
                hint="name a folder on a local, faster disk, and look at the system's log",
            )


class DiskFile:
    """A file without a name in a folder, for as long as this object or its process lives.

    Attributes:
        folder: where it lies.
        size: bytes.
        direct: whether transfers go past the page cache.
        notes: what is not as it should be, for people.
        read_bytes, written_bytes: so far.
    """

    def __init__(
        self,
        folder: Path,
        size: int,
        *,
        clock: Clock | None = None,
        ledger: Ledger | None = None,
        owner: str = "file",
        deadline_seconds: float = DEADLINE_SECONDS,
    ) -> None:
        """Make the file and take its space.

        Args:
            folder: on the disk; must exist.
            size: bytes, rounded up to whole blocks. What was not written reads as zeros.
            clock: told how long transfers went on.
            ledger: counts the file in the tier ``disk``.
            owner: what for.
            deadline_seconds: how long a transfer may take.

        Raises:
            ModelError: ``bad_disk``: the folder is missing, read-only or too full.
        """
        self.folder, self.size, self.deadline_seconds = folder, padded(size), deadline_seconds
        self.read_bytes = self.written_bytes = 0
        self._clock, self._ledger, self._owner = clock, ledger, owner
        self._lock = threading.Lock()
        self._under_way, self._since = 0, 0.0
        notes: list[str] = []
        self._file, self.direct = _opened(folder, notes)
        try:
            _take_space(self._file, folder, self.size, notes)
        except BaseException:
            os.close(self._file)
            raise
        self.notes = tuple(notes)
        self._crew = Crew("disk", THREADS)
        if ledger is not None:
            ledger.add("disk", owner, self.size)

    def read(self, offset: int, into: torch.Tensor) -> Transfer:
        """Begin to fill a contiguous tensor in main memory from ``offset`` on."""
        return self._start("a read", offset, into, self._read_part)

    def write(self, offset: int, source: torch.Tensor) -> Transfer:
        """Begin to write a contiguous tensor in main memory, which stays as it is until it was waited for."""
        return self._start("a write", offset, source, self._write_part)

    def fileno(self) -> int:
        """The open file's descriptor."""
        return self._file

    def close(self) -> None:
        """End the threads and give the space back."""
        if self._file >= 0:
            file, self._file = self._file, -1
            # While a transfer hangs in it, its number must not become that of another file.
            if self._crew.close():
                os.close(file)
            if self._ledger is not None:
                self._ledger.add("disk", self._owner, -self.size)

    def _start(
        self, doing: str, offset: int, tensor: torch.Tensor, work: Callable[[int, memoryview], None]
    ) -> Transfer:
        size = tensor.numel() * tensor.element_size()
        assert 0 <= offset <= offset + size <= self.size, "outside of the file"
        if self.direct:
            places = (offset, size, tensor.data_ptr())
            assert not any(place % BLOCK for place in places), f"not aligned: {places}"
        memory = _bytes_of(tensor)
        parts = []
        for start in range(0, size, PART_BYTES):
            piece = memory[start : start + PART_BYTES]
            parts.append(self._crew.submit(partial(self._timed, work, offset + start, piece)))
        return Transfer(self, f"{doing} of {size:,} bytes", parts)

    def _timed(self, work: Callable[[int, memoryview], None], offset: int, memory: memoryview) -> None:
        """Carry a part out; the clock is told of the time in which at least one was under way."""
        with self._lock:
            if self._under_way == 0:
                self._since = time.monotonic()
            self._under_way += 1
        try:
            work(offset, memory)
        finally:
            with self._lock:
                self._under_way -= 1
                if self._under_way == 0 and self._clock is not None:
                    self._clock.add_busy("disk", time.monotonic() - self._since)

    def _read_part(self, offset: int, memory: memoryview) -> None:
        done = 0
        while done < len(memory):
            count = os.preadv(self._file, [memory[done:]], offset + done)
            if count == 0:
                raise OSError(errno.EIO, f"the file ends at byte {offset + done:,} of {self.size:,}")
            done += count
        self._leave_cache(offset, len(memory), written=False)
        with self._lock:
            self.read_bytes += len(memory)

    def _write_part(self, offset: int, memory: memoryview) -> None:
        done = 0
        while done < len(memory):
            count = os.pwritev(self._file, [memory[done:]], offset + done)
            if count == 0:
                raise OSError(errno.ENOSPC, "nothing more was written")
            done += count
        self._leave_cache(offset, len(memory), written=True)
        with self._lock:
            self.written_bytes += len(memory)

    def _leave_cache(self, offset: int, size: int, *, written: bool) -> None:
        if self.direct:
            return
        if written:
            # Pages that are not yet on the disk are not dropped.
            os.fdatasync(self._file)
        os.posix_fadvise(self._file, offset, size, os.POSIX_FADV_DONTNEED)


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    array: Any = tensor.detach().view(torch.uint8).numpy()
    return memoryview(array)


def disk_error(folder: Path, error: OSError, doing: str) -> ModelError:
    """What went wrong in a folder, by the field that names it."""
    reason, hint = f"failed: {error.strerror}", "look at the system's log, and name a folder on another disk"
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        reason, hint = "is not there, or is no folder", "make it, or name one that exists"
    elif error.errno in _CLOSED_TO_US:
        reason = f"cannot be written to: {error.strerror}"
        hint = "name a folder that this user may write to, on a disk that is not read-only"
    elif error.errno in _FULL:
        reason = f"is full: {error.strerror}"
        hint = "free space there, name a folder on a larger disk, or use more ranks"
    return ModelError(f"{folder} {reason} ({doing})", code="bad_disk", location="offload.folder", hint=hint)


def _opened(folder: Path, notes: list[str]) -> tuple[int, bool]:
    """The open file, and whether it takes direct transfers, which is tried."""
    if not folder.is_dir():
        raise disk_error(folder, OSError(errno.ENOENT, "no such folder"), "looking for it")
    try:
        file = _unnamed(folder, os.O_DIRECT)
    except OSError as error:
        if error.errno not in _NO_DIRECT:
            raise disk_error(folder, error, "making a file") from error
    else:
        if _takes_direct(file, folder):
            return file, True
        os.close(file)
    notes.append(f"{folder} takes no direct transfers: they go through the page cache, which is slower")
    try:
        return _unnamed(folder, 0), False
    except OSError as error:
        raise disk_error(folder, error, "making a file") from error


def _unnamed(folder: Path, flags: int) -> int:
    """Open a new file that has no name, or lost it at once where the file system knows no such files."""
    flags |= os.O_RDWR | os.O_CLOEXEC
    try:
        return os.open(folder, flags | os.O_TMPFILE, 0o600)
    except OSError as error:
        if error.errno not in _UNNAMED_REFUSED:
            raise
    path = folder / f".offload-{os.getpid()}-{threading.get_ident()}-{time.monotonic_ns()}"
    file = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
    path.unlink()
    return file


def _takes_direct(file: int, folder: Path) -> bool:
    """Whether a block goes there and back; some file systems open such files and refuse what follows."""
    block = _bytes_of(aligned(BLOCK))
    try:
        os.pwritev(file, [block], 0)
        os.preadv(file, [block], 0)
        os.ftruncate(file, 0)
    except OSError as error:
        if error.errno in _NO_DIRECT:
            return False
        os.close(file)
        raise disk_error(folder, error, "trying a direct transfer") from error
    return True


def _take_space(file: int, folder: Path, size: int, notes: list[str]) -> None:
    found = os.fstatvfs(file)
    free = found.f_bavail * found.f_frsize
    needed = f"needs {size:,} bytes, {free:,} are free"
    if free < size:
        raise disk_error(folder, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), needed)
    try:
        os.posix_fallocate(file, 0, max(size, 1))
    except OSError as error:
        if error.errno not in _NO_DIRECT:
            raise disk_error(folder, error, needed) from error
        notes.append(f"{folder} reserves no space: it may yet become full")
        os.ftruncate(file, size)
