"""Chains of structure files as examples to learn from, and models of a given size to learn them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foldase_workflows.contracts import BadInput, Location, RankContext, StepContext
from foldase_workflows.contracts.gangs import check_cancelled
from foldase_workflows.operators._fold_config import Kind, new_alphafold, new_esmfold
from foldase_workflows.operators._models import model_errors
from foldase_workflows.operators._training_run import first_says

if TYPE_CHECKING:
    from foldase_models.recipes.folding_data import TrainingStructure
    from foldase_models.recipes.folding_models import Trainee
    from foldase_workflows.formats.all_atoms import AllAtomChain


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


def longest_chain(files: Sequence[tuple[str, Path]], enough: int, context: StepContext) -> int:
    """Residues of the longest chain of the files, or ``enough`` as soon as one has that many.

    Raises:
        BadInput: a file that cannot be read.
    """
    from foldase_workflows.formats.all_atoms import read_all_atoms

    longest = 1
    for shown, path in files:
        context.check_cancelled()
        for chain in read_all_atoms(path, name=shown):
            longest = max(longest, len(chain.polymer or chain.sequence))
        if longest >= enough:
            return enough
    return longest


def make_trainee(kind: Kind, weights: Path | None, **sizes: int) -> Trainee:
    """A model to train: read from a folder, or new and with random weights.

    Args:
        kind: of the model.
        weights: the folder.
        sizes: of a new one, as :func:`~foldase_workflows.operators._fold_config.new_esmfold` takes them, and
            the ``seed`` of its weights.

    Raises:
        BadInput: weights that cannot be read or are of another model, or sizes that do not go together.
    """
    seed = sizes.pop("seed")
    with model_errors("model" if weights is None else "weights"):
        return (_esmfold if kind == "esmfold" else _alphafold)(weights, seed, sizes)


def _esmfold(weights: Path | None, seed: int, sizes: Mapping[str, int]) -> Trainee:
    from foldase_models.folding.esmfold.weights import load_esmfold
    from foldase_models.recipes.folding_models import EsmFoldTrainee

    if weights is not None:
        return EsmFoldTrainee(load_esmfold(weights))
    return EsmFoldTrainee.new(new_esmfold(**sizes), seed)


def _alphafold(weights: Path | None, seed: int, sizes: Mapping[str, int]) -> Trainee:
    from foldase_models.folding.alphafold.weights import load_alphafold
    from foldase_models.recipes.alphafold_trainee import AlphaFoldTrainee

    if weights is not None:
        return AlphaFoldTrainee(load_alphafold(weights).model)
    return AlphaFoldTrainee.new(new_alphafold(**sizes), seed)
