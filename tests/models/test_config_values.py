"""Configurations are read from files: what they hold is checked before a model is built."""

from __future__ import annotations

import pytest

from foldase_models.errors import ModelError
from foldase_models.folding.alphafold.config import AlphaFoldConfig
from foldase_models.folding.esm2.config import Esm2Config
from foldase_models.folding.esmfold.config import EsmFoldConfig


def esmfold(trunk: dict[str, object], **structure: object) -> dict[str, object]:
    return {"is_folding_model": True, "esmfold_config": {"trunk": {**trunk, "structure_module": structure}}}


@pytest.mark.parametrize(
    ("kind", "values", "said"),
    [
        (Esm2Config, {"hidden_size": "64"}, "hidden_size must be a whole number, got '64'"),
        (Esm2Config, {"num_hidden_layers": 2.5}, "num_hidden_layers must be a whole number"),
        (Esm2Config, {"token_dropout": 1}, "token_dropout must be true or false"),
        (Esm2Config, {"layer_norm_eps": float("nan")}, "layer_norm_eps must be a number"),
        (Esm2Config, {"vocab_list": 5}, "vocabulary"),
        (EsmFoldConfig, esmfold({"num_blocks": "2"}), "no_blocks must be a whole number"),
        (EsmFoldConfig, esmfold({"max_recycles": "x"}), "passes must be a whole number"),
        (EsmFoldConfig, esmfold({}, num_blocks=0), "no_blocks must be above 0, got 0"),
        (EsmFoldConfig, esmfold({}, sequence_dim=-4), "c_s must be above 0, got -4"),
        (EsmFoldConfig, esmfold({}, num_angles=3), "no_angles must be 7"),
        (AlphaFoldConfig, {"evoformer_blocks": "2"}, "evoformer_blocks must be a whole number"),
        (AlphaFoldConfig, {"evoformer": {"c_m": 1.5}}, "c_m must be a whole number"),
        (AlphaFoldConfig, {"features": {"extra": True}}, "extra must be a whole number"),
        (AlphaFoldConfig, {"preset": ["model_1"]}, "there is no model"),
    ],
)
def test_fields_of_another_kind_are_named(kind, values, said):
    with pytest.raises(ModelError, match=said) as caught:
        kind.from_json(values)
    assert caught.value.code in ("bad_config", "unknown_preset")


def test_whole_numbers_are_numbers():
    values = esmfold({"num_blocks": 0, "max_recycles": 0}, trans_scale_factor=10, dropout_rate=0)
    config = EsmFoldConfig.from_json(values)
    assert (config.trunk.no_blocks, config.passes, config.structure.dropout_rate) == (0, 1, 0)
