"""Where attempts keep their files below the state folder.

``blobs/`` holds results, ``logs/`` the lines of attempts, ``checkpoints/`` what survives an attempt, one
folder per identity of a step, and ``scratch/`` what does not.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from foldase.runtime.processes import ProcessId, alive, this_process
from foldase.store.artifacts import BlobStore
from foldase.store.logs import AttemptLogs
from foldase.store.weights import TYPE as WEIGHTS
from foldase.store.weights import find_weights
from foldase_workflows.contracts.artifacts import Artifact


@dataclass(frozen=True)
class Workplace:
    """The folders of one state folder, as one process uses them."""

    home: Path

    @cached_property
    def blobs(self) -> BlobStore:
        """The content-addressed results."""
        return BlobStore(self.home / "blobs")

    @cached_property
    def logs(self) -> AttemptLogs:
        """The log and metric files of attempts."""
        return AttemptLogs(self.home / "logs")

    @cached_property
    def checkpoints(self) -> Path:
        """The folder of all checkpoint folders."""
        return _made(self.home / "checkpoints")

    @cached_property
    def scratch(self) -> Path:
        """A folder of this process, beside the blobs so that results are moved and not copied."""
        return _made(self.home / "scratch" / this_process().mark)

    def find(self, artifact: Artifact) -> Path | None:
        """Where public weights lie; None for what is in the store. Raises ``BadInput`` if they changed."""
        return find_weights(self.home, artifact) if artifact.type == WEIGHTS else None

    def new_scratch(self) -> Path:
        """A fresh, empty folder for one attempt."""
        return Path(tempfile.mkdtemp(dir=self.scratch))

    def remove_litter(self) -> int:
        """Remove the scratch folders of processes that are gone; returns how many."""
        removed = 0
        parent = self.home / "scratch"
        if not parent.is_dir():
            return 0
        for folder in parent.iterdir():
            with suppress(ValueError):
                if not alive(ProcessId.parse(folder.name)):
                    remove_folder(folder)
                    removed += 1
        return removed


class CheckpointFolder:
    """The checkpoint folder of one identity, held by one attempt of all processes at a time.

    Where two attempts with the same identity run at once (the same step in two runs), the second gets a
    folder of its own; a later attempt of either finds the first free one. The lock is the kernel's and ends
    with the process.
    """

    def __init__(self, root: Path, identity: str) -> None:
        stem = hashlib.sha256(identity.encode()).hexdigest()[:40]
        slot = 0
        while (lock := _try_lock(root / f"{stem}.{slot}.lock")) is None:
            slot += 1
        self._lock: int | None = lock
        self._lock_path = root / f"{stem}.{slot}.lock"
        self.path = _made(root / f"{stem}.{slot}")

    def release(self) -> None:
        """Let others use the folder; what lies in it stays."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def remove(self) -> None:
        """Remove a released folder whose step has its result, unless another attempt uses it."""
        self.release()
        lock = _try_lock(self._lock_path)
        if lock is None:
            return
        remove_folder(self.path)
        self._lock_path.unlink(missing_ok=True)
        os.close(lock)


def remove_folder(path: Path) -> None:
    """Remove a folder with all it holds, read-only files and folders too; what cannot be removed stays."""
    with suppress(OSError):
        for parent, _, _ in os.walk(path):
            Path(parent).chmod(0o700)
    shutil.rmtree(path, ignore_errors=True)


def _try_lock(path: Path) -> int | None:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        # The file may have been removed between open and lock: then the lock guards nothing.
        with suppress(FileNotFoundError):
            if path.stat().st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        os.close(descriptor)


def _made(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path
