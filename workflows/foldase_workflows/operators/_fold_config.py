"""Sizes of the folding models that a training starts from; without torch, so that a plan knows them too."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from foldase_models.folding.alphafold.config import AlphaFoldConfig, reduced
from foldase_models.folding.esm2.config import Esm2Config
from foldase_models.folding.esmfold.config import EsmFoldConfig, TrunkDims
from foldase_workflows.contracts import BadInput
from foldase_workflows.operators import _folding_plan

Kind = Literal["esmfold", "alphafold"]
FoldingConfig = EsmFoldConfig | AlphaFoldConfig
LANGUAGE_WIDTH, LANGUAGE_LAYERS, LANGUAGE_HEADS = 32, 2, 4
"""Of the language model of an ESMFold that starts from nothing; it stays random."""
HEAD_WIDTH = 16
POSITION_BINS = 64
"""Offsets that a small trunk tells apart: it has few blocks to learn long ones from short ones."""


def config_of_weights(kind: Kind, weights: Path) -> FoldingConfig | None:
    """Of a model in a folder; None where that does not tell: whoever reads the weights says what is wrong."""
    try:
        found, config = _folding_plan.config_of(weights)
    except BadInput:
        return None
    return config if found == kind and isinstance(config, EsmFoldConfig | AlphaFoldConfig) else None


def new_esmfold(
    *, width: int, pair_width: int, blocks: int, structure_blocks: int, recycles: int
) -> EsmFoldConfig:
    """Of an ESMFold that starts from nothing.

    Raises:
        ModelError: sizes that do not go together.
    """
    from foldase_models.layers.structure_dims import StructureDims

    return EsmFoldConfig(
        language=Esm2Config(
            hidden_size=LANGUAGE_WIDTH,
            num_hidden_layers=LANGUAGE_LAYERS,
            num_attention_heads=LANGUAGE_HEADS,
            intermediate_size=2 * LANGUAGE_WIDTH,
            position_embedding_type="rotary",
        ),
        trunk=TrunkDims(
            c_s=width,
            c_z=pair_width,
            sequence_head_width=HEAD_WIDTH,
            pair_head_width=HEAD_WIDTH,
            no_blocks=blocks,
            position_bins=POSITION_BINS,
        ),
        structure=StructureDims(
            c_s=width,
            c_z=pair_width,
            c_ipa=HEAD_WIDTH // 2,
            c_resnet=width,
            no_heads_ipa=4,
            no_v_points=4,
            dropout_rate=0.0,
            no_blocks=structure_blocks,
        ),
        lddt_width=width,
        passes=recycles + 1,
    )


def new_alphafold(
    *, width: int, pair_width: int, blocks: int, structure_blocks: int, recycles: int
) -> AlphaFoldConfig:
    """Of an AlphaFold that starts from nothing.

    Raises:
        ModelError: sizes that do not go together.
    """
    small = reduced("model_3_ptm")
    return replace(
        small,
        evoformer=replace(small.evoformer, c_m=width, c_z=pair_width),
        evoformer_blocks=blocks,
        extra_msa=replace(small.extra_msa, c_z=pair_width),
        structure=replace(
            small.structure, c_s=width, c_z=pair_width, no_blocks=structure_blocks, dropout_rate=0.0
        ),
        plddt_width=width,
        recycles=recycles,
    )
