"""Trains the contact model on families with known structure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from foldase_models.folding.contacts.config import ContactModelConfig
from foldase_models.planning import Part
from foldase_models.training.config import OptimizerConfig, TrainingConfig
from foldase_workflows.contracts import Estimate, Hardware, Operator, Ports, Resources, StepContext
from foldase_workflows.contracts.ports import Families, Json, Model
from foldase_workflows.operators._machine import check_coupling_memory
from foldase_workflows.operators._models import use_cores
from foldase_workflows.operators._training_plan import estimate_training_step, plan_step
from foldase_workflows.operators._training_ports import (
    CAME_LATER,
    WHERE_THINGS_LIE,
    TrainingPorts,
    training_config,
)
from foldase_workflows.operators._training_run import disk_of, gang_arguments, recipe_errors

if TYPE_CHECKING:
    from foldase_models.recipes.contacts import ContactRecipe
    from foldase_workflows.formats.zarr_families import FamilySet

USUAL_RESIDUES = 28
"""Of the demonstration's chains, where nobody has looked at the families yet."""


class _ContactInputs(Ports):
    """Families, sizes of the model, and the training; defaults are those of the demonstration task."""

    families: Annotated[Families, Field(description="Families to learn from; the last few are held back")]
    steps: Annotated[int, Field(ge=1, le=1_000_000, description="Optimizer steps")] = 1200
    seed: Annotated[int, Field(ge=0, le=2**31, description="Of weights, batches and dropout")] = 0
    width: Annotated[int, Field(ge=4, le=256, description="Channels of alignment and pairs")] = 32
    blocks: Annotated[int, Field(ge=1, le=48, description="Evoformer blocks")] = 2
    heads: Annotated[int, Field(ge=1, le=16, description="Attention heads of 8 channels")] = 4
    recycles: Annotated[int, Field(ge=0, le=8, description="Times the output is fed back")] = 1
    sequences: Annotated[int, Field(ge=2, le=512, description="Rows the Evoformer works on")] = 32
    rows: Annotated[
        int, Field(ge=2, le=4096, description="Rows whose covariance a training step sees at most")
    ] = 192
    families_per_step: Annotated[int, Field(ge=1, le=256, description="Examples of a step")] = 4
    learning_rate: Annotated[float, Field(gt=0, le=1, description="Peak of the schedule")] = 2e-3
    smallest_crop: Annotated[
        int, Field(ge=8, le=4096, description="Half of the steps see crops of this length or more")
    ] = 16
    largest_crop: Annotated[
        int | None, Field(ge=8, le=4096, description="No step sees crops longer than this")
    ] = None
    shuffled: Annotated[
        float,
        Field(ge=0, le=0.9, description="Share of examples without coevolution, to learn what to say then"),
    ] = 0.15
    reverse: Annotated[
        bool, Field(description="Read chains backwards half of the time; simulated chains have no direction")
    ] = True
    validation: Annotated[int, Field(ge=0, le=1000, description="Families held back")] = 8
    model_inputs: Annotated[
        Literal["letters", "couplings"],
        Field(
            description="What the model sees: rows and their letters, or scores of pairs without letters, "
            "which carry over to families whose letters mean something else; shuffled and rows then count "
            "for nothing"
        ),
    ] = "letters"
    convolutions: Annotated[
        int, Field(ge=0, le=16, description="Before the pair stack of each block; only for couplings")
    ] = 0


class TrainInputs(TrainingPorts, _ContactInputs):
    """Those, and what all trainings share."""


class TrainOutputs(Ports):
    """The model, and how it does on the families held back."""

    model: Annotated[Model, Field(description="Weights as safetensors, configuration and record as JSON")]
    scores: Annotated[Json, Field(description="Precision, lDDT and confidence on the families held back")]


