"""How much each loss counts. Importable without torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from foldase_models.errors import ModelError


@dataclass(frozen=True, slots=True, kw_only=True)
class LossWeights:
    """The defaults are those of the first stage of training (Jumper et al. 2021, supplement 1.9).

    A loss of weight 0 is not computed; one whose head the model lacks counts nothing.

    Attributes:
        backbone, sidechain: FAPE of backbones, the mean over blocks, and of all atoms after the last.
        chi, angle_norm: torsions of side chains, and the length of the raw outputs.
        distogram: distances of pairs.
        masked_msa: hidden letters.
        plddt: confidence by atom.
        resolved, violation: only when a model is fine-tuned, then 0.01 and 1.
        aligned_error: of pairs; 0.1 when a model is fine-tuned to tell pTM.
        clamped_share: of the examples whose backbone FAPE is cut off at 10 A.
    """

    backbone: float = 0.5
    sidechain: float = 0.5
    chi: float = 0.5
    angle_norm: float = 0.01
    distogram: float = 0.3
    masked_msa: float = 2.0
    plddt: float = 0.01
    resolved: float = 0.0
    violation: float = 0.0
    aligned_error: float = 0.0
    clamped_share: float = 0.9

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not 0 <= value < float("inf"):
                raise ModelError(f"{name} must be at least 0, got {value}", code="bad_config")
        if self.clamped_share > 1:
            raise ModelError(f"clamped_share must be at most 1, got {self.clamped_share}", code="bad_config")

    @classmethod
    def fine_tuning(cls) -> LossWeights:
        """Those of the second stage, with aligned errors: all losses."""
        return cls(resolved=0.01, violation=1.0, aligned_error=0.1)

    def to_json(self) -> dict[str, float]:
        """Plain values."""
        return asdict(self)
