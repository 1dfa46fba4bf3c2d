"""How the records of a step fit into what it may use; nothing here loads torch but the look at the GPU."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foldase_models.errors import ModelError
from foldase_workflows.contracts import BadInput, Location, StepContext
from foldase_workflows.operators._machine import available_memory, resident_memory

if TYPE_CHECKING:
    from foldase_models.planning.hardware import Hardware
    from foldase_models.planning.plan import InferencePlan
    from foldase_workflows.operators._folding_inputs import Job

CONFIG_FILE = "config.json"
UNKNOWN_MEMORY = 4 * 2**30
"""What a step may use where neither it nor the machine says."""
BUCKET = 64
"""Records whose lengths round up to the same multiple of this share a plan and run one after the other."""


def config_of(weights: Path, port: str = "weights") -> tuple[str, Any]:
    """The kind of a folding model and its sizes, from the ``config.json`` of its folder.

    A file of AlphaFold's parameters alone says by its name which model it is of.

    Raises:
        BadInput: there is neither, or the folder is of no folding model.
    """
    from foldase_models.folding.alphafold.config import KIND, PRESETS, AlphaFoldConfig
    from foldase_models.folding.esmfold.config import EsmFoldConfig

    names = [path.stem.removeprefix("params_") for path in weights.glob("*.npz")]
    if len(names) == 1 and names[0] in PRESETS and not (weights / CONFIG_FILE).is_file():
        return KIND, PRESETS[names[0]]
    values = read_config(weights, port)
    try:
        if values.get("kind") == KIND:
            return KIND, AlphaFoldConfig.from_json(values)
        return "esmfold", EsmFoldConfig.from_json(values)
    except ModelError as error:
        place = Location(path=f"with.{port}", file=CONFIG_FILE, record=error.location)
        raise BadInput(error.message, code=error.code, location=place, hint=error.hint) from error


def read_config(weights: Path, port: str = "weights") -> dict[str, Any]:
    """The ``config.json`` of a folder of weights.

    Raises:
        BadInput: ``missing_file`` or ``bad_config``.
    """
    place = Location(path=f"with.{port}", file=CONFIG_FILE)
    try:
        values = json.loads((weights / CONFIG_FILE).read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(
            f"the folder of weights has no {CONFIG_FILE}",
            code="missing_file",
            location=place,
            hint="give the whole folder of a checkpoint",
        ) from error
    except ValueError as error:
        raise BadInput(f"{CONFIG_FILE} is no JSON: {error}", code="bad_config", location=place) from error
    if not isinstance(values, dict):
        raise BadInput(f"{CONFIG_FILE} holds no mapping", code="bad_config", location=place)
    return values


def hardware_of(context: StepContext) -> Hardware:
    """What the step may use: what it reserved, else what is free."""
    import torch

    from foldase_models.planning.hardware import Hardware

    free = available_memory()
    # What is free now comes on top of what this process holds already.
    ram = UNKNOWN_MEMORY if free is None else free + resident_memory()
    if context.memory_bytes:
        ram = min(context.memory_bytes, ram) if free is not None else context.memory_bytes
    if not torch.cuda.is_available():
        return Hardware(ram_bytes=ram, cores=max(context.cpus, 1.0))
    gpu_free, _ = torch.cuda.mem_get_info()
    return Hardware(
        ram_bytes=ram,
        cores=max(context.cpus, 1.0),
        gpu_bytes=gpu_free,
        gpu_name=torch.cuda.get_device_name(),
    )


@dataclass(frozen=True, slots=True)
class Bucket:
    """Records of like length that run with one plan, shortest first."""

    plan: InferencePlan
    jobs: tuple[Job, ...]


def plan_jobs(
    jobs: Sequence[Job],
    plan: Callable[[int, int, int], InferencePlan],
    linker: int = 0,
) -> list[Bucket]:
    """Give every record a plan, and group those that share one; what does not fit gets its error.

    Args:
        jobs: records without an error.
        plan: from residues, rows and templates to a plan; raises ``ModelError`` where there is none.
        linker: residues that the model puts between two chains.
    """
    known: dict[tuple[int, int, int], InferencePlan | ModelError] = {}

    def planned(residues: int, job: Job) -> InferencePlan | ModelError:
        asked = (residues, job.depth, job.template_count)
        if asked not in known:
            try:
                known[asked] = plan(*asked)
            except ModelError as error:
                known[asked] = error
        return known[asked]

    groups: dict[int, list[Job]] = {}
    for job in sorted(jobs, key=lambda one: (one.residues, one.line)):
        residues = job.residues + linker * (len(job.chains) - 1)
        rounded = -(-residues // BUCKET) * BUCKET
        found = planned(rounded, job)
        if isinstance(found, ModelError):  # the multiple of the bucket may be what is too long
            found = planned(residues, job)
        if isinstance(found, ModelError):
            job.error = BadInput(
                found.message, code=found.code, location=Location(record=job.name), hint=found.hint
            )
            continue
        job.plan = found
        groups.setdefault(id(found), []).append(job)
    return [Bucket(group[0].plan, tuple(group)) for group in groups.values()]


def told(buckets: Sequence[Bucket], *, kind: str, correction: float) -> dict[str, Any]:
    """What the run page shows of the plans: that of the largest peak, and the others in a line each."""
    largest = max((bucket.plan for bucket in buckets), key=lambda plan: plan.predicted_peak_bytes)
    return {
        **largest.to_json(),
        "key": plan_key(kind, largest.hardware),
        "correction": correction,
        "records": sum(len(bucket.jobs) for bucket in buckets),
        "buckets": [
            {
                "residues": bucket.plan.residues,
                "records": len(bucket.jobs),
                "predicted_peak_bytes": bucket.plan.predicted_peak_bytes,
                "step": bucket.plan.step,
            }
            for bucket in buckets[:50]
        ],
    }


def plan_key(kind: str, hardware: Hardware) -> str:
    """What the error of a prediction depends on."""
    return f"{kind} {hardware.computes_on}"


class PeakMeter:
    """The most memory held so far beyond what was held when it was made.

    On a GPU what is allocated there, of each record on its own. Elsewhere resident memory since the attempt
    began: the kernel's mark is the platform's too, so it is never set back, and records run shortest first.
    """

    def __init__(self, *, on_gpu: bool) -> None:
        self._on_gpu = on_gpu
        self._before = resident_memory()
        self.highest = 0

    def start(self) -> None:
        """A record begins."""
        if self._on_gpu:
            import torch

            torch.cuda.reset_peak_memory_stats()

    def peak(self) -> int | None:
        """Bytes; None where that is not known."""
        if self._on_gpu:
            import torch

            found = int(torch.cuda.max_memory_allocated())
        else:
            found = max(resident_memory(peak=True) - self._before, 0)
        self.highest = max(self.highest, found)
        return found or None
