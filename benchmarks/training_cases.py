"""What the training benchmark trains, and what a rank does in each of its cases.

A tower of residual blocks, so that parameters and gradients dominate and nothing is special to one engine.
The functions here run on ranks; they get plain values and give plain values.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from foldase_models.training import CheckpointStore, Ranks, Trainer, TrainingConfig
from foldase_models.training.config import learning_rate
from foldase_models.training.trainer import TrainingStopped
from foldase_models.training.zero.layout import decays

INPUTS = 16
MOVED = ("weights", "gradients", "optimizer", "float32 weights")


@dataclass(frozen=True)
class Size:
    """Of a tower: ``blocks`` of two linears, ``width`` to four times that and back; ``rows`` in a part."""

    width: int
    blocks: int
    rows: int = 8

    @property
    def parameters(self) -> int:
        """Counted by hand, so that a benchmark can plan without a model."""
        block = 8 * self.width**2 + 7 * self.width
        return INPUTS * self.width + self.width + self.blocks * block + self.width + 1


class Block(nn.Module):
    """Layer norm, two linears and the way around them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[rows, width] to the same."""
        found: torch.Tensor = x + self.down(nn.functional.gelu(self.up(self.norm(x))))
        return found


class Tower(nn.Module):
    """The model, with weights of seed 0; large ones are made where and as they are trained."""

    def __init__(self, size: Size, device: str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(INPUTS, size.width)
        with torch.device(device):
            self.blocks = nn.ModuleList(Block(size.width).to(dtype) for _ in range(size.blocks))
        self.last = nn.Linear(size.width, 1)
        self.to(device=device, dtype=dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[rows, 16] to [rows, 1]."""
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        found: torch.Tensor = self.last(x)
        return found


class Problem:
    """A regression whose batches depend on their number only."""

    def __init__(self, size: Size, device: str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        self.size, self.device, self.dtype = size, device, dtype
        self.model = Tower(size, device, dtype)

    def batch(self, number: int) -> torch.Tensor:
        """The inputs of a part of a batch."""
        made = torch.randn(self.size.rows, INPUTS, generator=torch.Generator().manual_seed(number))
        return made.to(device=self.device, dtype=self.dtype)

    def loss(self, batch: torch.Tensor, step: int) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
        """Mean square of the error of a sum of sines."""
        wanted = batch[:, :4].sin().sum(-1, keepdim=True)
        return (self.model(batch) - wanted).float().square().mean(), {}


def groups_of(model: nn.Module, config: TrainingConfig) -> list[dict[str, Any]]:
    """For torch's AdamW: parameters with weight decay, and those without."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if decays(p)], "weight_decay": config.optimizer.weight_decay},
        {"params": [p for p in parameters if not decays(p)], "weight_decay": 0.0},
    ]


def plain_losses(size: Size, config: TrainingConfig) -> list[float]:
    """What one process with torch's own AdamW and clipping finds, step by step."""
    problem = Problem(size)
    parameters = list(problem.model.parameters())
    adamw = torch.optim.AdamW(
        groups_of(problem.model, config), betas=config.optimizer.betas, eps=config.optimizer.epsilon
    )
    losses = []
    for step in range(config.steps):
        for group in adamw.param_groups:
            group["lr"] = learning_rate(config, step)
        adamw.zero_grad()
        whole = 0.0
        for number in range(step * config.micro_batches, (step + 1) * config.micro_batches):
            loss, _ = problem.loss(problem.batch(number), step)
            (loss / config.micro_batches).backward()
            whole += loss.item() / config.micro_batches
        nn.utils.clip_grad_norm_(parameters, config.clip_norm)
        adamw.step()
        losses.append(whole)
    return losses


def train(
    ranks: Ranks, size: Size, config: TrainingConfig, checkpoints: str = "", stop_after: int = 0
) -> dict[str, Any]:
    """Train a tower; what a rank knows of it.

    Returns:
        ``losses``, ``seconds``, ``times`` and ``traffic`` by step; ``held`` bytes by tier and owner at the
        end, ``complete`` those on the device when all gradients of a step were there, ``peaks`` by tier.
    """
    problem = Problem(size)
    if config.offload.folder is not None:
        config = replace(config, offload=replace(config.offload, folder=Path(config.offload.folder)))
    store = CheckpointStore(Path(checkpoints), kept=2) if checkpoints else None
    trainer = Trainer(problem.model, problem.loss, problem.batch, config, store, ranks)
    complete = _noting_states(trainer)
    reports = []
    with suppress(TrainingStopped):
        trainer.run(reports.append, (lambda: trainer.step + 1 >= stop_after) if stop_after else None)
    found = {
        "first": reports[0].step,
        "losses": [report.loss for report in reports],
        "held": {tier: trainer.ledger.held(tier) for tier in ("device", "pinned", "host", "disk")},
        "complete": complete,
        "peaks": dict(trainer.ledger.peaks()),
        "traffic": [report.traffic for report in reports],
        "seconds": [report.seconds for report in reports],
        "times": [dict(report.times) for report in reports],
    }
    trainer.close()
    return found


def _noting_states(trainer: Trainer[Any]) -> dict[str, int]:
    """Bytes on the device by owner, filled in at every step before the gradients are used up."""
    found: dict[str, int] = {}
    finish = trainer.engine.finish

    def noting() -> float:
        norm = finish()
        found.update(trainer.ledger.held("device"))
        return norm

    trainer.engine.finish = noting  # type: ignore[method-assign]
    return found


def farthest(found: list[float], wanted: list[float]) -> float:
    """The largest difference of two lists of losses; infinite where one is not a number."""
    differences = [abs(a - b) for a, b in zip(found, wanted, strict=True)]
    return math.inf if any(math.isnan(one) for one in differences) else max(differences)


def middle(values: list[float]) -> float:
    """The median without the first, which warms up."""
    return statistics.median(values[1:])
