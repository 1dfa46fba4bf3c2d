"""What makes a checkpoint count, and what is known of it without reading a tensor. Importable without torch.

A checkpoint of step 120 is a folder ``step-0000000120.1f6a90c2`` with one safetensors file of every rank
that wrote it, and ``step-0000000120.json`` beside it, the commit: it names the folder, the size and the
SHA-256 of every file, where which elements of which tensor lie, and plain values. It is written last and
renamed into place; files that no commit names count for nothing. The folder's name is another one each time,
so that a step that is saved again replaces the one before with the same rename.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foldase_models.errors import ModelError
from foldase_models.training.checkpoints.files import Told, sha256_of, unheard, write_durably

FORMAT = 3
ITEM_BYTES: Mapping[str, int] = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I16": 2,
    "U16": 2,
    "F16": 2,
    "BF16": 2,
    "I32": 4,
    "U32": 4,
    "F32": 4,
    "I64": 8,
    "U64": 8,
    "F64": 8,
}
"""Bytes an element, by the names that safetensors gives to types of numbers."""
_MARKER = re.compile(r"step-(\d{10})\.json\Z")
_DATA = re.compile(r"step-(\d{10})\.[0-9a-f]{8}\Z")
_UNFINISHED = re.compile(r"\.step-\d{10}\.json\.\d+\.tmp\Z")


@dataclass(frozen=True, slots=True)
class Chunk:
    """Elements ``start`` to ``start + length`` of a flattened tensor, at byte ``offset`` of a file."""

    start: int
    length: int
    file: int
    offset: int


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor of a checkpoint; its chunks, in order, are all of it.

    Attributes:
        shape: of the whole.
        dtype: as safetensors calls it, for example ``F32``.
        chunks: where it lies.
    """

    shape: tuple[int, ...]
    dtype: str
    chunks: tuple[Chunk, ...]

    @property
    def item_bytes(self) -> int:
        """Of an element."""
        return ITEM_BYTES[self.dtype]

    @property
    def bytes(self) -> int:
        """Of the whole."""
        return math.prod(self.shape) * self.item_bytes


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of a checkpoint."""

    name: str
    bytes: int
    sha256: str

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"name": self.name, "bytes": self.bytes, "sha256": self.sha256}


@dataclass(frozen=True, slots=True)
class Commit:
    """A checkpoint that counts.

    Attributes:
        step: of the training.
        folder: name of the one with the files.
        files: one of each rank that wrote it.
        tensors: by key, ``kind/name``.
        values: what else the training wanted to know.
    """

    step: int
    folder: str
    files: tuple[StoredFile, ...]
    tensors: Mapping[str, StoredTensor]
    values: Mapping[str, Any]

    @property
    def bytes(self) -> int:
        """Of all files."""
        return sum(file.bytes for file in self.files)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "step": self.step,
            "folder": self.folder,
            "files": [file.to_json() for file in self.files],
            "tensors": {
                key: {
                    "shape": list(tensor.shape),
                    "dtype": tensor.dtype,
                    "chunks": [[c.start, c.length, c.file, c.offset] for c in tensor.chunks],
                }
                for key, tensor in self.tensors.items()
            },
            "values": dict(self.values),
        }

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Commit:
        """What :meth:`to_json` gave.

        Raises:
            ValueError, KeyError, TypeError: it is something else.
        """
        names = [plain["folder"], *(file["name"] for file in plain["files"])]
        if _DATA.match(plain["folder"]) is None or any(Path(name).name != name for name in names):
            raise ValueError("names of files that no checkpoint has")
        return cls(
            step=int(plain["step"]),
            folder=plain["folder"],
            files=tuple(StoredFile(f["name"], int(f["bytes"]), f["sha256"]) for f in plain["files"]),
            tensors={
                key: StoredTensor(
                    tuple(stored["shape"]),
                    stored["dtype"],
                    tuple(Chunk(*chunk) for chunk in stored["chunks"]),
                )
                for key, stored in plain["tensors"].items()
            },
            values=plain["values"],
        )


def new_data_name(step: int) -> str:
    """A folder for a checkpoint's files, of another name each time."""
    return f"step-{step:010d}.{secrets.token_hex(4)}"


