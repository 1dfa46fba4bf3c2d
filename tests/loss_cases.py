"""One small example for the tests of the losses: many kinds of residues, and what a model says of it."""

from __future__ import annotations

import numpy as np
import torch

from foldase_models.folding.ideal_structures import HELIX, build_chain
from foldase_models.folding.losses import Predicted, Truth
from foldase_models.layers import residues
from foldase_models.layers.atoms import frames_to_atom14, torsions_to_frames
from foldase_models.layers.rigid import Rigid
from foldase_models.layers.structure_module import StructureOutput

SEQUENCE = "MFDEYGPRCC"
BLOCKS = 2


def truth_of(sequence: str = SEQUENCE, *, seed: int = 0, missing: bool = True) -> Truth:
    rng = np.random.default_rng(seed)
    torsions = np.array(HELIX) + rng.normal(scale=15, size=(len(sequence), 2))
    chain = build_chain("truth", sequence, torsions, rng.uniform(-180, 180, size=(len(sequence), 4)))
    mask = torch.from_numpy(chain.mask)
    if missing:
        mask[1, residues.ATOM37_INDEX["CZ"]] = False
        mask[4, residues.ATOM37_INDEX["N"]] = False
    aatype = torch.from_numpy(residues.encode(sequence))
    return Truth.from_atoms(
        aatype[None],
        torch.from_numpy(chain.positions.astype(np.float64))[None],
        mask[None],
        torch.arange(len(sequence))[None],
    )


def prediction_of(truth: Truth, *, noise: float = 0.3, seed: int = 1) -> StructureOutput:
    """Frames near the true ones with random torsions: ``BLOCKS`` blocks."""
    generator = torch.Generator().manual_seed(seed)
    shape = (BLOCKS, *truth.aatype.shape)
    update = noise * torch.randn(*shape, 6, generator=generator, dtype=torch.float64)
    true = truth.backbone
    frames = Rigid(
        true.rotation.expand(BLOCKS, *true.rotation.shape),
        true.translation.expand(BLOCKS, *true.translation.shape),
    ).compose_update(update)
    raw = torch.randn(*shape, 7, 2, generator=generator, dtype=torch.float64)
    angles = raw / raw.norm(dim=-1, keepdim=True)
    groups = torsions_to_frames(frames, angles, truth.aatype.expand(shape))
    atoms = frames_to_atom14(groups, truth.aatype.expand(shape))
    return StructureOutput(frames, groups, angles, raw, atoms, raw.flatten(-2))


def heads_of(truth: Truth, seed: int = 2) -> Predicted:
    generator = torch.Generator().manual_seed(seed)
    batch, count = truth.aatype.shape

    def logits(*shape: int) -> torch.Tensor:
        return torch.randn(batch, *shape, generator=generator, dtype=torch.float64)

    return Predicted(
        structure=prediction_of(truth),
        distogram_logits=logits(count, count, 64),
        plddt_logits=logits(count, 50),
        resolved_logits=logits(count, 37),
        aligned_error_logits=logits(count, count, 64),
        masked_msa_logits=logits(3, count, 23),
    )
