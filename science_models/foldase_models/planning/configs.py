"""Which configuration is meant: a published model by name, or that of a folder."""

from __future__ import annotations

import json
from pathlib import Path

from foldase_models.errors import ModelError
from foldase_models.folding.alphafold.config import KIND, PRESETS, AlphaFoldConfig
from foldase_models.folding.esm2.config import Esm2Config
from foldase_models.folding.esmfold.config import EsmFoldConfig

Config = AlphaFoldConfig | EsmFoldConfig
"""What a plan is made from."""

_ESM2_3B = Esm2Config(
    hidden_size=2560,
    num_hidden_layers=36,
    num_attention_heads=40,
    intermediate_size=10240,
    layer_norm_eps=1e-5,
    token_dropout=True,
    position_embedding_type="rotary",
)
PUBLISHED: dict[str, Config] = {"esmfold_v1": EsmFoldConfig(language=_ESM2_3B), **PRESETS}
"""Models by the names their authors gave them (Lin et al. 2023; Jumper et al. 2021)."""


def read_config(name: str, folder: Path) -> Config:
    """The configuration of a published model, or the one in ``folder/config.json``.

    Raises:
        ModelError: there is neither, or the file is of no model that is known here.
    """
    if name in PUBLISHED:
        return PUBLISHED[name]
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(
            f"neither a published model nor a folder with config.json: {name!r}",
            code="unknown_model",
            hint=f"one of {', '.join(PUBLISHED)}, or the folder of a model",
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"not JSON: {error}", code="bad_config", location=path.name) from error
    if isinstance(values, dict) and values.get("kind") == KIND:
        return AlphaFoldConfig.from_json(values)
    if isinstance(values, dict) and values.get("is_folding_model"):
        return EsmFoldConfig.from_json(values)
    raise ModelError(
        "not the configuration of a model that is known here", code="bad_config", location=path.name
    )
