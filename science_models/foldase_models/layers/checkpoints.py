"""Public checkpoints: a folder of ``config.json`` and safetensors, read lazily and loaded strictly.

Tensors are read one at a time, so that weights are never held twice. Pickle is
refused: reading it runs code that came with it.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from foldase_models.errors import ModelError
from foldase_models.layers.waiting_weights import DTYPES, TensorFile

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
PICKLED = frozenset({".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle"})
CONVERT = (
    "convert it once, where you trust the file: "
    "safetensors.torch.save_file(torch.load(FILE, weights_only=True), 'model.safetensors')"
)
NAMED = 3
"""Keys that an error names; of the others it tells the number."""
_PIECE = 2**24
"""Elements looked at together when a tensor is searched for what is not finite."""


class LazyTensors(Mapping[str, torch.Tensor]):
    """Tensors by key, each mapped from its file when it is asked for and held by nobody but the caller.

    Raises:
        ModelError: a file is no whole safetensors file, or two files have the same key.
    """

    def __init__(self, folder: Path, files: Mapping[str, list[str] | None]) -> None:
        """``files`` names those of ``folder``, with the keys each must have or None for any."""
        self.folder = folder
        self._files: dict[str, Any] = {}
        self._homes: dict[str, str] = {}
        self._readers: dict[str, TensorFile] = {}
        for file, wanted in files.items():
            self._files[file] = _open(folder / file)
            keys = list(self._files[file].keys())
            lacking = sorted(set(wanted or ()) - set(keys))
            if lacking:
                raise ModelError(
                    f"lacks {_some(lacking)}, which {INDEX_FILE} says it holds",
                    code="bad_weights",
                    location=_place(folder / file),
                    hint="download the checkpoint again, all its parts from one revision",
                )
            for key in keys if wanted is None else wanted:
                if key in self._homes:
                    raise ModelError(
                        f"key {key} is in {self._homes[key]} too",
                        code="bad_weights",
                        location=_place(folder / file),
                    )
                self._homes[key] = file

    def __getitem__(self, key: str) -> torch.Tensor:
        """The tensor, a view of its file: never write into it."""
        tensor: torch.Tensor = self._files[self._homes[key]].get_tensor(key)
        return tensor

    def read(self, key: str) -> torch.Tensor:
        """The tensor in memory of its own, whose file is not mapped for it."""
        home = self._homes[key]
        if home not in self._readers:
            self._readers[home] = TensorFile(self.folder / home)
        return self._readers[home].read(key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._homes)

    def __len__(self) -> int:
        return len(self._homes)

    def shape(self, key: str) -> tuple[int, ...]:
        """Of a tensor, without reading it."""
        return tuple(self._files[self._homes[key]].get_slice(key).get_shape())

    def dtype(self, key: str) -> torch.dtype | None:
        """Of a tensor, without reading it; None for one that is not read, such as quantised numbers."""
        return DTYPES.get(self._files[self._homes[key]].get_slice(key).get_dtype())

    def place(self, key: str) -> str:
        """Folder and file that hold a tensor, for errors."""
        return _place(self.folder / self._homes[key])


class Checkpoint(NamedTuple):
    """What a folder holds: ``config.json`` as a dictionary, and the tensors."""

    config: dict[str, Any]
    tensors: LazyTensors


def read_safetensors_folder(path: Path) -> Checkpoint:
    """Open a checkpoint folder; no tensor is read yet.

    Args:
        path: a folder with ``config.json`` and either ``model.safetensors``, the parts that
            ``model.safetensors.index.json`` lists, or one safetensors file of another name.

    Raises:
        ModelError: ``pickle_refused`` for files of pickle, ``missing_file``, ``bad_weights`` for a truncated
            or foreign file, ``bad_config``; ``location`` names the file.
    """
    if path.suffix.lower() in PICKLED:
        raise ModelError(
            "is pickle, which is never read", code="pickle_refused", location=_place(path), hint=CONVERT
        )
    if not path.is_dir():
        raise ModelError(
            "expected a folder of config.json and safetensors",
            code="missing_file",
            location=_place(path),
            hint="give the folder that holds the checkpoint" if path.exists() else None,
        )
    files = _files_of(path)
    return Checkpoint(read_config(path), LazyTensors(path, files))


def read_config(path: Path) -> dict[str, Any]:
    """``config.json`` of a folder.

    Raises:
        ModelError: there is none, or it is no JSON object.
    """
    return _read_json(path / CONFIG_FILE)


def load_strict(
    model: nn.Module,
    tensors: Mapping[str, torch.Tensor],
    *,
    rename: Mapping[str, str] | None = None,
    ignore: Callable[[str], bool] | None = None,
    optional: Callable[[str], bool] | None = None,
    leave: Callable[[str], bool] | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> None:
    """Fill all parameters and persistent buffers of a model, one tensor at a time.

    Parameters that were left out (:func:`without_weights`) get memory here, each just before it is filled.
    Where two keys of the model are one tensor (tied weights), one of them is enough; where both are given
    they must be equal.

    Args:
        model: its keys decide what is expected.
        tensors: by key; usually those of :func:`read_safetensors_folder`.
        rename: keys of the checkpoint by keys of the model, for those that differ.
        ignore: says of a key of the checkpoint that the model has no use for it.
        optional: says of a key of the model that it may be missing: a buffer that the model computes.
        leave: says of a key of the model that its parameter shall go on without memory
            (:func:`foldase_models.layers.waiting_weights.wait_in_files`); it is checked all the same.
        dtype: of parameters that were left out; None means that of the checkpoint.
        device: of parameters that were left out; None means the CPU.

    Raises:
        ModelError: ``wrong_weights`` naming the first missing, unexpected and mismatching keys (of another
            shape, or integers where floats are wanted) and how many they are, before anything is written;
            ``bad_weights`` for a tensor with a value that is not
            finite, naming the key.
    """
    expected = model.state_dict(keep_vars=True)
    sources = {key: (rename or {}).get(key, key) for key in expected}
    _check_keys(expected, tensors, sources, ignore, optional)
    owners = _owners(model)
    filled: dict[int, str] = {}
    for key, own in expected.items():
        source = sources[key]
        if source not in tensors:
            continue
        found = _fresh(source, tensors)
        _check_finite(source, found, tensors)
        if leave is not None and leave(key):
            continue
        if id(own) in filled:
            _check_equal(found, source, filled[id(own)], tensors)
        elif own.is_meta:
            made = found.to(device=device or "cpu", dtype=dtype if own.is_floating_point() else None)
            parameter = nn.Parameter(made, requires_grad=own.requires_grad)
            for module, name in owners[id(own)]:
                setattr(module, name, parameter)
        else:
            with torch.no_grad():
                own.copy_(found)
        filled[id(own)] = source


@contextmanager
def without_weights() -> Iterator[None]:
    """Models built inside have parameters without memory, which :func:`load_strict` gives them.

    Building is then quick and takes no memory; buffers are made as ever. Only the calling thread is affected.
    """
    thread = threading.get_ident()

    def leave_out(_: nn.Module, __: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
        if parameter is None or parameter.is_meta or threading.get_ident() != thread:
            return None
        return nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)

    handle = register_module_parameter_registration_hook(leave_out)  # type: ignore[arg-type]
    try:
        yield
    finally:
        handle.remove()


def digest(checkpoint: Checkpoint) -> str:
    """SHA-256 in hex of config and tensors: the same however the tensors are spread over files.

    Reads every byte once; callers keep the answer.
    """
    total = hashlib.sha256(json.dumps(checkpoint.config, sort_keys=True).encode())
    for key in sorted(checkpoint.tensors):
        tensor = checkpoint.tensors.read(key)
        total.update(json.dumps([key, str(tensor.dtype), list(tensor.shape)]).encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def _files_of(folder: Path) -> dict[str, list[str] | None]:
    """The safetensors files of a folder, each with the keys it is said to hold."""
    if (folder / INDEX_FILE).is_file():
        return _files_of_index(folder)
    if (folder / WEIGHTS_FILE).is_file():
        return {WEIGHTS_FILE: None}
    found = sorted(file.name for file in folder.glob("*.safetensors"))
    if len(found) == 1:
        return {found[0]: None}
    if found:
        raise ModelError(
            f"{len(found)} safetensors files and no {INDEX_FILE}",
            code="missing_file",
            location=_place(folder / INDEX_FILE),
            hint="download the index that belongs to the parts",
        )
    pickled = sorted(file.name for file in folder.iterdir() if file.suffix.lower() in PICKLED)
    if pickled:
        raise ModelError(
            "is pickle, which is never read",
            code="pickle_refused",
            location=_place(folder / pickled[0]),
            hint=CONVERT,
        )
    raise ModelError(
        "the checkpoint has no weights", code="missing_file", location=_place(folder / WEIGHTS_FILE)
    )


def _files_of_index(folder: Path) -> dict[str, list[str] | None]:
    places = _read_json(folder / INDEX_FILE).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(file, str) for file in places.values()):
        raise ModelError(
            "expected an object 'weight_map' of file names",
            code="bad_weights",
            location=_place(folder / INDEX_FILE),
        )
    files: dict[str, list[str] | None] = {}
    for key, file in places.items():
        if Path(file).name != file or Path(file).suffix != ".safetensors":
            raise ModelError(
                f"{key} is said to be in {file!r}; expected a safetensors file of this folder",
                code="bad_weights",
                location=_place(folder / INDEX_FILE),
            )
        keys = files.setdefault(file, [])
        assert keys is not None
        keys.append(key)
    return files


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except FileNotFoundError as error:
        raise ModelError("there is no such file", code="missing_file", location=_place(path)) from error
    except SafetensorError as error:
        raise ModelError(
            f"not a whole safetensors file: {error}",
            code="bad_weights",
            location=_place(path),
            hint="download it again",
        ) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise ModelError("there is no such file", code="missing_file", location=_place(path)) from error
    except ValueError as error:
        raise ModelError(f"not JSON: {error}", code="bad_config", location=_place(path)) from error
    if not isinstance(values, dict):
        raise ModelError("expected a JSON object", code="bad_config", location=_place(path))
    return values


def _check_keys(
    expected: Mapping[str, torch.Tensor],
    tensors: Mapping[str, torch.Tensor],
    sources: Mapping[str, str],
    ignore: Callable[[str], bool] | None,
    optional: Callable[[str], bool] | None,
) -> None:
    """Everything that does not fit, in one error."""
    given = {id(own) for key, own in expected.items() if sources[key] in tensors}
    missing = [
        sources[key]
        for key, own in expected.items()
        if id(own) not in given and not (optional is not None and optional(key))
    ]
    wanted = {sources[key]: tuple(own.shape) for key, own in expected.items()}
    unexpected = [key for key in tensors if key not in wanted and not (ignore is not None and ignore(key))]
    shapes = {key: _shape(key, tensors) for key in wanted if key in tensors}
    mismatching = [
        f"{key} {list(shape)} instead of {list(wanted[key])}"
        for key, shape in shapes.items()
        if shape != wanted[key]
    ]
    floating = {sources[key]: own.is_floating_point() for key, own in expected.items()}
    quantised = [key for key in shapes if not _is_of_kind(_dtype(key, tensors), floating[key])]
    faults = (
        ("missing", missing),
        ("unexpected", unexpected),
        ("of another shape", mismatching),
        ("of another kind of numbers, perhaps quantised", quantised),
    )
    told = [f"{len(keys)} {fault}: {_some(keys)}" for fault, keys in faults if keys]
    if told:
        raise ModelError(
            f"weights do not fit the model; {'; '.join(told)}",
            code="wrong_weights",
            location=_place(tensors.folder) if isinstance(tensors, LazyTensors) else None,
            hint="config.json and weights must be of the same model",
        )


def _check_finite(key: str, tensor: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> None:
    if not tensor.is_floating_point():
        return
    flat = tensor.reshape(-1)
    for piece in torch.split(flat, _PIECE):
        # What is not finite stays so in a sum; but a sum may overflow too, so that it only calls for a look.
        if not bool(piece.sum().isfinite()) and not bool(piece.isfinite().all()):
            raise ModelError(
                f"{key} has values that are not finite", code="bad_weights", location=_location(key, tensors)
            )


def _check_equal(found: torch.Tensor, key: str, before: str, tensors: Mapping[str, torch.Tensor]) -> None:
    """Two keys of one tensor."""
    if not torch.equal(found, _fresh(before, tensors)):
        raise ModelError(
            f"keys {before} and {key} are one tensor in this model and differ here",
            code="wrong_weights",
            location=_location(key, tensors),
        )


def _fresh(key: str, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """A tensor of one's own; not mapped from its file, since that would stay in memory too."""
    return tensors.read(key) if isinstance(tensors, LazyTensors) else tensors[key].clone()


