"""Arrays out of zarr trees in the blob store, without unpacking the trees.

Everything read is compared with its digest, and a chunk that the manifest does not list is an error: zarr by
itself would make up fill values. Importing this module imports zarr, so routes do it when first asked.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype

from foldase.store.artifacts import BlobStore
from foldase_web.services.trees import Tree
from foldase_workflows.contracts.errors import BadInput, Damaged, NotFound, TooLarge

_KINDS = frozenset("biufc")


@dataclass(frozen=True, slots=True)
class ArrayPart:
    """Values of a part of an array: little-endian, C order; ``dtype`` is the numpy name."""

    data: bytes
    shape: tuple[int, ...]
    dtype: str


class TreeStore(Store):
    """A read-only zarr store over a tree of the blob store."""

    def __init__(self, tree: Tree) -> None:
        super().__init__(read_only=True)
        self._tree = tree

    supports_writes = False
    supports_deletes = False
    supports_partial_writes = False
    supports_listing = True

    def __eq__(self, value: object) -> bool:
        return isinstance(value, TreeStore) and value._tree.digest == self._tree.digest

    def __hash__(self) -> int:
        return hash(self._tree.digest)

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """The bytes of a file; raises ``Damaged`` for a chunk that is not there."""
        if not self._tree.has(key):
            if "/c/" in f"/{key}":
                raise Damaged(f"chunk {key} is missing from the tree")
            return None
        return prototype.buffer.from_bytes(_part(self._tree.read(key), byte_range))

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Several parts of files."""
        return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]

    async def exists(self, key: str) -> bool:
        """Whether the tree lists the file."""
        return self._tree.has(key)

    async def set(self, key: str, value: Buffer) -> None:
        """Refused: artifacts are immutable."""
        raise PermissionError("artifacts are immutable")

    async def delete(self, key: str) -> None:
        """Refused: artifacts are immutable."""
        raise PermissionError("artifacts are immutable")

    async def list(self) -> AsyncIterator[str]:
        """All files."""
        for path in self._tree.paths:
            yield path

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """The files whose path begins so."""
        for path in self._tree.paths:
            if path.startswith(prefix):
                yield path

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """The names directly in a folder."""
        for name in self._tree.names_in(prefix):
            yield name


def _part(content: bytes, wanted: ByteRequest | None) -> bytes:
    if isinstance(wanted, RangeByteRequest):
        return content[wanted.start : wanted.end]
    if isinstance(wanted, OffsetByteRequest):
        return content[wanted.offset :]
    if isinstance(wanted, SuffixByteRequest):
        return content[-wanted.suffix :]
    return content


def read_array(
    blobs: BlobStore, digest: str, path: str, *, start: str | None, stop: str | None, limit_bytes: int
) -> ArrayPart:
    """A part of one array of a tree.

    Args:
        blobs: where the tree lies.
        digest: of the tree.
        path: ``array`` or ``group/array``.
        start: first index of every axis (``"0,10"``); zeros where nothing is given.
        stop: the index after the last of every axis; the shape where nothing is given.
        limit_bytes: at most so many bytes of values.

    Raises:
        NotFound: there is no such tree or array.
        BadInput: ``bad_slice``, the part does not lie in the array; ``bad_array``, it holds no numbers.
        TooLarge: ``slice_too_large``.
        Damaged: a chunk is missing or changed.
    """
    tree = Tree(blobs, digest)
    if tree.metadata(path).get("node_type") != "array":
        raise NotFound(f"there is no array {path!r} in this artifact", code="unknown_array")
    try:
        array = zarr.open_array(TreeStore(tree), path=path, mode="r", zarr_format=3)
        window = _window(array.shape, start, stop)
        dtype = np.dtype(array.dtype)
        if dtype.kind not in _KINDS:
            raise BadInput(f"array {path!r} holds {dtype}, no numbers", code="bad_array")
        asked = math.prod(part.stop - part.start for part in window) * dtype.itemsize
        if asked > limit_bytes:
            raise TooLarge(
                f"{asked:,} bytes of values were asked for, the limit is {limit_bytes:,}",
                code="slice_too_large",
                hint="ask for parts with start= and stop=",
            )
        values = np.asarray(array[window])
    except (ValueError, TypeError, KeyError, OSError, EOFError, RuntimeError) as error:
        raise Damaged(f"array {path!r} cannot be decoded: {error}") from error
    data = np.ascontiguousarray(values, dtype=dtype.newbyteorder("<")).tobytes()
    return ArrayPart(data, values.shape, dtype.name)


def _window(shape: tuple[int, ...], start: str | None, stop: str | None) -> tuple[slice[Any, Any, Any], ...]:
    first = _indices(start, len(shape)) if start is not None else (0,) * len(shape)
    last = _indices(stop, len(shape)) if stop is not None else shape
    for begin, end, length in zip(first, last, shape, strict=True):
        if not 0 <= begin < end <= length:
            raise BadInput(
                f"the part {first} to {last} does not lie in an array of shape {shape}", code="bad_slice"
            )
    return tuple(slice(begin, end) for begin, end in zip(first, last, strict=True))


def _indices(text: str, axes: int) -> tuple[int, ...]:
    parts = text.split(",")
    if len(parts) != axes or not all(part.isascii() and part.isdigit() and len(part) < 19 for part in parts):
        raise BadInput(f"{text!r} is not one whole number for each of {axes} axes", code="bad_slice")
    return tuple(int(part) for part in parts)
