"""Known structures as folding models are trained on them: chains, crops and what losses compare with.

Shapes: N residues of a chain, 37 places for atoms. Lengths in A.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from foldase_models.errors import ModelError
from foldase_models.folding.losses import Truth
from foldase_models.layers.residues import ATOM37, ATOM37_INDEX, UNKNOWN, encode
from foldase_models.metrics import LDDT_CUTOFF, AllAtoms

SHORTEST = 4
"""Residues of a known type with a C-alpha below which nothing can be learned or compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingStructure:
    """One chain of known structure.

    Attributes:
        name: for people.
        sequence: the twenty letters and X, residues that were not observed included.
        positions: float32 ``(N, 37, 3)``, A.
        mask: boolean ``(N, 37)``, which atoms are known.
        residue_index: ``(N,)``, grows by one where residues are bonded.
        resolution: of the experiment, A; None where unknown.
    """

    name: str
    sequence: str
    positions: NDArray[np.float32]
    mask: NDArray[np.bool_]
    residue_index: NDArray[np.int64]
    resolution: float | None = None

    @property
    def length(self) -> int:
        """Residues, N."""
        return len(self.sequence)

    @property
    def learnable(self) -> NDArray[np.bool_]:
        """``(N,)``, residues of one of the twenty types with a C-alpha: models place no atom of others."""
        known: NDArray[np.bool_] = encode(self.sequence, location=self.name) != UNKNOWN
        return self.mask[:, ATOM37_INDEX["CA"]] & known

    def cropped(self, start: int, length: int) -> TrainingStructure:
        """A stretch of residues."""
        own = slice(start, start + length)
        return replace(
            self,
            sequence=self.sequence[own],
            positions=self.positions[own],
            mask=self.mask[own],
            residue_index=self.residue_index[own],
        )

    def truth(self, device: torch.device) -> Truth:
        """What losses compare with, a batch of one."""
        aatype = torch.from_numpy(encode(self.sequence, location=self.name))
        resolution = None if self.resolution is None else torch.tensor([self.resolution], device=device)
        return Truth.from_atoms(
            aatype.to(device)[None],
            torch.from_numpy(self.positions).to(device)[None],
            torch.from_numpy(self.mask).to(device)[None],
            torch.from_numpy(self.residue_index).to(device)[None],
            resolution=resolution,
        )

    def atoms(self) -> AllAtoms:
        """As the metrics take it."""
        return AllAtoms(
            sequence=self.sequence,
            positions=self.positions,
            mask=self.mask,
            chain_index=np.zeros(self.length, dtype=np.int16),
            residue_index=self.residue_index,
        )


def check_structures(structures: Sequence[TrainingStructure]) -> None:
    """Whether anything can be learned from them.

    Raises:
        ModelError: none are given, shapes or letters are wrong, or too few atoms are known; ``location``
            names the structure.
    """
    if not structures:
        raise ModelError("there are no structures to train on", code="no_structures")
    for known in structures:
        encode(known.sequence, location=known.name)
        shape = (known.length, len(ATOM37))
        if known.mask.shape != shape or known.positions.shape != (*shape, 3):
            raise ModelError(
                f"{known.length} residues with atoms {known.positions.shape} and mask {known.mask.shape}",
                code="bad_structure",
                location=known.name,
            )
        if not np.isfinite(known.positions[known.mask]).all():
            raise ModelError("a coordinate is not finite", code="bad_structure", location=known.name)
        seen = int(known.learnable.sum())
        if seen < SHORTEST:
            raise ModelError(
                f"only {seen} residues of a known type have a C-alpha; at least {SHORTEST} are needed",
                code="too_short",
                location=known.name,
            )
        alpha = known.positions[known.learnable, ATOM37_INDEX["CA"]].astype(np.float64)
        if np.linalg.norm(np.diff(alpha, axis=0), axis=-1).min() >= LDDT_CUTOFF:
            raise ModelError(
                f"no residue lies within {LDDT_CUTOFF:g} A of the next one: there is no chain to learn",
                code="bad_structure",
                location=known.name,
            )


def draw_crop(known: TrainingStructure, length: int, rng: np.random.Generator) -> tuple[int, int]:
    """Start and length of a stretch of at most ``length`` residues, at least one of them to learn from.

    All stretches are equally likely, as in Jumper et al. 2021, supplement 1.2.8, for one chain.
    """
    if known.length <= length:
        return 0, known.length
    seen = np.concatenate([[0], np.cumsum(known.learnable)])
    inside = seen[length:] - seen[:-length]
    starts = np.flatnonzero(inside >= min(SHORTEST, int(inside.max())))
    return int(starts[rng.integers(len(starts))]), length
