"""Models in which ranks go different ways, and what becomes of their training at stage 3."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from foldase_models.training import LimitsConfig, Trainer, TrainingConfig
from foldase_models.training.ranks import Ranks
from foldase_models.training.zero.units import as_unit

WIDTH = 8


class Experts(nn.Module):
    """Passes everything to one of its experts."""

    def __init__(self, count: int, inner: tuple[int, ...]) -> None:
        super().__init__()
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, inner[n % len(inner)]), nn.Linear(inner[n % len(inner)], WIDTH))
            for n in range(count)
        )

    def forward(self, x: torch.Tensor, which: tuple[int, ...]) -> torch.Tensor:
        for number in which:
            x = x + self.experts[number](x)
        return x


class Branching(nn.Module):
    """A layer of experts between two linears."""

    def __init__(self, *, one_unit: bool, inner: tuple[int, ...]) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first = nn.Linear(WIDTH, WIDTH)
        self.layer = Experts(2, inner)
        self.last = nn.Linear(WIDTH, 1)
        if one_unit:
            as_unit(self.layer)

    def forward(self, x: torch.Tensor, which: tuple[int, ...]) -> torch.Tensor:
        found: torch.Tensor = self.last(self.layer(self.first(x), which).relu())
        return found


def branching(
    ranks: Ranks, ways: tuple[tuple[int, ...], ...], one_unit: bool, inner: tuple[int, ...], stage: int
) -> list[float]:
    """Three steps in which part ``p`` of a batch passes the experts of ``ways[p]``, one part a rank."""
    model = Branching(one_unit=one_unit, inner=inner)
    config = TrainingConfig(
        steps=3,
        micro_batches=len(ways),
        stage=stage,  # type: ignore[arg-type]
        limits=LimitsConfig(collective_seconds=ranks.deadline_seconds),
    )

    def batch_of(number: int) -> tuple[torch.Tensor, tuple[int, ...]]:
        x = torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(number))
        return x, ways[number % len(ways)]

    def loss(batch: tuple[torch.Tensor, tuple[int, ...]], step: int) -> Any:
        value = model(*batch).square().mean()
        return value, {}

    trainer = Trainer(model, loss, batch_of, config, ranks=ranks)
    losses: list[float] = []
    trainer.run(lambda report: losses.append(report.loss))
    trainer.close()
    return losses
