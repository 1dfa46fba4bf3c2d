"""How much longer than their mean ranks' own gradients are, for a limit that means the same to both.

The gradient of a batch is that of all data, G, and noise. Each of N ranks has an Nth of the batch, and so N
times the variance:

    |mean|^2 = |G|^2 + noise        |own|^2 = |G|^2 + N noise

so that both norms together tell the noise (McCandlish et al. 2018, arXiv:1812.06162, appendix A.1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(slots=True)
class GradientNoise:
    """Averages over the steps in which both were known.

    Attributes:
        square: of the norm of the mean gradient.
        noise: part of it that is noise.
    """

    square: float = 0.0
    noise: float = 0.0

    def take_in(self, mean: float, own: float, ranks: int, *, kept: float) -> None:
        """One step.

        Args:
            mean: square of the norm of the mean gradient.
            own: mean square of the norms of what ranks take for it.
            ranks: their number, two or more.
            kept: share of the averages that is left of the steps before.
        """
        self.square = kept * self.square + (1.0 - kept) * mean
        self.noise = kept * self.noise + (1.0 - kept) * (own - mean) / (ranks - 1)

    def longer(self, ranks: int) -> float:
        """How many times as long as the mean a rank's own is, 1 where nothing is known, at most sqrt(N)."""
        if not self.square:
            return 1.0
        return math.sqrt(1.0 + (ranks - 1) * min(1.0, max(0.0, self.noise / self.square)))
