"""How torch.distributed.checkpoint writes and reads here: safetensors files and JSON, never pickle.

A rank's file is a safetensors file of its own: the header, padded so that tensors begin at a multiple of
4 KiB, and then their bytes. A chunk that is a whole tensor has the tensor's key there, any other
``key@start``; all are vectors, and the shape is known to the commit.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    LoadPlan,
    LoadPlanner,
    SavePlan,
    SavePlanner,
    WriteItem,
)
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from foldase_models.errors import ModelError
from foldase_models.training.checkpoints.commits import (
    Chunk,
    Commit,
    StoredFile,
    StoredTensor,
    write_commit,
)
from foldase_models.training.checkpoints.files import HashedFile, Told, sync_folder, unheard

PAGE = 4096
_SLICE = 4 * 2**20
"""Elements that are copied from a device together."""
_NAMES: Mapping[torch.dtype, str] = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int16: "I16",
    torch.uint16: "U16",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int32: "I32",
    torch.uint32: "U32",
    torch.float32: "F32",
    torch.int64: "I64",
    torch.uint64: "U64",
    torch.float64: "F64",
}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}


@dataclass(frozen=True, slots=True)
class Written:
    """Where an item went: the ``storage_data`` of a result."""

    file: StoredFile
    offset: int


@dataclass(frozen=True, slots=True)
class FileLayout:
    """What a rank's file will look like.

    Attributes:
        items: in the order of their bytes.
        header: with its length before it.
        offsets: of the items, from the beginning of the file.
    """

    items: tuple[WriteItem, ...]
    header: bytes
    offsets: tuple[int, ...]


def lay_out_file(plan: SavePlan) -> FileLayout:
    """Lay a rank's items out, those of wider numbers first so that all lie at a multiple of their width.

    Raises:
        ModelError: ``bad_checkpoint``: numbers of a type that safetensors cannot hold.
    """
    items = sorted(plan.items, key=lambda item: -_dtype(item).itemsize)
    described: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    begins, at = [], 0
    for item in items:
        size = _bytes(item)
        described[_name(item)] = {
            "dtype": _NAMES[_dtype(item)],
            "shape": [_length(item)],
            "data_offsets": [at, at + size],
        }
        begins.append(at)
        at += size
    text = json.dumps(described).encode()
    whole = -(-(8 + len(text)) // PAGE) * PAGE
    header = (whole - 8).to_bytes(8, "little") + text.ljust(whole - 8)
    return FileLayout(tuple(items), header, tuple(whole + begin for begin in begins))


def results_of(plan: SavePlan, file: StoredFile) -> list[WriteResult]:
    """The results of a plan that was written to a file."""
    layout = lay_out_file(plan)
    return [
        WriteResult(item.index, _bytes(item), Written(file, offset))
        for item, offset in zip(layout.items, layout.offsets, strict=True)
    ]


class SafetensorsWriter(StorageWriter):
    """Writes one checkpoint: every rank its file, and the first of them the commit."""

    def __init__(
        self, root: Path, step: int, folder: str, values: Mapping[str, Any], told: Told = unheard
    ) -> None:
        """Write the checkpoint of a step into ``folder``, a new one in ``root``; alike on all ranks."""
        self._root, self._step, self._folder, self._values = root, step, folder, values
        self._told = told

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Nothing: the folder was named before."""

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:  # noqa: ARG003
        """Never: a writer is made for one folder."""
        return False

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Make the folder."""
        (self._root / self._folder).mkdir(exist_ok=True)

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """As it is."""
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Name the files."""
        return [
            replace(plan, storage_data=f"rank-{rank:05d}-of-{len(plans):05d}.safetensors")
            for rank, plan in enumerate(plans)
        ]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write this rank's file, one item after the other; it is on the disk when this returns.

        Raises:
            OSError: the disk is full or cannot be written.
        """
        layout = lay_out_file(plan)
        with HashedFile(self._root / self._folder / plan.storage_data, self._told) as file:
            file.write(memoryview(layout.header))
            for item in layout.items:
                data = planner.resolve_data(item)
                assert isinstance(data, torch.Tensor)
                assert (data.numel(), data.dtype) == (_length(item), _dtype(item)), item.index.fqn
                _write(file, data)
        sync_folder(self._root / self._folder)
        stored = StoredFile(plan.storage_data, file.size, file.sha256)
        future: Future[list[WriteResult]] = Future()
        future.set_result(results_of(plan, stored))
        return future

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Make the checkpoint count.

        Raises:
            OSError: the disk is full or cannot be written.
        """
        files: list[StoredFile] = []
        chunks: dict[str, list[Chunk]] = {}
        for result in (result for own in results for result in own):
            if result.storage_data.file not in files:
                files.append(result.storage_data.file)
            stored = metadata.state_dict_metadata[result.index.fqn]
            assert isinstance(stored, TensorStorageMetadata)
            assert result.index.offset is not None
            length = result.size_in_bytes // stored.properties.dtype.itemsize
            place = files.index(result.storage_data.file)
            chunks.setdefault(result.index.fqn, []).append(
                Chunk(result.index.offset[0], length, place, result.storage_data.offset)
            )
        shapes = metadata.planner_data or {}
        tensors = {
            key: StoredTensor(
                tuple(shapes.get(key, stored.size)),
                _NAMES[stored.properties.dtype],
                tuple(sorted(chunks[key], key=lambda chunk: chunk.start)),
            )
            for key, stored in metadata.state_dict_metadata.items()
            if isinstance(stored, TensorStorageMetadata)
        }
        sync_folder(self._root)
        write_commit(self._root, Commit(self._step, self._folder, tuple(files), tensors, self._values))