class TrainContacts(Operator[TrainInputs, TrainOutputs]):
    """An Evoformer with contact, distance and confidence heads, trained by one or several ranks.

    How many ranks there are, and what lies where meanwhile, change nothing but rounding: ``resources`` are
    no part of a result's identity at all, and the inputs in ``tolerances`` are part of it, but not of the
    checkpoints', so that a training goes on from them with other places and on other numbers of ranks. So it
    is with an ``optimizer`` that compresses what it sends, although there the number of ranks changes more
    than rounding: as much as another ``seed`` would.
    """

    name = "contacts.train"
    version = 1
    help = "Train a model that predicts contacts from alignments"
    family = "torch"
    resources = Resources(cpu=2.0, memory_bytes=2 * 2**30)
    gang = True
    tolerances = WHERE_THINGS_LIE
    added = CAME_LATER
    Inputs = TrainInputs
    Outputs = TrainOutputs

    def run(self, inputs: TrainInputs, context: StepContext) -> TrainOutputs:
        """Train, continuing from a checkpoint of an earlier attempt where there is one.

        Raises:
            BadInput: a damaged or empty families tree, families too short, sizes that contradict each
                other, a training that does not fit or that diverged.
            MemoryError: the couplings that the model sees need more memory than is free.
        """
        use_cores(context)
        from foldase_workflows.formats.zarr_families import FamilySet

        stored = FamilySet(inputs.families)
        longest = max(shape[-1] for shape in stored.shapes())
        if inputs.model_inputs == "couplings":
            check_coupling_memory(longest, len(stored.letters))
        with recipe_errors(TrainInputs):
            recipe, config = recipe_of(inputs, disk_of(inputs, context)), model_config(inputs, stored)
        plan_step(config, recipe.training, _part(inputs, longest), context, ranks=context.ranks)
        tree = context.new_tree("model")
        scores = context.gang(
            "foldase_workflows.operators._contacts_ranks:train", gang_arguments(inputs, model=tree)
        )
        context.progress(1.0, "trained")
        return TrainOutputs(model=tree, scores=scores)

    def estimate(self, known: Mapping[str, Any], hardware: Hardware) -> Estimate | None:
        """From the sizes, for chains as long as the demonstration's.

        Raises:
            BadInput: sizes or numbers that contradict each other.
        """
        given = {name: value for name, value in known.items() if name != "families"}
        try:
            inputs = TrainInputs.model_construct(**given)
            with recipe_errors(TrainInputs):
                config = _config(inputs, letters="ARNDCQEG", contact_cutoff=7.0, min_separation=4)
                part, training = _part(inputs, USUAL_RESIDUES), _training(inputs)
        except TypeError:
            return None
        return estimate_training_step(
            config, inputs, training, part, hardware, cpus=self.resources.cpu, examples="families_per_step"
        )


def _config(
    inputs: TrainInputs, *, letters: str, contact_cutoff: float, min_separation: int
) -> ContactModelConfig:
    return ContactModelConfig(
        letters=letters,
        width=inputs.width,
        blocks=inputs.blocks,
        heads=inputs.heads,
        recycles=inputs.recycles,
        sequences=inputs.sequences,
        inputs=inputs.model_inputs,
        convolutions=inputs.convolutions,
        contact_cutoff=contact_cutoff,
        min_separation=min_separation,
    )


def model_config(inputs: TrainInputs, stored: FamilySet) -> ContactModelConfig:
    """Of the model that learns these families.

    Raises:
        ModelError: sizes that contradict each other.
    """
    return _config(
        inputs,
        letters=stored.letters,
        contact_cutoff=stored.contact_cutoff,
        min_separation=stored.min_separation,
    )


def _training(inputs: TrainInputs) -> TrainingConfig:
    """What the shared inputs change where they are given."""
    return TrainingConfig(
        steps=inputs.steps,
        seed=inputs.seed,
        optimizer=OptimizerConfig(learning_rate=inputs.learning_rate),
    )


def _part(inputs: TrainInputs, residues: int) -> Part:
    """What a rank works on at a time."""
    longest = residues if inputs.largest_crop is None else min(residues, inputs.largest_crop)
    return Part(
        examples=max(1, inputs.families_per_step // inputs.micro_batches),
        length=longest,
        rows=inputs.rows,
        passes=inputs.recycles + 1,
    )


def recipe_of(inputs: TrainInputs, disk: Path | None) -> ContactRecipe:
    """How the model is trained; ``disk`` is what ``nvme`` means, None for what the worker says.

    Raises:
        ModelError: numbers that contradict each other.
        BadInput: the same, of the shared inputs; ``no_scratch``.
    """
    from foldase_models.folding.contacts.features import Cropping
    from foldase_models.recipes.contacts import ContactRecipe

    return ContactRecipe(
        training=training_config(inputs, _training(inputs), folder=disk),
        families_per_step=inputs.families_per_step,
        cropping=Cropping(
            smallest=inputs.smallest_crop,
            rows=inputs.rows,
            fewest_rows=min(24, inputs.rows),
            shuffled=inputs.shuffled,
            reverse=inputs.reverse,
            largest=inputs.largest_crop,
        ),
        validation=inputs.validation,
    )


OPERATOR = TrainContacts()
