"""Weights out of a checkpoint as plain safetensors, as any other program reads them.

Bytes are copied as they are: neither torch, nor the model, nor its ranks are needed, and no tensor is held
whole.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foldase_models.errors import ModelError
from foldase_models.training.checkpoints.commits import (
    Commit,
    StoredTensor,
    read_commit,
    steps_in,
    verify_file,
)
from foldase_models.training.checkpoints.files import BLOCK, HashedFile, sync_folder, write_durably
from foldase_models.training.kinds import AVERAGE, BUFFERS, WEIGHTS

if TYPE_CHECKING:
    from foldase_models.training.checkpoints.store import CheckpointStore

FILE_BYTES = 5 * 10**9
WEIGHTS_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
_ALIGNMENT = 8

Progress = Callable[[str, int, int], None]
"""Called with what is done now, the bytes of it that are done, and all of them."""


def newest(root: Path, step: int | None = None) -> Commit:
    """The commit of a step, or of the newest one; its files are not looked at.

    Raises:
        ModelError: ``no_checkpoint``; ``damaged_checkpoint`` and ``checkpoint_format`` as of
            :func:`foldase_models.training.checkpoints.commits.read_commit`.
    """
    steps = steps_in(root) if root.is_dir() else []
    if not steps or step not in (None, *steps):
        known = f"; there are those of steps {', '.join(map(str, reversed(steps)))}" if steps else ""
        wanted = "checkpoint" if step is None else f"checkpoint of step {step}"
        raise ModelError(
            f"the folder has no {wanted}{known}",
            code="no_checkpoint",
            location=root.name,
            hint="give the folder that the training wrote its checkpoints to",
        )
    return read_commit(root, steps[0] if step is None else step)


def export_weights(
    source: Path | CheckpointStore,
    target: Path,
    *,
    averaged: bool = True,
    step: int | None = None,
    file_bytes: int = FILE_BYTES,
    progress: Progress | None = None,
) -> list[Path]:
    """Write the weights and buffers of a checkpoint as safetensors, under the names that the model has.

    Weights are float32, of their own shapes. Those that were not trained are no part of a checkpoint, and of
    tied ones there is the first name only.

    Args:
        source: folder or store of the checkpoints of a run.
        target: a folder; ``model.safetensors`` is written there or, above ``file_bytes``, parts with
            ``model.safetensors.index.json``, as Hugging Face's libraries name them.
        averaged: whether to take the averages of weights; where none were kept, the weights themselves.
        step: of the checkpoint; the newest where it is left out.
        file_bytes: of tensors in a file, at most, unless one tensor alone has more.
        progress: hears of it.

    Returns:
        The files, the index last.

    Raises:
        ModelError: ``no_checkpoint``, ``damaged_checkpoint``, ``checkpoint_format``, or ``not_empty``: the
            target has such files already.
        OSError: the disk is full or cannot be written.
    """
    root = source if isinstance(source, Path) else source.folder
    commit = newest(root, step)
    _check_target(target)
    told = _Counted(progress)
    told.begin("verified", commit.bytes)
    for file in commit.files:
        verify_file(root, commit, file, told.add)
    chosen = chosen_tensors(commit, averaged=averaged)
    parts = _parts(chosen, file_bytes)
    told.begin("written", sum(tensor.bytes for tensor in chosen.values()))
    target.mkdir(parents=True, exist_ok=True)
    single = len(parts) == 1
    names = [
        WEIGHTS_FILE if single else f"model-{number:05d}-of-{len(parts):05d}.safetensors"
        for number in range(1, len(parts) + 1)
    ]
    for name, part in zip(names, parts, strict=True):
        _write_part(root / commit.folder, commit, part, target / name, told)
    sync_folder(target)
    paths = [target / name for name in names]
    if not single:
        homes = {tensor: name for name, part in zip(names, parts, strict=True) for tensor in part}
        size = sum(tensor.bytes for tensor in chosen.values())
        index = {"metadata": {"total_size": size}, "weight_map": homes}
        write_durably(target / INDEX_FILE, json.dumps(index, indent=2).encode())
        paths.append(target / INDEX_FILE)
    return paths


def chosen_tensors(commit: Commit, *, averaged: bool) -> dict[str, StoredTensor]:
    """Weights, or their averages, and buffers, by the names that the model has for them."""
    kinds = {key.partition("/")[0] for key in commit.tensors}
    wanted = (AVERAGE if averaged and AVERAGE in kinds else WEIGHTS, BUFFERS)
    split = ((key.partition("/"), tensor) for key, tensor in commit.tensors.items())
    return {name: tensor for (kind, _, name), tensor in split if kind in wanted}


class _Counted:
    """Bytes that were dealt with, told on."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self.begin("", 0)

    def begin(self, what: str, whole: int) -> None:
        """Something else is counted from now on."""
        self._what, self._whole, self._done = what, whole, 0

    def add(self, size: int) -> None:
        """So many more."""
        self._done += size
        if self._progress is not None:
            self._progress(self._what, self._done, self._whole)


def _check_target(target: Path) -> None:
    there = [name for name in (WEIGHTS_FILE, INDEX_FILE) if (target / name).exists()]
    if there:
        raise ModelError(
            f"the folder has {there[0]} already",
            code="not_empty",
            location=target.name,
            hint="name a new folder, or remove the file",
        )


def _parts(chosen: Mapping[str, StoredTensor], file_bytes: int) -> list[dict[str, StoredTensor]]:
    parts: list[dict[str, StoredTensor]] = [{}]
    filled = 0
    for name, tensor in sorted(chosen.items()):
        if parts[-1] and filled + tensor.bytes > file_bytes:
            parts.append({})
            filled = 0
        parts[-1][name] = tensor
        filled += tensor.bytes
    return parts


def _write_part(
    folder: Path, commit: Commit, part: Mapping[str, StoredTensor], path: Path, told: _Counted
) -> None:
    described: dict[str, Any] = {"__metadata__": {"format": "pt", "step": str(commit.step)}}
    at = 0
    wide_first = sorted(part, key=lambda name: (-part[name].item_bytes, name))
    for name in wide_first:
        tensor = part[name]
        described[name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [at, at + tensor.bytes],
        }
        at += tensor.bytes
    text = json.dumps(described).encode()
    text = text.ljust(-(-len(text) // _ALIGNMENT) * _ALIGNMENT)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with HashedFile(temporary) as file:
            file.write(memoryview(len(text).to_bytes(8, "little") + text))
            for name in wide_first:
                for block in _stored_bytes(folder, commit, part[name]):
                    file.write(block)
                    told.add(len(block))
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _stored_bytes(folder: Path, commit: Commit, tensor: StoredTensor) -> Iterator[memoryview]:
    """The bytes of a tensor, of all its chunks in order, in blocks."""
    block = bytearray(BLOCK)
    for chunk in tensor.chunks:
        left = chunk.length * tensor.item_bytes
        with (folder / commit.files[chunk.file].name).open("rb", buffering=0) as file:
            file.seek(chunk.offset)
            while left:
                read = file.readinto(memoryview(block)[: min(left, BLOCK)])
                if not read:
                    raise ModelError(
                        f"{commit.files[chunk.file].name} ends too early", code="damaged_checkpoint"
                    )
                yield memoryview(block)[:read]
                left -= read
