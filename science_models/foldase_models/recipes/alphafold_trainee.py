"""AlphaFold 2 as the training sees it: features from a sequence, every head's logits out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from foldase_models.folding.alphafold.config import AlphaFoldConfig
from foldase_models.folding.alphafold.features import (
    PassFeatures,
    RecordFeatures,
    pass_features,
    record_features,
)
from foldase_models.folding.alphafold.inputs import inputs_of
from foldase_models.folding.alphafold.model import AlphaFold
from foldase_models.folding.losses import HiddenLetters, Predicted
from foldase_models.folding.options import ForwardOptions
from foldase_models.folding.prediction import FoldInput
from foldase_models.layers.rigid import Rigid
from foldase_models.layers.structure_module import StructureOutput
from foldase_models.recipes.folding_data import TrainingStructure
from foldase_models.recipes.folding_models import Draw

_INIT = 21
"""The stream of random numbers that the weights are drawn from."""


class AlphaFoldTrainee:
    """AlphaFold on single sequences; some of the letters are hidden in each pass, as its features say."""

    kind = "alphafold"

    def __init__(self, model: AlphaFold) -> None:
        self.model = model

    @classmethod
    def new(cls, config: AlphaFoldConfig, seed: int) -> AlphaFoldTrainee:
        """With random weights."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(np.random.default_rng([seed, _INIT]).integers(2**62)))
            return cls(AlphaFold(config))

    def predict(
        self, known: TrainingStructure, draw: Draw, options: ForwardOptions
    ) -> tuple[Predicted, HiddenLetters | None]:
        """See :class:`foldase_models.recipes.folding_models.Trainee`."""
        record = record_features(
            FoldInput(name=known.name, chains=(known.sequence,)), self.model.config.features
        )
        passes = [self._pass(record, known, draw, number) for number in range(draw.recycles + 1)]
        output = self.model([inputs_of(one) for one in passes], options=options, logits=True)
        logits = output.logits
        assert logits is not None
        device = logits.plddt.device
        predicted = Predicted(
            structure=_batched(output.structure),
            distogram_logits=logits.distogram[None],
            plddt_logits=logits.plddt[None],
            resolved_logits=logits.experimentally_resolved[None],
            aligned_error_logits=None if logits.aligned_error is None else logits.aligned_error[None],
            masked_msa_logits=logits.masked_msa[None],
        )
        letters = torch.from_numpy(passes[-1].true_msa.astype(np.int64)).to(device)[None]
        return predicted, HiddenLetters(letters, torch.from_numpy(passes[-1].masked).to(device)[None])

    def config(self) -> Mapping[str, Any]:
        """See :class:`foldase_models.recipes.folding_models.Trainee`."""
        return self.model.config.to_json()

    def _pass(
        self, record: RecordFeatures, known: TrainingStructure, draw: Draw, number: int
    ) -> PassFeatures:
        seed = int(np.random.default_rng(draw.seed).integers(2**31))
        drawn = pass_features(
            record, self.model.config.features, seed=seed, number=number, training=self.model.training
        )
        drawn.residue_index[:] = known.residue_index
        return drawn


def _batched(structure: StructureOutput) -> StructureOutput:
    """With a batch of one behind the blocks."""

    def wider(frames: Rigid) -> Rigid:
        return Rigid(frames.rotation[:, None], frames.translation[:, None])

    return StructureOutput(
        wider(structure.frames),
        wider(structure.sidechain_frames),
        structure.angles[:, None],
        structure.unnormalized_angles[:, None],
        structure.positions[:, None],
        structure.states[:, None],
    )
