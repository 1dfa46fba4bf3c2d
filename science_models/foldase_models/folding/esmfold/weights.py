"""Reading published ESMFold checkpoints: folders of Hugging Face's ``EsmForProteinFolding``."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from foldase_models.errors import ModelError
from foldase_models.folding.esm2.weights import encoder_renames, is_computed, is_left_over
from foldase_models.folding.esmfold.config import EsmFoldConfig
from foldase_models.folding.esmfold.model import EsmFold
from foldase_models.layers.checkpoints import load_strict, read_safetensors_folder, without_weights
from foldase_models.layers.structure_module import StructureModule
from foldase_models.layers.waiting_weights import wait_in_files


def load_esmfold(
    path: Path,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    waiting: bool = False,
) -> EsmFold:
    """Read a model, in evaluation mode.

    Args:
        path: a folder of ``config.json`` and safetensors.
        dtype: of the weights; None means float32. Those of the structure module are float32 at least: its
            frames would not survive half precision.
        device: of the weights; None means the CPU.
        waiting: leave those of the language model's layers and of the trunk's blocks in their files, from
            where each block reads its own when it runs (:mod:`foldase_models.layers.waiting_weights`); the
            files must stay. For inference only.

    Raises:
        ModelError: as :func:`foldase_models.layers.checkpoints.read_safetensors_folder` and ``load_strict``,
            and ``wrong_model`` for a checkpoint of another model.
    """
    values, tensors = read_safetensors_folder(path)
    config = _config(values, path)
    dtype = dtype or torch.float32
    with without_weights():
        model = EsmFold(config)
    structure = StructureModule(config.structure)
    model.trunk.structure_module = structure.to(torch.promote_types(dtype, torch.float32))
    renames = encoder_renames(tensors)
    blocks = _blocks(model) if waiting else {}
    starts = tuple(f"{name}." for name in blocks)
    load_strict(
        model,
        tensors,
        rename=renames,
        ignore=lambda key: is_left_over(key, config.language),
        optional=is_computed,
        leave=lambda key: key.startswith(starts),
        dtype=dtype,
        device=device,
    )
    model.esm.requires_grad_(False)
    wait_in_files(blocks, lambda key: tensors.read(renames.get(key, key)), dtype=dtype, device=device)
    if device is not None:
        _move(model, torch.device(device))
    return model.eval()


def _blocks(model: EsmFold) -> dict[str, nn.Module]:
    """What runs one after the other, by name."""
    layers = {f"esm.encoder.layer.{n}": layer for n, layer in enumerate(model.esm.encoder.layer)}
    return layers | {f"trunk.blocks.{n}": block for n, block in enumerate(model.trunk.blocks)}


def _move(model: nn.Module, device: torch.device) -> None:
    """What has memory."""
    for own in model.parameters():
        if not own.is_meta:
            own.data = own.data.to(device)
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device))


def _config(values: dict[str, object], path: Path) -> EsmFoldConfig:
    try:
        return EsmFoldConfig.from_json(values)
    except ModelError as error:
        error.location = error.location or f"{path.name}/config.json"
        raise
