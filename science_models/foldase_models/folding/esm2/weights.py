"""Reading published ESM-2 checkpoints: folders of Hugging Face's ``EsmForMaskedLM`` or ``EsmModel``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import torch

from foldase_models.errors import ModelError
from foldase_models.folding.esm2.config import Esm2Config
from foldase_models.folding.esm2.model import Esm2
from foldase_models.layers.checkpoints import load_strict, read_safetensors_folder, without_weights

_OLD_FREQUENCIES = re.compile(r"encoder\.layer\.(\d+|\*)\.attention\.self\.rotary_embeddings\.inv_freq$")
_FREQUENCIES = "rotary_embeddings.inv_freq"
_OLD_NORM = {"gamma": "weight", "beta": "bias"}


def encoder_renames(tensors: Iterable[str], prefix: str = "esm.") -> dict[str, str]:
    """Keys of a checkpoint by keys of the encoder, where they differ.

    Older files keep the rotary frequencies once a layer, all alike. Files that transformers 5 wrote have them
    once for the layer ``*``, and norms under the names that TensorFlow gave them.

    Args:
        tensors: keys of the checkpoint.
        prefix: of the encoder, both in the model and in the checkpoint.
    """
    keys = [key for key in tensors if key.startswith(prefix)]
    renames = {}
    for key in keys:
        module, _, name = key.rpartition(".")
        if module.endswith("LayerNorm") and name in _OLD_NORM:
            renames[f"{module}.{_OLD_NORM[name]}"] = key
    old = sorted(key for key in keys if _OLD_FREQUENCIES.search(key))
    if old and prefix + _FREQUENCIES not in keys:
        renames[prefix + _FREQUENCIES] = old[0]
    return renames


def is_left_over(key: str, config: Esm2Config) -> bool:
    """Whether public checkpoints carry a key that the encoder has no use for."""
    if key.endswith("embeddings.position_embeddings.weight"):
        return config.position_embedding_type != "absolute"
    return bool(_OLD_FREQUENCIES.search(key)) or key.endswith("embeddings.position_ids") or "pooler." in key


def is_computed(key: str) -> bool:
    """Whether a tensor of the encoder follows from the configuration, so that a checkpoint may lack it."""
    return key.endswith(_FREQUENCIES)


def load_esm2(
    path: Path, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
) -> Esm2:
    """Read a model, in evaluation mode; without language head where the checkpoint has none.

    Args:
        path: a folder of ``config.json`` and safetensors.
        dtype: of the weights; None means that of the checkpoint.
        device: of the weights; None means the CPU.

    Raises:
        ModelError: as :func:`foldase_models.layers.checkpoints.read_safetensors_folder` and ``load_strict``,
            and for another model.
    """
    values, tensors = read_safetensors_folder(path)
    config = Esm2Config.from_json(values)
    if values.get("is_folding_model"):
        raise ModelError(
            "the checkpoint is of ESMFold", code="wrong_model", location=path.name, hint="give one of ESM-2"
        )
    bare = not any(key.startswith("esm.") for key in tensors)
    with without_weights():
        model = Esm2(config, language_head=any(key.startswith("lm_head.") for key in tensors))
    load_strict(
        model.esm if bare else model,
        tensors,
        rename=encoder_renames(tensors, "" if bare else "esm."),
        ignore=lambda key: is_left_over(key, config),
        optional=is_computed,
        dtype=dtype,
        device=device,
    )
    return model.to(device=device).eval() if device is not None else model.eval()
