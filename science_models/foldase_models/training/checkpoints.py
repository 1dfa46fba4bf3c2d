"""Checkpoints that are either whole or not there: tensors as safetensors, the rest as JSON, never pickle.

A checkpoint is two files, ``step-<n>.safetensors`` and ``step-<n>.json``. Each is written under another
name, flushed to the disk and renamed; the JSON comes last, names the digest of the tensors, and its presence
is what makes the checkpoint count. One that does not verify is passed over for the one before.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save

from foldase_models.errors import ModelError
from foldase_models.training.shards import FlatShard

FORMAT = 2
_NAME = re.compile(r"step-(\d{10})\.json\Z")


@dataclass(frozen=True, slots=True)
class Found:
    """What was loaded besides the tensors: the step, and plain values."""

    step: int
    values: dict[str, Any]


class CheckpointStore:
    """A folder of checkpoints of one run."""

    def __init__(self, folder: Path, *, kept: int = 2) -> None:
        """``kept``: how many checkpoints remain; two, so that a damaged one costs only a little work."""
        self.folder = folder
        self.kept = kept
        folder.mkdir(parents=True, exist_ok=True)

    def save(
        self, step: int, state: Mapping[str, FlatShard], values: Mapping[str, Any], *, wait: bool = True
    ) -> None:
        """Write a checkpoint; it counts once this has returned. Older ones beyond ``kept`` are removed.

        Raises:
            OSError: the disk is full or cannot be written; earlier checkpoints are untouched.
        """
        raw = save({key: shard.read().contiguous() for key, shard in state.items()})
        described = {
            "format": FORMAT,
            "step": step,
            "sha256": hashlib.sha256(raw).hexdigest(),
            "values": dict(values),
        }
        stem = f"step-{step:010d}"
        write_durably(self.folder / f"{stem}.safetensors", raw)
        write_durably(self.folder / f"{stem}.json", json.dumps(described, sort_keys=True).encode())
        self._remove_old()

    def steps(self) -> list[int]:
        """Steps of which there is a checkpoint, newest first; whether they are sound is not looked at."""
        found = (_NAME.match(path.name) for path in self.folder.iterdir())
        return sorted((int(match.group(1)) for match in found if match), reverse=True)

    def load_latest(self, state: Mapping[str, FlatShard]) -> Found | None:
        """Write the newest checkpoint that verifies into the shards; None where there is none.

        Raises:
            ModelError: ``bad_checkpoint``: it is of another model, and which keys differ; nothing is written.
        """
        for step in self.steps():
            found = self._load(step)
            if found is not None:
                tensors, values = found
                _check_keys({k: t.numel() for k, t in tensors.items()}, state)
                for key, shard in state.items():
                    shard.write(tensors[key])
                return Found(step, values)
        return None

    def _load(self, step: int) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        stem = f"step-{step:010d}"
        try:
            described = json.loads((self.folder / f"{stem}.json").read_bytes())
            raw = (self.folder / f"{stem}.safetensors").read_bytes()
        except (OSError, json.JSONDecodeError):
            return None
        if described.get("format") != FORMAT or hashlib.sha256(raw).hexdigest() != described.get("sha256"):
            return None
        return load(raw), described["values"]

    def _remove_old(self) -> None:
        for step in self.steps()[self.kept :]:
            stem = f"step-{step:010d}"
            # The JSON first: without it the tensors count for nothing.
            (self.folder / f"{stem}.json").unlink(missing_ok=True)
            (self.folder / f"{stem}.safetensors").unlink(missing_ok=True)


def write_durably(path: Path, raw: bytes) -> None:
    """Write a file so that after a crash it is there whole or not at all: write, flush, rename, flush."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _check_keys(found: Mapping[str, int], state: Mapping[str, FlatShard]) -> None:
    wrong = sorted(
        {key for key in found.keys() | state.keys() if key not in state or found.get(key) != state[key].numel}
    )
    if wrong:
        raise ModelError(
            f"the checkpoint belongs to another model: {len(wrong)} tensors differ, first {wrong[0]!r}",
            code="bad_checkpoint",
            hint="start in another folder, or with the model that the checkpoint was made with",
        )
