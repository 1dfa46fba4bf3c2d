"""The plan of a training: what every rank will hold, and how long a step will take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from foldase_models.planning.hardware import gibibytes
from foldase_models.planning.plan import Plan, told_seconds
from foldase_models.planning.trainees import Part
from foldase_models.planning.training_time import Step
from foldase_models.training.config import TrainingConfig

TIERS = ("device", "pinned", "host", "disk")
"""Those of a training's ledger; the order of columns."""
EXCHANGED = {"whole": "whole gradients", "sync": "one bit a number", "local": "nothing"}
"""What ranks exchange in a step, with an optimizer that compresses."""
CAP = "counted"
"""The tier of ``limits.memory_bytes``: all that a rank counts, wherever in memory it lies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPlan(Plan):
    """How one training will fit; all bytes and times are those of one rank.

    Attributes:
        parameters: of the model, those that are not trained included.
        ranks: processes.
        part: what one part of a step's batch holds.
        training: how it is trained.
        tiers: bytes by tier of a training's ledger and by owner, uncorrected; ``activations`` are what lies
            between the weights and the loss at the peak.
        step: time of one step, and bytes sent.
    """

    parameters: int
    ranks: int
    part: Part
    training: TrainingConfig
    tiers: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    step: Step

    @property
    def budgets(self) -> Mapping[str, int]:
        """Bytes that there are, by tier, with the cap that the configuration sets."""
        cap = self.training.limits.memory_bytes
        return self.hardware.tiers() | ({} if cap is None else {CAP: cap})

    def to_json(self) -> dict[str, Any]:
        """Plain values, for the run page and the record of a run."""
        training, offload = self.training, self.training.offload
        return {
            "model": self.model,
            "parameters": self.parameters,
            "ranks": self.ranks,
            "part": {
                "examples": self.part.examples,
                "length": self.part.length,
                "rows": self.part.rows,
                "passes": self.part.passes,
            },
            "device": self.hardware.computes_on,
            "options": {
                "optimizer": training.optimizer.kind,
                "stage": training.stage,
                "precision": training.precision,
                "micro_batches": training.micro_batches,
                "offload_optimizer": offload.optimizer,
                "offload_parameters": offload.parameters,
                "offload_activations": offload.activations,
                "offload_delayed": offload.delayed,
                "offload_ahead": offload.ahead,
                "offload_device_buckets": offload.device_buckets,
            },
            "predicted_peak_bytes": self.predicted_peak_bytes,
            "peak_bytes": dict(self.peak),
            "budget_bytes": {tier: self.budgets[tier] for tier in self.peak},
            "tiers_bytes": {tier: dict(owners) for tier, owners in self.tiers.items() if owners},
            "sent_bytes": {kind: round(size) for kind, size in self.step.sent.items()},
            **self._exchanges(),
            "step_seconds": list(self.step.seconds),
            "step_seconds_of": {kind: list(span) for kind, span in self.step.kinds.items() if span[1]},
            "seconds": list(self.seconds),
            "correction": self.correction,
            "notes": list(self.notes),
        }

    def in_words(self) -> str:
        """One line for people: where and how it trains, what that takes.

        ``"4 ranks on the CPU, stage 2, bfloat16, optimizer on the disk; 0.43 GiB expected of each, a step in
        0.5 s to 3.1 s"``
        """
        training, offload = self.training, self.training.offload
        said = [f"{self._ranks()} on {self._where()}", f"stage {training.stage}", training.precision]
        said += [training.optimizer.kind] if training.optimizer.compresses else []
        places = {"cpu": "in main memory", "nvme": "on the disk", "recompute": "computed anew"}
        for name in ("optimizer", "parameters", "activations"):
            place = getattr(offload, name)
            said += [] if place == "none" else [f"{name} {places[place]}"]
        said += ["steps delayed"] if offload.delayed else []
        said += ["steps ahead"] if offload.ahead else []
        count = offload.device_buckets
        said += [f"{count} bucket{'s' if count > 1 else ''} stepped on the device"] if count else []
        low, high = (_told_short(seconds) for seconds in self.step.seconds)
        made = self.step.exchanges
        mean = _mebibytes(sum(self.step.sent.values()))
        rounds = "" if made is None else f"{made.rounds:,} of {training.steps:,} steps"
        sent = f", {mean} sent on average, in {rounds}" if rounds else ""
        expected = f"{gibibytes(self.predicted_peak_bytes)} expected{' of each' if self.ranks > 1 else ''}"
        return f"{', '.join(said)}; {expected}, a step in {low} to {high}{sent}"

    def explain(self) -> str:
        """A table for people."""
        training, part = self.training, self.part
        lines = [
            f"{self.model}, {self.parameters:,} parameters, {self._ranks()} on {self._where()}",
            f"stage {training.stage}, {training.precision}"
            + (f", {training.optimizer.kind}" if training.optimizer.compresses else "")
            + f", {training.steps:,} steps of "
            f"{training.micro_batches} part{'s' if training.micro_batches > 1 else ''}, each "
            f"{part.examples:,} x {part.length:,}" + (f" x {part.rows:,} rows" if part.rows > 1 else ""),
            "",
            *(
                f"{line}{' of every rank' if not number else ''}"
                for number, line in enumerate(self.told_peak())
            ),
            "",
            *self._steps(),
            "",
            *self._owners(),
        ]
        return "\n".join([*lines, "", *self.notes])

    def _ranks(self) -> str:
        return f"{self.ranks} rank{'s' if self.ranks > 1 else ''}"

    def _where(self) -> str:
        if self.hardware.computes_on == "cpu":
            return "the CPU"
        return self.hardware.gpu_name or "the GPU"

    def _exchanges(self) -> dict[str, Any]:
        made = self.step.exchanges
        if made is None:
            return {}
        kinds = {
            kind: {"steps": count, "sent_bytes": round(made.sent[kind])} for kind, count in made.steps.items()
        }
        return {"exchanges": {"rounds": made.rounds, "frozen_step": made.frozen, "steps_of": kinds}}

    def _steps(self) -> list[str]:
        low, high = (_told_short(seconds) for seconds in self.step.seconds)
        sent, made = sum(self.step.sent.values()), self.step.exchanges
        mean = "" if made is None else f" on average, in {made.rounds:,} of {self.training.steps:,} steps"
        beside = {"communication": f"   {_mebibytes(sent)} sent{mean}"}
        rows = [
            f"  {kind:<16}{_told_short(span[0]):>10} to {_told_short(span[1])}{beside.get(kind, '')}"
            for kind, span in self.step.kinds.items()
            if span[1]
        ]
        rows += [
            f"    {EXCHANGED[kind]:<18}{count:>10,} steps"
            + (f"   {_mebibytes(made.sent[kind])} each" if made.sent[kind] else "")
            for kind, count in (made.steps if made else {}).items()
            if made and count
        ]
        return [f"a step            {low} to {high}", *rows]

    def _owners(self) -> list[str]:
        shown = [tier for tier in TIERS if self.tiers.get(tier)]
        owners = dict.fromkeys(owner for tier in shown for owner in self.tiers[tier])
        wide = max([22, *map(len, owners)])
        rows = [f"{'held, MiB':<{wide + 2}}" + "".join(f"{tier:>12}" for tier in shown)]
        for owner in owners:
            sizes = (self.tiers[tier].get(owner, 0) for tier in shown)
            rows.append(f"  {owner:<{wide}}" + "".join(f"{_plain_mebibytes(size):>12}" for size in sizes))
        sums = (sum(self.tiers[tier].values()) for tier in shown)
        return [*rows, f"  {'together':<{wide}}" + "".join(f"{_plain_mebibytes(size):>12}" for size in sums)]


def _mebibytes(size: float) -> str:
    return f"{size / 2**20:,.1f} MiB"


def _plain_mebibytes(size: int) -> str:
    return f"{size / 2**20:,.1f}" if size else ""


def _told_short(seconds: float) -> str:
    """Of steps, which may be short: ``"8 ms"``, ``"1.3 s"``, else as of anything."""
    if seconds < 1:
        return f"{1000 * seconds:.{1 if seconds < 0.01 else 0}f} ms"
    return f"{seconds:.1f} s" if seconds < 10 else told_seconds(seconds)
