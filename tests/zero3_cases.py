"""Models and trainings for the tests of stage 3: what ranks run, and what they tell of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from foldase_models.training import OptimizerConfig, ScheduleConfig, Trainer, TrainingConfig
from foldase_models.training.config import average_decay, learning_rate
from foldase_models.training.ledger import TIERS
from foldase_models.training.ranks import Ranks
from foldase_models.training.surroundings import Update
from foldase_models.training.trainer import StepReport
from foldase_models.training.zero.units import as_unit

LETTERS = 24


class Block(nn.Module):
    """Two linears around a rectifier, with a norm and a residual; they may be computed anew."""

    def __init__(self, width: int, inner: int, *, anew: bool = False) -> None:
        super().__init__()
        self.anew = anew
        self.norm = nn.LayerNorm(width)
        self.wide = nn.Linear(width, inner)
        self.narrow = nn.Linear(inner, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.anew:
            found: torch.Tensor = x + checkpoint(self.change, x, use_reentrant=False)
            return found
        return x + self.change(x)

    def change(self, x: torch.Tensor) -> torch.Tensor:
        """What is added."""
        found: torch.Tensor = self.narrow(self.wide(self.norm(x)).relu())
        return found


@dataclass(frozen=True)
class Shape:
    """What a model of the tests is like."""

    width: int = 12
    inner: int = 20
    blocks: int = 3
    tied: bool = True
    frozen: tuple[int, ...] = ()
    unused: bool = False
    loops: int = 1
    """Most passes through the blocks; the step says how many."""
    anew: Literal["", "inside", "around"] = ""
    """Whether a part of each block, or all of it, is computed anew in the backward pass."""
    own_wide: bool = False
    """Whether the first linear of each block is a unit of its own."""
    empty: bool = False
    scalar: bool = False


class Letters(nn.Module):
    """Predicts letters from letters; the trunk may be passed several times, as in structure models."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.shape = shape
        self.embed = nn.Embedding(LETTERS, shape.width)
        anew = shape.anew == "inside"
        self.blocks = nn.ModuleList(Block(shape.width, shape.inner, anew=anew) for _ in range(shape.blocks))
        if shape.own_wide:
            for block in self.blocks:
                as_unit(block.wide)
        self.head = nn.Linear(shape.width, LETTERS)
        if shape.tied:
            self.head.weight = self.embed.weight
        if shape.unused:
            self.spare = nn.Linear(shape.width, 5)
            self.blocks.append(Block(shape.width, shape.inner))
        if shape.empty:
            self.nothing = nn.Parameter(torch.zeros(0, 4))
        if shape.scalar:
            self.scale = nn.Parameter(torch.ones(()))
        self.register_buffer("offset", torch.full((shape.width,), 0.1))
        for number in shape.frozen:
            self.blocks[number].requires_grad_(False)

    def logits(self, letters: torch.Tensor, loops: int) -> torch.Tensor:
        """Not called forward, as models have several ways in."""
        x = self.embed(letters) + self.offset
        for _ in range(loops):
            for block in list(self.blocks)[: self.shape.blocks]:
                x = checkpoint(block, x, use_reentrant=False) if self.shape.anew == "around" else block(x)
        if self.shape.scalar:
            x = x * self.scale
        found: torch.Tensor = self.head(x)
        return found


@dataclass
class Problem:
    """A model, its batches and its loss."""

    shape: Shape
    model: Letters = field(init=False)

    def __post_init__(self) -> None:
        self.model = Letters(self.shape)

    def batch(self, number: int) -> torch.Tensor:
        return torch.randint(0, LETTERS, (2, 6), generator=torch.Generator().manual_seed(number))

    def loss(self, batch: torch.Tensor, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        loops = 1 + step % self.shape.loops
        logits = self.model.logits(batch, loops).float()
        loss = functional.cross_entropy(logits.flatten(0, 1), (batch * 5 + 1).flatten() % LETTERS)
        return loss, {"entropy": loss}


def config_of(steps: int, **changes: Any) -> TrainingConfig:
    """A training that moves much in few steps."""
    settings: dict[str, Any] = {
        "micro_batches": 4,
        "optimizer": OptimizerConfig(learning_rate=5e-3, weight_decay=0.05),
        "schedule": ScheduleConfig(warmup_steps=3),
        "stage": 3,
    }
    return TrainingConfig(steps=steps, **(settings | changes))


STATE_OWNERS = ("weights", "float32 weights", "gradients", "optimizer")
"""In the ledger, the owners of what the formulas of ZeRO count."""


def trained(ranks: Ranks, config: TrainingConfig, shape: Shape) -> dict[str, Any]:
    """Train; losses, norms and bytes sent of every step, state held before the last, resulting weights."""
    problem = Problem(shape)
    trainer = Trainer(problem.model, problem.loss, problem.batch, config, ranks=ranks)
    reports: list[StepReport] = []
    states: list[int] = []
    step = trainer.engine.step

    def watched(update: Update) -> None:
        held = trainer.ledger.held()
        states.append(sum(held.get(owner, 0) for owner in STATE_OWNERS))
        step(update)

    trainer.engine.step = watched  # type: ignore[method-assign]
    trainer.run(reports.append)
    told = {
        "losses": [report.loss for report in reports],
        "norms": [report.gradient_norm for report in reports],
        "traffic": [report.traffic for report in reports],
        "state": states[-1],
        "held": {tier: trainer.ledger.held(tier) for tier in TIERS},
        "engine": type(trainer.engine).__name__,
        "weights": trainer.result(),
    }
    trainer.close()
    return told


def plainly_trained(config: TrainingConfig, shape: Shape) -> dict[str, Any]:
    """The same in this process with torch's own AdamW and nothing of the trainer but its schedules."""
    problem = Problem(shape)
    named = {name: p for name, p in problem.model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(
        [
            {
                "params": [p for p in named.values() if p.dim() > 1],
                "weight_decay": config.optimizer.weight_decay,
            },
            {"params": [p for p in named.values() if p.dim() <= 1], "weight_decay": 0.0},
        ],
        betas=config.optimizer.betas,
        eps=config.optimizer.epsilon,
    )
    average = {name: p.detach().clone() for name, p in named.items()}
    losses, norms = [], []
    for step in range(config.steps):
        for parameter in named.values():
            parameter.grad = torch.zeros_like(parameter)
        total = 0.0
        for part in range(config.micro_batches):
            loss, _ = problem.loss(problem.batch(step * config.micro_batches + part), step)
            (loss / config.micro_batches).backward()
            total += loss.item() / config.micro_batches
        norms.append(float(torch.nn.utils.clip_grad_norm_(named.values(), config.clip_norm)))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step)
        optimizer.step()
        for name, parameter in named.items():
            average[name].lerp_(parameter.detach(), 1 - average_decay(config, step))
        losses.append(total)
    kept = average if config.average_decay else {name: p.detach() for name, p in named.items()}
    return {"losses": losses, "norms": norms, "weights": kept}
