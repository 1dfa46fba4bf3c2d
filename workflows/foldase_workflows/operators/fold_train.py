"""Trains a folding model on known structures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from foldase_models.folding.alphafold.config import AlphaFoldConfig
from foldase_models.planning import AlphaFoldTrainee, EsmFoldTrainee, Part
from foldase_models.training.config import TrainingConfig
from foldase_workflows.contracts import (
    BadInput,
    Estimate,
    Hardware,
    Location,
    Operator,
    Ports,
    Resources,
    StepContext,
)
from foldase_workflows.contracts.ports import Json, Structure, Structures, Weights
from foldase_workflows.operators._fold_config import (
    FoldingConfig,
    Kind,
    config_of_weights,
    new_alphafold,
    new_esmfold,
)
from foldase_workflows.operators._fold_training import longest_chain
from foldase_workflows.operators._models import model_errors, use_cores
from foldase_workflows.operators._structure_files import structure_files
from foldase_workflows.operators._training_plan import estimate_training_step, plan_step
from foldase_workflows.operators._training_ports import (
    CAME_LATER,
    WHERE_THINGS_LIE,
    TrainingPorts,
    training_config,
)
from foldase_workflows.operators._training_run import disk_of, gang_arguments, recipe_errors

if TYPE_CHECKING:
    from foldase_models.folding.losses.weights import LossWeights
    from foldase_models.recipes.folding import FoldingRecipe


class _FoldingInputs(Ports):
    """Structures, the model, and the training; rates and losses are those of AlphaFold 2."""

    structures: Annotated[
        Structures | None, Field(description="A folder of mmCIF or PDB files; this or files, or both")
    ] = None
    files: Annotated[list[Structure], Field(description="Structures one by one")] = []  # noqa: RUF012
    model: Annotated[Kind, Field(description="Which model learns")] = "esmfold"
    weights: Annotated[
        Weights | None, Field(description="Start from these weights; their sizes count, not those below")
    ] = None
    steps: Annotated[int, Field(ge=1, le=1_000_000, description="Optimizer steps")] = 300
    seed: Annotated[int, Field(ge=0, le=2**31, description="Of weights, crops, order and what is hidden")] = 0
    crop: Annotated[int, Field(ge=8, le=4096, description="Residues of an example at most")] = 256
    structures_per_step: Annotated[int, Field(ge=1, le=256, description="Examples of a step")] = 1
    learning_rate: Annotated[float, Field(gt=0, le=1, description="Peak of the schedule")] = 1e-3
    average_decay: Annotated[
        float, Field(ge=0, lt=1, description="Of the average of the weights, which is the result")
    ] = 0.999
    recycles: Annotated[int, Field(ge=0, le=20, description="At most; each step draws how many")] = 1
    clamped: Annotated[
        float, Field(ge=0, le=1, description="Share of examples whose backbone error is cut off at 10 A")
    ] = 0.9
    hidden: Annotated[
        float, Field(ge=0, le=0.9, description="Share of residues hidden and learned (ESMFold)")
    ] = 0.15
    fine_tune: Annotated[
        bool, Field(description="Also learn geometry, aligned errors and which atoms are seen")
    ] = False
    validation: Annotated[
        int, Field(ge=0, le=1000, description="Structures held back, at most a fifth of all")
    ] = 0
    shortest: Annotated[int, Field(ge=4, le=4096, description="Shorter chains are left out")] = 16
    width: Annotated[int, Field(ge=16, le=1024, multiple_of=16, description="Channels of residues")] = 48
    pair_width: Annotated[int, Field(ge=16, le=256, multiple_of=16, description="Channels of pairs")] = 32
    blocks: Annotated[int, Field(ge=1, le=48, description="Blocks of the trunk or Evoformer")] = 1
    structure_blocks: Annotated[int, Field(ge=1, le=16, description="Passes of the structure module")] = 4
    checkpointing: Annotated[
        bool,
        Field(description="Keep only the inputs of each block for the gradients: slower, for long crops"),
    ] = False


class TrainInputs(TrainingPorts, _FoldingInputs):
    """Those, and what all trainings share."""


class TrainOutputs(Ports):
    """The model, what it makes of structures, and how good that is."""

    model: Annotated[Weights, Field(description="config.json, safetensors and the record of the training")]
    structures: Annotated[
        Structures,
        Field(description="What it makes of the structures held back, or of some it learned; mmCIF"),
    ]
    scores: Annotated[Json, Field(description="Mean scores of those, and what they are")]


class TrainFolding(Operator[TrainInputs, TrainOutputs]):
    """ESMFold or AlphaFold 2, from random weights or given ones, trained by one or several ranks.

    How many ranks there are, and what lies where meanwhile, change nothing but rounding: ``resources`` are
    no part of a result's identity at all, and the inputs in ``tolerances`` are part of it, but not of the
    checkpoints', so that a training goes on from them with other places and on other numbers of ranks. So it
    is with an ``optimizer`` that compresses what it sends, although there the number of ranks changes more
    than rounding: as much as another ``seed`` would.
    """

    name = "fold.train"
    version = 1
    help = "Train a folding model on known structures"
    family = "torch"
    resources = Resources(cpu=2.0, memory_bytes=3 * 2**30)
    gang = True
    tolerances = WHERE_THINGS_LIE
    added = CAME_LATER
    Inputs = TrainInputs
    Outputs = TrainOutputs

    def run(self, inputs: TrainInputs, context: StepContext) -> TrainOutputs:
        """Train, going on from a checkpoint of an earlier attempt where there is one.

        Raises:
            BadInput: no structures, a file that cannot be read, chains that cannot be learned, weights of
                another model, sizes that contradict each other, a training that does not fit or that
                diverged.
        """
        use_cores(context)
        files = _files(inputs)
        with recipe_errors(TrainInputs):
            recipe = recipe_of(inputs, disk_of(inputs, context))
        with model_errors("model"):
            config = _config(inputs)
        if config is not None:
            part = _part(inputs, longest_chain(files, inputs.crop, context))
            plan_step(_trainee(inputs, config), recipe.training, part, context, ranks=context.ranks)
        tree, folder = context.new_tree("model"), context.new_tree("structures")
        scores = context.gang(
            "foldase_workflows.operators._fold_ranks:train",
            gang_arguments(inputs, model=tree, structures=folder)
            | {"files": [[name, str(path)] for name, path in files]},
        )
        context.progress(1.0, "trained")
        return TrainOutputs(model=tree, structures=folder, scores=scores)

    def estimate(self, known: Mapping[str, Any], hardware: Hardware) -> Estimate | None:
        """From the sizes, for chains as long as the crop.

        Of weights that are still to be read, only what is wrong with their training.

        Raises:
            BadInput: sizes or numbers that contradict each other.
        """
        given = {name: value for name, value in known.items() if name not in ("structures", "files")}
        try:
            inputs = TrainInputs.model_construct(**given)
            there = "weights" in known and isinstance(known["weights"], Path | None)
            with model_errors("model"):
                config = _config(inputs) if there else None
            trainee = None if config is None else _trainee(inputs, config)
            with recipe_errors(TrainInputs):
                part, training = _part(inputs, inputs.crop), _training(inputs)
        except TypeError:
            return None
        return estimate_training_step(
            trainee, inputs, training, part, hardware, cpus=self.resources.cpu, examples="structures_per_step"
        )


def _files(inputs: TrainInputs) -> list[tuple[str, Path]]:
    """Files with the names that people know them by.

    Raises:
        BadInput: neither a folder nor files.
    """
    found = [(path.name, path) for path in inputs.files]
    if inputs.structures is not None:
        found += [
            (f"{name}{path.suffix}", path)
            for name, path in structure_files(inputs.structures, "structures").items()
        ]
    if not found:
        raise BadInput(
            "there are no structures to learn from",
            code="no_structures",
            location=Location(path="with.structures"),
            hint="give a folder as structures, or files one by one",
        )
    return found


def sizes_of(inputs: TrainInputs) -> dict[str, int]:
    """Of a model that starts from nothing."""
    return {
        "width": inputs.width,
        "pair_width": inputs.pair_width,
        "blocks": inputs.blocks,
        "structure_blocks": inputs.structure_blocks,
        "recycles": inputs.recycles,
    }


def _config(inputs: TrainInputs) -> FoldingConfig | None:
    """Of the model that is trained; None where the folder of weights does not tell.

    Raises:
        ModelError: sizes that do not go together.
    """
    if inputs.weights is not None:
        return config_of_weights(inputs.model, inputs.weights)
    return (new_esmfold if inputs.model == "esmfold" else new_alphafold)(**sizes_of(inputs))


def _trainee(inputs: TrainInputs, config: FoldingConfig) -> EsmFoldTrainee | AlphaFoldTrainee:
    """What the plan is made of: the model, and how it is trained."""
    counted = frozenset(name for name, weight in _losses(inputs).to_json().items() if weight)
    if isinstance(config, AlphaFoldConfig):
        return AlphaFoldTrainee(config, checkpoint=inputs.checkpointing, losses=counted)
    return EsmFoldTrainee(config, checkpoint=inputs.checkpointing, losses=counted, hidden=inputs.hidden > 0)


def _part(inputs: TrainInputs, residues: int) -> Part:
    """What a rank works on at a time; AlphaFold too sees single sequences."""
    return Part(
        examples=max(1, inputs.structures_per_step // inputs.micro_batches),
        length=residues,
        passes=inputs.recycles + 1,
    )


def _losses(inputs: TrainInputs) -> LossWeights:
    from foldase_models.folding.losses.weights import LossWeights

    weights = LossWeights.fine_tuning() if inputs.fine_tune else LossWeights()
    return replace(weights, clamped_share=inputs.clamped)


def _training(inputs: TrainInputs) -> TrainingConfig:
    """What the shared inputs change where they are given."""
    from foldase_models.recipes.folding_rates import published_training

    return published_training(
        steps=inputs.steps,
        seed=inputs.seed,
        learning_rate=inputs.learning_rate,
        warmup_steps=max(1, min(1000, inputs.steps // 10)),
        average_decay=inputs.average_decay,
    )


def recipe_of(inputs: TrainInputs, disk: Path | None) -> FoldingRecipe:
    """How the model is trained; ``disk`` is what ``nvme`` means, None for what the worker says.

    Raises:
        ModelError: numbers that contradict each other.
        BadInput: the same, of the shared inputs; ``no_scratch``.
    """
    from foldase_models.folding.options import ForwardOptions
    from foldase_models.recipes.folding import FoldingRecipe

    return FoldingRecipe(
        training=training_config(inputs, _training(inputs), folder=disk),
        losses=_losses(inputs),
        crop=inputs.crop,
        structures_per_step=inputs.structures_per_step,
        recycles=inputs.recycles,
        hidden_share=inputs.hidden,
        validation=inputs.validation,
        options=ForwardOptions(checkpoint=inputs.checkpointing),
    )


OPERATOR = TrainFolding()
