"""Reading published ESMFold checkpoints: folders of Hugging Face's ``EsmForProteinFolding``."""

from __future__ import annotations

from pathlib import Path

import torch

from foldase_models.errors import ModelError
from foldase_models.folding.checkpoints import load_strict, read_safetensors_folder, without_weights
from foldase_models.folding.esm2.weights import encoder_renames, is_computed, is_left_over
from foldase_models.folding.esmfold.config import EsmFoldConfig
from foldase_models.folding.esmfold.model import EsmFold
from foldase_models.layers.structure_module import StructureModule


def load_esmfold(
    path: Path, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
) -> EsmFold:
    """Read a model, in evaluation mode.

    Args:
        path: a folder of ``config.json`` and safetensors.
        dtype: of the weights; None means float32. Those of the structure module are float32 at least: its
            frames would not survive half precision.
        device: of the weights; None means the CPU.

    Raises:
        ModelError: as :func:`foldase_models.folding.checkpoints.read_safetensors_folder` and ``load_strict``,
            and ``wrong_model`` for a checkpoint of another model.
    """
    values, tensors = read_safetensors_folder(path)
    config = _config(values, path)
    dtype = dtype or torch.float32
    with without_weights():
        model = EsmFold(config)
    structure = StructureModule(config.structure)
    model.trunk.structure_module = structure.to(torch.promote_types(dtype, torch.float32))
    load_strict(
        model,
        tensors,
        rename=encoder_renames(tensors),
        ignore=lambda key: is_left_over(key, config.language),
        optional=is_computed,
        dtype=dtype,
        device=device,
    )
    model.esm.requires_grad_(False)
    return model.to(device=device).eval() if device is not None else model.eval()


def _config(values: dict[str, object], path: Path) -> EsmFoldConfig:
    try:
        return EsmFoldConfig.from_json(values)
    except ModelError as error:
        error.location = error.location or f"{path.name}/config.json"
        raise
