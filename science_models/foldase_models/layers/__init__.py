"""Blocks that the models share, with the key names of the public checkpoints (OpenFold)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from foldase_models.layers.attention import Attention
    from foldase_models.layers.dims import EvoformerDims
    from foldase_models.layers.evoformer import Evoformer, EvoformerBlock
    from foldase_models.layers.invariant_point_attention import InvariantPointAttention
    from foldase_models.layers.msa import MSAColumnAttention, MSARowAttentionWithPairBias
    from foldase_models.layers.outer_product import OuterProductMean
    from foldase_models.layers.primitives import DropoutColumnwise, DropoutRowwise, Linear
    from foldase_models.layers.rigid import Rigid
    from foldase_models.layers.row_groups import working_set
    from foldase_models.layers.structure_dims import StructureDims
    from foldase_models.layers.structure_module import StructureModule, StructureOutput
    from foldase_models.layers.transition import Transition
    from foldase_models.layers.triangle import TriangleAttention, TriangleMultiplication

_HOMES = {
    "Attention": "attention",
    "DropoutColumnwise": "primitives",
    "DropoutRowwise": "primitives",
    "Evoformer": "evoformer",
    "EvoformerBlock": "evoformer",
    "EvoformerDims": "dims",
    "InvariantPointAttention": "invariant_point_attention",
    "Linear": "primitives",
    "MSAColumnAttention": "msa",
    "MSARowAttentionWithPairBias": "msa",
    "OuterProductMean": "outer_product",
    "Rigid": "rigid",
    "StructureDims": "structure_dims",
    "StructureModule": "structure_module",
    "StructureOutput": "structure_module",
    "Transition": "transition",
    "TriangleAttention": "triangle",
    "TriangleMultiplication": "triangle",
    "working_set": "row_groups",
}

__all__ = [
    "Attention",
    "DropoutColumnwise",
    "DropoutRowwise",
    "Evoformer",
    "EvoformerBlock",
    "EvoformerDims",
    "InvariantPointAttention",
    "Linear",
    "MSAColumnAttention",
    "MSARowAttentionWithPairBias",
    "OuterProductMean",
    "Rigid",
    "StructureDims",
    "StructureModule",
    "StructureOutput",
    "Transition",
    "TriangleAttention",
    "TriangleMultiplication",
    "working_set",
]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
