"""Random modules for the training engines: tied, frozen, unused, empty and looped parts in any order.

A graph is made from plain numbers, so that every rank and the unsharded model have the same one, and
hypothesis can draw it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from hypothesis import strategies as st
from torch import nn

from foldase_models.training import LimitsConfig, OptimizerConfig, Ranks, ScheduleConfig, TrainingConfig
from foldase_models.training.config import Stage
from foldase_models.training.trainer import StepReport, Trainer

PartKind = Literal["linear", "norm", "gate", "tied", "frozen", "unused", "empty", "loop", "branch", "strided"]
KINDS: tuple[PartKind, ...] = (
    "linear",
    "norm",
    "gate",
    "tied",
    "frozen",
    "unused",
    "empty",
    "loop",
    "branch",
    "strided",
)


@dataclass(frozen=True)
class Graph:
    """A model as plain values.

    Attributes:
        width: features between the parts.
        parts: what follows on what.
        seed: of the weights.
    """

    width: int
    parts: tuple[PartKind, ...]
    seed: int


def graphs(most_parts: int = 6) -> st.SearchStrategy[Graph]:
    """Any graph with something to train; with the widest, each matrix has a bucket of 4 KiB to itself."""
    parts = st.lists(st.sampled_from(KINDS), min_size=1, max_size=most_parts)
    trained = parts.map(lambda some: ("linear", *some))
    return st.builds(Graph, st.sampled_from((1, 2, 7, 33)), trained, st.integers(0, 2**16))


class Part(nn.Module):
    """One step of a graph: x [batch, width] to the same shape."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, width)

    def forward(self, x: torch.Tensor, part: int, step: int) -> torch.Tensor:
        """Change x; ``part`` is the number of the part of the batch."""
        return x + torch.tanh(self.inner(x))


class Norm(Part):
    """A layer norm, and a buffer that scales what comes out."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.norm = nn.LayerNorm(width)
        self.register_buffer("scale", torch.full((width,), 0.5))

    def forward(self, x: torch.Tensor, part: int, step: int) -> torch.Tensor:
        return x + self.scale * self.inner(self.norm(x))


class Gate(Part):
    """A parameter of its own, of no dimension, beside those of a child."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.strength = nn.Parameter(torch.tensor(0.3))

    def forward(self, x: torch.Tensor, part: int, step: int) -> torch.Tensor:
        return x + self.strength * self.inner(x)


class Tied(Part):
    """Uses the weight of another part, itself and transposed."""

    def __init__(self, width: int, other: nn.Linear) -> None:
        super().__init__(width)
        self.inner.weight = other.weight

    def forward(self, x: torch.Tensor, part: int, step: int) -> torch.Tensor:
        return x + 0.5 * torch.tanh(self.inner(x)) @ self.inner.weight.t()


class Frozen(Part):
    """Only its bias is trained."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.inner.weight.requires_grad_(False)


class Unused(Part):
    """Parameters that no loss depends on."""

    def forward(self, x: torch.Tensor, part: int, step: int) -> torch.Tensor:
        return x


class Empty(Part):
    """A parameter without elements, which takes part all the same."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.nothing = nn.Parameter(torch.empty(0, width))

    def forward(self, x: torch.Tensor, part: int, step: int) -> torch.Tensor:
        return super().forward(torch.cat([x, self.nothing])[: x.shape[0]], part, step)


class Loop(Part):
    """Called again and again, another number of times at every step, the same on all ranks."""

    def forward(self, x: torch.Tensor, part: int, step: int) -> torch.Tensor:
        for _ in range(1 + step % 3):
            x = super().forward(x, part, step)
        return x


class Branch(Part):
    """Idle for every other part of a batch: on some ranks and not on others."""

    def forward(self, x: torch.Tensor, part: int, step: int) -> torch.Tensor:
        return super().forward(x, part, step) if part % 2 else x


