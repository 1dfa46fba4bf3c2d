"""Finding artifacts and answering with their bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import partial
from pathlib import PurePosixPath
from typing import Any

from starlette.responses import Response, StreamingResponse

from foldase.store import Store
from foldase.store.artifacts import safe_name
from foldase.store.blobs import hex_digits
from foldase.store.records import artifact_json
from foldase_web.context import Services
from foldase_web.security import INERT_POLICY
from foldase_web.services.downloads import (
    Member,
    Span,
    attachment,
    chunks,
    parse_range,
    zip_stream,
)
from foldase_web.services.trees import Tree
from foldase_workflows.contracts.artifacts import Artifact
from foldase_workflows.contracts.errors import Damaged, NotFound
from foldase_workflows.contracts.types import Storage, parse_type

_AGAIN = "run the step that made it again with `cache: refresh`"
_IMMUTABLE = "private, max-age=31536000, immutable"


def find(store: Store, digest: str) -> Artifact:
    """What somebody made or uploaded.

    Raises:
        NotFound: nothing known has this digest, or it is none.
    """
    return store.queries.artifact(f"sha256:{hex_digits(digest)}")


def is_tree(artifact: Artifact) -> bool:
    """Whether an artifact has files of its own."""
    try:
        return parse_type(artifact.type).storage is Storage.TREE
    except ValueError:
        return False


def find_tree(store: Store, digest: str) -> Artifact:
    """An artifact that is a tree.

    Raises:
        NotFound: there is none with this digest, or it is a single file.
    """
    artifact = find(store, digest)
    if not is_tree(artifact):
        raise NotFound("this artifact is a single file and has no files inside", code="not_a_tree")
    return artifact


def describe(store: Store, digest: str) -> dict[str, Any]:
    """The fields of the artifact, and its files where it is a tree."""
    artifact = find(store, digest)
    described = artifact_json(artifact)
    if is_tree(artifact):
        files = Tree(store.blobs, artifact.digest).files
        described["files"] = [{"path": file.path, "size": file.size} for file in files]
    return described


def download(store: Store, digest: str, wanted: str | None, if_none_match: str | None) -> Response:
    """All bytes of an artifact: a file, or a tree as zip.

    Raises:
        NotFound: there is no such artifact.
        Damaged: its bytes are lost or changed.
        HttpError: 416.
    """
    artifact = find(store, digest)
    if not is_tree(artifact):
        return _file(store, artifact.digest, artifact.name, artifact.media_type, wanted, if_none_match)
    etag = f'"{hex_digits(artifact.digest)}.zip"'
    headers = _headers(f"{safe_name(artifact.name)}.zip", etag)
    if _matches(if_none_match, etag):
        return Response(status_code=304, headers=headers)
    tree = Tree(store.blobs, artifact.digest)
    if not store.blobs.complete(artifact):
        raise Damaged("files of this artifact are lost", hint=_AGAIN)
    body = zip_stream(safe_name(artifact.name), _members(store, tree))
    return StreamingResponse(body, headers=headers, media_type="application/zip")


def download_file(
    store: Store, digest: str, path: str, wanted: str | None, if_none_match: str | None
) -> Response:
    """One file of a tree; raises like :func:`download`."""
    tree = Tree(store.blobs, find_tree(store, digest).digest)
    file = tree.verified(path)
    name = PurePosixPath(file.path).name
    media_type = _MEDIA_TYPES.get(PurePosixPath(name).suffix, "application/octet-stream")
    return _file(store, file.sha256, name, media_type, wanted, if_none_match)


def array(
    services: Services,
    digest: str,
    path: str,
    start: str | None,
    stop: str | None,
    if_none_match: str | None = None,
) -> Response:
    """Values of one array of a tree, or of a part of it; raises like ``arrays.read_array``.

    The tag is made of the question: what a digest stands for never changes.
    """
    from foldase_web.services.arrays import read_array  # zarr takes half a second to import

    store = services.store
    tree = find_tree(store, digest)
    asked = "\n".join([tree.digest, path, start or "", stop or ""])
    etag = f'"{hashlib.sha256(asked.encode()).hexdigest()}"'
    if _matches(if_none_match, etag):
        return Response(status_code=304, headers={"Cache-Control": _IMMUTABLE, "ETag": etag})
    limit = services.settings.slice_limit_bytes
    part = read_array(store.blobs, tree.digest, path, start=start, stop=stop, limit_bytes=limit)
    headers = {
        "Cache-Control": _IMMUTABLE,
        "ETag": etag,
        "X-Dtype": part.dtype,
        "X-Shape": ",".join(str(length) for length in part.shape),
    }
    return Response(part.data, headers=headers, media_type="application/octet-stream")


_MEDIA_TYPES = {
    ".cif": "chemical/x-mmcif",
    ".csv": "text/csv",
    ".html": "text/html",
    ".json": "application/json",
    ".txt": "text/plain",
}


def _file(
    store: Store, digest: str, name: str, media_type: str, wanted: str | None, if_none_match: str | None
) -> Response:
    etag = f'"{hex_digits(digest)}"'
    headers = {**_headers(name, etag), "Accept-Ranges": "bytes"}
    if _matches(if_none_match, etag):
        return Response(status_code=304, headers=headers)
    try:
        store.blobs.verify(digest)
        size, file = store.blobs.size(digest), store.blobs.open(digest)
    except NotFound:
        raise Damaged("the bytes of this artifact are lost", hint=_AGAIN) from None
    try:
        span = parse_range(wanted, size)
    except BaseException:
        file.close()
        raise
    whole = Span(0, size)
    headers["Content-Length"] = str((span or whole).stop - (span or whole).start)
    if span is not None:
        headers["Content-Range"] = f"bytes {span.start}-{span.stop - 1}/{size}"
    return StreamingResponse(
        chunks(file, span or whole), 200 if span is None else 206, headers=headers, media_type=media_type
    )


def _headers(name: str, etag: str) -> dict[str, str]:
    return {
        "Cache-Control": _IMMUTABLE,
        "Content-Disposition": attachment(name),
        "Content-Security-Policy": INERT_POLICY,
        "ETag": etag,
    }


def _matches(if_none_match: str | None, etag: str) -> bool:
    given = (part.strip().removeprefix("W/") for part in (if_none_match or "").split(","))
    return etag in given


def _members(store: Store, tree: Tree) -> Iterator[Member]:
    for file in tree.files:
        yield Member(file.path, file.size, file.sha256, partial(store.blobs.open, file.sha256))
