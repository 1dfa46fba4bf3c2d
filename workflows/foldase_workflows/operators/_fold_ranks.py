"""What every rank of a training of a folding model does."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foldase_workflows.contracts.gangs import RankContext
from foldase_workflows.operators._fold_training import make_trainee, read_examples
from foldase_workflows.operators._models import model_errors, use_cores
from foldase_workflows.operators._training_run import disk_of, first_says, joined, watcher_of
from foldase_workflows.operators.fold_train import TrainInputs, recipe_of, sizes_of

if TYPE_CHECKING:
    from foldase_models.recipes.folding import Folded


def train(
    context: RankContext,
    *,
    inputs: Mapping[str, Any],
    files: Sequence[Sequence[str]],
    model: str,
    structures: str,
) -> dict[str, Any]:
    """Read the structures, train, and on rank 0 write the model and what it makes of some; their scores.

    Args:
        context: of this rank.
        inputs: of ``fold.train@1``, as JSON.
        files: the structures: the name that people know each by, and its path.
        model: an existing folder.
        structures: an existing folder.

    Raises:
        BadInput: a file that cannot be read, chains that cannot be learned, weights of another model, sizes
            that contradict each other, or a training that diverged.
        Cancelled: someone asked to stop.
    """
    use_cores(context)
    from foldase_models.recipes.folding import train_folding
    from foldase_models.recipes.folding_models import save_trainee

    given = TrainInputs.model_validate(inputs)
    known = read_examples([(name, Path(path)) for name, path in files], given.shortest, context)
    longest = max(one.length for one in known)
    first_says(context, f"{len(known)} chains, the longest has {longest} residues")
    new_trainee = partial(make_trainee, given.model, given.weights, **sizes_of(given), seed=given.seed)
    recipe = recipe_of(given, disk_of(given, context))
    with joined(recipe.training) as ranks, model_errors("structures"):
        trainee, found, record = train_folding(
            new_trainee,
            known,
            recipe,
            ranks=ranks,
            checkpoints=context.checkpoints,
            watcher=watcher_of(context, prefix="validation_"),
        )
    if context.rank == 0:
        save_trainee(Path(model), trainee, record)
        _write(Path(structures), found, record, Path(model), context)
    scores = ", ".join(f"{name} {value:.3f}" for name, value in record["scores"].items())
    first_says(context, scores)
    return {"scored": record["scored"], **record["scores"]}


def _write(
    folder: Path, found: Sequence[Folded], record: Mapping[str, Any], tree: Path, context: RankContext
) -> None:
    """One mmCIF a structure that the model was looked at with.

    What a file cannot hold, such as coordinates that ran away, is left out with a warning: the model that
    was trained is not lost with it.
    """
    import numpy as np

    from foldase_workflows.formats.predicted import PredictedStructure, Provenance
    from foldase_workflows.formats.predicted_mmcif import write_mmcif

    digest = hashlib.sha256((tree / "model.safetensors").read_bytes()).hexdigest()
    training = record["recipe"]
    made = Provenance(
        model=record["kind"],
        weights=digest,
        seed=training["training"]["seed"],
        recycles=training["recycles"],
        options=training["options"],
        versions={"torch": record["torch"]},
    )
    for one in found:
        atoms = one.atoms
        confidence = one.plddt if one.plddt.size else np.zeros(len(atoms.sequence), dtype=np.float32)
        try:
            structure = PredictedStructure(
                name=one.name,
                chains=(atoms.sequence,),
                positions=np.where(atoms.mask[..., None], atoms.positions, 0.0).astype(np.float32),
                atom_mask=atoms.mask,
                plddt=np.clip(confidence, 0.0, 100.0).astype(np.float32),
                provenance=made,
            )
            write_mmcif(folder / f"{one.name}.cif", structure)
        except ValueError as error:
            context.log(f"the structure of {one.name} is not written: {error}", level="warning")
