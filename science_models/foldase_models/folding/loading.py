"""From a checkpoint folder to a model ready to fold."""

from __future__ import annotations

from pathlib import Path

import torch

from foldase_models.errors import ModelError
from foldase_models.folding.alphafold.config import KIND as ALPHAFOLD
from foldase_models.folding.options import ForwardOptions
from foldase_models.folding.prediction import Folder
from foldase_models.layers.checkpoints import CONFIG_FILE, digest, read_config, read_safetensors_folder


def load_folder(
    path: Path,
    options: ForwardOptions,
    *,
    known_digest: str | None = None,
    device: torch.device | str | None = None,
) -> Folder:
    """Read the model that a folder holds; ``config.json`` says which.

    Args:
        path: a folder of ``config.json`` and safetensors; for AlphaFold also one ``.npz``.
        options: of every forward pass; ``dtype`` is that of the weights.
        known_digest: of the weights, where the caller has it; None reads every byte once more.
        device: None means a GPU where there is one.

    Raises:
        ModelError: no such file, pickle, keys or shapes that do not fit, values that are not finite, or a
            model that is not known here; ``location`` names the file.
    """
    target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    described = read_config(path) if (path / CONFIG_FILE).is_file() else {}
    if described.get("kind") == ALPHAFOLD or (not described and any(path.glob("*.npz"))):
        return _alphafold(path, options, known_digest, target)
    checkpoint = read_safetensors_folder(path)
    known = digest(checkpoint) if known_digest is None else known_digest
    if "esmfold_config" in described:
        return _esmfold(path, options, known, target)
    raise ModelError(
        "config.json is of no folding model that is known here",
        code="wrong_model",
        location=f"{path.name}/config.json",
        hint="checkpoints of ESMFold, as EsmForProteinFolding saves them, can be read, and parameters of "
        f'AlphaFold and OpenFold beside a config.json with "kind": "{ALPHAFOLD}"',
    )


def _alphafold(path: Path, options: ForwardOptions, known: str | None, device: torch.device) -> Folder:
    from foldase_models.folding.alphafold.folder import AlphaFoldFolder

    return AlphaFoldFolder.load(path, options, known_digest=known, device=device)


def _esmfold(path: Path, options: ForwardOptions, known: str, device: torch.device) -> Folder:
    from foldase_models.folding.esmfold.folder import EsmFoldFolder
    from foldase_models.folding.esmfold.weights import load_esmfold

    model = load_esmfold(
        path, dtype=getattr(torch, options.dtype), device=device, waiting=options.offload_weights
    )
    return EsmFoldFolder(model, known, options)
