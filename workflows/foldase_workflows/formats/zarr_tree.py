"""Trees of zarr v3 arrays that notice damage.

Every chunk carries a crc32c, and a manifest lists every file with its size and crc32: zarr by itself fills a
missing chunk with zeros and says nothing. The root group's attributes name the ``kind`` of the tree, its
``schema_version`` and the digest of the manifest; they are written last, together with ``complete``.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import math
import re
import warnings
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, BloscShuffle, Crc32cCodec, GzipCodec
from zarr.storage import LocalStore

from foldase_workflows.contracts import BadInput, Damaged, Location

if TYPE_CHECKING:
    from zarr.core.array_spec import ArraySpec
    from zarr.core.buffer import Buffer

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
ROOT_METADATA = "zarr.json"
CHUNK_BYTES = 4 * 2**20
"""Chunks are at most this large before compression, so that a page can read a part of a long map."""
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}\Z")
"""Names of groups and arrays: safe in paths and in URLs."""

ValueT = TypeVar("ValueT")


class _TimelessGzip(GzipCodec):
    """zarr's gzip codec without the time of writing, so that the same arrays are the same bytes."""

    def _encode_sync(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> Buffer | None:
        packed = gzip.compress(chunk_bytes.to_bytes(), self.level, mtime=0)
        return chunk_spec.prototype.buffer.from_bytes(packed)

    async def _encode_single(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> Buffer | None:
        return await asyncio.to_thread(self._encode_sync, chunk_bytes, chunk_spec)


class TreeWriter:
    """Writes one tree into an empty folder. Nothing counts until :meth:`complete` has returned."""

    def __init__(self, path: Path, kind: str, *, consolidate: bool = False) -> None:
        """Begin a tree.

        Args:
            path: its folder.
            kind: what a reader will ask for.
            consolidate: repeat the metadata of all arrays in the root's, so that one read shows them all.
        """
        self._path = path
        self._kind = kind
        self._consolidate = consolidate
        attributes = {"kind": kind, "schema_version": SCHEMA_VERSION, "complete": False}
        self._root = zarr.create_group(path, zarr_format=3, attributes=attributes)

    def group(self, name: str, attributes: Mapping[str, Any]) -> None:
        """Make a group with attributes (plain JSON values without NaN); ``name`` may be ``outer/inner``."""
        for part in name.split("/"):
            _check_name(part)
        self._root.create_group(name, attributes=_plain(attributes))

    def array(
        self,
        name: str,
        values: NDArray[Any],
        *,
        chunks: tuple[int, ...] | None = None,
        shards: tuple[int, ...] | None = None,
    ) -> None:
        """Write an array; ``name`` is ``array`` or ``group/array``.

        Args:
            name: where.
            values: all of it.
            chunks: its tiles; at most :data:`CHUNK_BYTES` each where nothing is said.
            shards: how much lies in one file, a multiple of ``chunks``; a tile of it can be read alone.

        Raises:
            ValueError: an unfit name, or an array without values.
        """
        group, _, leaf = name.rpartition("/")
        _check_name(leaf)
        if values.size == 0:
            raise ValueError(f"array {name!r} of shape {values.shape} holds no values")
        parent = self._root.require_group(group) if group else self._root
        packing = BloscCodec(cname="zstd", clevel=5, shuffle=BloscShuffle.bitshuffle)
        array = parent.create_array(
            leaf,
            shape=values.shape,
            dtype=values.dtype,
            chunks=chunks or chunk_shape(values.shape, values.dtype.itemsize),
            shards=shards,
            compressors=[packing if shards else _TimelessGzip(level=5), Crc32cCodec()],
            config={"write_empty_chunks": True},
        )
        array[...] = values

    def complete(self, attributes: Mapping[str, Any]) -> None:
        """Write the manifest, then the root attributes; the tree is whole from here on."""
        if self._consolidate:
            with (
                warnings.catch_warnings()
            ):  # zarr writes it for all readers of version 3, and says it may change
                warnings.simplefilter("ignore")
                self._root = zarr.consolidate_metadata(LocalStore(self._path), zarr_format=3)
        manifest = json.dumps({"files": _files_of(self._path)}, sort_keys=True, indent=0).encode()
        (self._path / MANIFEST).write_bytes(manifest)
        described = {
            **_plain(attributes),
            "kind": self._kind,
            "schema_version": SCHEMA_VERSION,
            "manifest": hashlib.sha256(manifest).hexdigest(),
            "complete": True,
        }
        self._root.update_attributes({**described, "checksum": _checksum(described)})


class TreeReader:
    """Reads a tree and checks it: what is missing or changed is an error, never fill values."""

    def __init__(self, path: Path, kind: str) -> None:
        """Open a tree.

        Args:
            path: its folder.
            kind: what it has to be.

        Raises:
            BadInput: not a tree of that kind, or of a schema this version does not know.
            Damaged: incomplete, or its metadata were changed.
        """
        self._path = path
        self.kind = kind
        self.attributes = self._read_root()
        self._files = self._read_manifest()
        self._root: zarr.Group | None = None

    @property
    def groups(self) -> list[str]:
        """Names of the groups directly below the root, sorted."""
        heads = {name.partition("/")[0] for name in self._files if name.count("/") == 1}
        return sorted(heads - set(self._array_names()))

    def arrays(self, group: str) -> list[str]:
        """Names of the arrays in a group ("" for the root), sorted."""
        split = (name.rpartition("/") for name in self._array_names())
        return sorted(leaf for parent, _, leaf in split if parent == group)

    def attribute(self, name: str, kind: type[ValueT]) -> ValueT:
        """A root attribute of a known type (whole numbers pass as float).

        Raises:
            BadInput: it is missing or of another type.
        """
        value = self.attributes.get(name)
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise BadInput(
                f"attribute {name!r} of the {self.kind} tree is {value!r}, not {kind.__name__}",
                code="bad_attribute",
                location=Location(file=self._path.name, record=name),
            )
        return value

    def group_attributes(self, name: str) -> dict[str, Any]:
        """Attributes of a group.

        Raises:
            Damaged: the group is missing or was changed.
        """
        metadata = self._checked_json(f"{name}/{ROOT_METADATA}")
        attributes = metadata.get("attributes", {})
        if not isinstance(attributes, dict):
            raise self._damaged(name, "its attributes are no mapping")
        return attributes

    def has_array(self, name: str) -> bool:
        """Whether the tree holds the array."""
        return name in self._array_names()

    def array(self, name: str, dtype: type[np.generic], shape: tuple[int | None, ...]) -> NDArray[Any]:
        """Read a whole array.

        Args:
            name: ``array`` or ``group/array``.
            dtype: what its type has to be.
            shape: what its shape has to be; None leaves an axis open.

        Raises:
            BadInput: another type or shape.
            Damaged: a part is missing or was changed; the array is named.
        """
        metadata = self._checked_json(f"{name}/{ROOT_METADATA}")
        found = tuple(metadata.get("shape", ()))
        fits = len(found) == len(shape) and all(w in (None, n) for n, w in zip(found, shape, strict=True))
        expected_type = np.dtype(dtype).name
        if not fits or metadata.get("data_type") != expected_type:
            wanted = ", ".join("any" if n is None else str(n) for n in shape)
            raise BadInput(
                f"array {name!r} is {metadata.get('data_type')} {found}, not {expected_type} ({wanted})",
                code="bad_array",
                location=Location(record=name),
            )
        for key in _chunk_keys(name, metadata):
            self._check_file(key, name)
        return self._decoded(name, (Ellipsis,))

    def shape(self, name: str) -> tuple[int, ...]:
        """Of an array, without reading it.

        Raises:
            Damaged: its metadata are missing or were changed.
        """
        return tuple(self._checked_json(f"{name}/{ROOT_METADATA}").get("shape", ()))

    def tile(self, name: str, rows: slice, columns: slice) -> NDArray[Any]:
        """A part of a matrix, or of an array whose further axes are one chunk; only what holds it is read.

        Raises:
            IndexError: a bound below zero or a step.
            Damaged: a file is missing or of another size, or the checksum of a tile is wrong.
        """
        metadata = self._checked_json(f"{name}/{ROOT_METADATA}")
        bounds = []
        shape: list[int] = metadata["shape"]
        for asked, length in zip((rows, columns), shape[:2], strict=True):
            start, stop = asked.start or 0, length if asked.stop is None else asked.stop
            if start < 0 or stop < start or asked.step not in (None, 1):
                raise IndexError(f"{asked} is no range of rows or columns")
            bounds.append((start, min(stop, length)))
        sizes = metadata["chunk_grid"]["configuration"]["chunk_shape"][:2]
        needed = [
            range(start // size, -(-stop // size)) for (start, stop), size in zip(bounds, sizes, strict=True)
        ]
        behind = "/0" * (len(shape) - 2)
        for row in needed[0]:
            for column in needed[1]:
                self._check_size(f"{name}/c/{row}/{column}{behind}", name)
        return self._decoded(name, tuple(slice(start, stop) for start, stop in bounds))

    def _decoded(self, name: str, selection: Sequence[Any]) -> NDArray[Any]:
        try:
            if self._root is None:
                # What is repeated in the root is not covered by the manifest; the arrays' own metadata are.
                self._root = zarr.open_group(self._path, mode="r", zarr_format=3, use_consolidated=False)
            values = self._root[name][tuple(selection)]  # type: ignore[index]  # an array, checked before
        except (ValueError, TypeError, KeyError, OSError, EOFError, RuntimeError) as error:
            raise self._damaged(name, f"it cannot be decoded: {error}") from error
        return np.asarray(values)

    def _check_size(self, name: str, array: str) -> None:
        try:
            size = (self._path / name).stat().st_size
        except OSError as error:
            raise self._damaged(array, f"{name} is missing") from error
        if name not in self._files or size != self._files[name]["size"]:
            raise self._damaged(array, f"{name} was changed")

    def _array_names(self) -> set[str]:
        return {name.partition("/c/")[0] for name in self._files if "/c/" in name}

    def _read_root(self) -> dict[str, Any]:
        try:
            attributes = json.loads((self._path / ROOT_METADATA).read_bytes())["attributes"]
        except FileNotFoundError as error:
            raise BadInput(
                f"there is no {self.kind} tree here: {ROOT_METADATA} is missing",
                code="not_a_tree",
                location=Location(file=self._path.name),
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise self._damaged(ROOT_METADATA, "it is no zarr metadata") from error
        if attributes.get("kind") != self.kind:
            raise BadInput(
                f"this is a {attributes.get('kind')!r} tree, not {self.kind!r}",
                code="wrong_kind",
                location=Location(file=self._path.name),
            )
        if attributes.get("schema_version") != SCHEMA_VERSION:
            raise BadInput(
                f"schema version {attributes.get('schema_version')!r} is not known",
                code="unknown_schema",
                location=Location(file=self._path.name),
                hint=f"this version reads {SCHEMA_VERSION}",
            )
        if attributes.get("complete") is not True:
            raise self._damaged(ROOT_METADATA, "the tree was never completed")
        checksum = attributes.pop("checksum", None)
        if checksum != _checksum(attributes):
            raise self._damaged(ROOT_METADATA, "its attributes were changed")
        return dict(attributes)

    def _read_manifest(self) -> dict[str, dict[str, int]]:
        try:
            raw = (self._path / MANIFEST).read_bytes()
        except OSError as error:
            raise self._damaged(MANIFEST, "it cannot be read") from error
        if hashlib.sha256(raw).hexdigest() != self.attributes["manifest"]:
            raise self._damaged(MANIFEST, "it was changed")
        files: dict[str, dict[str, int]] = json.loads(raw)["files"]
        return files

    def _checked_json(self, name: str) -> dict[str, Any]:
        if name not in self._files:
            raise self._damaged(name.removesuffix("/" + ROOT_METADATA), "it is not in the tree")
        metadata: dict[str, Any] = json.loads(self._check_file(name, name))
        return metadata

    def _check_file(self, name: str, array: str) -> bytes:
        """The bytes of a file, compared with the manifest."""
        entry = self._files.get(name)
        if entry is None:
            raise self._damaged(array, f"{name} is not in the manifest")
        try:
            raw = (self._path / name).read_bytes()
        except OSError as error:
            raise self._damaged(array, f"{name} is missing") from error
        if len(raw) != entry["size"] or zlib.crc32(raw) != entry["crc32"]:
            raise self._damaged(array, f"{name} was changed")
        return raw

    def _damaged(self, part: str, what: str) -> Damaged:
        return Damaged(
            f"{part} of the {self.kind} tree is damaged: {what}",
            location=Location(file=self._path.name, record=part),
            hint="run the step that made it again",
        )


def chunk_shape(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Chunks of at most :data:`CHUNK_BYTES`: the longest axis is halved until they fit."""
    chunk = list(shape)
    while math.prod(chunk) * itemsize > CHUNK_BYTES and max(chunk) > 1:
        axis = chunk.index(max(chunk))
        chunk[axis] = -(-chunk[axis] // 2)
    return tuple(chunk)


def _chunk_keys(name: str, metadata: dict[str, Any]) -> list[str]:
    """The file of every chunk of an array in zarr's default key encoding."""
    sizes = metadata["chunk_grid"]["configuration"]["chunk_shape"]
    counts = [-(-n // size) for n, size in zip(metadata["shape"], sizes, strict=True)]
    return ["/".join([name, "c", *map(str, index)]) for index in np.ndindex(*counts)]


def _files_of(path: Path) -> dict[str, dict[str, int]]:
    """Size and crc32 of every file below, the root metadata apart."""
    files = {}
    for file in sorted(path.rglob("*")):
        name = file.relative_to(path).as_posix()
        if file.is_file() and name != ROOT_METADATA:
            raw = file.read_bytes()
            files[name] = {"size": len(raw), "crc32": zlib.crc32(raw)}
    return files


def _checksum(attributes: Mapping[str, Any]) -> str:
    canonical = json.dumps(attributes, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _plain(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy by way of JSON, so that what is checked is what a reader will get.

    Raises:
        ValueError: a value that JSON does not know, NaN among them.
    """
    copy: dict[str, Any] = json.loads(json.dumps(attributes, allow_nan=False))
    return copy


def _check_name(name: str) -> None:
    if not NAME.match(name) or name == "c":  # zarr keeps chunks below "c"
        raise ValueError(f"{name!r} is no name for a group or an array")
