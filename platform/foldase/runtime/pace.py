"""How long steps of each operator take, and so how many of them are sent to a worker at a time."""

from __future__ import annotations

import threading
from dataclasses import dataclass

TINY_SECONDS = 0.05
"""Steps that take longer than this on average are sent one by one."""

BATCH_SECONDS = 0.2
"""Work that one slot may hold in advance."""

MAX_DEPTH = 1024
_WEIGHT = 0.3


@dataclass(slots=True)
class _Mean:
    seconds: float


class Pace:
    """Running means of the seconds a step takes, by operator. Safe to use from any thread."""

    def __init__(self) -> None:
        self._means: dict[str, _Mean] = {}
        self._lock = threading.Lock()

    def note(self, operator: str, steps: int, seconds: float) -> None:
        """``steps`` steps took ``seconds`` altogether."""
        if steps < 1:
            return
        mean = seconds / steps
        with self._lock:
            known = self._means.get(operator)
            if known is None:
                self._means[operator] = _Mean(mean)
            elif mean > TINY_SECONDS > known.seconds:
                # One long step is reason enough to stop queueing others behind it.
                known.seconds = mean
            else:
                known.seconds += _WEIGHT * (mean - known.seconds)

    def mean(self, operator: str) -> float | None:
        """Mean seconds of a step; None before the first has ended."""
        with self._lock:
            known = self._means.get(operator)
            return None if known is None else known.seconds

    def depth(self, operator: str) -> int:
        """How many steps one slot may hold: 1, or enough tiny ones to fill ``BATCH_SECONDS``."""
        mean = self.mean(operator)
        if mean is None or mean > TINY_SECONDS:
            return 1
        return max(2, min(MAX_DEPTH, int(BATCH_SECONDS / max(mean, 1e-6))))
