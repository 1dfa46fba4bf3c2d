"""The training loop: batch, loss, gradients, clipping, optimizer, average, checkpoint.

A run is a function of its configuration and of ``batch_of(number)``: what data a part of a batch sees and
what dropout draws depend on its number only, so the data position of a checkpoint is the step itself, a run
continued from a checkpoint takes the very steps an uninterrupted one takes, and the number of processes
that share the parts out makes no difference beyond rounding.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import nn

from foldase_models.errors import ModelError
from foldase_models.training.checkpoints import CheckpointStore
from foldase_models.training.clock import Clock
from foldase_models.training.collectives import Collectives
from foldase_models.training.config import TrainingConfig, average_decay, learning_rate
from foldase_models.training.counted_memory import CountedMemory
from foldase_models.training.engines import make_engine
from foldase_models.training.ledger import Ledger
from foldase_models.training.offload.activations import make_activations
from foldase_models.training.ranks import Ranks
from foldase_models.training.surroundings import Surroundings, Update

CURVE_POINTS = 200
"""Points of the loss curve that a run keeps."""
_SAVING_PAUSE = 9.0
"""Times as long as the training stood still for a checkpoint, it goes on before the next."""
_SEEDS = 2**63

BatchT = TypeVar("BatchT")
BatchT_contra = TypeVar("BatchT_contra", contravariant=True)


class Loss(Protocol[BatchT_contra]):
    """Computes the loss of a batch, and the numbers to report with it."""

    def __call__(self, batch: BatchT_contra, step: int) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
        """The scalar to minimise and named scalars; ``step`` for whatever must be alike on all ranks."""
        ...


class TrainingStopped(Exception):
    """Someone asked the training to stop; what it did lies in its last checkpoint."""


@dataclass(frozen=True, slots=True)
class StepReport:
    """What is known after a step, the same on all ranks but for memory and times, which are this rank's.

    After a step in which ranks exchanged nothing, loss, norm and values are this rank's too; the next one in
    which they do tells the means over all steps since the last.

    Attributes:
        step: steps done, from 1.
        steps: of the whole run.
        loss: mean over the parts of the batch.
        learning_rate: of this step.
        gradient_norm: before clipping.
        seconds: wall time of the step.
        values: the loss's numbers, means over the parts.
        memory: bytes by tier.
        traffic: bytes that this rank sent to the others in this step.
        sent: bytes that rank 0 sent in all steps so far, of earlier processes too; on other ranks their own
            since the last checkpoint that was taken up.
        rounds: steps so far in which anything was sent.
        times: seconds by kind of work, see :class:`foldase_models.training.clock.Clock`.
        steps_taken_back: steps so far in this process of which something was stepped ahead in vain; None
            where nothing is stepped ahead.
        gradients_lost: so far, of single ranks in steps without exchange, because they were not finite; None
            where there are no such steps.
    """

    step: int
    steps: int
    loss: float
    learning_rate: float
    gradient_norm: float
    seconds: float
    values: Mapping[str, float]
    memory: Mapping[str, int] = field(default_factory=dict)
    traffic: float = 0.0
    sent: float = 0.0
    rounds: int = 0
    times: Mapping[str, float] = field(default_factory=dict)
    steps_taken_back: int | None = None
    gradients_lost: int | None = None

    def numbers(self) -> dict[str, float]:
        """All of it as the points of curves."""
        counts = {"steps_taken_back": self.steps_taken_back, "gradients_lost": self.gradients_lost}
        return {
            "loss": self.loss,
            "learning_rate": self.learning_rate,
            "gradient_norm": self.gradient_norm,
            **self.values,
            **{f"{tier}_bytes": float(size) for tier, size in self.memory.items()},
            "communicated_bytes": self.traffic,
            "communicated_bytes_total": self.sent,
            "communication_rounds": float(self.rounds),
            **{name: float(count) for name, count in counts.items() if count is not None},
            **self.times,
        }


@dataclass(frozen=True, slots=True)
class TrainingSummary:
    """How a run ended.

    Attributes:
        steps: done in all.
        first_step: where this process took over.
        skipped_steps: whose gradients were not finite.
        seconds: wall time of this process.
        curve: ``step`` and the mean ``loss`` since the point before, at most :data:`CURVE_POINTS` points.
    """

    steps: int
    first_step: int
    skipped_steps: int
    seconds: float
    curve: Mapping[str, list[float]]


class Trainer(Generic[BatchT]):
    """Trains one model, in this process or together with others."""

    def __init__(
        self,
        model: nn.Module,
        loss: Loss[BatchT],
        batch_of: Callable[[int], BatchT],
        config: TrainingConfig,
        checkpoints: CheckpointStore | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        """Take a model over; its parameters move to where the configuration has them.

        Args:
            model: to train; ``loss`` holds on to it.
            loss: of a part of a batch.
            batch_of: the part with this number; step ``s`` consists of ``s * micro_batches`` and those after.
            config: of the training.
            checkpoints: where they go, and come from; the ranks save and load together.
            ranks: the processes; this one alone where it is left out.

        Raises:
            ModelError: ``ranks_disagree``, ``bad_config``, ``out_of_memory``, ``memory_cap``.
        """
        self.model, self.loss, self.batch_of, self.config = model, loss, batch_of, config
        self.checkpoints = checkpoints
        self.ranks = ranks or Ranks()
        self.clock = Clock()
        limits = config.limits
        self.collectives = Collectives(self.ranks, self.clock, deadline_seconds=limits.collective_seconds)
        self.ledger = Ledger(self.ranks.device, cap=limits.memory_bytes)
        if checkpoints is not None:
            checkpoints.join(self.collectives, self.ledger)
        around = Surroundings(config, self.collectives, self.ledger, self.clock)
        self.engine = make_engine(model, around)
        self.activations = make_activations(model, around)
        self.step = 0
        self.skipped_steps = 0
        self._bad_in_a_row = 0
        self._saved_step, self._saved_at, self._held_up = -1, 0.0, 0.0
        self._losses: list[float] = []
        self._unsent, self._unsent_steps = torch.zeros(0), 0
        self._sent, self._rounds = 0.0, 0
        self._value_names: list[str] | None = None
        self.curve: dict[str, list[float]] = {"step": [], "loss": []}

    def run(
        self,
        on_step: Callable[[StepReport], None] | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> TrainingSummary:
        """Train to the last step, from the newest checkpoint where there is one.

        ``on_step`` is called after every step on every rank, with the model in training mode; what it raises
        ends the run after a checkpoint was written, so that a cancelled run can be taken up again. On several
        ranks it must raise on all of them or on none; where they cannot know the same, ``stop`` is asked
        after every step, and one rank that says yes ends the run on all of them.

        Raises:
            TrainingStopped: because of ``stop``, after a checkpoint was written.
            ModelError: gradients are not finite for too many steps in a row (code ``diverged``), the
                checkpoint belongs to another model, or a rank is gone (``collective_failed``).
        """
        try:
            return self._run(on_step, stop)
        except BaseException:
            if self.checkpoints is not None:
                self.checkpoints.close()
            raise

    def _run(
        self, on_step: Callable[[StepReport], None] | None, stop: Callable[[], bool] | None
    ) -> TrainingSummary:
        started = self._saved_at = time.monotonic()
        devices = [] if self.ranks.device.type == "cpu" else [self.ranks.device]
        counted = nullcontext() if self.ledger.cap is None else CountedMemory(self.ledger)
        with torch.random.fork_rng(devices=devices), counted:
            self._resume()
            first = self.step
            self.model.train()
            while self.step < self.config.steps:
                report, stopped = self._one_step(stop)
                try:
                    if on_step is not None:
                        on_step(report)
                    if stopped:
                        raise TrainingStopped(f"stopped after step {self.step}")
                except BaseException:
                    self._save(wait=True)
                    raise
                if self._exchanged and self._due():
                    self._save(wait=False)
            if self.step > first:
                self._save(wait=True)
        self.engine.flush()
        seconds = time.monotonic() - started
        return TrainingSummary(self.step, first, self.skipped_steps, seconds, self.curve)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The model with averaged weights and in evaluation mode, for the time of a look at it.

        On several ranks all of them look, at the same data: at stage 3 each holds a part of every layer.
        """
        self.engine.flush()
        with self.engine.averaged():
            self.model.eval()
            try:
                yield
            finally:
                self.model.train()

    def result(self) -> dict[str, torch.Tensor]:
        """The trained weights, averaged where an average is kept: on rank 0, whole; empty on the others.

        All ranks ask for them together, before :meth:`close`. They go into a model that was built anew, see
        :func:`foldase_models.training.results.take_weights`.
        """
        self.engine.flush()
        return self.engine.weights(averaged=True)

    def close(self) -> None:
        """Give back what the engine holds besides the model.

        At stage 3 the model is an empty shell from here on, and was one between the calls of its layers.
        """
        if self.checkpoints is not None:
            self.checkpoints.close()
        self.engine.close()
        self.activations.close()
        self.collectives.close()

    def _one_step(self, stop: Callable[[], bool] | None) -> tuple[StepReport, bool]:
        before, operations = self.collectives.traffic.bytes, self.collectives.traffic.operations
        # The last step tells how the run ended, whatever its engine does.
        self._exchanged = self.engine.communicates or self.step + 1 == self.config.steps
        loss, values, stopped = self._gradients(stop)
        norm = self.engine.finish()
        if math.isfinite(norm):
            self.engine.step(self._update(min(1.0, self.config.clip_norm / (norm + 1e-6))))
            self._bad_in_a_row = 0
        else:
            self.engine.drop()
            self._skip(loss)
        self.step += 1
        self._remember(loss)
        traffic = self.collectives.traffic.bytes - before
        self._sent += traffic
        self._rounds += self.collectives.traffic.operations > operations
        times = self.clock.take()
        report = StepReport(
            step=self.step,
            steps=self.config.steps,
            loss=loss,
            learning_rate=learning_rate(self.config, self.step - 1),
            gradient_norm=norm,
            seconds=times.pop("seconds"),
            values=values,
            memory={str(tier): size for tier, size in self.ledger.tiers().items()},
            traffic=traffic,
            sent=self._sent,
            rounds=self._rounds,
            times=times,
            steps_taken_back=self.engine.steps_taken_back if self.config.offload.ahead else None,
            gradients_lost=self.engine.gradients_lost,
        )
        return report, stopped

    def _update(self, scale: float) -> Update:
        """The next step."""
        return Update(
            number=self.step - self.skipped_steps + 1,
            rate=learning_rate(self.config, self.step),
            scale=scale,
            average_decay=average_decay(self.config, self.step) if self.config.average_decay else None,
        )

    def _gradients(self, stop: Callable[[], bool] | None) -> tuple[float, dict[str, float], bool]:
        """Forward and backward of this rank's parts; loss and values, means over all, and whether to stop."""
        count = self.config.micro_batches
        own = list(self.ranks.share(count))
        rounds = -(-count // self.ranks.size)
        losses: list[torch.Tensor] = []
        shown: list[Mapping[str, torch.Tensor]] = []
        for turn in range(rounds):
            loss = None
            has_part = turn < len(own)
            if has_part or self.engine.lockstep:
                number = self.step * count + (own[turn] if has_part else self.ranks.rank % count)
                torch.manual_seed((self.config.seed * 1_000_003 + number) % _SEEDS)
                batch = self.batch_of(number)
                with self.engine.forward(), self.ledger.computing(), self.activations.kept():
                    loss, values = self.loss(batch, self.step)
                if has_part:
                    losses.append(loss.detach())
                    shown.append({name: value.detach() for name, value in values.items()})
                loss = loss / count if has_part else loss * 0.0
            last = turn == rounds - 1
            if last:
                self.engine.expect(self._update(1.0))
            with self.ledger.computing():
                self.engine.backward(loss, last=last)
        return self._means(losses, shown, stop=stop is not None and stop())

    def _means(
        self, losses: list[torch.Tensor], shown: list[Mapping[str, torch.Tensor]], *, stop: bool
    ) -> tuple[float, dict[str, float], bool]:
        """Over the parts of all ranks; whether any of them wants to stop travels with them.

        In a step in which ranks exchange nothing, over this rank's own, which are sent with the next ones.
        """
        if self._value_names is None:
            own = sorted(shown[0]) if shown else None
            known = self.collectives.gather_objects("names of the reported values", own)
            self._value_names = next(names for names in known if names is not None)
        names = self._value_names
        sums = torch.zeros(2 + len(names), dtype=torch.float64)
        for loss, values in zip(losses, shown, strict=True):
            shares = [float(loss), *(float(values[name]) for name in names)]
            sums[:-1] += torch.tensor(shares, dtype=torch.float64)
        self._unsent = sums if not self._unsent_steps else self._unsent + sums
        self._unsent_steps += 1
        if not self._exchanged:
            own_means = (sums[:-1] / max(1, len(losses))).tolist()
            return own_means[0], dict(zip(names, own_means[1:], strict=True)), False
        sums, steps = self._unsent, self._unsent_steps
        self._unsent_steps = 0
        sums[-1] = float(stop)
        self.collectives.all_reduce("loss and reported values", sums).wait()
        means = (sums[:-1] / (self.config.micro_batches * steps)).tolist()
        return means[0], dict(zip(names, means[1:], strict=True)), bool(sums[-1] > 0)

    def _all_unsent(self) -> tuple[list[float], int]:
        """Sums over the ranks of what was not told yet, and of how many steps."""
        sums = self._unsent.clone()
        if self._unsent_steps:
            self.collectives.all_reduce("reported values of steps without exchange", sums).wait()
        return sums.tolist(), self._unsent_steps

    def _remember(self, loss: float) -> None:
        """Add to the curve: one point for every so many steps, of the losses that were finite.

        Steps without exchange are in the mean that the next exchange tells.
        """
        if not self._exchanged:
            return
        if math.isfinite(loss):
            self._losses.append(loss)
        every = -(-self.config.steps // CURVE_POINTS)
        last = int(self.curve["step"][-1]) if self.curve["step"] else 0
        if self._losses and (self.step // every > last // every or self.step == self.config.steps):
            self.curve["step"].append(self.step)
            self.curve["loss"].append(sum(self._losses) / len(self._losses))
            self._losses.clear()

    def _skip(self, loss: float) -> None:
        self.skipped_steps += 1
        self._bad_in_a_row += 1
        if self._bad_in_a_row > self.config.limits.bad_steps:
            raise ModelError(
                f"gradients were not finite for {self._bad_in_a_row} steps in a row (loss {loss})",
                code="diverged",
                location=f"step {self.step}",
                hint="lower the learning rate",
            )

    def _due(self) -> bool:
        """Whether it is time for a checkpoint; rank 0's clock decides for all.

        Not while one is still being written, and not so soon that more than a tenth of the time would go by
        in waiting for them.
        """
        if self.checkpoints is None:
            return False
        pause = max(self.config.checkpoint.seconds, _SAVING_PAUSE * self._held_up)
        time_for_one = time.monotonic() - self._saved_at >= pause and not self.checkpoints.under_way
        due = torch.tensor([float(time_for_one)])
        self.collectives.broadcast("whether a checkpoint is due", due).wait()
        return bool(due.item())

    def _save(self, *, wait: bool) -> None:
        """Write a checkpoint; unless ``wait`` says so, what of it goes on beside the training may go on."""
        if self.checkpoints is None:
            return
        if self._saved_step == self.step:
            self.checkpoints.finish()
            return
        began = time.monotonic()
        self.engine.flush()
        values: dict[str, Any] = {
            "training": self.config.result_fields(),
            "skipped_steps": self.skipped_steps,
            "bad_in_a_row": self._bad_in_a_row,
            "losses": self._losses,
            "curve": self.curve,
            "value_names": self._value_names,
            "unsent": self._all_unsent(),
            "sent": self._sent,
            "rounds": self._rounds,
            "optimizer": self.engine.progress(),
        }
        self.checkpoints.save(self.step, self.engine.state(), values, wait=wait)
        self._saved_step, self._saved_at = self.step, time.monotonic()
        self._held_up = self._saved_at - began

    def _resume(self) -> None:
        if self.checkpoints is None:
            return
        found = self.checkpoints.load_latest(lambda values: self.engine.loading(values.get("optimizer", {})))
        if found is None:
            return
        self.skipped_steps = int(found.values["skipped_steps"])
        self.engine.take_up(found.step - self.skipped_steps, found.values.get("optimizer", {}))
        self.engine.loaded()
        self._value_names = found.values.get("value_names")
        unsent, self._unsent_steps = found.values.get("unsent", ((), 0))
        self._unsent = torch.tensor(unsent, dtype=torch.float64) * self.ranks.first
        self._sent, self._rounds = float(found.values.get("sent", 0.0)), int(found.values.get("rounds", 0))
        self._bad_in_a_row = int(found.values["bad_in_a_row"])
        self._losses = list(found.values["losses"])
        self.curve = {name: list(points) for name, points in found.values["curve"].items()}
        self.step = found.step
