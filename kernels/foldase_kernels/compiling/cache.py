"""Where built libraries lie: one folder each, moved into place whole, with a record of how it was made."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foldase_kernels.errors import BUILD_HINT, KernelError

VARIABLE = "FOLDASE_KERNELS_CACHE"
RECORD = "build.json"
LIBRARY = "library.so"
LOCKS, UNFINISHED = ".locks", ".unfinished"


@dataclass(frozen=True, slots=True)
class Entry:
    """One built library in a cache: its folder and its record."""

    folder: Path
    record: dict[str, Any]

    @property
    def library(self) -> Path:
        """The shared library."""
        return self.folder / LIBRARY

    @property
    def operation(self) -> str:
        """The operation's folder in ``csrc``."""
        return str(self.record["operation"])

    @property
    def arch(self) -> str:
        """The architecture, as ``sm_90a`` or ``host``."""
        return str(self.record["arch"])

    def check(self) -> None:
        """Compare the library with its record: loading a cut or changed file could end the process.

        Raises:
            KernelError: ``corrupted_library``.
        """
        try:
            found = hashlib.sha256(self.library.read_bytes()).hexdigest()
        except OSError as error:
            raise KernelError(
                "corrupted_library", f"{self.library} cannot be read: {error}", BUILD_HINT
            ) from error
        if found != self.record["sha256"]:
            raise KernelError(
                "corrupted_library", f"{self.library} is not the file that was built", f"{BUILD_HINT} anew"
            )

    def intact(self) -> bool:
        """Whether :meth:`check` passes."""
        try:
            self.check()
        except KernelError:
            return False
        return True


def default_folder() -> Path:
    """FOLDASE_KERNELS_CACHE, else ``foldase/kernels`` in XDG_CACHE_HOME or ``~/.cache``.

    Raises:
        KernelError: ``no_home``, where none of them is known.
    """
    chosen = os.environ.get(VARIABLE)
    if chosen:
        return Path(chosen).absolute()
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        root = Path(base) if Path(base).is_absolute() else Path.home() / ".cache"
    except RuntimeError as error:
        raise KernelError(
            "no_home", f"this user has no home folder: {error}", f"set {VARIABLE} to a folder of yours"
        ) from error
    return root / "foldase" / "kernels"


class Cache:
    """A folder of built libraries. Reading needs no right to write."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder if folder is not None else default_folder()

    def entry(self, name: str) -> Entry | None:
        """The library of that name, whole or not; None where there is no record of it."""
        folder = self.folder / name
        try:
            record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        known = isinstance(record, dict) and {"operation", "arch", "sources", "sha256"} <= record.keys()
        return Entry(folder, record) if known else None

    def entries(self) -> list[Entry]:
        """Every library with a record, in the order of names."""
        try:
            names = sorted(path.name for path in self.folder.iterdir() if not path.name.startswith("."))
        except OSError:
            return []
        return [entry for entry in map(self.entry, names) if entry is not None]

    def lock_file(self, name: str) -> Path:
        """The file to lock while that library is made."""
        with self._writing():
            (self.folder / LOCKS).mkdir(parents=True, exist_ok=True)
        return self.folder / LOCKS / name

    @contextmanager
    def unfinished(self, name: str) -> Iterator[Path]:
        """A folder to make that library in, gone afterwards. The lock is held: what others left is dead."""
        with self._writing():
            parent = self.folder / UNFINISHED
            parent.mkdir(parents=True, exist_ok=True)
            for left in parent.glob(f"{name}.*"):
                shutil.rmtree(left, ignore_errors=True)
            folder = Path(tempfile.mkdtemp(prefix=f"{name}.", dir=parent))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def publish(self, name: str, made: Path, record: dict[str, Any]) -> Entry:
        """Move a finished folder into place in one step; a broken one of that name gives way."""
        with self._writing():
            content = (made / LIBRARY).read_bytes()
            whole = {**record, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            (made / RECORD).write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
            place = self.folder / name
            if place.exists():
                place.rename(made.with_name(f"{made.name}.replaced"))
            made.rename(place)
            shutil.rmtree(made.with_name(f"{made.name}.replaced"), ignore_errors=True)
        return Entry(place, whole)

    def trouble(self) -> str:
        """Why nothing can be written here, or an empty text. Makes no folder."""
        try:
            with self._writing():
                nearest = next(path for path in (self.folder, *self.folder.parents) if path.exists())
                with tempfile.TemporaryFile(dir=nearest):
                    return ""
        except KernelError as error:
            return error.message

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise KernelError(
                "cache_unwritable",
                f"the folder of built kernels {self.folder} cannot be written: {error}",
                f"set {VARIABLE} to a folder of yours",
            ) from error
