"""How far off the predictions of memory were so far, by operator and by the key in their plans.

What is handed on is the upper quartile of the last few ratios, within bounds: three of four attempts would
have fitted, one odd attempt changes little, and the oldest are forgotten as operators and machines change.
The median would let every second attempt run out of memory; the largest would never be forgotten in time.

A correction changes how a step is computed and never what: it is no part of the identity of a result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from foldase_workflows.contracts.failures import OUT_OF_MEMORY, Cause

Json = dict[str, Any]

KEPT = 16
LEAST, MOST = 0.8, 4.0
"""Bounds of a correction. A worker that kept freed memory from an earlier attempt seems to need less than it
does: what is learned may make later plans a little bolder, and much more careful."""
QUARTILE = 0.75
NOISE_BYTES = 512 << 20
"""Libraries that load late and the allocator hold up to 200 MiB that no plan counts: a smaller prediction
cannot be compared with resident memory, and needs no correction either."""
KEYS_KEPT = 64

ALL = ""
"""The key under which all attempts of an operator count."""


class Corrections:
    """The ratios of all operators; asks the database when they are first needed."""

    def __init__(self, load: Callable[[], Iterable[Any]]) -> None:
        self._load = load
        self._ratios: dict[str, dict[str, list[float]]] | None = None

    def of(self, operator: str) -> dict[str, float]:
        """The factors for a new attempt by key, under the empty key that over all."""
        return {key: correction(ratios) for key, ratios in self._known().get(operator, {}).items()}

    def learn(self, operator: str, key: str, ratio: float) -> dict[str, list[float]]:
        """Count one more attempt; returns what is known now under each key that changed."""
        kept = self._known().setdefault(operator, {})
        changed = {}
        for name in {ALL, key}:
            if name in kept or len(kept) < KEYS_KEPT:
                kept[name] = changed[name] = [*kept.get(name, ()), round(ratio, 4)][-KEPT:]
        return changed

    def _known(self) -> dict[str, dict[str, list[float]]]:
        if self._ratios is None:
            self._ratios = {}
            for operator, key, ratios in self._load():
                self._ratios.setdefault(operator, {})[key] = ratios
        return self._ratios


def correction(ratios: list[float]) -> float:
    """The upper quartile, the next larger of the values where it falls between two, within the bounds."""
    ranked = sorted(ratios)
    return min(MOST, max(LEAST, ranked[math.ceil(QUARTILE * (len(ranked) - 1))]))


def ratio_of(plan: Json | None, peak_memory_bytes: int, cause: Cause | None) -> float | None:
    """Measured over predicted peak of an attempt that is over, or None where it tells nothing.

    The prediction counts without the correction that it contains. An attempt that ran out of memory tells
    that it needed at least so much, which is news only where it is more than was predicted; one that ended
    for another reason may not have come to its peak.

    Args:
        plan: what the operator said; see ``StepContext.plan``.
        peak_memory_bytes: peak of resident memory, 0 where it is not known.
        cause: why it failed; None where it succeeded.
    """
    if plan is None or not (cause is None or cause in OUT_OF_MEMORY):
        return None
    predicted = plan.get("predicted_peak_bytes", 0) / plan.get("correction", 1.0)
    measured = measured_peak(plan, peak_memory_bytes)
    floor = 1 if "measured_peak_bytes" in plan else NOISE_BYTES
    if measured is None or predicted < floor:
        return None
    ratio: float = measured / predicted
    return None if cause is not None and ratio < 1.0 else ratio


def measured_peak(plan: Json, peak_memory_bytes: int) -> int | None:
    """What an attempt took, in the sense of its prediction; None where it is not known."""
    counted: int | None = plan.get("measured_peak_bytes")
    # The process that was measured computes elsewhere: on a GPU, or in processes of its ranks.
    if counted is not None or plan.get("device") == "gpu" or plan.get("ranks", 1) > 1:
        return counted
    held = plan.get("process_bytes", 0)
    return peak_memory_bytes - held if 0 < held < peak_memory_bytes else None
