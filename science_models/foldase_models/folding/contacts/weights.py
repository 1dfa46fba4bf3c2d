"""The model on the disk: ``model.safetensors``, ``config.json`` and ``training.json`` in one folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from foldase_models.errors import ModelError
from foldase_models.folding.contacts.config import ContactModelConfig
from foldase_models.folding.contacts.model import ContactModel

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
TRAINING_FILE = "training.json"
KIND = "foldase-contacts"
VERSION = 1


def save_model(folder: Path, model: ContactModel, training: Mapping[str, Any]) -> None:
    """Write a model and what is known of its training (plain values) into an existing folder."""
    tensors = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    described = {"kind": KIND, "version": VERSION, "config": model.config.to_json()}
    (folder / WEIGHTS_FILE).write_bytes(save(tensors))
    (folder / TRAINING_FILE).write_bytes(_json(training))
    (folder / CONFIG_FILE).write_bytes(_json(described))


def load_model(folder: Path) -> ContactModel:
    """Read a model, ready to predict.

    Raises:
        ModelError: a file is missing or no model of this kind, a key is missing or left over, a tensor has
            the wrong shape, or a weight is not finite; ``location`` names the file.
    """
    described = _read_json(folder / CONFIG_FILE)
    if described.get("kind") != KIND or described.get("version") != VERSION:
        raise ModelError(
            f"expected kind {KIND!r}, version {VERSION}; found {described.get('kind')!r}, "
            f"{described.get('version')!r}",
            code="wrong_model",
            location=CONFIG_FILE,
        )
    model = ContactModel(ContactModelConfig.from_json(described.get("config", {})))
    tensors = _read_tensors(folder / WEIGHTS_FILE)
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    found = {name: tensor.shape for name, tensor in tensors.items()}
    if expected != found:
        differing = sorted(
            name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)
        )
        raise ModelError(
            f"weights do not fit the configuration; first of {len(differing)}: {', '.join(differing[:3])}",
            code="wrong_weights",
            location=WEIGHTS_FILE,
        )
    broken = [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]
    if broken:
        raise ModelError(
            f"weights are not finite: {', '.join(broken[:3])}", code="bad_weights", location=WEIGHTS_FILE
        )
    model.load_state_dict(tensors, strict=True)
    return model.eval()


def read_training(folder: Path) -> dict[str, Any]:
    """What ``training.json`` says; raises like :func:`load_model`."""
    return _read_json(folder / TRAINING_FILE)


def _json(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, indent=2, sort_keys=True) + "\n").encode()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise ModelError("the model has no such file", code="missing_file", location=path.name) from error
    except ValueError as error:
        raise ModelError(f"not JSON: {error}", code="wrong_model", location=path.name) from error
    if not isinstance(values, dict):
        raise ModelError("expected a JSON object", code="wrong_model", location=path.name)
    return values


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load(path.read_bytes())
    except FileNotFoundError as error:
        raise ModelError("the model has no such file", code="missing_file", location=path.name) from error
    except SafetensorError as error:
        raise ModelError(f"not safetensors: {error}", code="bad_weights", location=path.name) from error
