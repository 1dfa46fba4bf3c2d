"""The plan of a prediction: candidates from fast to frugal, the first that fits, or why none does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from foldase_models.errors import ModelError
from foldase_models.folding.alphafold.config import AlphaFoldConfig
from foldase_models.folding.esmfold.config import EsmFoldConfig
from foldase_models.folding.options import DType, ForwardOptions
from foldase_models.planning.alphafold import AlphaFoldCost
from foldase_models.planning.configs import Config
from foldase_models.planning.contacts import PROCESS_BYTES
from foldase_models.planning.esmfold import EsmFoldCost
from foldase_models.planning.forms import GROUP, ITEM, Forms
from foldase_models.planning.hardware import Hardware, gibibytes
from foldase_models.planning.ledger import Ledger
from foldase_models.planning.plan import InferencePlan
from foldase_models.planning.time import rates_of

CPU_GROUPS = tuple(GROUP >> step for step in range(5))
GPU_GROUPS = tuple(2**power for power in (28, 26, 24, 22))
"""Bytes of groups that are tried, the fastest first."""
GPU_CONTEXT_BYTES = 700 * 2**20
"""Of a CUDA context and the libraries' workspaces; from other people's figures, not measured here."""
GPU_HOST_BYTES = 3 * 2**30
"""Main memory of a process that uses a GPU: torch with its CUDA libraries; likewise not measured."""


class Cost(Protocol):
    """What a model holds and does; shapes as in the modules that implement it."""

    def parameters(self) -> int:
        """All of them."""

    def block_parameters(self) -> int:
        """Of all blocks that may wait elsewhere."""

    def waits_in(self, device: str) -> str:
        """The tier where weights of blocks wait for a device, if they are to; "" where they cannot."""

    def inputs(self, N: int) -> int:
        """Bytes of what the model is given."""

    def replay(self, ledger: Ledger, forms: Forms, N: int, *, recycles: int) -> None:
        """What the forward pass makes and drops, its answer at the end alive."""

    def work(self, N: int, forms: Forms, *, recycles: int) -> dict[str, float]:
        """By part, as ``parameters.pair_stack_work``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    model: str
    cost: Cost
    residues: int
    msa_depth: int
    samples: int
    recycles: int
    hardware: Hardware
    correction: float
    dtype: DType


def plan_inference(
    config: Config,
    N: int,
    msa_depth: int,
    samples: int,
    hardware: Hardware,
    correction: float | None = None,
    frugality: int = 0,
    *,
    dtype: DType | None = None,
    recycles: int | None = None,
    templates: int = 0,
) -> InferencePlan:
    """How a prediction fits; the model is never built and never runs.

    Plans are monotone: a tighter budget in any tier never gives a larger predicted peak.

    Args:
        config: of the model.
        N: residues of all chains; for ESMFold with the linkers between them.
        msa_depth: rows of the alignment, the query included; 1 for none.
        samples: predictions, one after the other.
        hardware: what the process may use.
        correction: measured over predicted peak of earlier runs; None means 1.
        frugality: how many plans more frugal than the first that fits.
        dtype: of weights and representations; None means float32 on a CPU and bfloat16 on a GPU.
        recycles: passes before the last one; None means the model's own number.
        templates: known structures that are given.

    Raises:
        ModelError: ``does_not_fit``, with how much is lacking, and in the hint what would make it possible;
            ``bad_request`` for numbers that make no sense.
    """
    correction = 1.0 if correction is None else correction
    counts = (frugality, templates, 0 if recycles is None else recycles)
    if min(N, msa_depth, samples) < 1 or min(counts) < 0 or not 0 < correction < float("inf"):
        raise ModelError(
            f"expected residues, rows and samples of 1 or more, frugality, templates and recycles of 0 or "
            f"more and a correction above 0; found {N}, {msa_depth}, {samples}, {counts}, {correction}",
            code="bad_request",
        )
    kind, cost, own_recycles = _cost_of(config, msa_depth, templates)
    request = _Request(
        model=kind,
        cost=cost,
        residues=N,
        msa_depth=msa_depth,
        samples=samples,
        recycles=own_recycles if recycles is None else recycles,
        hardware=hardware,
        correction=correction,
        dtype=dtype or ("bfloat16" if hardware.gpu_bytes else "float32"),
    )
    plans = _candidates(request)
    fitting = [plan for plan in plans if not plan.lacking]
    if not fitting:
        raise _refusal(request, plans)
    chosen = min(fitting[0].step + frugality, len(plans) - 1)
    return plans[chosen]


def _cost_of(config: object, msa_depth: int, templates: int) -> tuple[str, Cost, int]:
    if isinstance(config, AlphaFoldConfig):
        return "alphafold", AlphaFoldCost(config, msa_depth, templates), config.recycles
    if isinstance(config, EsmFoldConfig):
        return "esmfold", EsmFoldCost(config), config.passes - 1
    raise ModelError(f"no memory model for a {type(config).__name__}", code="bad_request")


