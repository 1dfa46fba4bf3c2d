"""What every rank of a training of the contact model does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foldase_workflows.contracts.gangs import RankContext, check_cancelled
from foldase_workflows.operators._models import model_errors, use_cores
from foldase_workflows.operators._training_run import disk_of, first_says, joined, watcher_of
from foldase_workflows.operators.contacts_train import TrainInputs, model_config, recipe_of

if TYPE_CHECKING:
    from foldase_models.folding.contacts.features import TrainingFamily
    from foldase_workflows.formats.zarr_families import FamilySet

PREPARING = 0.3
"""Share of the progress until the couplings of all families are known, where the model sees these."""


def train(context: RankContext, *, inputs: Mapping[str, Any], model: str) -> dict[str, float]:
    """Read the families, train, and on rank 0 write the model; the numbers on the families held back.

    Args:
        context: of this rank.
        inputs: of ``contacts.train@1``, as JSON.
        model: an existing folder.

    Raises:
        BadInput: damaged families, or a training that diverged.
        Cancelled: someone asked to stop.
    """
    use_cores(context)
    from foldase_models.folding.contacts.weights import save_model
    from foldase_models.recipes.contacts import train_contacts
    from foldase_workflows.formats.zarr_families import FamilySet

    given = TrainInputs.model_validate(inputs)
    stored = FamilySet(given.families)
    families = _read(stored, context)
    recipe = recipe_of(given, disk_of(given, context))
    with joined(recipe.training) as ranks, model_errors("families"):
        trained, record = train_contacts(
            families,
            model_config(given, stored),
            recipe,
            ranks=ranks,
            checkpoints=context.checkpoints,
            watcher=watcher_of(context, first=PREPARING if given.model_inputs == "couplings" else 0.0),
        )
    first_says(context, f"attention ran on the {record['attention_backend']!r} backend")
    if context.rank == 0:
        save_model(Path(model), trained, {**record, "energy_seed": stored.attributes.get("energy_seed")})
    return dict(record["validation"])


def _read(stored: FamilySet, context: RankContext) -> list[TrainingFamily]:
    from foldase_models.folding.contacts.features import TrainingFamily

    families = []
    for family in stored:
        check_cancelled(context)
        families.append(TrainingFamily(family.name, family.msa, family.coords, family.contacts))
    first_says(context, f"{len(families)} families, letters {stored.letters}")
    return families
