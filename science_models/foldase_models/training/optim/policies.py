"""In which steps ranks exchange what, with an optimizer that compresses. Importable without torch.

Steps are counted from 0, and only those that were applied count: one that was skipped because a gradient was
not finite is made up for by the next, which is of the same kind.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from enum import Enum
from typing import Any

from foldase_models.errors import ModelError
from foldase_models.training.config import TrainingConfig, learning_rate


class Exchange(Enum):
    """What ranks exchange in a step.

    WHOLE: the mean gradient, in full. SYNC: the sum of what each rank has changed since the last exchange,
    one bit a number. LOCAL: nothing at all.
    """

    WHOLE = "whole"
    SYNC = "sync"
    LOCAL = "local"


@dataclass(frozen=True, slots=True)
class Turn:
    """One step.

    Attributes:
        exchange: what travels.
        variance: whether the second moment takes the gradient in; only where that travels whole.
    """

    exchange: Exchange
    variance: bool = False


@dataclass(slots=True)
class Course:
    """How far a training has come, what a checkpoint keeps of a policy.

    Attributes:
        step: the next one.
        variance_updates: of the second moment so far.
        variance_steps: those until its last update.
        variance_rest: share of it that is the 0 it began with.
        next_variance: the step of the next one.
        next_sync: the step of the next exchange once the second moment is frozen.
        frozen_at: the step from which on it is frozen; None where that is not known yet.
        measured: the size of the second moment when it was last looked at.
    """

    step: int = 0
    variance_updates: int = 0
    variance_steps: int = 0
    variance_rest: float = 1.0
    next_variance: int = 0
    next_sync: int = 0
    frozen_at: int | None = None
    measured: float | None = None

    @property
    def frozen(self) -> bool:
        """Whether the second moment is frozen in the next step."""
        return self.frozen_at is not None and self.step >= self.frozen_at

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Course:
        """What :meth:`to_json` gave."""
        return cls(**plain)


class Policy(ABC):
    """Decides what the next step of a course exchanges. The same on all ranks, without asking them."""

    def __init__(self, config: TrainingConfig) -> None:
        self.config = config
        self.compression = config.optimizer.compression
        # A stage above 0 shares the moments out until then, and needs whole gradients to step them.
        self.whole_until_frozen = config.stage > 0

    @abstractmethod
    def begin(self) -> Course:
        """The course of a training that begins.

        Raises:
            ModelError: as :meth:`first_frozen`.
        """

    @abstractmethod
    def after_adamw(self, steps: int) -> Course:
        """The course of a training that begins where AdamW ended, after so many steps.

        It is where it would be now, with a second moment that has seen all of them.
        """

    @abstractmethod
    def first_frozen(self) -> int:
        """The step from which on the second moment is frozen, or will be at the earliest.

        Raises:
            ModelError: ``bad_config``: it would never be.
        """

    @abstractmethod
    def turn(self, course: Course) -> Turn:
        """The next step."""

    @abstractmethod
    def counts(self) -> dict[Exchange, int]:
        """How many steps of a whole training exchange what: of :func:`turns`, but without taking them.

        Raises:
            ModelError: as :meth:`first_frozen`.
        """

    def kept(self, course: Course) -> float:
        """Share of the second moment that is left when the next step takes a gradient into it."""
        return self.config.optimizer.betas[1]

    def measures(self, course: Course) -> bool:
        """Whether :meth:`done` asks for the size of the second moment after the next step."""
        return False

    @abstractmethod
    def done(self, course: Course, turn: Turn, size: float | None = None) -> None:
        """A step was applied.

        Args:
            course: is changed.
            turn: what :meth:`turn` gave for it.
            size: sum of the second moment, without its bias, after this step, where :meth:`measures` said so.
        """

    def _after_adamw(self, course: Course, steps: int, updates: int) -> Course:
        rest = self.config.optimizer.betas[1] ** steps
        return replace(course, step=steps, variance_updates=updates, variance_steps=steps, variance_rest=rest)

    def _updated(self, course: Course) -> None:
        course.variance_rest *= self.kept(course)
        course.variance_updates += 1
        course.variance_steps = course.step + 1


class OneBitPolicy(Policy):
    """1-bit Adam (Tang et al. 2021, arXiv:2102.02888, algorithm 1): Adam at first, one bit ever after.

    Adam ends at ``freeze_step``, or when the second moment has settled: over 1 / (1 - betas[1]) steps after
    the rise of the learning rate its sum stayed within a share ``settled`` of itself, in either direction
    (section 7.1 asks for no shrinking below that share).
    """

    @property
    def window(self) -> int:
        """Steps over which the second moment forgets."""
        return max(1, round(1.0 / (1.0 - self.config.optimizer.betas[1])))

    def begin(self) -> Course:
        """A course."""
        self.first_frozen()
        return Course(frozen_at=self.compression.freeze_step)

    def after_adamw(self, steps: int) -> Course:
        """As after as many of its own."""
        return self._after_adamw(self.begin(), steps, steps)

    def first_frozen(self) -> int:
        """The step that is given, or from which on it is frozen where no two looks at it differ."""
        if self.compression.freeze_step is not None:
            return self.compression.freeze_step
        first_look = -(-(self.config.schedule.warmup_steps + 1) // self.window)
        first = (first_look + 1) * self.window
        if first >= self.config.steps:
            raise _never_frozen(
                f"is left out, and the second moment counts as settled after {first} steps at the earliest, "
                f"when two looks at it, {self.window} steps apart, found the same",
                self.config,
            )
        return first

    def turn(self, course: Course) -> Turn:
        """Whole gradients, then one bit."""
        return Turn(Exchange.SYNC) if course.frozen else Turn(Exchange.WHOLE, variance=True)

    def counts(self) -> dict[Exchange, int]:
        """Two spans."""
        whole = self.first_frozen()
        return {Exchange.WHOLE: whole, Exchange.SYNC: self.config.steps - whole, Exchange.LOCAL: 0}

    def measures(self, course: Course) -> bool:
        """Once in a window."""
        rising = course.step < self.config.schedule.warmup_steps
        return course.frozen_at is None and not rising and (course.step + 1) % self.window == 0

    def done(self, course: Course, turn: Turn, size: float | None = None) -> None:
        """Count, and freeze once the second moment has settled."""
        if size is not None:
            before, course.measured = course.measured, size
            if before and size and min(before / size, size / before) >= self.compression.settled:
                course.frozen_at = course.step + 1
        if turn.variance:
            self._updated(course)
        course.step += 1


class ZeroOnePolicy(Policy):
    """0/1 Adam (Lu et al. 2022, arXiv:2202.06009, section 6).

    The second moment is updated in steps k_0 = 0, k_j+1 = k_j + 2^floor(j / kappa), until it is frozen: at
    ``freeze_step``, or before that as soon as ranks step alone. Exchanges come in steps t_0 = 0, t_j+1 =
    t_j + interval(t_j).
    """

    def begin(self) -> Course:
        """A course."""
        first = self.first_frozen()
        return Course(frozen_at=first, next_sync=first)

    def after_adamw(self, steps: int) -> Course:
        """With the updates that would have come until then, at least one."""
        course = self.begin()
        assert course.frozen_at is not None
        while course.next_variance < min(steps, course.frozen_at):
            self.done(course, Turn(Exchange.WHOLE, variance=True))
        return self._after_adamw(course, steps, course.variance_updates)

    def first_frozen(self) -> int:
        """The step that is given, or the first after which ranks step alone."""
        given = self.compression.freeze_step
        last = self.config.steps if given is None else given
        first = self._longer(1, 0, last, last)
        if given is None and first == last:
            alone = self.compression.longest_interval > 1
            why = "the learning rate never falls to half of its peak" if alone else "longest_interval is 1"
            raise _never_frozen(f"is left out, and ranks never step alone: {why}", self.config)
        return first

    def kept(self, course: Course) -> float:
        """By the steps since its last update, so that it looks back over as many as Adam's.

        The paper's keeps betas[1] however long ago that was, and lags behind. An average in which a gradient
        counts 2 / (kappa + 1) is as steady as a mean of kappa of them: none counts more than that, or than
        in Adam's.
        """
        beta, kappa = self.config.optimizer.betas[1], self.compression.variance_kappa
        steady = (kappa - 1) / (kappa + 1)
        return max(beta ** (course.step + 1 - course.variance_steps), min(beta, steady))

    def interval(self, step: int, frozen_at: int) -> int:
        """Steps from an exchange to the next one."""
        every = self.compression.interval_steps
        if every is not None:
            doublings = max(0, step - frozen_at) // every
        elif step < self.config.schedule.warmup_steps:
            doublings = 0
        else:
            share = learning_rate(self.config, step) / self.config.optimizer.learning_rate
            # A rate that is a power of two of the peak may be a last bit above it.
            doublings = max(0, math.floor(-math.log2(share) + 1e-9)) if share > 0 else 64
        return int(min(self.compression.longest_interval, 2 ** min(doublings, 64)))

    def counts(self) -> dict[Exchange, int]:
        """Updates of the second moment, then exchanges, from one length of intervals to the next."""
        frozen, steps = self.first_frozen(), self.config.steps
        kappa, updates, update, apart = self.compression.variance_kappa, 0, 0, 1
        while update < frozen:
            more = min(kappa, -(-(frozen - update) // apart))
            updates, update, apart = updates + more, update + more * apart, 2 * apart
        whole = frozen if self.whole_until_frozen else updates
        syncs, step = frozen - whole, frozen
        while step < steps:
            interval = self.interval(step, frozen)
            more = -(-(self._longer(interval, step, steps, frozen) - step) // interval)
            syncs, step = syncs + more, step + more * interval
        return {Exchange.WHOLE: whole, Exchange.SYNC: syncs, Exchange.LOCAL: steps - whole - syncs}

    def _longer(self, interval: int, start: int, stop: int, frozen_at: int) -> int:
        """The first step from ``start`` on, or ``stop``, after which intervals are longer than that.

        They never become shorter: past its rise the rate only falls.
        """
        steps = range(start, stop)
        return start + bisect_right(steps, interval, key=lambda step: self.interval(step, frozen_at))

    def turn(self, course: Course) -> Turn:
        """Whole, one bit, or nothing."""
        if course.frozen:
            return Turn(Exchange.SYNC if course.step >= course.next_sync else Exchange.LOCAL)
        if course.step >= course.next_variance:
            return Turn(Exchange.WHOLE, variance=True)
        return Turn(Exchange.WHOLE if self.whole_until_frozen else Exchange.SYNC)

    def done(self, course: Course, turn: Turn, size: float | None = None) -> None:
        """Count, and set the next exchange and the next update."""
        assert course.frozen_at is not None
        if turn.variance:
            course.next_variance += 2 ** min(course.variance_updates // self.compression.variance_kappa, 62)
            self._updated(course)
        if course.frozen and turn.exchange is Exchange.SYNC:
            course.next_sync = course.step + self.interval(course.step, course.frozen_at)
        course.step += 1


def make_policy(config: TrainingConfig) -> Policy:
    """The policy of the optimizer that a configuration names, which compresses."""
    return OneBitPolicy(config) if config.optimizer.kind == "one_bit_adam" else ZeroOnePolicy(config)


def turns(config: TrainingConfig) -> Iterator[Turn]:
    """What every step of a whole training exchanges, where none is skipped.

    Where 1-bit Adam waits for the second moment to settle, it settles at once.

    Raises:
        ModelError: ``bad_config``: it would never be frozen.
    """
    policy = make_policy(config)
    course = policy.begin()
    for _ in range(config.steps):
        turn = policy.turn(course)
        policy.done(course, turn, 1.0 if policy.measures(course) else None)
        yield turn


def _never_frozen(why: str, config: TrainingConfig) -> ModelError:
    return ModelError(
        f"optimizer.compression.freeze_step {why}: the second moment would not be frozen in "
        f"{config.steps} steps",
        code="bad_config",
        location="optimizer.compression.freeze_step",
        hint=f"set it, below {config.steps}",
    )
