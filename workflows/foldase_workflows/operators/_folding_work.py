"""One attempt at folding all records of a step: planned, shortest first, what is finished kept."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from foldase_models.errors import ModelError
from foldase_workflows.contracts import BadInput, Cancelled, Location, StepContext
from foldase_workflows.operators._folding_inputs import Job
from foldase_workflows.operators._folding_outputs import structure_of
from foldase_workflows.operators._folding_plan import (
    Bucket,
    PeakMeter,
    config_of,
    hardware_of,
    plan_jobs,
    plan_key,
    told,
)
from foldase_workflows.operators._folding_ports import FoldInputs
from foldase_workflows.operators._folding_store import FinishedFolds
from foldase_workflows.operators._record_failures import is_lack_of_memory, let_go, without_frames

if TYPE_CHECKING:
    from foldase_models.folding.prediction import Folder
    from foldase_models.planning.hardware import Hardware

DISTOGRAM_BYTES = 2 * 64
"""Of a pair of residues."""


@dataclass(slots=True)
class Made:
    """One finished structure of a record."""

    job: Job
    seed: int
    sample: int
    key: str
    reused: bool
    took: dict[str, Any] = field(default_factory=dict)


class FoldingWork:
    """One attempt at all records."""

    def __init__(self, inputs: FoldInputs, context: StepContext, jobs: Sequence[Job]) -> None:
        self.inputs, self.context, self.jobs = inputs, context, jobs
        self.finished = FinishedFolds(context.checkpoints)
        self.weights = context.artifact("weights").digest.removeprefix("sha256:")
        self.made: list[Made] = []
        self.kind = ""

    @property
    def sees_alignments(self) -> bool:
        """Whether the model takes more than sequences."""
        return self.kind != "esmfold"

    def fold(self) -> None:
        """Plan the records that can be read, then fold them, shortest first."""
        good = [job for job in self.jobs if job.error is None]
        if not good:
            return
        (self.kind, config), hardware = config_of(self.inputs.weights), hardware_of(self.context)
        buckets = self._plans(good, config, hardware)
        if not buckets:
            return
        # What libraries hold is no part of the plan, and the platform counts from here on.
        import foldase_models.folding.loading  # noqa: F401

        self.context.plan(told(buckets, kind=self.kind, correction=buckets[0].plan.correction))
        meter = PeakMeter(on_gpu=hardware.computes_on == "gpu")
        self._fold_buckets(buckets, meter)
        if hardware.computes_on == "gpu" and meter.highest:
            self.context.plan({"measured_peak_bytes": meter.highest})

    def _plans(self, jobs: Sequence[Job], config: Any, hardware: Any) -> list[Bucket]:
        from foldase_models.planning import plan_inference

        inputs, context = self.inputs, self.context
        if not self.sees_alignments and (inputs.alignments or inputs.templates):
            context.log(
                "ESMFold takes single sequences: alignments and templates are not used", level="warning"
            )
        correction = context.corrections.get(plan_key(self.kind, hardware), 1.0)

        def plan(residues: int, depth: int, templates: int) -> Any:
            return plan_inference(
                config,
                residues,
                depth,
                len(inputs.seeds) * inputs.samples,
                _left_by(inputs, residues, hardware),
                correction,
                inputs.frugality,
                dtype=None if inputs.dtype == "auto" else inputs.dtype,
                recycles=None if inputs.recycles < 0 else inputs.recycles,
                templates=templates,
            )

        return plan_jobs(jobs, plan, _linker(self.kind))

    def _fold_buckets(self, buckets: Sequence[Bucket], meter: PeakMeter) -> None:
        total = sum(_cost(job) for bucket in buckets for job in bucket.jobs) * self._per_record
        done = 0.0
        folder: Folder | None = None
        loaded_for: Any = None
        for bucket in buckets:
            for job in bucket.jobs:
                share = _cost(job) / total
                for number, (seed, sample) in enumerate(self._draws()):
                    made = self._known(job, seed, sample)
                    if made is None and job.error is None:
                        if folder is None or loaded_for != bucket.plan.options:
                            folder, loaded_for = None, None  # the old weights go before the new ones come
                            folder, loaded_for = self._load(bucket, buckets), bucket.plan.options
                        made = self._fold_one(folder, job, seed, sample, meter, done, share)
                        if made is None:
                            let_go()
                    if made is not None:
                        self.made.append(made)
                    done += share
                    words = f"{job.name}: {number + 1} of {self._per_record}"
                    self.context.progress(min(0.95 * done, 0.95), words)

    @property
    def _per_record(self) -> int:
        return len(self.inputs.seeds) * self.inputs.samples

    def _draws(self) -> Iterator[tuple[int, int]]:
        return ((seed, sample) for seed in self.inputs.seeds for sample in range(self.inputs.samples))

    def _load(self, bucket: Bucket, buckets: Sequence[Bucket]) -> Folder:
        from foldase_models.folding import load_folder

        self.context.check_cancelled()
        alike = [one.plan for one in buckets if one.plan.options == bucket.plan.options]
        largest = max(alike, key=lambda plan: plan.predicted_peak_bytes)
        folder = load_folder(self.inputs.weights, bucket.plan.options, known_digest=self.weights)
        self.context.log(f"{folder.kind} {folder.digest[:12]} loaded {largest.in_words()}")
        return folder

    def _key(self, job: Job, seed: int, sample: int) -> str:
        inputs = self.inputs
        return self.finished.key(
            {
                "input": job.digest(),
                "weights": self.weights,
                "seed": seed,
                "sample": sample,
                "recycles": inputs.recycles,
                "tolerance": inputs.tolerance,
                "dtype": inputs.dtype,
                "extras": inputs.extras,
            }
        )

    def _known(self, job: Job, seed: int, sample: int) -> Made | None:
        """What an earlier attempt finished."""
        key = self._key(job, seed, sample)
        if not self.finished.has(key):
            return None
        kept = self.finished.read(key)
        if kept is None:
            self.context.log(f"a kept structure of {job.name} was damaged and is made again", level="warning")
            return None
        return Made(job, seed, sample, key, reused=True, took=dict(kept.made["took"]))

    def _fold_one(
        self, folder: Folder, job: Job, seed: int, sample: int, meter: PeakMeter, done: float, share: float
    ) -> Made | None:
        """Fold and keep one structure; a fault is noted with the record and the next one goes on."""

        def progress(fraction: float, words: str) -> None:
            self.context.check_cancelled()
            self.context.progress(min(0.95 * (done + share * fraction), 0.95), f"{job.name}: {words}")

        self.context.check_cancelled()
        meter.start()
        began = time.monotonic()
        try:
            prediction = folder.fold(
                job.fold_input(),
                seed=seed_of(seed, sample),
                recycles=None if self.inputs.recycles < 0 else self.inputs.recycles,
                tolerance=self.inputs.tolerance or None,
                progress=progress,
                extras=self.inputs.extras,
            )
            made = _provenance(folder, job, seed, sample, prediction)
            structure_of(job.name, job.chains, prediction, made)
        except Cancelled:
            raise
        except ModelError as error:
            place = Location(record=job.name, path=error.location if error.location != job.name else None)
            job.error = BadInput(error.message, code=error.code, location=place, hint=error.hint)
            return None
        except BadInput as error:
            job.error = error
            return None
        except (MemoryError, RuntimeError) as error:
            if not is_lack_of_memory(error):
                raise
            job.error = without_frames(error)
            return None
        took = {
            "seconds": round(time.monotonic() - began, 3),
            "predicted_peak_bytes": job.plan.predicted_peak_bytes,
            "measured_peak_bytes": meter.peak(),
            "plan": {"step": job.plan.step, "steps": job.plan.steps, "correction": job.plan.correction},
        }
        key = self._key(job, seed, sample)
        self.finished.keep(key, prediction, {"provenance": made, "took": took})
        return Made(job, seed, sample, key, reused=False, took=took)


def seed_of(seed: int, sample: int) -> int:
    """What a sample draws from: the seed itself for the first, others derived from both."""
    if sample == 0:
        return seed
    return int.from_bytes(hashlib.sha256(f"{seed}/{sample}".encode()).digest()[:4]) >> 1


def _left_by(inputs: FoldInputs, residues: int, hardware: Hardware) -> Hardware:
    """What a GPU's host has beside a distogram; on a CPU it comes when the trunk has let go of far more."""
    if not inputs.distogram or hardware.computes_on == "cpu":
        return hardware
    return replace(hardware, ram_bytes=max(1, hardware.ram_bytes - DISTOGRAM_BYTES * residues**2))


