"""How many parameters train under a cap of memory, and what becomes of a branch that one rank leaves out."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import training_cases as cases
from rank_processes import Gang, Outcome
from torch import nn
from training_cases import Size

from foldase_models.errors import ModelError
from foldase_models.training import LimitsConfig, OffloadConfig, Ranks, Trainer, TrainingConfig

CAP = 256 << 20
BUCKET = 4 << 20
WIDTH, ROWS = 512, 4
TIMES_PLAIN = 8.0
STEPS = 20
LOSS_TOLERANCE = 1e-5
MOST_DEVICE_BYTES = 4.0
"""A parameter, with bf16 weights and the optimizer on the CPU."""
PADDING = 2 * 64
"""Bytes of a bucket of weights and of gradients, at most."""
DEADLINE_SECONDS = 60.0


def config_of(steps: int, **changes: Any) -> TrainingConfig:
    """What the cases have in common."""
    limits = LimitsConfig(bucket_bytes=BUCKET, collective_seconds=300.0, memory_bytes=CAP)
    start: dict[str, Any] = {"steps": steps, "micro_batches": 2, "average_decay": 0.0, "limits": limits}
    return TrainingConfig(**(start | changes))


def capacity() -> Iterator[dict[str, Any]]:
    """Number 4: the largest tower that plain data parallelism trains under the cap, and eight times that."""
    blocks = CAP // 16 // Size(WIDTH, 1, ROWS).parameters
    while blocks and not _fits(blocks, config_of(STEPS)):
        blocks -= 1
    plain = Size(WIDTH, blocks, ROWS).parameters
    yield {
        "what": f"plain, {blocks} blocks, under {CAP >> 20} MiB a rank",
        "figure": plain / 1e6,
        "unit": "M",
    }
    with tempfile.TemporaryDirectory() as folder:
        places = OffloadConfig(optimizer="nvme", parameters="nvme", folder=Path(folder))
        many = blocks
        while Size(WIDTH, many, ROWS).parameters < TIMES_PLAIN * plain:
            many += 1
        began = time.monotonic()
        fitted = _fits(many, config_of(STEPS, stage=3, offload=places))
        large = Size(WIDTH, many, ROWS).parameters if fitted else 0
        yield {
            "what": f"on NVMe, {many} blocks, {time.monotonic() - began:.0f} s: parameters, of plain",
            "figure": large / plain,
            "at_least": TIMES_PLAIN,
        }
        small = Size(64, 4, ROWS)
        with Gang(2, deadline=DEADLINE_SECONDS) as gang:
            capped = gang.run(cases.train, small, config_of(STEPS, stage=3, offload=places), timeout=300)
            free = gang.run(
                cases.train, small, config_of(STEPS, limits=LimitsConfig(bucket_bytes=BUCKET)), timeout=300
            )
        off = cases.farthest(capped[0]["losses"], free[0]["losses"])
        yield {
            "what": "on NVMe under the cap beside uncapped: losses",
            "figure": off,
            "at_most": LOSS_TOLERANCE,
        }
    yield from _device_bytes()


def _device_bytes() -> Iterator[dict[str, Any]]:
    size = Size(256, 10, ROWS)
    config = config_of(
        3,
        precision="bfloat16",
        micro_batches=1,
        offload=OffloadConfig(optimizer="cpu"),
        limits=LimitsConfig(bucket_bytes=1 << 20),
    )
    for stage in (0, 1, 2):
        with Gang(1, deadline=DEADLINE_SECONDS) as gang:
            found = gang.run(cases.train, size, replace(config, stage=stage), timeout=300)[0]
        buckets = 2 + 4 * size.parameters // config.limits.bucket_bytes
        yield {
            "what": f"bf16, optimizer on the CPU, stage {stage}: device bytes a parameter, less padding",
            "figure": (found["peaks"]["device"] - buckets * PADDING) / size.parameters,
            "at_most": MOST_DEVICE_BYTES,
        }


def _fits(blocks: int, config: TrainingConfig) -> bool:
    with Gang(2, deadline=300.0) as gang:
        found = gang.outcomes(cases.train, Size(WIDTH, blocks, ROWS), config, timeout=900)
    if all(outcome.good for outcome in found):
        return True
    _insist_on_the_cap(found)
    return False


def _insist_on_the_cap(found: list[Outcome]) -> None:
    """Any other end than the cap's own is an error of the benchmark."""
    codes = [getattr(outcome.error, "code", None) for outcome in found]
    if "memory_cap" not in codes:
        raise RuntimeError(f"expected the cap to end the training, found {found}")


class Forked(nn.Module):
    """A model of which one rank uses a branch that the other leaves out."""

    def __init__(self, ranks: Ranks) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(8, 8)
        self.branches = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])
        self._rank = ranks.rank

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[rows, 8] to the same."""
        x = self.first(x)
        found: torch.Tensor = (
            self.branches[1](self.branches[0](x)) if self._rank == 0 else self.branches[0](x)
        )
        return found


def run_forked(ranks: Ranks, config: TrainingConfig) -> float:
    """Train the forked model; the last loss."""
    model = Forked(ranks)

    def loss(batch: torch.Tensor, _: int) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
        return model(batch).square().mean(), {}

    reports: list[Any] = []
    trainer = Trainer(model, loss, lambda _: torch.ones(4, 8), config, None, ranks)
    trainer.run(reports.append)
    return float(reports[-1].loss)


def branches() -> Iterator[dict[str, Any]]:
    """Number 6: a branch that is idle on one rank ends in a result or in an error that says so, in time."""
    for stage in (0, 1, 2, 3):
        limits = LimitsConfig(collective_seconds=10.0)
        config = config_of(3, stage=stage, limits=limits)
        began = time.monotonic()
        with Gang(2, deadline=10.0) as gang:
            found = gang.outcomes(run_forked, config, timeout=DEADLINE_SECONDS)
        told = all(one.good or isinstance(one.error, ModelError) for one in found)
        ended = "trained" if all(one.good for one in found) else "told who waits for whom" if told else "hung"
        yield {
            "what": f"idle branch at stage {stage}: {ended}; seconds until then",
            "figure": time.monotonic() - began if ended != "hung" else float("inf"),
            "unit": "s",
            "at_most": DEADLINE_SECONDS,
        }