def steps_in(root: Path) -> list[int]:
    """Steps that have a commit, newest first; whether they are sound is not looked at."""
    found = (_MARKER.match(path.name) for path in root.iterdir())
    return sorted((int(match.group(1)) for match in found if match), reverse=True)


def write_commit(root: Path, commit: Commit) -> None:
    """Make a checkpoint count, whose files are on the disk.

    Raises:
        OSError: the disk is full or cannot be written.
    """
    plain = json.loads(json.dumps(commit.to_json()))
    marker = {"format": FORMAT, "sha256": _digest(plain), "checkpoint": plain}
    write_durably(_marker(root, commit.step), json.dumps(marker).encode())


def read_commit(root: Path, step: int) -> Commit:
    """What is known of the checkpoint of a step; its files are not looked at.

    Raises:
        ModelError: ``damaged_checkpoint``; ``checkpoint_format``: of a version that this one does not read.
    """
    path = _marker(root, step)
    try:
        marker = json.loads(path.read_bytes())
        version = marker["format"]
        if version == FORMAT and marker["sha256"] == _digest(marker["checkpoint"]):
            return Commit.from_json(marker["checkpoint"])
    except OSError as error:
        raise _damaged(path, f"cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path, "is no commit of a checkpoint") from error
    if version != FORMAT:
        raise ModelError(
            f"the checkpoint has format {version!r}; this version of the program reads format {FORMAT}",
            code="checkpoint_format",
            location=path.name,
            hint="go on with the version that wrote it, or start in another folder",
        )
    raise _damaged(path, "is not what was written")


def verify_file(root: Path, commit: Commit, file: StoredFile, told: Told = unheard) -> None:
    """Make sure that a file is what was written.

    Raises:
        ModelError: ``damaged_checkpoint``, and in what.
    """
    path = root / commit.folder / file.name
    try:
        found = path.stat().st_size
        if found != file.bytes:
            raise _damaged(path, f"has {found:,} bytes instead of {file.bytes:,}")
        digest, _ = sha256_of(path, told)
    except OSError as error:
        raise _damaged(path, f"cannot be read: {error.strerror}") from error
    if digest != file.sha256:
        raise _damaged(path, "is not what was written: its SHA-256 differs")


def remove_old(root: Path, kept: int) -> None:
    """Remove all but the newest checkpoints, their commits first: without it the rest counts for nothing."""
    for step in steps_in(root)[kept:]:
        _marker(root, step).unlink(missing_ok=True)
        remove_data(root, step)


def remove_data(root: Path, step: int, *, but: str | None = None) -> None:
    """Remove the folders of a step, all but one."""
    for path in root.glob(f"step-{step:010d}.*"):
        if _DATA.match(path.name) and path.name != but:
            shutil.rmtree(path, ignore_errors=True)


def clean(root: Path) -> None:
    """Remove what saves that did not come to their end left behind; nobody may be saving here meanwhile."""
    steps = set(steps_in(root))
    for path in list(root.iterdir()):
        match = _DATA.match(path.name)
        if match and int(match.group(1)) not in steps:
            shutil.rmtree(path, ignore_errors=True)
        elif _UNFINISHED.match(path.name):
            path.unlink(missing_ok=True)
    for step in steps:
        if len(list(root.glob(f"step-{step:010d}.*"))) > 2:
            try:
                commit = read_commit(root, step)
            except ModelError:
                continue
            remove_data(root, step, but=commit.folder)


def _marker(root: Path, step: int) -> Path:
    return root / f"step-{step:010d}.json"


def _digest(plain: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _damaged(path: Path, fault: str) -> ModelError:
    return ModelError(f"{path.name} {fault}", code="damaged_checkpoint", location=path.name)
