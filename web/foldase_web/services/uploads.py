"""Uploads: from the request's stream into the blob store, without ever holding a file in memory."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator
from functools import partial

import anyio
import anyio.to_thread
from starlette.requests import ClientDisconnect

from foldase.store import Store
from foldase.store.blobs import BlobWriter
from foldase_web.problems import HttpError
from foldase_workflows.contracts.artifacts import Artifact
from foldase_workflows.contracts.errors import BadInput, FoldaseError
from foldase_workflows.contracts.types import PortType, Storage, parse_type

_BATCH_BYTES = 1 << 20
_LOOK_AT_BYTES = 8192
_DRAIN_BYTES = 64 << 20
_DRAIN_SECONDS = 5.0

_PICKLE = re.compile(rb"\x80[\x02-\x05]")
_PICKLE_NAMES = (".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".joblib")
_ARCHIVES: tuple[tuple[bytes, str, str], ...] = (
    (b"\x1f\x8b", "a gzip archive", "unpack it first: `gunzip FILE`"),
    (b"BZh", "a bzip2 archive", "unpack it first: `bunzip2 FILE`"),
    (b"\xfd7zXZ", "an xz archive", "unpack it first: `unxz FILE`"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", "unpack it first: `unzstd FILE`"),
    (b"PK\x03\x04", "a zip archive", "unpack it first: `unzip FILE`"),
    (b"\xff\xfe", "text in UTF-16", "save it as plain text in UTF-8"),
    (b"\xfe\xff", "text in UTF-16", "save it as plain text in UTF-8"),
)
_TEXT_TYPES = frozenset({"fasta", "alignment", "structure", "table", "report"})
_HEX = re.compile(r"(?:sha256:)?[0-9a-fA-F]{64}\Z")


def upload_type(name: str) -> PortType:
    """The type of an upload: one that is a single file.

    Raises:
        BadInput: ``unknown_type``, it is none, or values of it are no files.
    """
    try:
        found = parse_type(name)
    except ValueError as error:
        raise BadInput(str(error), code="unknown_type") from None
    if found.storage is not Storage.FILE or found.item is not None:
        raise BadInput(f"a {found} cannot be uploaded as a file", code="unknown_type")
    return found


def check_upload_name(name: str) -> str:
    """The name people will see; never a path.

    Raises:
        BadInput: ``bad_name``, it is empty or has separators in it.
    """
    if name in ("", ".", "..") or "/" in name or "\\" in name:
        raise BadInput("an upload's name is a plain file name", code="bad_name")
    return name


def check_digest(digest: str | None) -> str | None:
    """The digest that a client announces.

    Raises:
        BadInput: ``bad_digest``, it is no SHA-256.
    """
    if digest is not None and _HEX.match(digest) is None:
        raise BadInput("X-Content-SHA256 is 64 hex digits", code="bad_digest")
    return digest


def check_beginning(head: bytes, name: str, kind: PortType) -> None:
    """Refuse what nobody here will open, from its first bytes.

    Raises:
        HttpError: 415 ``pickle_refused``: unpickling runs whatever code the file holds.
        BadInput: ``not_text``, an archive or binary data where text is expected.
    """
    torch_archive = head.startswith(b"PK\x03\x04") and b"data.pkl" in head
    if _PICKLE.match(head) or torch_archive or name.lower().endswith(_PICKLE_NAMES):
        raise HttpError(
            "pickled files are not accepted: opening one runs whatever code is in it",
            status=415,
            code="pickle_refused",
            hint="save weights as safetensors, arrays as npy or zarr, values as JSON",
        )
    if kind.name not in _TEXT_TYPES:
        return
    for magic, what, hint in _ARCHIVES:
        if head.startswith(magic):
            raise BadInput(f"{name} is {what}, not text", code="not_text", hint=hint)
    if b"\0" in head:
        raise BadInput(f"{name} is binary data, not text", code="not_text")


class Upload:
    """One upload; checks are made before and while it is received."""

    def __init__(
        self, store: Store, *, name: str, kind: PortType, expected: str | None, limit_bytes: int
    ) -> None:
        self._store = store
        self._name = name
        self._kind = kind
        self._expected = expected
        self._limit_bytes = limit_bytes

    async def receive(self, stream: AsyncIterator[bytes], announced: int | None) -> Artifact:
        """Store the whole stream; nothing remains of one that is refused or breaks off.

        Args:
            stream: the body.
            announced: its length in bytes, where the client said so.

        Raises:
            TooLarge, StorageFull: while receiving.
            BadInput: ``empty_file``, ``not_text`` or ``digest_mismatch``.
            HttpError: 400 ``incomplete`` or 415 ``pickle_refused``.
        """
        writer = await anyio.to_thread.run_sync(partial(self._store.blobs.writer, limit=self._limit_bytes))
        with contextlib.closing(writer):
            try:
                await self._write(stream, writer)
            except FoldaseError:
                await _drain(stream)
                raise
            except ClientDisconnect:
                raise HttpError("the upload broke off", code="incomplete") from None
            if writer.size == 0:
                raise BadInput(f"{self._name} is empty", code="empty_file")
            if announced is not None and announced != writer.size:
                message = f"{announced} bytes were announced, {writer.size} came"
                raise HttpError(message, code="incomplete")
            return await anyio.to_thread.run_sync(self._finish, writer)

    async def _write(self, stream: AsyncIterator[bytes], writer: BlobWriter) -> None:
        async for batch in batches(stream, _BATCH_BYTES):
            if writer.size == 0:
                check_beginning(batch[:_LOOK_AT_BYTES], self._name, self._kind)
            await anyio.to_thread.run_sync(writer.write, batch)

    def _finish(self, writer: BlobWriter) -> Artifact:
        digest, size = writer.publish(expected=self._expected)
        artifact = Artifact(digest, self._kind.name, size, self._name, self._kind.media_type)
        return self._store.requests.register_artifact(artifact)


async def batches(stream: AsyncIterator[bytes], size: int) -> AsyncIterator[bytes]:
    """The same bytes in pieces of at least ``size``, the last one apart."""
    held = bytearray()
    async for chunk in stream:
        held += chunk
        if len(held) >= size:
            yield bytes(held)
            held.clear()
    if held:
        yield bytes(held)


async def _drain(stream: AsyncIterator[bytes]) -> None:
    """Read some of a refused body away: a client that still sends would see a reset, not the answer."""
    drained = 0
    with anyio.move_on_after(_DRAIN_SECONDS), contextlib.suppress(ClientDisconnect, RuntimeError):
        async for chunk in stream:
            drained += len(chunk)
            if drained > _DRAIN_BYTES:
                return
