"""The decoder on the disk: a Llama checkpoint folder of ``config.json`` and safetensors, ours or foreign."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from foldase_models.language.decoder.config import DecoderConfig
from foldase_models.language.decoder.model import Decoder
from foldase_models.layers.checkpoints import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    load_strict,
    read_config,
    read_safetensors_folder,
    without_weights,
)

TRAINING_FILE = "training.json"
_HEAD, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
_FREQUENCIES = re.compile(r"rotary_emb\.inv_freq\Z")
"""Old checkpoints carry what follows from their configuration."""


def save_decoder(folder: Path, model: Decoder, training: Mapping[str, Any] | None = None) -> None:
    """Write ``config.json``, ``model.safetensors`` and, where it is given, ``training.json`` into a folder.

    The folder must exist. A tied matrix is written once, under the embedding's key.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        del tensors[_HEAD]
    (folder / WEIGHTS_FILE).write_bytes(save(tensors, metadata={"format": "pt"}))
    if training is not None:
        (folder / TRAINING_FILE).write_bytes(_json(training))
    dtype = str(model.lm_head.weight.dtype).removeprefix("torch.")
    (folder / CONFIG_FILE).write_bytes(_json(model.config.to_json() | {"dtype": dtype}))


def load_decoder(
    path: Path, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
) -> Decoder:
    """Read a model, in evaluation mode.

    Args:
        path: a folder of ``config.json`` and safetensors, written here or by Hugging Face's library for
            ``LlamaForCausalLM``; one of ``LlamaModel`` too, where the head is tied.
        dtype: of the weights; None means that of the checkpoint.
        device: of the weights; None means the CPU.

    Raises:
        ModelError: no such file, pickle, another model, settings that are not known here, keys or shapes
            that do not fit, or values that are not finite; ``location`` names the file.
    """
    values, tensors = read_safetensors_folder(path)
    config = DecoderConfig.from_json(values)
    with without_weights():
        model = Decoder(config)
    load_strict(
        model,
        tensors,
        rename=key_map(model, tensors),
        ignore=lambda key: bool(_FREQUENCIES.search(key)),
        dtype=dtype,
        device=device,
    )
    return model.to(device=device).eval() if device is not None else model.eval()


def key_map(model: Decoder, tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Keys of a checkpoint by the model's: the same, but that a bare ``LlamaModel`` lacks the first word."""
    if any(key.startswith("model.") for key in tensors):
        return {}
    keys = {key: key.removeprefix("model.") for key in model.state_dict()}
    return keys | {_HEAD: keys[_EMBEDDING]} if model.config.tie_word_embeddings else keys


def read_decoder_config(path: Path) -> DecoderConfig:
    """The configuration of a checkpoint folder; raises like :func:`load_decoder`."""
    return DecoderConfig.from_json(read_config(path))


def _json(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, indent=2, sort_keys=True) + "\n").encode()
