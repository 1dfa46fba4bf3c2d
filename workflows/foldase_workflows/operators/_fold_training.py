"""Chains of structure files as examples to learn from, and models of a given size to learn them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from foldase_workflows.contracts import BadInput, Location, RankContext
from foldase_workflows.contracts.gangs import check_cancelled
from foldase_workflows.operators._models import model_errors
from foldase_workflows.operators._training_run import first_says

if TYPE_CHECKING:
    from foldase_models.recipes.folding_data import TrainingStructure
    from foldase_models.recipes.folding_models import Trainee
    from foldase_workflows.formats.all_atoms import AllAtomChain

Kind = Literal["esmfold", "alphafold"]
LANGUAGE_WIDTH, LANGUAGE_LAYERS, LANGUAGE_HEADS = 32, 2, 4
"""Of the language model of an ESMFold that starts from nothing; it stays random."""
HEAD_WIDTH = 16
POSITION_BINS = 64
"""Offsets that a small trunk tells apart: it has few blocks to learn long ones from short ones."""


def read_examples(files: Sequence[tuple[str, Path]], shortest: int, context: RankContext) -> list[Any]:
    """Every chain of the files that is long enough, as ``TrainingStructure``; equal chains are all kept.

    Each has a name of its own that is one of a file too: of two alike the second has a number behind it.

    Raises:
        BadInput: a file that cannot be read, or no chain at all that can be learned.
    """
    from foldase_workflows.formats.all_atoms import read_all_atoms
    from foldase_workflows.formats.predicted import file_name

    found: list[TrainingStructure] = []
    short = 0
    for shown, path in files:
        check_cancelled(context)
        chains = read_all_atoms(path, name=shown)
        for chain in chains:
            name = Path(shown).with_suffix("").as_posix()
            if len(chains) > 1:
                name = f"{name}_{chain.name}"
            if len(chain.sequence) < shortest:
                short += 1
                first_says(
                    context, f"{name}: left out, it has only {len(chain.sequence)} residues", level="warning"
                )
                continue
            found.append(_example(file_name(name, [known.name for known in found]), chain))
    if not found:
        raise BadInput(
            f"no chain has {shortest} residues or more ({short} are shorter)",
            code="no_structures",
            location=Location(path="with.structures"),
            hint="give longer chains, or lower shortest",
        )
    return found


def _example(name: str, chain: AllAtomChain) -> TrainingStructure:
    """One chain, with the residues that were not observed where the file tells them."""
    import numpy as np

    from foldase_models.layers.residues import RESTYPES
    from foldase_models.recipes.folding_data import TrainingStructure

    sequence, places = chain.sequence, np.arange(len(chain.sequence))
    index = chain.numbers.astype(np.int64)
    polymer = chain.polymer
    if polymer is not None and chain.places.all() and int(chain.places.max()) <= len(polymer):
        places = chain.places.astype(np.int64) - 1
        letters = [letter if letter in RESTYPES else "X" for letter in polymer]
        for place, letter in zip(places, chain.sequence, strict=True):
            letters[place] = letter
        sequence, index = "".join(letters), np.arange(len(letters), dtype=np.int64)
    elif (np.diff(index) <= 0).any():
        # Insertion codes or numbers that start anew say nothing of the chain.
        index = np.arange(len(sequence), dtype=np.int64)
    positions = np.zeros((len(sequence), *chain.positions.shape[1:]), dtype=np.float32)
    mask = np.zeros(positions.shape[:2], dtype=bool)
    positions[places], mask[places] = chain.positions, chain.mask
    return TrainingStructure(
        name=name, sequence=sequence, positions=positions, mask=mask, residue_index=index - index[0]
    )


def make_trainee(
    kind: Kind,
    weights: Path | None,
    *,
    width: int,
    pair_width: int,
    blocks: int,
    structure_blocks: int,
    recycles: int,
    seed: int,
) -> Trainee:
    """A model to train: read from a folder, or new, of these sizes and with random weights.

    Raises:
        BadInput: weights that cannot be read or are of another model, or sizes that do not go together.
    """
    with model_errors("model" if weights is None else "weights"):
        if kind == "esmfold":
            return _esmfold(weights, width, pair_width, blocks, structure_blocks, recycles, seed)
        return _alphafold(weights, width, pair_width, blocks, structure_blocks, recycles, seed)


def _esmfold(
    weights: Path | None, width: int, pairs: int, blocks: int, structure_blocks: int, recycles: int, seed: int
) -> Trainee:
    from foldase_models.folding.esm2.config import Esm2Config
    from foldase_models.folding.esmfold.config import EsmFoldConfig, TrunkDims
    from foldase_models.folding.esmfold.weights import load_esmfold
    from foldase_models.layers.structure_dims import StructureDims
    from foldase_models.recipes.folding_models import EsmFoldTrainee

    if weights is not None:
        return EsmFoldTrainee(load_esmfold(weights))
    config = EsmFoldConfig(
        language=Esm2Config(
            hidden_size=LANGUAGE_WIDTH,
            num_hidden_layers=LANGUAGE_LAYERS,
            num_attention_heads=LANGUAGE_HEADS,
            intermediate_size=2 * LANGUAGE_WIDTH,
            position_embedding_type="rotary",
        ),
        trunk=TrunkDims(
            c_s=width,
            c_z=pairs,
            sequence_head_width=HEAD_WIDTH,
            pair_head_width=HEAD_WIDTH,
            no_blocks=blocks,
            position_bins=POSITION_BINS,
        ),
        structure=StructureDims(
            c_s=width,
            c_z=pairs,
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
    return EsmFoldTrainee.new(config, seed)


def _alphafold(
    weights: Path | None, width: int, pairs: int, blocks: int, structure_blocks: int, recycles: int, seed: int
) -> Trainee:
    from dataclasses import replace

    from foldase_models.folding.alphafold.config import reduced
    from foldase_models.folding.alphafold.weights import load_alphafold
    from foldase_models.recipes.alphafold_trainee import AlphaFoldTrainee

    if weights is not None:
        return AlphaFoldTrainee(load_alphafold(weights).model)
    small = reduced("model_3_ptm")
    config = replace(
        small,
        evoformer=replace(small.evoformer, c_m=width, c_z=pairs),
        evoformer_blocks=blocks,
        extra_msa=replace(small.extra_msa, c_z=pairs),
        structure=replace(
            small.structure, c_s=width, c_z=pairs, no_blocks=structure_blocks, dropout_rate=0.0
        ),
        plddt_width=width,
        recycles=recycles,
    )
    return AlphaFoldTrainee.new(config, seed)
