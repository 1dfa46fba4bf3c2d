"""How long floating point operations take: measured rates, with a stated spread."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from foldase_models.folding.options import ForwardOptions
from foldase_models.planning.forms import GROUP
from foldase_models.planning.hardware import Hardware
from foldase_models.planning.parameters import AGAIN


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Of one machine.

    Attributes:
        flops: a second, where a part has no rate of its own.
        parts: the same by part.
        halving: what each halving of the group of rows adds to the time, as a share.
        weights_per_second: bytes of weights that come from where they wait.
        spread: low and high, as multiples of an estimate.
        basis: what the figures stand on.
    """

    flops: float
    parts: Mapping[str, float]
    halving: float
    weights_per_second: float
    spread: tuple[float, float]
    basis: str

    def seconds(self, work: Mapping[str, float], options: ForwardOptions) -> float:
        """Of operations by part."""
        plain = sum(count / self.parts.get(part, self.flops) for part, count in work.items())
        halvings = 0
        while options.group_bytes << halvings < GROUP:
            halvings += 1
        return plain * (1 + self.halving * halvings)


def rates_of(hardware: Hardware) -> Rates:
    """Of what computes."""
    if hardware.computes_on == "gpu":
        return GPU
    speed = max(1.0, hardware.cores**0.9)
    return Rates(
        flops=CPU.flops * speed,
        parts={part: rate * speed for part, rate in CPU.parts.items()},
        halving=CPU.halving,
        weights_per_second=CPU.weights_per_second,
        spread=CPU.spread,
        basis=CPU.basis,
    )


CPU = Rates(
    flops=4e10,
    parts={
        "attention along rows of the alignment": 4e10,
        "attention along columns of the alignment": 5.5e10,
        "transition of the alignment": 7e10,
        "outer product mean": 6e10,
        "triangle multiplication": 8e10,
        AGAIN: 3e8,
        "triangle attention": 3e10,
        "transition of pairs": 6.7e10,
        "structure module": 2.4e10,
    },
    halving=0.2,
    weights_per_second=1e9,
    spread=(0.7, 5.0),
    basis="rates of one core on layers of full width at N = 256 and 448; more where others use the machine",
)
GPU = Rates(
    flops=1e14,
    parts={AGAIN: 1e12},
    halving=0.02,
    weights_per_second=2e10,
    spread=(0.3, 4.0),
    basis="no GPU was measured; a tenth of what makers tell of their matrix units",
)