def _cost(job: Job) -> float:
    """Relative work: attention over triangles grows with the cube of the length, the rest with its square."""
    return job.residues**2 * (1 + job.residues / 512)


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    import torch

    try:
        own = version("foldase")
    except PackageNotFoundError:
        own = "unknown"
    return {"foldase": own, "torch": torch.__version__}


def _linker(kind: str) -> int:
    """Residues that a model puts between two chains."""
    if kind != "esmfold":
        return 0
    from foldase_models.folding.esmfold.features import LINKER

    return len(LINKER)


_OF_THE_MOMENT = frozenset(
    {"budget_bytes", "correction", "peak_bytes", "predicted_peak_bytes", "samples", "seconds"}
)
"""Parts of a plan that what is free and what was learned change, without changing the result."""


def _provenance(folder: Folder, job: Job, seed: int, sample: int, prediction: Any) -> dict[str, Any]:
    plan = job.plan
    return {
        "model": folder.kind,
        "weights": folder.digest,
        "seed": seed,
        "sample": sample,
        "recycles": prediction.recycles,
        "converged": prediction.converged,
        "options": {**plan.options.to_json(), "kernels": plan.kernels},
        "plan": {name: value for name, value in plan.to_json().items() if name not in _OF_THE_MOMENT},
        "predicted_peak_bytes": sum(size for name, size in plan.held.items() if name != "process"),
        "versions": _versions(),
    }
