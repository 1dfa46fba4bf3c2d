"""The folding models as the training sees them: one structure in, everything the losses need out.

Shapes: a batch of one, N residues.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.torch import save
from torch import nn

from foldase_models.folding.esmfold.config import EsmFoldConfig
from foldase_models.folding.esmfold.heads import symmetric_logits
from foldase_models.folding.esmfold.model import EsmFold
from foldase_models.folding.losses import HiddenLetters, Predicted
from foldase_models.folding.options import ForwardOptions
from foldase_models.layers.checkpoints import CONFIG_FILE, WEIGHTS_FILE
from foldase_models.layers.residues import encode
from foldase_models.recipes.folding_data import TrainingStructure

TRAINING_FILE = "training.json"
_INIT, _HIDE = 11, 12
"""Streams of random numbers drawn from one seed."""


@dataclass(frozen=True, slots=True)
class Draw:
    """What an example draws at random: a seed of its own, passes before the last one, hidden residues."""

    seed: tuple[int, ...]
    recycles: int
    hidden_share: float


class Trainee(Protocol):
    """A model that can be trained.

    Attributes:
        kind: of the model, as ``load_folder`` knows it.
    """

    kind: str

    @property
    def model(self) -> nn.Module:
        """Its weights; those that need no gradient are left alone."""
        ...

    def predict(
        self, known: TrainingStructure, draw: Draw, options: ForwardOptions
    ) -> tuple[Predicted, HiddenLetters | None]:
        """Fold the sequence of a structure, with gradients in the last pass; a batch of one."""
        ...

    def config(self) -> Mapping[str, Any]:
        """Plain values for ``config.json``, from which the model is read again."""
        ...


class EsmFoldTrainee:
    """ESMFold; the language model stays as it is, its head learns residue types that were hidden."""

    kind = "esmfold"

    def __init__(self, model: EsmFold) -> None:
        self.model = model

    @classmethod
    def new(cls, config: EsmFoldConfig, seed: int) -> EsmFoldTrainee:
        """With random weights."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(np.random.default_rng([seed, _INIT]).integers(2**62)))
            return cls(EsmFold(config))

    def predict(
        self, known: TrainingStructure, draw: Draw, options: ForwardOptions
    ) -> tuple[Predicted, HiddenLetters | None]:
        """See :class:`Trainee`."""
        device = self.model.esm_s_combine.device
        aatype = torch.from_numpy(encode(known.sequence, location=known.name)).to(device)[None]
        index = torch.from_numpy(known.residue_index).to(device)[None]
        hidden = None
        if draw.hidden_share:
            rng = np.random.default_rng([*draw.seed, _HIDE])
            drawn = rng.random(known.length) < draw.hidden_share
            hidden = torch.from_numpy(drawn).to(device)[None]
        output = self.model(
            aatype, residue_index=index, hidden=hidden, recycles=draw.recycles, options=options
        )
        predicted = Predicted(
            structure=output.structure,
            distogram_logits=symmetric_logits(output.z, self.model.distogram_head),
            plddt_logits=output.lddt_logits,
            aligned_error_logits=self.model.ptm_head(output.z),
            masked_msa_logits=None if hidden is None else self.model.lm_head(output.s)[:, None],
        )
        letters = None if hidden is None else HiddenLetters(aatype[:, None], hidden[:, None])
        return predicted, letters

    def config(self) -> Mapping[str, Any]:
        """See :class:`Trainee`."""
        return self.model.config.to_json()


def save_trainee(folder: Path, trainee: Trainee, record: Mapping[str, Any]) -> None:
    """Write ``config.json``, ``model.safetensors`` and ``training.json`` into an existing folder."""
    tensors = {
        name: tensor.detach().cpu().contiguous().clone()
        for name, tensor in trainee.model.state_dict().items()
    }
    (folder / WEIGHTS_FILE).write_bytes(save(tensors, metadata={"format": "pt"}))
    (folder / TRAINING_FILE).write_text(_json(record), encoding="utf-8")
    (folder / CONFIG_FILE).write_text(_json(trainee.config()), encoding="utf-8")


def _json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=2, sort_keys=True) + "\n"
