"""What ``fold.predict`` takes and gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, field_validator

from foldase_workflows.contracts import Ports
from foldase_workflows.contracts.ports import (
    Alignment,
    Fasta,
    Predictions,
    Structure,
    Structures,
    Table,
    Tree,
    Weights,
)

if TYPE_CHECKING:
    from foldase_models.folding.prediction import Extra

Missing = Literal["refuse", "single_sequence"]
Unknown = Literal["refuse", "x"]
MOST_FRUGAL = 8
"""Plans that retries after a lack of memory may go through."""


class FoldInputs(Ports):
    """Sequences and weights; how to fold them."""

    sequences: Annotated[Fasta, Field(description="FASTA, one record a structure, `:` between chains")]
    weights: Annotated[Weights, Field(description="Folder of a checkpoint: ESMFold, AlphaFold or OpenFold")]
    alignments: list[Alignment] | None = Field(
        default=None, description="A3M and others, found by their queries; else single sequences"
    )
    missing_alignment: Annotated[
        Missing, Field(description="Where alignments are given and none is of a chain")
    ] = "refuse"
    templates: list[Structure] | None = Field(
        default=None, description="Known structures, mmCIF or PDB, laid on chains that are alike"
    )
    unknown_residues: Annotated[
        Unknown, Field(description="X and B, J, O, U, Z: refused, or folded as an unknown residue")
    ] = "refuse"
    seeds: list[Annotated[int, Field(ge=0, le=2**31 - 1)]] = Field(
        default_factory=lambda: [1], min_length=1, max_length=100, description="One structure each"
    )
    samples: Annotated[int, Field(ge=1, le=100, description="Structures a seed")] = 1
    recycles: Annotated[
        int, Field(ge=-1, le=100, description="Passes before the last one; -1: as the model was trained")
    ] = -1
    tolerance: Annotated[
        float,
        Field(ge=0, le=10, description="Stop recycling when C-alpha distances change by less, A; 0: never"),
    ] = 0.0
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16"], Field(description="auto: bfloat16 on a GPU, else float32")
    ] = "auto"
    distogram: Annotated[
        bool, Field(description="Also keep the probabilities of distances, 128 bytes a pair of residues")
    ] = False
    frames: Annotated[bool, Field(description="Also keep the frames of backbones")] = False
    pdb: Annotated[bool, Field(description="Write PDB files beside mmCIF")] = True
    allow_failures: Annotated[
        float, Field(ge=0, lt=1, description="Share of records that may fail; the status tells which")
    ] = 0.0
    frugality: Annotated[
        int, Field(ge=0, le=MOST_FRUGAL, description="Plans more frugal than the first that fits")
    ] = 0

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) < len(seeds):
            raise ValueError("the same seed twice gives the same structure twice: name each once")
        return seeds

    @property
    def extras(self) -> tuple[Extra, ...]:
        """What the model is asked beyond the usual."""
        asked: dict[Extra, bool] = {"distogram": self.distogram, "frames": self.frames}
        return tuple(name for name, wanted in asked.items() if wanted)


class FoldOutputs(Ports):
    """Structures with how sure the model is, and what became of each record."""

    structures: Annotated[Structures, Field(description="mmCIF, PDB and aligned errors of each structure")]
    predictions: Annotated[Predictions, Field(description="Contacts, traces and confidence, for the page")]
    folds: Annotated[Tree, Field(description="All arrays in tiles, for fold.rank and programs")]
    status: Annotated[Table, Field(description="What became of each record, its plan and what it took")]
    succeeded: Annotated[int, Field(description="Records folded")]
    failed: Annotated[int, Field(description="Records not folded; the status tells why")]
