"""A plan: in which forms a model runs, what that takes, and a table that says so."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from foldase_models.folding.options import ForwardOptions
from foldase_models.planning.hardware import Hardware, gibibytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(ABC):
    """How some work with a model will fit, known before it begins.

    Attributes:
        model: its kind.
        hardware: what there is.
        held: bytes by what holds them, in the tier where the model computes, uncorrected; ``process`` is what
            the process holds anyway.
        peak: predicted peak by tier, bytes, corrected.
        seconds: (low, high) wall time of all of it.
        correction: measured over predicted peak of earlier runs, taken into ``peak``.
        notes: what else people should know.
    """

    model: str
    hardware: Hardware
    held: Mapping[str, int]
    peak: Mapping[str, int]
    seconds: tuple[float, float]
    correction: float = 1.0
    notes: tuple[str, ...] = field(default=())

    @property
    def predicted_peak_bytes(self) -> int:
        """Where the model computes, beyond what the process held before, corrected."""
        own = sum(size for name, size in self.held.items() if name != "process")
        return round(own * self.correction)

    @property
    def budgets(self) -> Mapping[str, int]:
        """Bytes that there are, by tier."""
        return self.hardware.tiers()

    @property
    def lacking(self) -> dict[str, int]:
        """Bytes that a tier has too few, for those where it is so."""
        budgets = self.budgets
        return {tier: size - budgets[tier] for tier, size in self.peak.items() if size > budgets[tier]}

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Plain values, for the run page and the record of a run."""

    @abstractmethod
    def in_words(self) -> str:
        """One line for people."""

    @abstractmethod
    def explain(self) -> str:
        """A table for people."""

    def told_peak(self) -> list[str]:
        """The tiers and the time as lines of a table."""
        budgets = self.budgets
        rows = [
            (tier, gibibytes(size), "of " + gibibytes(budgets[tier]))
            for tier, size in self.peak.items()
            if size
        ]
        corrected = "" if self.correction == 1.0 else f", with a correction of {self.correction:.2f}"
        time = f"  time         {told_seconds(self.seconds[0])} to {told_seconds(self.seconds[1])}"
        return ["predicted peak" + corrected, *(f"  {a:<10} {b:>12} {c}" for a, b, c in rows), time]


@dataclass(frozen=True, slots=True, kw_only=True)
class InferencePlan(Plan):
    """How one prediction will fit. ``held``: ``process``, ``weights``, ``inputs``, ``forward``.

    Attributes:
        residues, msa_depth, samples, recycles: what was asked.
        options: for the forward pass.
        kernels: the backend that ``options.backend`` comes to there.
        parts: the most that is alive in ``forward`` while a part of the model runs, bytes.
        peak_part: where ``forward`` is largest, outermost name first.
        step, steps: this plan among those for the same request, from 0, the fastest, to the most frugal.
    """

    residues: int
    msa_depth: int
    samples: int
    recycles: int
    options: ForwardOptions
    kernels: str
    parts: Mapping[str, int]
    peak_part: tuple[str, ...]
    step: int = 0
    steps: int = 1

    @property
    def forward_bytes(self) -> int:
        """Tensors that the forward pass makes, at their peak; weights and inputs apart, uncorrected."""
        return self.held["forward"]

    def to_json(self) -> dict[str, Any]:
        """Plain values, for the run page and the record of a run."""
        return {
            "model": self.model,
            "residues": self.residues,
            "msa_depth": self.msa_depth,
            "samples": self.samples,
            "recycles": self.recycles,
            "device": self.hardware.computes_on,
            "kernels": self.kernels,
            "options": self.options.to_json(),
            "predicted_peak_bytes": self.predicted_peak_bytes,
            "peak_bytes": dict(self.peak),
            "budget_bytes": {tier: self.budgets[tier] for tier in self.peak},
            "held_bytes": dict(self.held),
            "parts_bytes": dict(self.parts),
            "peak_part": list(self.peak_part),
            "seconds": list(self.seconds),
            "correction": self.correction,
            "step": self.step,
            "steps": self.steps,
            "notes": list(self.notes),
        }

    def in_words(self) -> str:
        """One line for people: where and how it computes, and the peak that is expected of it.

        ``"on the CPU, float32, cpu kernels, rows in groups of 4 MiB, in place; 1.83 GiB expected at 384
        residues"``
        """
        options = self.options
        where = (self.hardware.gpu_name or "the GPU") if self.hardware.computes_on == "gpu" else "the CPU"
        said = [
            f"on {where}",
            options.dtype,
            f"{self.kernels} kernels",
            f"rows in groups of {_mebibytes(options.group_bytes)}",
            "in place" if options.inplace else "not in place",
        ]
        said += ["weights of one block at a time"] if options.offload_weights else []
        peak = f"{gibibytes(self.predicted_peak_bytes)} expected at {self.residues:,} residues"
        return f"{', '.join(said)}; {peak}"

    def explain(self) -> str:
        """A table for people."""
        asked = f"{self.model}, {self.residues:,} residues"
        if self.msa_depth > 1:
            asked += f", {self.msa_depth:,} rows"
        asked += f", {self.recycles} recycles, {self.samples} sample{'s' if self.samples > 1 else ''}"
        lines = [asked, f"plan {self.step + 1} of {self.steps}, from the fastest to the most frugal", ""]
        lines += [*self.told_peak(), "", *self._holders(), "", *self._parts(), "", *self._forms()]
        return "\n".join([*lines, "", *self.notes])

    def _holders(self) -> list[str]:
        names = {
            "process": "Python, torch and libraries",
            "weights": "weights",
            "inputs": "inputs",
            "forward": "representations and what lies between",
        }
        where = "the GPU" if self.hardware.computes_on == "gpu" else "main memory"
        rows = [f"  {names[name]:<44} {gibibytes(size):>12}" for name, size in self.held.items()]
        return [f"in {where}, at the peak", *rows]

    def _parts(self) -> list[str]:
        rows = [
            f"  {name:<44} {gibibytes(size):>12}{'  <- peak' if name == self.peak_part[0] else ''}"
            for name, size in self.parts.items()
        ]
        inner = f" ({', '.join(self.peak_part[1:])})" if len(self.peak_part) > 1 else ""
        return [f"alive while a part runs{inner and '; the peak is in ' + inner[2:-1]}", *rows]

    def _forms(self) -> list[str]:
        options = self.options
        weights = "those of one block at a time" if options.offload_weights else "all"
        rows = (
            ("dtype", options.dtype),
            ("kernels", self.kernels),
            ("group of rows", _mebibytes(options.group_bytes)),
            ("representations", "overwritten in place" if options.inplace else "made anew"),
            ("weights held", weights),
        )
        return [f"{name:<16} {value}" for name, value in rows]


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:g} MiB"


def told_seconds(seconds: float) -> str:
    """For people: ``"40 s"``, ``"12 min"``, ``"3.5 h"``."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
