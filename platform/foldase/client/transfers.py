"""Files up to the server and down from it: streamed, compared with their digests, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from foldase.client.models import artifact_from
from foldase.client.transport import Transport
from foldase_workflows.contracts.artifacts import Artifact
from foldase_workflows.contracts.errors import BadInput, Conflict, Damaged, Location, StorageFull
from foldase_workflows.contracts.types import Storage, parse_type

_CHUNK = 1 << 20


def upload(transport: Transport, path: Path, kind: str, name: str | None) -> Artifact:
    """Store a file on the server.

    Raises:
        BadInput: ``file_missing`` or ``empty_file``, or what the server finds wrong with it.
        TooLarge, StorageFull: it does not fit.
    """
    digest, size = digest_of(path)
    if size == 0:
        raise BadInput(f"{path} is empty", code="empty_file", location=Location(file=str(path)))
    answer = transport.open(
        "POST",
        "/blobs",
        params={"name": name or path.name, "type": kind},
        content=lambda: chunks_of(path),
        headers={
            "X-Content-SHA256": digest,
            "Content-Length": str(size),
            "Content-Type": "application/octet-stream",
        },
        repeatable=True,
    )
    with answer as response:
        response.read()
        return artifact_from(response.json())


def chunks_of(path: Path) -> Iterator[bytes]:
    """The bytes of a file, a piece at a time."""
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk


def digest_of(path: Path) -> tuple[str, int]:
    """The SHA-256 of a file in hexadecimal, and its size in bytes.

    Raises:
        BadInput: ``file_missing``, it cannot be read.
    """
    seen, size = hashlib.sha256(), 0
    try:
        for chunk in chunks_of(path):
            seen.update(chunk)
            size += len(chunk)
    except OSError as error:
        raise BadInput(
            f"{path} cannot be read: {error.strerror}",
            code="file_missing",
            location=Location(file=str(path)),
            hint="check the path",
        ) from None
    return seen.hexdigest(), size


def download(transport: Transport, artifact: Artifact, target: Path, *, overwrite: bool = False) -> Path:
    """Fetch an artifact to ``target``: a file, or a folder for a tree.

    It appears under its name only when it is complete and has the digest it was asked for by.

    Raises:
        Conflict: ``exists``, there is something at ``target`` already.
        Damaged: what came is not what was asked for.
        NotFound: the server has no such artifact.
        StorageFull: there is no space for it.
    """
    if target.exists() and not overwrite:
        raise Conflict(
            f"{target} exists already", code="exists", hint="name another path, or overwrite it with --force"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    is_tree = parse_type(artifact.type).storage is Storage.TREE
    workplace = Path(tempfile.mkdtemp(prefix=f".{target.name[:100]}.", dir=target.parent))
    try:
        fetched = workplace / "content"
        seen = _fetch(transport, artifact, fetched)
        if is_tree:
            unpacked = workplace / "tree"
            seen = unpack(fetched, unpacked, most_bytes=artifact.size)
            fetched = unpacked
        if f"sha256:{seen}" != artifact.digest:
            raise Damaged(f"{artifact.name} arrived damaged: its digest is not {artifact.digest}")
        _put_in_place(fetched, target)
    except OSError as error:
        if error.errno is None:
            raise
        raise StorageFull(f"cannot write {target}: {error.strerror}", code="cannot_write") from error
    finally:
        shutil.rmtree(workplace, ignore_errors=True)
    return target


def _fetch(transport: Transport, artifact: Artifact, target: Path) -> str:
    seen = hashlib.sha256()
    with (
        transport.open("GET", f"/artifacts/{artifact.digest}/content") as response,
        target.open("wb") as file,
    ):
        for chunk in response.iter_bytes(_CHUNK):
            seen.update(chunk)
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    return seen.hexdigest()


def unpack(archive: Path, folder: Path, *, most_bytes: int) -> str:
    """Unpack the zip archive of a tree and return the digest of its manifest.

    Nothing is taken from the archive but the bytes of regular files below its one top folder: links, devices,
    absolute paths, ``..`` and more bytes than announced are refused.

    Raises:
        Damaged: the archive is no such archive.
    """
    entries = []
    left = most_bytes
    folder.mkdir()
    try:
        with zipfile.ZipFile(archive) as opened:
            for member in opened.infolist():
                path = _path_in_tree(member)
                place = folder / path
                place.parent.mkdir(parents=True, exist_ok=True)
                seen, size = hashlib.sha256(), 0
                with opened.open(member) as source, place.open("xb") as file:
                    while chunk := source.read(_CHUNK):
                        size += len(chunk)
                        if size > left:
                            raise Damaged("the archive holds more than was announced")
                        seen.update(chunk)
                        file.write(chunk)
                left -= size
                entries.append({"path": path.as_posix(), "sha256": seen.hexdigest(), "size": size})
    except (zipfile.BadZipFile, FileExistsError, NotADirectoryError, EOFError, RuntimeError) as error:
        raise Damaged(f"the archive cannot be unpacked: {error}") from error
    manifest = {"files": sorted(entries, key=lambda entry: str(entry["path"]))}
    text = json.dumps(manifest, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _path_in_tree(member: zipfile.ZipInfo) -> PurePosixPath:
    kind = stat.S_IFMT(member.external_attr >> 16)
    parts = PurePosixPath(member.filename).parts
    outside = member.filename.startswith("/") or ".." in parts or "\\" in member.filename
    if outside or len(parts) < 2 or member.is_dir() or kind not in (0, stat.S_IFREG):
        raise Damaged(f"the archive has a member that no tree has: {member.filename[:200]!r}")
    return PurePosixPath(*parts[1:])


def _put_in_place(fetched: Path, target: Path) -> None:
    """Rename; what was there before is gone only once the new one is complete."""
    if target.is_dir() and not target.is_symlink():
        old = fetched.with_name("old")
        target.rename(old)
    fetched.replace(target)
    descriptor = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
