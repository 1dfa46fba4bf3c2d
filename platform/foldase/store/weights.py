"""Public weights below the administrator's folder: known by name, digested once, never copied.

The digest is that of a tree of the blob store with the same files, so weights that a step made and weights
that lie here are one thing to the cache. What was digested is noted in the state folder with the size and
the time of every file, and holds until one of them changes. Workers find the folder there by the digest.
"""

from __future__ import annotations

import difflib
import fcntl
import hashlib
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from foldase.store.artifacts import media_type_of
from foldase.store.jsontext import canonical, dumps, loads
from foldase_workflows.contracts.artifacts import Artifact
from foldase_workflows.contracts.errors import BadInput, Location, Unavailable
from foldase_workflows.contracts.weights import is_weights_name

Json = dict[str, Any]
_Mark = tuple[str, int, int]

TYPE = "weights"
NOTES = "weights"
"""Folder of the notes, below the state folder."""
READABLE = frozenset({".safetensors", ".npz"})
PICKLED = frozenset({".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle"})
CONVERT = (
    "convert them once, where you trust the file: "
    "safetensors.torch.save_file(torch.load(FILE, weights_only=True), 'model.safetensors')"
)
CONFIG = "config.json"
_DEPTH = 3
_CHUNK = 8 << 20
_MOST_LISTED = 1000
_CONFIG_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Weights:
    """One folder of weights as listed.

    ``state`` is ``ready``, ``reading``, ``waiting`` (to be read) or ``refused``; ``progress`` the share that
    was read; ``kind`` what ``config.json`` says, where it says anything.
    """

    name: str
    kind: str | None
    size: int
    state: str
    digest: str | None = None
    progress: float = 0.0
    error: Json | None = None

    def to_json(self) -> Json:
        """For the API."""
        return {
            "name": self.name,
            "kind": self.kind,
            "size": self.size,
            "state": self.state,
            "digest": self.digest,
            "progress": self.progress,
            "error": self.error,
        }


@dataclass(frozen=True, slots=True)
class _File:
    path: str
    size: int
    mtime_ns: int
    place: Path

    @property
    def mark(self) -> _Mark:
        return self.path, self.size, self.mtime_ns


