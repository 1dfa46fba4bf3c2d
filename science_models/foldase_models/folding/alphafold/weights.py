"""Published weights: OpenFold's as safetensors, AlphaFold's as ``.npz``, in a folder with ``config.json``.

The configuration says which model it is: ``{"kind": "alphafold", "preset": "model_1_ptm"}``. A folder with
nothing but ``params_model_1_ptm.npz``, as AlphaFold's authors give it out, says it by the name of the file.
Pickle is never read; OpenFold's ``.pt`` files are converted once (the error says how).
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from foldase_models.errors import ModelError
from foldase_models.folding.alphafold.config import KIND, PRESETS, AlphaFoldConfig
from foldase_models.folding.alphafold.model import AlphaFold
from foldase_models.folding.alphafold.parameter_names import Source, alphafold_sources, from_openfold
from foldase_models.layers.checkpoints import (
    CONFIG_FILE,
    digest,
    load_strict,
    read_config,
    read_safetensors_folder,
    without_weights,
)

CONSTANTS = frozenset(
    f"structure_module.{name}" for name in ("default_frames", "group_idx", "atom_mask", "lit_positions")
)
"""Tables that some checkpoints carry and that are no parameters."""
_NAMED = 3


class LoadedAlphaFold(NamedTuple):
    """A model in evaluation mode, and the digest of its configuration and weights, SHA-256 in hex."""

    model: AlphaFold
    digest: str


def load_alphafold(folder: Path, *, known_digest: str | None = None) -> LoadedAlphaFold:
    """Read a model.

    Args:
        folder: ``config.json`` and either safetensors with the keys of OpenFold (of either major version, or
            ours) or one ``.npz`` of AlphaFold's parameters.
        known_digest: taken over where given; None reads every byte once more.

    Raises:
        ModelError: ``wrong_weights`` naming keys that are missing, left over or of another shape; otherwise
            as :func:`read_safetensors_folder`.
    """
    archives = sorted(folder.glob("*.npz")) if folder.is_dir() else []
    if len(archives) == 1 and not any(folder.glob("*.safetensors")):
        return _load_npz(_described(folder, archives[0]), archives[0], known_digest)
    checkpoint = read_safetensors_folder(folder)
    model = _without_weights(checkpoint.config)
    theirs = {from_openfold(key): key for key in checkpoint.tensors}
    rename = {key: theirs[key] for key in model.state_dict() if key in theirs}
    load_strict(model, checkpoint.tensors, rename=rename, ignore=lambda key: from_openfold(key) in CONSTANTS)
    return LoadedAlphaFold(model.eval(), digest(checkpoint) if known_digest is None else known_digest)


def _described(folder: Path, archive: Path) -> Mapping[str, Any]:
    """The configuration beside an archive, or the one that its name stands for."""
    if (folder / CONFIG_FILE).is_file():
        return read_config(folder)
    name = archive.stem.removeprefix("params_")
    if name in PRESETS:
        return {"kind": KIND, "preset": name}
    raise ModelError(
        f"{archive.name} does not tell which model it is of, and there is no {CONFIG_FILE}",
        code="missing_file",
        location=f"{folder.name}/{CONFIG_FILE}",
        hint=f"write one, for example {json.dumps({'kind': KIND, 'preset': 'model_1_ptm'})}",
    )


def _without_weights(values: Mapping[str, Any]) -> AlphaFold:
    config = AlphaFoldConfig.from_json(values)
    with without_weights():
        return AlphaFold(config)


def _load_npz(values: Mapping[str, Any], archive: Path, known_digest: str | None) -> LoadedAlphaFold:
    model = _without_weights(values)
    arrays = read_npz(archive)
    load_strict(model, tensors_of(arrays, model.config, location=archive.name))
    if known_digest is not None:
        return LoadedAlphaFold(model.eval(), known_digest)
    total = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
    with archive.open("rb") as file:
        total.update(hashlib.file_digest(file, "sha256").digest())
    return LoadedAlphaFold(model.eval(), total.hexdigest())


def read_npz(archive: Path) -> dict[str, NDArray[np.generic]]:
    """All arrays of an ``.npz``, none of them pickled.

    Raises:
        ModelError: ``bad_weights``, naming the file.
    """
    try:
        with np.load(archive, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ModelError(
            f"not a whole .npz of plain arrays: {error}",
            code="bad_weights",
            location=archive.name,
            hint="download it again; pickled arrays are never read",
        ) from error


def tensors_of(
    arrays: Mapping[str, NDArray[np.generic]], config: AlphaFoldConfig, *, location: str
) -> dict[str, torch.Tensor]:
    """AlphaFold's arrays as tensors by our keys, every array used and every parameter found.

    Args:
        arrays: by AlphaFold's names.
        config: of the model.
        location: the file, for errors.

    Raises:
        ModelError: ``wrong_weights`` naming arrays that are missing, left over, or stacked for another number
            of blocks.
    """
    sources = alphafold_sources(config)
    wanted = {source.array for source in sources.values()}
    faults = [
        f"{len(names)} {what}: {_some(names)}"
        for what, names in (
            ("missing", sorted(wanted - arrays.keys())),
            ("left over", sorted(arrays.keys() - wanted)),
            ("of another number of blocks", _unevenly_stacked(arrays, sources)),
        )
        if names
    ]
    if faults:
        raise ModelError(
            f"arrays do not fit the model; {'; '.join(faults)}",
            code="wrong_weights",
            location=location,
            hint="config.json must name the preset that the file is of, for example model_1_ptm",
        )
    return {key: _tensor(source, arrays[source.array], location) for key, source in sources.items()}


def _unevenly_stacked(arrays: Mapping[str, NDArray[np.generic]], sources: Mapping[str, Source]) -> list[str]:
    blocks: dict[str, int] = {}
    for source in sources.values():
        if source.block is not None:
            blocks[source.array] = max(blocks.get(source.array, 0), source.block + 1)
    return sorted(
        name for name, count in blocks.items() if name in arrays and arrays[name].shape[:1] != (count,)
    )


def _tensor(source: Source, stored: NDArray[np.generic], location: str) -> torch.Tensor:
    if stored.ndim <= (source.block is not None) or stored.dtype.kind != "f":
        raise ModelError(
            f"{source.array} is {stored.dtype} of shape {list(stored.shape)}; expected a weight",
            code="wrong_weights",
            location=location,
        )
    return torch.from_numpy(np.array(source.read(stored)))


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