class Strided(Part):
    """A parameter whose elements do not follow each other in memory."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.turned = nn.Parameter(torch.randn(width + 1, width).t() * 0.1)

    def forward(self, x: torch.Tensor, part: int, step: int) -> torch.Tensor:
        return super().forward(x, part, step) + (x @ self.turned).mean(dim=1, keepdim=True)


class GraphModel(nn.Module):
    """The parts of a graph one after the other, and a readout."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        torch.manual_seed(graph.seed)
        first = Part(graph.width)
        self.parts = nn.ModuleList([first])
        for kind in graph.parts[1:]:
            self.parts.append(_part(kind, graph.width, first))
        self.readout = nn.Linear(graph.width, 1)

    def forward(self, x: torch.Tensor, part: int, step: int) -> torch.Tensor:
        """x [batch, width] to [batch]; ``part`` of the batch, ``step`` of the training."""
        for one in self.parts:
            x = one(x, part, step)
        return self.readout(x).squeeze(-1)


class GraphProblem:
    """A regression for a graph's model, for :class:`foldase_models.training.Trainer`."""

    def __init__(self, graph: Graph, rows: int = 4) -> None:
        self.graph, self.rows = graph, rows
        self.model = GraphModel(graph)

    def batch(self, number: int) -> tuple[int, torch.Tensor]:
        """The part with this number: the number, and inputs [rows, width]."""
        generator = torch.Generator().manual_seed(number)
        return number, torch.randn(self.rows, self.graph.width, generator=generator)

    def loss(
        self, batch: tuple[int, torch.Tensor], step: int
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Mean square error."""
        number, x = batch
        error = self.model(x, number, step).float() - x.sum(dim=1).sin()
        loss = error.square().mean()
        return loss, {"largest": error.abs().max()}


@dataclass(frozen=True)
class Trained:
    """What a training did.

    Attributes:
        losses: of every step.
        norms: of every step's gradient.
        averaged: the loss with averaged weights, after the last step.
        weights: the averaged ones, on rank 0.
    """

    losses: list[float]
    norms: list[float]
    averaged: float
    weights: dict[str, np.ndarray]


def train_graph(ranks: Ranks, graph: Graph, config: TrainingConfig) -> Trained:
    """Train the model of a graph; on every rank alike."""
    problem = GraphProblem(graph)
    trainer = Trainer(problem.model, problem.loss, problem.batch, config, ranks=ranks)
    losses, norms = [], []

    def note(report: StepReport) -> None:
        losses.append(report.loss)
        norms.append(report.gradient_norm)

    trainer.run(note)
    with trainer.averaged(), torch.no_grad():
        averaged = float(problem.loss(problem.batch(0), 0)[0])
    weights = {name: weight.numpy() for name, weight in trainer.result().items()}
    trainer.close()
    return Trained(losses, norms, averaged, weights)


def graph_training(stage: Stage, **changes: Any) -> TrainingConfig:
    """A short training in which rounding stays as small as it is.

    A gradient that is zero but for rounding must not become a step of full length, hence epsilon.
    """
    settings: dict[str, Any] = {
        "steps": 4,
        "micro_batches": 2,
        "optimizer": OptimizerConfig(learning_rate=1e-2, epsilon=1e-3),
        "schedule": ScheduleConfig(warmup_steps=2),
        "limits": LimitsConfig(bucket_bytes=4096, collective_seconds=30.0),
    }
    return TrainingConfig(stage=stage, **(settings | changes))


def _part(kind: PartKind, width: int, first: Part) -> Part:
    if kind == "tied":
        return Tied(width, first.inner)
    made: dict[str, Any] = {
        "linear": Part,
        "norm": Norm,
        "gate": Gate,
        "frozen": Frozen,
        "unused": Unused,
        "empty": Empty,
        "loop": Loop,
        "branch": Branch,
        "strided": Strided,
    }
    part: Part = made[kind](width)
    return part
