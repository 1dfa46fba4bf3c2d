"""Models and trainings for the tests of stage 3: what ranks run, and what they tell of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from foldase_models.training import OptimizerConfig, ScheduleConfig, Trainer, TrainingConfig
from foldase_models.training.config import average_decay, learning_rate
from foldase_models.training.ranks import Ranks

LETTERS = 24


class Block(nn.Module):
    """Two linears around a rectifier, with a norm and a residual."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.wide = nn.Linear(width, inner)
        self.narrow = nn.Linear(inner, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.narrow(self.wide(self.norm(x)).relu())


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
    empty: bool = False
    scalar: bool = False


class Letters(nn.Module):
    """Predicts letters from letters; the trunk may be passed several times, as in structure models."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.shape = shape
        self.embed = nn.Embedding(LETTERS, shape.width)
        self.blocks = nn.ModuleList(Block(shape.width, shape.inner) for _ in range(shape.blocks))
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
                x = block(x)
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


def trained(ranks: Ranks, config: TrainingConfig, shape: Shape) -> dict[str, Any]:
    """Train; losses, norms, the resulting weights, bytes held and sent."""
    problem = Problem(shape)
    trainer = Trainer(problem.model, problem.loss, problem.batch, config, ranks=ranks)
    reports: list[Any] = []
    trainer.run(reports.append)
    held = {tier: trainer.ledger.held(tier) for tier in ("device", "pinned", "host", "disk")}
    told = {
        "losses": [report.loss for report in reports],
        "norms": [report.gradient_norm for report in reports],
        "traffic": [report.traffic for report in reports],
        "held": held,
        "peaks": dict(trainer.ledger.peaks()),
        "engine": type(trainer.engine).__name__,
        "weights": trainer.result(),
        "state": {
            key: (shard.shape, shard.start, shard.length) for key, shard in trainer.engine.state().items()
        },
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
