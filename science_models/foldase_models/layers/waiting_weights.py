"""Blocks whose weights wait in their files and are in memory while the block runs, one block at a time.

A model of billions of parameters then needs the memory of its largest block and of what lies outside of
blocks. Each run of a block reads its weights anew, through the system's cache of files, which gives way when
memory is short. For inference only: what is waiting can be neither trained nor saved.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from foldase_models.errors import ModelError

Read = Callable[[str], torch.Tensor]
"""A fresh tensor by its key in the model."""

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""What is read, by the names of safetensors; quantised numbers are not."""


class TensorFile:
    """Tensors of one safetensors file, read into memory of their own.

    A mapped tensor that was looked at would stay in the process's memory for as long as its file is mapped.
    """

    def __init__(self, path: Path) -> None:
        """Reads the header only; the file is known to be whole."""
        self.path = path
        with path.open("rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            header: dict[str, Any] = json.loads(file.read(size))
        self._start = 8 + size
        self._entries = {key: entry for key, entry in header.items() if key != "__metadata__"}

    def read(self, key: str) -> torch.Tensor:
        """A copy of one tensor.

        Raises:
            ModelError: ``bad_weights`` for numbers that are not read, or a file that was cut off meanwhile.
        """
        entry = self._entries[key]
        if entry["dtype"] not in DTYPES:
            raise ModelError(
                f"{key} holds numbers of type {entry['dtype']}, which are not read",
                code="bad_weights",
                location=f"{self.path.parent.name}/{self.path.name}",
                hint="give the weights as they were before they were quantised",
            )
        begin, end = entry["data_offsets"]
        out = torch.empty(end - begin, dtype=torch.uint8)
        with self.path.open("rb", buffering=0) as file:
            file.seek(self._start + begin)
            view, done = out.numpy().data, 0
            while done < len(view):
                count = file.readinto(view[done:])
                if not count:
                    raise ModelError(
                        "the file became shorter while it was in use",
                        code="bad_weights",
                        location=f"{self.path.parent.name}/{self.path.name}",
                    )
                done += count
        return out.view(DTYPES[entry["dtype"]]).view(entry["shape"])


def wait_in_files(
    blocks: Mapping[str, nn.Module],
    read: Read,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> None:
    """Let the parameters of blocks wait: they take memory from just before a block runs until it is done.

    Args:
        blocks: by their names in the model; called as modules, never inside one another.
        read: gives a parameter by its key in the model.
        dtype: of parameters while they are there; None means as they are read.
        device: where they are then; None means the CPU.
    """
    for name, block in blocks.items():
        waiting = _Waiting(name, block, read, dtype, torch.device(device or "cpu"))
        waiting.leave()
        block.register_forward_pre_hook(waiting.come)
        block.register_forward_hook(waiting.leave, always_call=True)


class _Waiting:
    """The parameters of one block."""

    def __init__(
        self, name: str, block: nn.Module, read: Read, dtype: torch.dtype | None, device: torch.device
    ) -> None:
        self._places = [
            (module, own, f"{name}.{prefix}.{own}" if prefix else f"{name}.{own}", _without_memory(parameter))
            for prefix, module in block.named_modules()
            for own, parameter in module.named_parameters(recurse=False)
        ]
        self._read, self._dtype, self._device = read, dtype, device

    def come(self, *_: object) -> None:
        """Before the block runs."""
        if torch.is_grad_enabled():
            raise ModelError(
                "weights that wait in their files serve inference only",
                code="bad_options",
                hint="leave offload_weights off, or use torch.no_grad()",
            )
        for module, name, key, _waiting in self._places:
            found = self._read(key).to(self._device, self._dtype)
            setattr(module, name, nn.Parameter(found, requires_grad=False))

    def leave(self, *_: object) -> None:
        """After it."""
        for module, name, _key, waiting in self._places:
            setattr(module, name, waiting)


def _without_memory(parameter: nn.Parameter) -> nn.Parameter:
    return (
        parameter if parameter.is_meta else nn.Parameter(parameter.detach().to("meta"), requires_grad=False)
    )
