"""Folds sequences with a model of one's own choice: planned first, record by record, nothing lost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from foldase_workflows.contracts import (
    Artifact,
    Estimate,
    Hardware,
    Operator,
    Resources,
    StepContext,
)
from foldase_workflows.operators._folding_estimate import estimate_folding
from foldase_workflows.operators._folding_inputs import read_jobs
from foldase_workflows.operators._folding_ports import MOST_FRUGAL, FoldInputs, FoldOutputs
from foldase_workflows.operators._folding_results import write_results
from foldase_workflows.operators._folding_work import FoldingWork
from foldase_workflows.operators._models import model_errors, use_cores
from foldase_workflows.operators._record_failures import check_failures


class PredictFold(Operator[FoldInputs, FoldOutputs]):
    """Folds every record; finished structures outlive the attempt, and a fault stays with its record."""

    name = "fold.predict"
    version = 1
    help = "Fold proteins from sequences, alignments and templates"
    family = "torch"
    resources = Resources(cpu=2.0)
    frugality: ClassVar[str | None] = "frugality"
    tolerances: ClassVar[frozenset[str]] = frozenset({"allow_failures"})
    Inputs = FoldInputs
    Outputs = FoldOutputs

    def run(self, inputs: FoldInputs, context: StepContext) -> FoldOutputs:
        """Read, plan, fold from short to long, write.

        Raises:
            BadInput: a file as a whole, weights that do not match, or more records failed than may; what is
                finished is kept for the next attempt.
            MemoryError, RuntimeError: a record ran out of memory, after all others were folded; the platform
                tries again with the next more frugal plan.
        """
        use_cores(context)
        jobs = read_jobs(inputs, context)
        work = FoldingWork(inputs, context, jobs)
        with model_errors("weights"):
            work.fold()
        failed = [(job.name, job.error) for job in jobs if job.error is not None]
        check_failures(
            failed,
            len(jobs),
            context,
            allowed=inputs.allow_failures,
            may_try_again=inputs.frugality < MOST_FRUGAL,
        )
        return write_results(work)

    def estimate(self, known: Mapping[str, Any], hardware: Hardware) -> Estimate | None:
        """From the sizes of weights and sequences; the plan made from their content is exact."""
        weights, sequences = known.get("weights"), known.get("sequences")
        if not isinstance(weights, Artifact) or not isinstance(sequences, Artifact):
            return None
        seeds, samples = known.get("seeds", [1]), known.get("samples", 1)
        count = len(seeds) * samples if isinstance(seeds, list) and isinstance(samples, int) else 1
        return estimate_folding(weights.size, sequences.size, count, hardware)


OPERATOR = PredictFold()
