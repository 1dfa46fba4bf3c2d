"""What one pass of the model is given, as tensors.

Shapes: S clusters and E extra rows of the alignment, T templates, N residues; ``...`` any batch.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from foldase_models.folding.alphafold.features import PassFeatures
from foldase_models.folding.alphafold.template_features import TemplateFeatures
from foldase_models.folding.alphafold.templates import Templates


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInputs:
    """Features of one pass. Masks are boolean, True = real; None means that all is real.

    Attributes:
        aatype: residue types int64 ``[..., N]``, 20 = unknown.
        residue_index: int64 ``[..., N]``.
        target_feat: ``[..., N, 22]``.
        msa_feat: ``[..., S, N, 49]``.
        extra_msa: letters, any integer dtype, ``[..., E, N]``.
        extra_has_deletion: ``[..., E, N]``.
        extra_deletion_value: ``[..., E, N]``.
        seq_mask: ``[..., N]``.
        msa_mask: ``[..., S, N]``.
        extra_msa_mask: ``[..., E, N]``.
        templates: where there are any.
        chains: number of the chain of each residue, int64 ``[..., N]``; None means one chain.
    """

    aatype: torch.Tensor
    residue_index: torch.Tensor
    target_feat: torch.Tensor
    msa_feat: torch.Tensor
    extra_msa: torch.Tensor
    extra_has_deletion: torch.Tensor
    extra_deletion_value: torch.Tensor
    seq_mask: torch.Tensor | None = None
    msa_mask: torch.Tensor | None = None
    extra_msa_mask: torch.Tensor | None = None
    templates: Templates | None = None
    chains: torch.Tensor | None = None

    def to(self, device: torch.device, dtype: torch.dtype) -> ModelInputs:
        """On a device, with features in a dtype; lengths stay float32."""
        moved: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, torch.Tensor):
                moved[field.name] = value.to(device, dtype if value.is_floating_point() else None)
            elif isinstance(value, Templates):
                own = {item.name: getattr(value, item.name).to(device) for item in fields(value)}
                moved[field.name] = Templates(**own)
        return replace(self, **moved)


def inputs_of(features: PassFeatures) -> ModelInputs:
    """One pass of one record, without a batch; arrays are shared, not copied, where torch can."""
    return ModelInputs(
        aatype=torch.from_numpy(features.aatype),
        residue_index=torch.from_numpy(features.residue_index),
        target_feat=torch.from_numpy(features.target_feat),
        msa_feat=torch.from_numpy(features.msa_feat),
        extra_msa=torch.from_numpy(features.extra_msa),
        extra_has_deletion=torch.from_numpy(features.extra_has_deletion),
        extra_deletion_value=torch.from_numpy(features.extra_deletion_value),
        extra_msa_mask=None if features.extra_msa_mask is None else torch.from_numpy(features.extra_msa_mask),
        templates=None if features.templates is None else templates_of(features.templates),
        chains=None if features.chains is None else torch.from_numpy(features.chains),
    )


def templates_of(features: TemplateFeatures) -> Templates:
    """Templates of one record."""
    own = {field.name: torch.from_numpy(getattr(features, field.name)) for field in fields(features)}
    return Templates(**own, mask=torch.ones(len(features.aatype), dtype=torch.bool))
