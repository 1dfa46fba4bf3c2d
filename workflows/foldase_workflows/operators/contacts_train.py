"""Trains the contact model on families with known structure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from foldase_models.errors import ModelError
from foldase_models.folding.contacts.config import ContactModelConfig
from foldase_models.planning import estimate_training
from foldase_workflows.contracts import Estimate, Hardware, Operator, Ports, Resources, StepContext
from foldase_workflows.contracts.ports import Families, Json, Model
from foldase_workflows.operators._machine import check_coupling_memory
from foldase_workflows.operators._models import model_errors, use_cores

if TYPE_CHECKING:
    from foldase_workflows.formats.zarr_families import FamilySet

METRICS_EVERY = 5
"""Steps between points of the loss curve."""
PREPARING = 0.3
"""Share of the progress until the couplings of all families are known, where the model sees these."""


class TrainInputs(Ports):
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


class TrainOutputs(Ports):
    """The model, and how it does on the families held back."""

    model: Annotated[Model, Field(description="Weights as safetensors, configuration and record as JSON")]
    scores: Annotated[Json, Field(description="Precision, lDDT and confidence on the families held back")]


class TrainContacts(Operator[TrainInputs, TrainOutputs]):
    """An Evoformer with contact, distance and confidence heads, trained in this process."""

    name = "contacts.train"
    version = 1
    help = "Train a model that predicts contacts from alignments"
    family = "torch"
    resources = Resources(cpu=2.0, memory_bytes=2 * 2**30)
    Inputs = TrainInputs
    Outputs = TrainOutputs

    def run(self, inputs: TrainInputs, context: StepContext) -> TrainOutputs:
        """Train, continuing from a checkpoint of an earlier attempt where there is one.

        Raises:
            BadInput: a damaged or empty families tree, families too short, sizes that contradict each
                other, or a training that diverged.
            MemoryError: the couplings that the model sees need more memory than is free.
        """
        use_cores(context)
        from foldase_models.folding.contacts.weights import save_model
        from foldase_models.recipes.contacts import train_contacts
        from foldase_workflows.formats.zarr_families import FamilySet

        stored = FamilySet(inputs.families)
        families = _read(stored, context)
        if inputs.model_inputs == "couplings":
            check_coupling_memory(max(family.length for family in families), len(stored.letters))
        with model_errors("families"):
            model, record = train_contacts(
                families,
                _model_config(inputs, stored),
                _recipe(inputs),
                checkpoints=context.checkpoints,
                watcher=_watcher(context, PREPARING if inputs.model_inputs == "couplings" else 0.0),
            )
        context.log(f"attention ran on the {record['attention_backend']!r} backend")
        tree = context.new_tree("model")
        scores = dict(record["validation"])
        save_model(tree, model, {**record, "energy_seed": stored.attributes.get("energy_seed")})
        context.progress(1.0, "trained")
        return TrainOutputs(model=tree, scores=scores)

    def estimate(self, known: Mapping[str, Any], hardware: Hardware) -> Estimate | None:
        """From the sizes, for chains as long as the demonstration's."""
        given = {name: value for name, value in known.items() if name != "families"}
        try:
            inputs = TrainInputs.model_construct(**given)
            config = _config(inputs, letters="ARNDCQEG", contact_cutoff=7.0, min_separation=4)
        except (ModelError, TypeError):
            return None
        expected = estimate_training(
            config,
            steps=inputs.steps,
            families_per_step=inputs.families_per_step,
            residues=28,
            rows=inputs.rows,
            cpus=min(hardware.cpus, self.resources.cpu),
        )
        return Estimate(
            seconds=expected.seconds,
            memory_bytes=expected.memory_bytes,
            disk_bytes=40 * expected.parameters,
            basis=f"{expected.parameters} parameters, chains of 28 residues",
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


def _model_config(inputs: TrainInputs, stored: FamilySet) -> ContactModelConfig:
    return _config(
        inputs,
        letters=stored.letters,
        contact_cutoff=stored.contact_cutoff,
        min_separation=stored.min_separation,
    )


def _recipe(inputs: TrainInputs) -> Any:
    """A ``ContactRecipe``."""
    from foldase_models.folding.contacts.features import Cropping
    from foldase_models.recipes.contacts import ContactRecipe
    from foldase_models.training.config import OptimizerConfig, TrainingConfig

    return ContactRecipe(
        training=TrainingConfig(
            steps=inputs.steps,
            seed=inputs.seed,
            optimizer=OptimizerConfig(learning_rate=inputs.learning_rate),
        ),
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


def _read(stored: FamilySet, context: StepContext) -> list[Any]:
    """All families as ``TrainingFamily``."""
    from foldase_models.folding.contacts.features import TrainingFamily

    families = []
    for family in stored:
        context.check_cancelled()
        families.append(TrainingFamily(family.name, family.msa, family.coords, family.contacts))
    context.log(f"{len(families)} families, letters {stored.letters}")
    return families


def _watcher(context: StepContext, first: float) -> Any:
    """A ``Watcher`` that reports to the context, steps from ``first`` on, and stops when it says so."""
    from foldase_models.recipes.contacts import Watcher

    def on_prepared(done: int, of: int) -> None:
        context.check_cancelled()
        context.progress(first * done / of, f"couplings of {done} of {of} families")

    def on_step(report: Any) -> None:
        context.check_cancelled()
        context.progress(
            first + (0.99 - first) * report.step / report.steps,
            f"step {report.step} of {report.steps}, loss {report.loss:.3f}",
        )
        if report.step == 1 or report.step % METRICS_EVERY == 0 or report.step == report.steps:
            numbers = {"loss": report.loss, "learning_rate": report.learning_rate, **report.values}
            context.metrics(numbers, at=float(report.step))

    def on_validation(step: int, values: Mapping[str, float]) -> None:
        if values:
            context.metrics(values, at=float(step))
            context.log(f"step {step}: " + ", ".join(f"{name} {v:.3f}" for name, v in values.items()))

    return Watcher(step=on_step, validation=on_validation, prepared=on_prepared)


OPERATOR = TrainContacts()
