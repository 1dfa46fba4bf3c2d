"""Contact maps from couplings of alignments; nothing is trained."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

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
from foldase_workflows.contracts.ports import Families, Json, Msa, Predictions, Structure
from foldase_workflows.operators._machine import check_coupling_memory
from foldase_workflows.operators._models import use_cores
from foldase_workflows.operators._query_structure import Truth, truth_of

if TYPE_CHECKING:
    from foldase_workflows.formats.zarr_families import StoredFamily
    from foldase_workflows.formats.zarr_msa import StoredMsa
    from foldase_workflows.formats.zarr_predictions import Prediction

MethodName = Literal["mean_field", "pseudolikelihood"]
TITLES: dict[str, str] = {
    "mean_field": "mean-field couplings with average product correction",
    "pseudolikelihood": "pseudolikelihood couplings with average product correction",
}
PROBABILITY_RULE = (
    "corrected scores, as robust z-scores over the pairs at least min_separation apart, through a logistic "
    "whose two constants come from simulated families: a guide, not a frequency"
)
NATURAL_CUTOFF = 8.0
"""Contacts of natural proteins: C-beta atoms nearer than this, A."""


class CoupleInputs(Ports):
    """One alignment, or a set of families."""

    msa: Annotated[Msa | None, Field(description="One alignment; this or families")] = None
    families: Annotated[Families | None, Field(description="Families; each is fitted on its own")] = None
    structure: Annotated[
        Structure | None, Field(description="A known structure of the query, to score the map against")
    ] = None
    chain: Annotated[str, Field(max_length=10, description="Its chain; else the first")] = ""
    method: Annotated[MethodName, Field(description="mean_field takes seconds, the other is better")] = (
        "pseudolikelihood"
    )
    min_separation: Annotated[
        int, Field(ge=1, le=100, description="|i - j| of the nearest pairs of an alignment that count")
    ] = 6
    pseudocount: Annotated[
        float, Field(gt=0, lt=1, description="mean_field: share of the uniform distribution")
    ] = 0.5
    coupling_penalty: Annotated[
        float, Field(gt=0, le=1e6, description="pseudolikelihood: penalty of squared couplings")
    ] = 20.0
    identity: Annotated[
        float, Field(gt=0, le=1, description="Families: sequences this much alike share their weight")
    ] = 0.8


class CoupleOutputs(Ports):
    """The maps, and numbers of the fit."""

    predictions: Annotated[Predictions, Field(description="Contact maps and raw scores")]
    scores: Annotated[Json, Field(description="Precision where the truth is known, and numbers of the fit")]


class CoupleContacts(Operator[CoupleInputs, CoupleOutputs]):
    """Direct coupling analysis: a Potts model is fitted and its couplings are read as contacts."""

    name = "contacts.couple"
    version = 1
    help = "Predict contacts from the couplings of an alignment"
    family = "torch"
    Inputs = CoupleInputs
    Outputs = CoupleOutputs

    def run(self, inputs: CoupleInputs, context: StepContext) -> CoupleOutputs:
        """Fit every alignment and write its map.

        Raises:
            BadInput: neither or both of ``msa`` and ``families``, a damaged tree, an alignment too small to
                say anything, or a structure of another protein.
            MemoryError: the fit needs more memory than is free; said before it begins.
        """
        use_cores(context)
        if (inputs.msa is None) == (inputs.families is None):
            raise BadInput(
                "give one alignment or one set of families",
                code="one_of_two",
                location=Location(path="with.msa"),
                hint="set either `msa` or `families`",
            )
        if inputs.msa is not None:
            return self._one_alignment(inputs, context)
        return self._all_families(inputs, context)

    def estimate(self, known: Mapping[str, Any], hardware: Hardware) -> Estimate | None:
        """A wide range: how many rows and columns there are is not known before the tree is read."""
        slow = known.get("method", "pseudolikelihood") == "pseudolikelihood"
        return Estimate(
            seconds=(5.0, 600.0 if slow else 60.0),
            memory_bytes=int(1.5e9 if slow else 1e9),
            disk_bytes=5_000_000,
            basis="200 columns and 1,000 rows; the alignment's own size shows when it is read",
        )

    def _one_alignment(self, inputs: CoupleInputs, context: StepContext) -> CoupleOutputs:
        from foldase_workflows.formats.zarr_msa import read_msa
        from foldase_workflows.formats.zarr_predictions import PredictionsWriter

        assert inputs.msa is not None
        stored = read_msa(inputs.msa)
        _check_size(stored, inputs.min_separation)
        check_coupling_memory(stored.msa.shape[1], len(stored.letters), inputs.method)
        truth = None
        if inputs.structure is not None:
            truth = truth_of(
                inputs.structure,
                name=context.artifact("structure").name,
                chain=inputs.chain,
                query=stored.sequence,
                cutoff=NATURAL_CUTOFF,
                min_separation=inputs.min_separation,
            )
        prediction = _couple_msa(stored, truth, inputs, context)
        tree = context.new_tree("predictions")
        writer = PredictionsWriter(tree)
        writer.add(prediction)
        writer.complete(
            method=TITLES[inputs.method],
            contact_cutoff=NATURAL_CUTOFF,
            min_separation=inputs.min_separation,
            attributes={
                "query": stored.query,
                "letters": stored.letters,
                "rule": PROBABILITY_RULE,
                "atoms": "C-beta",
            },
        )
        context.progress(1.0, "done")
        return CoupleOutputs(predictions=tree, scores=dict(prediction.scores))

    def _all_families(self, inputs: CoupleInputs, context: StepContext) -> CoupleOutputs:
        from foldase_workflows.formats.zarr_families import FamilySet
        from foldase_workflows.formats.zarr_predictions import PredictionsWriter

        assert inputs.families is not None
        families = FamilySet(inputs.families)
        tree = context.new_tree("predictions")
        writer = PredictionsWriter(tree)
        totals: dict[str, float] = {}
        for done, family in enumerate(families, 1):
            context.check_cancelled()
            prediction = _couple_family(family, families.alphabet, families.min_separation, inputs)
            writer.add(prediction)
            for name, value in prediction.scores.items():
                totals[name] = totals.get(name, 0.0) + value / len(families)
            context.progress(done / len(families), f"{done} of {len(families)} families")
        writer.complete(
            method=TITLES[inputs.method],
            contact_cutoff=families.contact_cutoff,
            min_separation=families.min_separation,
            attributes={"letters": families.letters, "rule": PROBABILITY_RULE},
        )
        context.metrics(totals)
        return CoupleOutputs(predictions=tree, scores=totals)


def _couple_msa(
    stored: StoredMsa, truth: Truth | None, inputs: CoupleInputs, context: StepContext
) -> Prediction:
    import numpy as np

    from foldase_models.coevolution import couple, probability_of_scores
    from foldase_models.metrics import contact_precision
    from foldase_workflows.formats.zarr_predictions import Prediction

    gap = stored.letters.find("-")
    found = couple(
        stored.msa,
        len(stored.letters),
        stored.weights,
        method=inputs.method,
        skip_letter=gap if gap >= 0 else None,
        pseudocount=inputs.pseudocount,
        coupling_penalty=inputs.coupling_penalty,
        report=_reporter(context),
    )
    if not found.converged:
        context.log("the fit did not reach its tolerance", level="warning")
    scores = {**found.details, "neff": float(stored.weights.sum(dtype=np.float64)), "rows": len(stored.msa)}
    if truth is not None:
        precision = contact_precision(
            found.scores,
            truth.contacts,
            min_separation=inputs.min_separation,
            mask=np.logical_and.outer(truth.known, truth.known),
        )
        scores |= {f"precision_at_{cut}": value for cut, value in precision.items()}
        scores["residues_in_structure"] = float(truth.known.sum())
    context.metrics({name: float(value) for name, value in scores.items()})
    context.log(", ".join(f"{name} {value:.4g}" for name, value in scores.items()))
    return Prediction(
        target=_target_name(stored.query),
        contact_probability=probability_of_scores(found.scores, min_separation=inputs.min_separation).astype(
            np.float32
        ),
        truth=None if truth is None else truth.contacts,
        coupling_score=found.scores.astype(np.float32),
        sequence=stored.sequence,
        scores=scores,
    )


def _couple_family(
    family: StoredFamily, alphabet: int, min_separation: int, inputs: CoupleInputs
) -> Prediction:
    import numpy as np

    from foldase_models.coevolution import couple, probability_of_scores, sequence_weights
    from foldase_models.metrics import contact_precision
    from foldase_workflows.formats.zarr_predictions import Prediction

    weights = sequence_weights(family.msa, inputs.identity)
    found = couple(
        family.msa,
        alphabet,
        weights,
        method=inputs.method,
        pseudocount=inputs.pseudocount,
        coupling_penalty=inputs.coupling_penalty,
    )
    precision = contact_precision(found.scores, family.contacts, min_separation=min_separation)
    scores = {f"precision_at_{cut}": value for cut, value in precision.items()} | found.details
    return Prediction(
        target=family.name,
        contact_probability=probability_of_scores(found.scores, min_separation=min_separation).astype(
            np.float32
        ),
        truth=family.contacts,
        coupling_score=found.scores.astype(np.float32),
        scores=scores,
    )


def _check_size(stored: StoredMsa, min_separation: int) -> None:
    rows, columns = stored.msa.shape
    if rows < 2 or columns <= min_separation:
        raise BadInput(
            f"{rows} rows of {columns} columns say nothing about pairs {min_separation} apart",
            code="alignment_too_small",
            location=Location(record=stored.query),
            hint="give at least two rows, longer than min_separation",
        )


def _reporter(context: StepContext) -> Callable[[int, float, float], None]:
    """Progress of a fit: the gradient falls about geometrically, so its logarithm is the share done."""
    from foldase_models.coevolution.pseudolikelihood import TOLERANCE

    best = 1.0

    def report(iteration: int, objective: float, relative_gradient: float) -> None:
        nonlocal best
        context.check_cancelled()
        best = max(min(best, relative_gradient), TOLERANCE)
        context.progress(0.95 * math.log(best) / math.log(TOLERANCE), f"iteration {iteration}")
        context.metrics({"objective": objective, "relative_gradient": relative_gradient}, at=float(iteration))

    return report


def _target_name(query: str) -> str:
    """The query's name as a name in the tree and in URLs."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", query).lstrip(".-")[:100] or "query"


OPERATOR = CoupleContacts()
