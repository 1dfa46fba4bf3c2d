"""A forward and a backward pass as a row of stages: what lies in memory when, and the most there is.

A stage is a layer or a part of one. Sizes are counts of whatever the caller counts, numbers or bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from foldase_models.planning.trainees import Activations


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What a stage holds.

    Attributes:
        kept: from its forward pass until its backward pass ends; its argument counts, its result is an
            argument of others.
        shown: from its forward pass until all of the forward pass ends, for somebody still looks at it.
        forward: beside that at most while it is computed, its result included.
        backward: beside what is kept at most while its backward pass runs: all gradients that are there.
    """

    kept: float = 0.0
    shown: float = 0.0
    forward: float = 0.0
    backward: float = 0.0

    def times(self, factor: float) -> Stage:
        """All sizes times a factor."""
        kept, shown = factor * self.kept, factor * self.shown
        return Stage(kept=kept, shown=shown, forward=factor * self.forward, backward=factor * self.backward)

    def beside(self, gradients: float) -> Stage:
        """The same where gradients of others wait meanwhile."""
        return replace(self, backward=self.backward + gradients)


def kept(stages: Iterable[Stage]) -> float:
    """By all of them."""
    return sum(stage.kept for stage in stages)


def peak(stages: Sequence[Stage], *, waiting: float = 0.0) -> float:
    """The most that lies there at once in the forward pass and the backward pass after it.

    ``waiting`` lies there throughout the forward pass; the backward pass takes it up, and counts it itself.
    """
    most = held = shown = 0.0
    for stage in stages:
        held, shown = held + stage.kept, shown + stage.shown
        most = max(most, held + shown + stage.forward + waiting)
    for stage in reversed(stages):
        most = max(most, held + stage.backward)
        held -= stage.kept
    return most


def recomputed(arguments: float, stages: Sequence[Stage], *, results: float) -> Stage:
    """Stages of which only ``arguments`` are kept, and which run again before their backward pass.

    In the forward pass they hold no more than then, when what comes after them is gone and only the gradients
    of their ``results`` wait.
    """
    return Stage(kept=arguments, backward=max(0.0, peak(stages, waiting=results) - arguments))


@dataclass(frozen=True, slots=True)
class Segment:
    """Neighbouring stages.

    Attributes:
        plain: as autograd keeps them.
        again: what they are where blocks are computed anew; the same if left out.
    """

    plain: tuple[Stage, ...]
    again: tuple[Stage, ...] | None = None

    def times(self, factor: float) -> Segment:
        """All sizes times a factor."""
        plain, again = (
            stages and tuple(stage.times(factor) for stage in stages) for stages in (self.plain, self.again)
        )
        return Segment(plain or (), again)


def block(arguments: float, stages: Sequence[Stage]) -> Segment:
    """A block of the model, called with ``arguments``; its results are as large."""
    return Segment(tuple(stages), (recomputed(arguments, stages, results=arguments),))


def activations_of(segments: Sequence[Segment], examples: int) -> Activations:
    """Of examples that go through a model and its losses one after the other, and go back together."""
    plain = [stage for segment in segments for stage in segment.plain]
    again = [stage for segment in segments for stage in segment.again or segment.plain]
    everything = examples * kept(plain)
    # What others keep lies below all stages of the last one.
    most, anew = ((examples - 1) * kept(stages) + peak(stages) for stages in (plain, again))
    return Activations(
        kept=round(everything),
        block=round(max((kept(one.plain) for one in segments if one.again), default=0.0)),
        recomputed=round(anew),
        working=round(most - everything),
    )