class SafetensorsReader(StorageReader):
    """Reads one checkpoint, whose files were verified before.

    It may also be given to ``torch.distributed.checkpoint.load`` with vectors or 1-D DTensors by key.
    """

    def __init__(self, root: Path, commit: Commit) -> None:
        self._folder, self._commit = root / commit.folder, commit

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Nothing: the checkpoint was named before."""

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:  # noqa: ARG003
        """Never: a reader is made for one commit."""
        return False

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """What the commit says, in the words of torch.distributed.checkpoint."""
        stored: dict[str, Any] = {}
        homes: dict[MetadataIndex, tuple[str, int]] = {}
        for key, tensor in self._commit.tensors.items():
            chunks = []
            for chunk in tensor.chunks:
                start = torch.Size([chunk.start])
                chunks.append(ChunkStorageMetadata(start, torch.Size([chunk.length])))
                homes[MetadataIndex(key, start)] = (self._commit.files[chunk.file].name, chunk.offset)
            size = torch.Size([sum(chunk.length for chunk in tensor.chunks)])
            properties = TensorProperties(_DTYPES[tensor.dtype])
            stored[key] = TensorStorageMetadata(properties, size, chunks)
        shapes = {key: tensor.shape for key, tensor in self._commit.tensors.items()}
        return Metadata(stored, planner_data=shapes, storage_data=homes)

    def set_up_storage_reader(
        self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any
    ) -> None:
        """Remember where chunks lie."""
        self._homes: Mapping[MetadataIndex, tuple[str, int]] = metadata.storage_data
        self._stored = metadata.state_dict_metadata

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """As it is."""
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """As they are."""
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Read items in the order of the plan, straight into the memory that the planner names.

        Raises:
            ModelError: ``damaged_checkpoint``: a file ends too early.
            OSError: a file cannot be read.
        """
        with ExitStack() as files:
            opened: dict[str, int] = {}
            for item in plan.items:
                name, begin = self._homes[item.storage_index]
                if name not in opened:
                    opened[name] = os.open(self._folder / name, os.O_RDONLY | os.O_CLOEXEC)
                    files.callback(os.close, opened[name])
                stored = self._stored[item.storage_index.fqn]
                assert isinstance(stored, TensorStorageMetadata)
                target = planner.resolve_tensor(item)
                dtype = stored.properties.dtype
                direct = target.device.type == "cpu" and target.dtype == dtype and target.is_contiguous()
                values = target.detach() if direct else torch.empty(target.shape, dtype=dtype)
                _read(opened[name], values, begin + item.storage_offsets[0] * dtype.itemsize, name)
                if not direct:
                    target.detach().copy_(values)
                planner.commit_tensor(item, target)
        future: Future[None] = Future()
        future.set_result(None)
        return future


def _write(file: HashedFile, data: torch.Tensor) -> None:
    for piece in torch.split(data.detach(), data.numel() if data.device.type == "cpu" else _SLICE):
        file.write(_bytes_of(piece.cpu().contiguous()))


def _read(descriptor: int, values: torch.Tensor, offset: int, name: str) -> None:
    raw = _bytes_of(values)
    done = 0
    while done < len(raw):
        read = os.preadv(descriptor, [raw[done:]], offset + done)
        if read == 0:
            raise ModelError(f"{name} ends too early", code="damaged_checkpoint", location=name)
        done += read


def _bytes_of(values: torch.Tensor) -> memoryview:
    """The memory of a contiguous vector on the CPU."""
    return values.view(torch.uint8).numpy().data


def _name(item: WriteItem) -> str:
    data = item.tensor_data
    assert data is not None
    whole = data.chunk.sizes[0] == data.size[0]
    return item.index.fqn if whole else f"{item.index.fqn}@{data.chunk.offsets[0]}"


def _dtype(item: WriteItem) -> torch.dtype:
    assert item.tensor_data is not None
    dtype = item.tensor_data.properties.dtype
    if dtype not in _NAMES:
        raise ModelError(
            f"{item.index.fqn} has numbers of type {dtype}, which checkpoints do not hold",
            code="bad_checkpoint",
            location=item.index.fqn,
            hint="keep it as real numbers, or as a buffer that is no part of the model's state",
        )
    return dtype


def _length(item: WriteItem) -> int:
    assert item.tensor_data is not None
    return int(item.tensor_data.chunk.sizes[0])


def _bytes(item: WriteItem) -> int:
    return _length(item) * _dtype(item).itemsize
