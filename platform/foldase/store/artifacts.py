"""Artifacts in the blob store: files, and trees described by a manifest.

The manifest of a tree is a blob itself, the JSON ``{"files": [{"path", "sha256", "size"}, ...]}`` with
relative POSIX paths in sorted order. It lists every file, so a lost one is an error and never a gap.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from foldase.store.blobs import Blobs, chunks_of, hex_digits, storage_errors, sync_folder_of
from foldase.store.faults import faultpoint
from foldase.store.jsontext import canonical, loads
from foldase_workflows.contracts.artifacts import Artifact
from foldase_workflows.contracts.errors import BadInput, Damaged, NotFound
from foldase_workflows.contracts.types import Storage, parse_type

_SYNC_THREADS = 8
"""Syncs wait for the disk, not for the processor; together they share its flushes."""

_UNSAFE = re.compile(r"[\x00-\x1f\x7f/\\]")
_NAME_BYTES = 200


@dataclass(frozen=True, slots=True)
class TreeFile:
    """One file of a tree: relative POSIX path, digest of its bytes (64 hex digits), size in bytes."""

    path: str
    sha256: str
    size: int


class BlobStore(Blobs):
    """Puts artifacts into the store and gets them out; see :class:`~foldase.store.blobs.Blobs` for bytes."""

    def put_stream(
        self,
        stream: BinaryIO | Iterable[bytes],
        *,
        type: str,  # noqa: A002  # the field of an artifact
        name: str,
        limit: int | None = None,
        expected: str | None = None,
    ) -> Artifact:
        """Store a file that comes in pieces; at no time more than one piece is in memory.

        Args:
            stream: a file opened for reading bytes, or an iterable of bytes.
            type: the type in the language, for example ``fasta``.
            name: what people call it.
            limit: at most so many bytes.
            expected: the digest that the sender announced.

        Raises:
            BadInput: with code ``empty_file`` or ``digest_mismatch``.
            TooLarge: with code ``body_too_large``.
            StorageFull: the disk is full.
        """
        with self.writer(limit=limit) as writer:
            for chunk in chunks_of(stream):
                writer.write(chunk)
            if writer.size == 0:
                raise BadInput(f"{name} is empty", code="empty_file")
            digest, size = writer.publish(expected=expected)
        return Artifact(digest, type, size, name, media_type_of(type))

    def put_file(
        self,
        path: Path,
        type: str,  # noqa: A002
        name: str | None = None,
        *,
        move: bool = False,
    ) -> Artifact:
        """Store a file.

        Args:
            path: a regular file.
            type: the type in the language.
            name: what people call it; the name of the file where nothing is given.
            move: take the file over instead of copying it; nobody may write to it any more.

        Raises:
            BadInput: with code ``missing_file``, there is no such regular file.
            StorageFull: the disk is full.
        """
        if path.is_symlink() or not path.is_file():
            raise BadInput(f"{path.name} is no regular file", code="missing_file")
        digest, size = self.adopt(path) if move else self.copy(path)
        return Artifact(digest, type, size, name or path.name, media_type_of(type))

    def put_tree(
        self,
        folder: Path,
        type: str,  # noqa: A002
        name: str | None = None,
        *,
        move: bool = False,
    ) -> Artifact:
        """Store all files below a folder and then their manifest, whose digest is that of the artifact.

        Args:
            folder: may hold regular files and folders only.
            type: the type in the language.
            name: what people call it; the name of the folder where nothing is given.
            move: take the files over instead of copying them.

        Raises:
            BadInput: with code ``missing_file`` or ``tree_not_regular``.
            StorageFull: the disk is full; no artifact exists then.
        """
        paths = _files_below(folder)

        def put(path: Path) -> TreeFile:
            digest, size = self._put_unsynced(path, move=move)
            return TreeFile(path.relative_to(folder).as_posix(), hex_digits(digest), size)

        with ThreadPoolExecutor(_SYNC_THREADS) as threads:
            files = list(threads.map(put, paths))
        with storage_errors():
            for shard in sorted({file.sha256[:2] for file in files}):
                sync_folder_of(self.root / shard / "any")
        faultpoint("tree.manifest.before")
        manifest = {
            "files": [{"path": file.path, "sha256": file.sha256, "size": file.size} for file in files]
        }
        with self.writer() as writer:
            writer.write(canonical(manifest).encode())
            digest, _ = writer.publish()
        total = sum(file.size for file in files)
        return Artifact(digest, type, total, name or folder.name, media_type_of(type))

    def manifest(self, digest: str) -> tuple[TreeFile, ...]:
        """The files of a tree, sorted by path; the manifest itself is verified.

        Raises:
            NotFound: nothing is stored under this digest.
            Damaged: the manifest has other bytes than those that were stored, or is none.
        """
        try:
            entries = loads(self.read(digest).decode())["files"]
            return tuple(TreeFile(entry["path"], entry["sha256"], entry["size"]) for entry in entries)
        except (ValueError, KeyError, TypeError) as error:
            raise Damaged(f"{digest} is not the manifest of a tree", code="not_a_tree") from error

    def open_in_tree(self, digest: str, path: str) -> BufferedReader:
        """One file of a tree, for reading.

        Raises:
            NotFound: the tree has no such file.
            Damaged: the tree lists the file, and its bytes are gone.
        """
        for file in self.manifest(digest):
            if file.path == path:
                return self._open_listed(digest, file)
        raise NotFound(f"{digest} has no file {path}", code="unknown_file")

    def verify_artifact(self, artifact: Artifact) -> None:
        """Compare all bytes of an artifact with their digests, of a tree those of every file.

        Raises:
            NotFound: nothing is stored under its digest.
            Damaged: bytes differ or are missing.
        """
        self.verify(artifact.digest)
        if _is_tree(artifact.type):
            for file in self.manifest(artifact.digest):
                self._check_listed(artifact.digest, file)
                self.verify(file.sha256)

    def complete(self, artifact: Artifact) -> bool:
        """Whether all files of an artifact are there with the right sizes; reads no more than a manifest."""
        try:
            if not _is_tree(artifact.type):
                return self.size(artifact.digest) == artifact.size
            for file in self.manifest(artifact.digest):
                self._check_listed(artifact.digest, file)
        except (NotFound, Damaged):
            return False
        return True

    def materialise(self, artifact: Artifact, into: Path, *, verify: bool = True) -> Path:
        """Put an artifact below the folder ``into`` under its own name, read-only.

        Files are hard links where that is possible and copies otherwise.

        Returns:
            The path of the file, or of the folder of a tree.

        Raises:
            NotFound: nothing is stored under its digest.
            Damaged: bytes differ or are missing (only sizes are compared without ``verify``).
            StorageFull: there is no space for copies.
        """
        if verify:
            self.verify_artifact(artifact)
        into.mkdir(parents=True, exist_ok=True)
        target = into / safe_name(artifact.name)
        if not _is_tree(artifact.type):
            self.link_or_copy(artifact.digest, target)
            return target
        target.mkdir()
        for file in self.manifest(artifact.digest):
            self._check_listed(artifact.digest, file)
            place = target / _relative(artifact.digest, file.path)
            place.parent.mkdir(parents=True, exist_ok=True)
            self.link_or_copy(file.sha256, place)
        return target

    def _put_unsynced(self, path: Path, *, move: bool) -> tuple[str, int]:
        if move:
            return self.adopt(path, sync_folder=False)
        return self.copy(path, sync_folder=False)

    def _open_listed(self, digest: str, file: TreeFile) -> BufferedReader:
        self._check_listed(digest, file)
        return self.open(file.sha256)

    def _check_listed(self, digest: str, file: TreeFile) -> None:
        try:
            size = self.size(file.sha256)
        except NotFound:
            size = -1
        if size != file.size:
            raise Damaged(f"{file.path} of {digest} is missing or cut short")


def media_type_of(type: str) -> str:  # noqa: A002
    """The media type of one artifact of a type; bytes where the type is not known."""
    try:
        return parse_type(type).media_type
    except ValueError:
        return "application/octet-stream"


def safe_name(name: str) -> str:
    """A name for the file system: no folders, no control characters, no hidden or endless names."""
    cleaned = _UNSAFE.sub("_", name).lstrip(". ") or "unnamed"
    while len(cleaned.encode()) > _NAME_BYTES:
        cleaned = cleaned[1:]
    return cleaned


def _is_tree(type: str) -> bool:  # noqa: A002
    try:
        return parse_type(type).storage is Storage.TREE
    except ValueError:
        return False


def _files_below(folder: Path) -> list[Path]:
    if folder.is_symlink() or not folder.is_dir():
        raise BadInput(f"{folder.name} is no folder", code="missing_file")
    found = []
    for parent, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = Path(parent, name)
            if path.is_symlink() or not (path.is_dir() or path.is_file()):
                raise BadInput(
                    f"{path.relative_to(folder)} is neither a file nor a folder", code="tree_not_regular"
                )
        found += [Path(parent, name) for name in names]
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def _relative(digest: str, path: str) -> PurePosixPath:
    relative = PurePosixPath(path)
    if relative.is_absolute() or ".." in relative.parts or not relative.parts:
        raise Damaged(f"the manifest {digest} has a path outside of its tree", code="not_a_tree")
    return relative