def _owners(model: nn.Module) -> dict[int, list[tuple[nn.Module, str]]]:
    """Where the model has each parameter."""
    owners: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            owners.setdefault(id(parameter), []).append((module, name))
    return owners


def _shape(key: str, tensors: Mapping[str, torch.Tensor]) -> tuple[int, ...]:
    return tensors.shape(key) if isinstance(tensors, LazyTensors) else tuple(tensors[key].shape)


def _dtype(key: str, tensors: Mapping[str, torch.Tensor]) -> torch.dtype | None:
    return tensors.dtype(key) if isinstance(tensors, LazyTensors) else tensors[key].dtype


def _is_of_kind(dtype: torch.dtype | None, floating: bool) -> bool:
    return dtype is not None and dtype in DTYPES.values() and dtype.is_floating_point == floating


def _location(key: str, tensors: Mapping[str, torch.Tensor]) -> str | None:
    return tensors.place(key) if isinstance(tensors, LazyTensors) else None


def _place(path: Path) -> str:
    """Folder and file: the rest of a path is of one machine only."""
    return f"{path.parent.name}/{path.name}" if path.parent.name else path.name


def _some(keys: list[str]) -> str:
    more = f" and {len(keys) - NAMED} more" if len(keys) > NAMED else ""
    return ", ".join(keys[:NAMED]) + more