class WeightsLibrary:
    """The folders below one folder.

    Args:
        folder: the administrator's; None where the platform was started without.
        home: the state folder, for the notes.
    """

    def __init__(self, folder: Path | None, home: Path) -> None:
        self._root = folder.resolve() if folder is not None else None
        self._notes = Notes(home)
        self._read_bytes: dict[str, int] = {}
        self._closed = threading.Event()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Read what has no digest yet, now and whenever somebody asks for it, in a thread."""
        if self._root is not None and self._thread is None:
            self._thread = threading.Thread(target=self._read_all, name="foldase-weights", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Stop reading; files that were read to their end are not read again."""
        self._closed.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout=10.0)

    def entries(self) -> list[Weights]:
        """Everything there is, by name; reads no weights."""
        return [self._entry(name) for name in self._names()]

    def artifact(self, name: str) -> Artifact:
        """The reference to weights, for the inputs of a run.

        Raises:
            BadInput: ``bad_weights_name``, ``no_weights_folder``, ``unknown_weights`` with a suggestion,
                ``pickle_refused``, ``no_safetensors`` or ``weights_outside``.
            Unavailable: ``weights_not_ready``, they are being read for the first time.
        """
        files = self._files(name)
        digest = self._notes.digest(name, self._folder(name), files)
        if digest is None:
            self._wake.set()
            share = self._share(name, files)
            raise Unavailable(
                f"the weights {name} are being read for the first time: {share:.0%} of them so far",
                code="weights_not_ready",
                hint="this happens once; try again in a moment",
            )
        return _artifact(name, digest, files)

    def by_digest(self, digest: str) -> Artifact | None:
        """The weights with a digest, where they are here and unchanged."""
        for note in self._notes.all():
            if note.get("digest") == digest:
                with suppress(BadInput, Unavailable):
                    found = self.artifact(note["name"])
                    if found.digest == digest:
                        return found
        return None

    def read(self, name: str) -> Artifact | None:
        """Find the digest of weights by reading all of their files; None when it was stopped.

        Raises:
            BadInput: see :meth:`artifact`; or a file cannot be read.
        """
        files, folder = self._files(name), self._folder(name)
        with self._notes.alone(name):
            try:
                done = self._hashes(name, folder, files)
            finally:
                self._read_bytes.pop(name, None)
            if done is None:
                return None
            digest = _digest(files, done)
            self._notes.write(name, folder, files, done, digest)
        return _artifact(name, digest, files)

    def _read_all(self) -> None:
        while not self._closed.is_set():
            self._wake.clear()
            for entry in self.entries():
                if entry.state == "waiting" and not self._closed.is_set():
                    # Whatever is wrong with a folder is said to whoever asks for it.
                    with suppress(BadInput, OSError):
                        self.read(entry.name)
            self._wake.wait()

    def _hashes(self, name: str, folder: Path, files: list[_File]) -> dict[_Mark, str] | None:
        known = self._notes.hashes(name, folder)
        self._read_bytes[name] = 0
        done: dict[_Mark, str] = {}
        for file in files:
            sha256 = known.get(file.mark) or self._hash(name, file)
            if sha256 is None:
                return None
            done[file.mark] = sha256
            self._read_bytes[name] = sum(size for _, size, _ in done)
            self._notes.write(name, folder, files, done, None)
        return done

    def _hash(self, name: str, file: _File) -> str | None:
        before = self._read_bytes[name]
        running = hashlib.sha256()
        try:
            with file.place.open("rb") as stream:
                while chunk := stream.read(_CHUNK):
                    if self._closed.is_set():
                        return None
                    running.update(chunk)
                    self._read_bytes[name] += len(chunk)
        except OSError as error:
            raise _refused("missing_file", name, f"{file.path} cannot be read: {error.strerror}") from error
        if self._read_bytes[name] - before != file.size:
            raise _refused("weights_changed", name, f"{file.path} changes while it is read")
        return running.hexdigest()

    def _entry(self, name: str) -> Weights:
        try:
            files = self._files(name)
        except BadInput as error:
            return Weights(name, None, 0, "refused", error=error.to_json())
        folder = self._folder(name)
        digest, share = self._notes.digest(name, folder, files), self._share(name, files)
        state = "ready" if digest else "reading" if name in self._read_bytes else "waiting"
        size = sum(file.size for file in files)
        return Weights(name, kind_of(folder), size, state, digest, 1.0 if digest else share)

    def _share(self, name: str, files: list[_File]) -> float:
        total = sum(file.size for file in files)
        return min(1.0, self._read_bytes.get(name, 0) / total) if total else 0.0

    def _folder(self, name: str) -> Path:
        """The folder of a name; raises like :meth:`artifact`."""
        if not is_weights_name(name):
            raise _refused("bad_weights_name", name, "that is no name of weights", hint=_LISTED)
        if self._root is None:
            raise _refused(
                "no_weights_folder",
                name,
                "this platform was started without a folder of weights",
                hint="start it with `foldase up --weights DIR`",
            )
        folder = self._root / name
        if folder.is_file() and folder.suffix.lower() in PICKLED:
            message = "it is pickle, which is never read: reading it runs code that came with it"
            raise _refused("pickle_refused", name, message, hint=f"{CONVERT}, into a folder of its own")
        if not folder.is_dir():
            close = difflib.get_close_matches(name, self._names(), n=1)
            hint = f"did you mean {close[0]}?" if close else _LISTED
            raise _refused("unknown_weights", name, f"there are no weights called {name}", hint=hint)
        return folder

    def _files(self, name: str) -> list[_File]:
        """All files of weights, sorted by path; raises like :meth:`artifact`."""
        folder, root = self._folder(name), self._root
        assert root is not None
        files = list(_walk(folder, root, name))
        suffixes = {Path(file.path).suffix.lower() for file in files}
        if suffixes & PICKLED:
            found = next(file.path for file in files if Path(file.path).suffix.lower() in PICKLED)
            message = f"{found} is pickle, which is never read: reading it runs code that came with it"
            raise _refused("pickle_refused", name, message, hint=f"{CONVERT}; then take it out of the folder")
        if not suffixes & READABLE:
            message = "the folder holds no safetensors"
            raise _refused("no_safetensors", name, message, hint=f"download them, or {CONVERT}")
        return sorted(files, key=lambda file: file.path)

    def _names(self) -> list[str]:
        if self._root is None:
            return []
        found: list[str] = []
        _find(self._root, "", _DEPTH, found)
        return sorted(found)[:_MOST_LISTED]