def _candidates(request: _Request) -> list[InferencePlan]:
    """From the fastest to the most frugal, each with a lower peak than all before it."""
    groups = GPU_GROUPS if request.hardware.gpu_bytes else CPU_GROUPS
    every = [
        _plan(request, ForwardOptions(dtype=request.dtype, group_bytes=group, offload_weights=away))
        for away in ((False, True) if request.cost.waits_in(request.hardware.computes_on) else (False,))
        for group in groups
    ]
    every.sort(key=lambda plan: plan.seconds[1])
    kept: list[InferencePlan] = []
    for plan in every:
        if not kept or plan.predicted_peak_bytes < kept[-1].predicted_peak_bytes:
            kept.append(plan)
    return [replace(plan, step=step, steps=len(kept)) for step, plan in enumerate(kept)]


def _plan(request: _Request, options: ForwardOptions) -> InferencePlan:
    hardware, cost, N = request.hardware, request.cost, request.residues
    on_gpu = hardware.computes_on == "gpu"
    kernels = "triton" if on_gpu else "cpu"
    item = ITEM[options.dtype]
    forms = Forms(
        item=item,
        group_bytes=options.group_bytes,
        kernels="triton" if on_gpu else "cpu",
        waiting=options.offload_weights,
    )
    ledger = Ledger()
    cost.replay(ledger, forms, N, recycles=request.recycles)
    waiting = item * cost.block_parameters() if options.offload_weights else 0
    weights = item * cost.parameters() - waiting
    held = {
        "process": GPU_CONTEXT_BYTES if on_gpu else PROCESS_BYTES,
        "weights": weights,
        "inputs": cost.inputs(N),
        "forward": ledger.peak,
    }
    plan = InferencePlan(
        model=request.model,
        residues=N,
        msa_depth=request.msa_depth,
        samples=request.samples,
        recycles=request.recycles,
        hardware=hardware,
        options=options,
        kernels=kernels,
        held=held,
        parts=ledger.peaks,
        peak_part=ledger.place or ("representations",),
        peak={},
        seconds=_seconds(request, options, forms, waiting),
        correction=request.correction,
        notes=(f"time: {rates_of(hardware).basis}",),
    )
    in_memory = waiting if cost.waits_in(hardware.computes_on) == "ram" else 0
    return replace(plan, peak=_tiers(plan, in_memory))


def _tiers(plan: InferencePlan, waiting: int) -> dict[str, int]:
    here = plan.held["process"] + plan.predicted_peak_bytes
    if plan.hardware.computes_on == "cpu":
        return {"ram": here}
    return {"gpu": here, "ram": GPU_HOST_BYTES + plan.held["inputs"] + waiting}


def _seconds(request: _Request, options: ForwardOptions, forms: Forms, waiting: int) -> tuple[float, float]:
    rates = rates_of(request.hardware)
    work = request.cost.work(request.residues, forms, recycles=request.recycles)
    seconds = rates.seconds(work, options) + (request.recycles + 1) * waiting / rates.weights_per_second
    return rates.spread[0] * seconds * request.samples, rates.spread[1] * seconds * request.samples


def _refusal(request: _Request, plans: Sequence[InferencePlan]) -> ModelError:
    """By how much the most frugal plan fails, and what would make it possible."""
    frugal = plans[-1]
    names = {"gpu": "GPU memory", "ram": "main memory"}
    short = " and ".join(
        f"{gibibytes(frugal.peak[tier])} of {names[tier]} where there are "
        f"{gibibytes(request.hardware.tiers()[tier])} ({gibibytes(lacking)} too little)"
        for tier, lacking in frugal.lacking.items()
    )
    needs = ", ".join(f"{gibibytes(frugal.peak[tier])} of {names[tier]}" for tier in frugal.lacking)
    ways = [f"it fits with {needs}"]
    if request.dtype == "float32":
        half = _candidates(replace(request, dtype="bfloat16"))
        if any(not plan.lacking for plan in half):
            ways.append("with dtype bfloat16")
    most = _most_residues(request)
    ways.append(f"at most {most:,} residues fit here" if most else "not even one residue fits here")
    return ModelError(
        f"{request.residues:,} residues need {short}, in the most frugal of {len(plans)} plans",
        code="does_not_fit",
        hint="; or ".join(ways),
    )


def _most_residues(request: _Request) -> int:
    """The longest chain of the same kind that fits, 0 for none."""

    def fits(residues: int) -> bool:
        return any(not plan.lacking for plan in _candidates(replace(request, residues=residues)))

    low, high = 0, request.residues
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
