"""Predicted contact maps beside the classical methods, with intervals and the ablation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from foldase_workflows.contracts import (
    BadInput,
    Estimate,
    Hardware,
    Location,
    Operator,
    Ports,
    StepContext,
)
from foldase_workflows.contracts.ports import Families, Json, Predictions, Table
from foldase_workflows.operators._models import model_errors

if TYPE_CHECKING:
    from foldase_workflows.formats.zarr_families import FamilySet
    from foldase_workflows.formats.zarr_predictions import PredictionSet

SCHEMA_VERSION = 1


class EvaluateInputs(Ports):
    """What is scored, against which truth, and what the classical methods are tuned on."""

    predictions: Annotated[Predictions, Field(description="Maps of families that were not trained on")]
    families: Annotated[Families, Field(description="Those families, with their truth")]
    training_families: Annotated[
        Families, Field(description="Families of training: the classical methods are tuned on some of them")
    ]
    shuffled: Annotated[
        Predictions | None, Field(description="Maps of the same families with shuffled columns: the ablation")
    ] = None
    tuning_families: Annotated[
        int, Field(ge=1, le=1000, description="How many training families the methods are tuned on")
    ] = 20
    bootstrap_samples: Annotated[
        int, Field(ge=100, le=1_000_000, description="Drawings of families with replacement")
    ] = 10_000
    seed: Annotated[int, Field(ge=0, description="Of the drawings and of the random scores")] = 0


class EvaluateOutputs(Ports):
    """The table, and the numbers one looks at first."""

    scores: Annotated[Table, Field(description="All numbers as JSON")]
    precision: Annotated[Json, Field(description="Mean precision of every method at L, L/2 and L/5")]
    margin: Annotated[
        Json, Field(description="Model minus the best classical method, with its interval, at each of them")
    ]


class EvaluateContacts(Operator[EvaluateInputs, EvaluateOutputs]):
    """Precision at L, L/2 and L/5 of the model and of everything it has to beat."""

    name = "contacts.evaluate"
    version = 1
    help = "Score predicted contacts beside the classical methods"
    family = "torch"
    Inputs = EvaluateInputs
    Outputs = EvaluateOutputs

    def run(self, inputs: EvaluateInputs, context: StepContext) -> EvaluateOutputs:
        """Tune, score, resample, write.

        Raises:
            BadInput: predictions that do not belong to the families, or families that were trained on.
            Damaged: a part of a tree is missing or was changed.
        """
        import torch

        from foldase_workflows.formats.zarr_families import FamilySet
        from foldase_workflows.formats.zarr_predictions import PredictionSet

        # matrices of small families are too small for several threads to pay
        torch.set_num_threads(1)
        trees = _Trees(
            PredictionSet(inputs.predictions),
            None if inputs.shuffled is None else PredictionSet(inputs.shuffled),
            FamilySet(inputs.families),
            FamilySet(inputs.training_families),
        )
        _check_fit(trees)
        table = _evaluate(trees, inputs, context)
        path = context.new_file("scores.json")
        path.write_text(json.dumps(table, indent=1, allow_nan=False), encoding="utf-8")
        margins = table["bootstrap"]["model_minus_best_classical"]
        precision, margin = table["precision"]["L"], margins["L"]
        context.log("precision at L: " + ", ".join(f"{name} {v:.3f}" for name, v in precision.items()))
        context.log(
            f"model minus best classical ({margin['best']}) at L: {margin['mean']:.3f}, "
            f"95 % interval {margin['low']:.3f} to {margin['high']:.3f}"
        )
        context.metrics({f"precision_at_L/{name}": value for name, value in precision.items()})
        context.progress(1.0, "done")
        return EvaluateOutputs(scores=path, precision=table["precision"], margin=margins)

    def estimate(self, known: Mapping[str, Any], hardware: Hardware) -> Estimate | None:
        """From the number of fits of the tuning, for families of the demonstration's size."""
        tuning = known.get("tuning_families", 20)
        count = tuning if isinstance(tuning, int) else 20
        return Estimate(
            seconds=(5.0 + 0.3 * count, 30.0 + 3.0 * count),
            memory_bytes=600_000_000,
            disk_bytes=200_000,
            basis="tuning fits of families of 28 residues and 192 sequences",
        )


@dataclass(frozen=True, slots=True)
class _Trees:
    predictions: PredictionSet
    shuffled: PredictionSet | None
    families: FamilySet
    training: FamilySet


def _check_fit(trees: _Trees) -> None:
    """Whether all four belong together.

    Raises:
        BadInput: naming the family that does not.
    """
    targets = set(trees.predictions.targets)
    unknown = sorted(targets - set(trees.families.names))
    if unknown:
        raise BadInput(
            f"target {unknown[0]!r} is none of the families",
            code="unknown_target",
            location=Location(path="with.predictions", record=unknown[0]),
            hint="give the families that were predicted",
        )
    if trees.shuffled is not None and set(trees.shuffled.targets) != targets:
        odd = min(set(trees.shuffled.targets) ^ targets)
        raise BadInput(
            f"the shuffled predictions are of other families: {odd!r}",
            code="unknown_target",
            location=Location(path="with.shuffled", record=odd),
        )
    same = ("letters", "min_separation", "contact_cutoff")
    if any(getattr(trees.training, name) != getattr(trees.families, name) for name in same):
        raise BadInput(
            "the training families have other letters, separation or cutoff than those scored",
            code="families_differ",
            location=Location(path="with.training_families"),
        )


def _evaluate(trees: _Trees, inputs: EvaluateInputs, context: StepContext) -> dict[str, Any]:
    """The table: what the models' floor makes of the arrays, and where they come from."""
    from foldase_models.recipes.contact_baselines import KnownFamily
    from foldase_models.recipes.contact_evaluation import Target, evaluate

    targets = []
    for name in trees.predictions.targets:
        family, predicted = trees.families.read(name), trees.predictions.read(name)
        shuffled = None if trees.shuffled is None else trees.shuffled.read(name).contact_probability
        known = KnownFamily(name, family.msa, family.contacts)
        targets.append(
            Target(
                known,
                family.coords,
                predicted.contact_probability,
                shuffled,
                predicted.coords,
                predicted.confidence,
            )
        )
    training = [KnownFamily(family.name, family.msa, family.contacts) for family in trees.training]

    def report(share: float, message: str) -> None:
        context.check_cancelled()
        context.progress(0.02 + 0.95 * share, message)

    with model_errors():
        numbers = evaluate(
            targets,
            training,
            trees.families.alphabet,
            min_separation=trees.families.min_separation,
            tuning_families=inputs.tuning_families,
            samples=inputs.bootstrap_samples,
            seed=inputs.seed,
            report=report,
        )
    energies = [one.attributes.get("energy_seed") for one in (trees.families, trees.training)]
    return {
        "kind": "contacts.evaluation",
        "schema_version": SCHEMA_VERSION,
        **numbers,
        "contact_cutoff": trees.families.contact_cutoff,
        "method": trees.predictions.method,
        "shared_energies": None if None in energies else energies[0] == energies[1],
    }


OPERATOR = EvaluateContacts()