class Notes:
    """What is known of weights by name, in files that every process of the platform may read."""

    def __init__(self, home: Path) -> None:
        self._folder = Path(home) / NOTES

    def digest(self, name: str, folder: Path, files: list[_File]) -> str | None:
        """The digest that was found for exactly these files."""
        note = self._read(self._path(name))
        if note is None or note.get("folder") != str(folder) or _marks(note) != [file.mark for file in files]:
            return None
        digest: str | None = note.get("digest")
        return digest

    def hashes(self, name: str, folder: Path) -> dict[_Mark, str]:
        """The files that were read to their end, by path, size and time."""
        note = self._read(self._path(name))
        if note is None or note.get("folder") != str(folder):
            return {}
        return {mark: sha256 for mark, sha256 in zip(_marks(note), note["sha256"], strict=True) if sha256}

    def all(self) -> Iterator[Json]:
        """Every note."""
        for path in sorted(self._folder.glob("*.json")):
            note = self._read(path)
            if note is not None:
                yield note

    def write(
        self,
        name: str,
        folder: Path,
        files: list[_File],
        done: dict[_Mark, str],
        digest: str | None,
    ) -> None:
        """Put a note in the place of the one before, whole."""
        note = {
            "name": name,
            "folder": str(folder),
            "files": [list(file.mark) for file in files],
            "sha256": [done.get(file.mark) for file in files],
            "digest": digest,
        }
        path = self._path(name)
        fresh = path.with_suffix(f".{os.getpid()}.new")
        fresh.write_text(dumps(note), encoding="utf-8")
        fresh.replace(path)

    @contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """One process reads some weights at a time; the others find its note."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with self._path(name).with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _path(self, name: str) -> Path:
        return self._folder / f"{quote(name, safe='')}.json"

    def _read(self, path: Path) -> Json | None:
        try:
            note: Json = loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return note


def find_weights(home: Path, artifact: Artifact) -> Path | None:
    """The folder that holds weights, for a worker; None where they are none of the administrator's.

    Raises:
        BadInput: ``weights_changed``, they are not what they were when the run was submitted.
    """
    for note in Notes(home).all():
        if note.get("digest") != artifact.digest:
            continue
        folder = Path(note["folder"])
        if all(_is_unchanged(folder / path, size, mtime_ns) for path, size, mtime_ns in _marks(note)):
            return folder
        raise _refused(
            "weights_changed",
            artifact.name,
            "they were changed after the run was submitted",
            hint="submit the run again",
        )
    return None


def kind_of(folder: Path) -> str | None:
    """What kind of model ``config.json`` describes; None where there is none that says so."""
    try:
        with (folder / CONFIG).open("rb") as file:
            config = json.loads(file.read(_CONFIG_BYTES))
    except (OSError, ValueError):
        return None
    if not isinstance(config, dict):
        return None
    if config.get("is_folding_model") is True or "esmfold_config" in config:
        return "esmfold"
    kind = config.get("kind", config.get("model_type"))
    return kind[:64] if isinstance(kind, str) else None


_LISTED = "`foldase weights` lists those there are"


def _walk(folder: Path, root: Path, name: str) -> Iterator[_File]:
    """All files but hidden ones; a link may lead to another place below the root only."""
    if not folder.resolve().is_relative_to(root):
        raise _outside(name, "")
    for parent, folders, names in os.walk(folder):
        for inner in folders:
            if Path(parent, inner).is_symlink():
                raise _outside(name, f"{Path(parent, inner).relative_to(folder)} ")
        folders[:] = [inner for inner in folders if not inner.startswith(".")]
        for inner in names:
            place = Path(parent, inner)
            if inner.startswith("."):
                continue
            path = place.relative_to(folder).as_posix()
            if not place.resolve().is_relative_to(root):
                raise _outside(name, f"{path} ")
            if not place.is_file():
                raise _refused("tree_not_regular", name, f"{path} is no file")
            status = place.stat()
            yield _File(path, status.st_size, status.st_mtime_ns, place)


def _find(folder: Path, prefix: str, depth: int, found: list[str]) -> None:
    """Names of the folders with weights below a folder; what lies in them belongs to them."""
    with suppress(OSError):
        for place in sorted(folder.iterdir()):
            name = f"{prefix}{place.name}"
            if not place.is_dir() or not is_weights_name(name) or len(found) >= _MOST_LISTED:
                continue
            if place.is_symlink() or _has_weights(place) or depth == 1:
                found.append(name)
            else:
                _find(place, f"{name}/", depth - 1, found)


def _has_weights(folder: Path) -> bool:
    with suppress(OSError):
        return any(
            place.name == CONFIG or place.suffix.lower() in READABLE | PICKLED for place in folder.iterdir()
        )
    return False


def _is_unchanged(place: Path, size: int, mtime_ns: int) -> bool:
    try:
        status = place.stat()
    except OSError:
        return False
    return (status.st_size, status.st_mtime_ns) == (size, mtime_ns)


def _marks(note: Json) -> list[_Mark]:
    return [(path, size, mtime_ns) for path, size, mtime_ns in note["files"]]


def _digest(files: list[_File], done: dict[_Mark, str]) -> str:
    """Of the manifest that a tree with these files has."""
    listed = [{"path": file.path, "sha256": done[file.mark], "size": file.size} for file in files]
    return f"sha256:{hashlib.sha256(canonical({'files': listed}).encode()).hexdigest()}"


def _artifact(name: str, digest: str, files: list[_File]) -> Artifact:
    return Artifact(digest, TYPE, sum(file.size for file in files), name, media_type_of(TYPE))


def _outside(name: str, which: str) -> BadInput:
    return _refused(
        "weights_outside",
        name,
        f"{which}is a link that leads out of the folder of weights",
        hint="copy the files, or link to a place below that folder",
    )


def _refused(code: str, name: str, message: str, *, hint: str | None = None) -> BadInput:
    return BadInput(message, code=code, location=Location(record=name[:80]), hint=hint)
