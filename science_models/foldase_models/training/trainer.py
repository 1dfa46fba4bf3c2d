"""The training loop: batch, loss, gradients, clipping, AdamW, average, checkpoint.

A run is a function of its configuration and of ``batch_of(step)``: what data a step sees depends on its
number only, so the data position of a checkpoint is the step itself, and a run continued from a checkpoint
takes the very steps an uninterrupted one takes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch
from torch import nn

from foldase_models.errors import ModelError
from foldase_models.training.checkpoints import Checkpoint, CheckpointStore, subset
from foldase_models.training.config import TrainingConfig, average_decay, learning_rate

CURVE_POINTS = 200
"""Points of the loss curve that a run keeps."""

BatchT = TypeVar("BatchT")
BatchT_contra = TypeVar("BatchT_contra", contravariant=True)


class Loss(Protocol[BatchT_contra]):
    """Computes the loss of a batch, and the numbers to report with it."""

    def __call__(self, batch: BatchT_contra, step: int) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
        """The scalar to minimise and named scalars; ``step`` for whatever is drawn at random."""
        ...


@dataclass(frozen=True, slots=True)
class StepReport:
    """What is known after a step. ``step`` counts steps done, from 1; ``values`` are the loss's numbers."""

    step: int
    steps: int
    loss: float
    learning_rate: float
    gradient_norm: float
    seconds: float
    values: Mapping[str, float]


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
    """Trains one model in this process."""

    def __init__(
        self,
        model: nn.Module,
        loss: Loss[BatchT],
        batch_of: Callable[[int], BatchT],
        config: TrainingConfig,
        checkpoints: CheckpointStore | None = None,
    ) -> None:
        """``loss`` holds on to the model itself; ``batch_of(step)`` makes the batch of a step."""
        self.model, self.loss, self.batch_of, self.config = model, loss, batch_of, config
        self.checkpoints = checkpoints
        self.step = 0
        self.skipped_steps = 0
        self._bad_in_a_row = 0
        self._losses: list[float] = []
        self.curve: dict[str, list[float]] = {"step": [], "loss": []}
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.optimizer = _optimizer(self.parameters, config)
        self.average = {name: p.detach().clone() for name, p in self.parameters.items()}
        # A parameter that a step does not use (recycling) has a zero gradient, not none: what the optimizer
        # does with it must not depend on whether an earlier step of this process used it.
        for parameter in self.parameters.values():
            parameter.grad = torch.zeros_like(parameter)

    def run(self, on_step: Callable[[StepReport], None] | None = None) -> TrainingSummary:
        """Train to the last step, from the newest checkpoint where there is one.

        ``on_step`` is called after every step, with the model in training mode; what it raises ends the run
        after a checkpoint was written, so that a cancelled run can be taken up again.

        Raises:
            ModelError: gradients are not finite for too many steps in a row (code ``diverged``), or the
                checkpoint belongs to another model.
        """
        started = saved = time.monotonic()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            self._resume()
            first = self.step
            self.model.train()
            while self.step < self.config.steps:
                report = self._one_step()
                try:
                    if on_step is not None:
                        on_step(report)
                except BaseException:
                    self._save()
                    raise
                if time.monotonic() - saved >= self.config.checkpoint_seconds:
                    self._save()
                    saved = time.monotonic()
            if self.step > first:
                self._save()
        seconds = time.monotonic() - started
        return TrainingSummary(self.step, first, self.skipped_steps, seconds, self.curve)

    def load_average(self) -> None:
        """Put the averaged weights into the model: the result of the training."""
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(self.average[name])

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The model with averaged weights and in evaluation mode, for the time of a look at it."""
        kept = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        self.load_average()
        self.model.eval()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in self.parameters.items():
                    parameter.copy_(kept[name])
            self.model.train()

    def _one_step(self) -> StepReport:
        started = time.monotonic()
        rate = learning_rate(self.config, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss, values = self.loss(self.batch_of(self.step), self.step)
        self.optimizer.zero_grad(set_to_none=False)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.parameters.values(), self.config.clip_norm)
        if bool(norm.isfinite()):
            self.optimizer.step()
            self._bad_in_a_row = 0
        else:
            self._skip(float(loss.detach()))
        decay = average_decay(self.config, self.step)
        torch._foreach_lerp_(
            list(self.average.values()), [p.detach() for p in self.parameters.values()], 1.0 - decay
        )
        self.step += 1
        self._remember(float(loss.detach()))
        return StepReport(
            step=self.step,
            steps=self.config.steps,
            loss=float(loss.detach()),
            learning_rate=rate,
            gradient_norm=float(norm),
            seconds=time.monotonic() - started,
            values={name: float(value.detach()) for name, value in values.items()},
        )

    def _remember(self, loss: float) -> None:
        """Add to the curve: one point for every so many steps, of the losses that were finite."""
        if math.isfinite(loss):
            self._losses.append(loss)
        every = -(-self.config.steps // CURVE_POINTS)
        if self._losses and (self.step % every == 0 or self.step == self.config.steps):
            self.curve["step"].append(self.step)
            self.curve["loss"].append(sum(self._losses) / len(self._losses))
            self._losses.clear()

    def _skip(self, loss: float) -> None:
        self.skipped_steps += 1
        self._bad_in_a_row += 1
        if self._bad_in_a_row > self.config.bad_steps_allowed:
            raise ModelError(
                f"gradients were not finite for {self._bad_in_a_row} steps in a row (loss {loss})",
                code="diverged",
                location=f"step {self.step}",
                hint="lower the learning rate",
            )

    def _save(self) -> None:
        if self.checkpoints is None:
            return
        tensors = {f"model.{name}": parameter.detach() for name, parameter in self.parameters.items()}
        tensors |= {f"average.{name}": tensor for name, tensor in self.average.items()}
        for name, parameter in self.parameters.items():
            state = self.optimizer.state.get(parameter, {})
            tensors |= {f"optimizer.{name}.{key}": value for key, value in state.items()}
        tensors["rng.torch"] = torch.get_rng_state()
        values = {
            "skipped_steps": self.skipped_steps,
            "bad_in_a_row": self._bad_in_a_row,
            "losses": self._losses,
            "curve": self.curve,
        }
        self.checkpoints.save(Checkpoint(self.step, tensors, values))

    def _resume(self) -> None:
        found = None if self.checkpoints is None else self.checkpoints.load_latest()
        if found is None:
            return
        weights, average = subset(found.tensors, "model."), subset(found.tensors, "average.")
        shapes = {name: tensor.shape for name, tensor in weights.items()}
        if shapes != {name: parameter.shape for name, parameter in self.parameters.items()}:
            raise ModelError("the checkpoint belongs to another model", code="bad_checkpoint")
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(weights[name])
                self.average[name].copy_(average[name])
                state = {
                    key: tensor
                    for key in ("step", "exp_avg", "exp_avg_sq")
                    if (tensor := found.tensors.get(f"optimizer.{name}.{key}")) is not None
                }
                if state:
                    self.optimizer.state[parameter] = state
        torch.set_rng_state(found.tensors["rng.torch"])
        self.skipped_steps = int(found.values["skipped_steps"])
        self._bad_in_a_row = int(found.values["bad_in_a_row"])
        self._losses = list(found.values["losses"])
        self.curve = {name: list(points) for name, points in found.values["curve"].items()}
        self.step = found.step


def _optimizer(parameters: Mapping[str, nn.Parameter], config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW whose weight decay spares biases and the weights of layer norms."""
    matrices = [parameter for parameter in parameters.values() if parameter.dim() > 1]
    vectors = [parameter for parameter in parameters.values() if parameter.dim() <= 1]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.epsilon,
        fused=True,
    )
