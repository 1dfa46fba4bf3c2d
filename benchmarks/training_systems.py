"""A training by torch's own means or by ours, for the same figures of each: what a rank does in it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from training_cases import Problem, Size, groups_of
from training_counts import Sent, held

from foldase_models.training import LimitsConfig, Ranks, ScheduleConfig, StepReport, Trainer, TrainingConfig
from foldase_models.training.config import learning_rate

SIZE = Size(width=256, blocks=6, rows=64)
"""3.2 million parameters."""
CONFIG = TrainingConfig(
    steps=6,
    micro_batches=2,
    average_decay=0.0,
    schedule=ScheduleConfig(warmup_steps=5),
    limits=LimitsConfig(bucket_bytes=1 << 20, collective_seconds=60.0),
)
ROUNDS = 5


@dataclass(frozen=True)
class System:
    """What trains a model.

    Attributes:
        model: as it is called from now on.
        groups: of its optimizer, whose learning rate is set before every step.
        backward: takes the loss of a micro batch, unscaled.
        update: clips, steps and clears the gradients.
    """

    model: nn.Module
    groups: list[dict[str, Any]]
    backward: Callable[[torch.Tensor], None]
    update: Callable[[], None]


def turns(names: list[str], rounds: int) -> Iterator[str]:
    """Every name once a round, in another order each time, the same on all ranks."""
    for turn in range(rounds):
        yield from random.Random(turn).sample(names, len(names))


def run(
    ranks: Ranks,
    size: Size,
    config: TrainingConfig,
    system_of: Callable[[Ranks, nn.Module, TrainingConfig], System],
    counted: bool,
) -> dict[str, Any]:
    """Train a tower by a system.

    Returns:
        ``losses`` and ``seconds`` by step; where ``counted``, which costs time, of the last step ``held``
        bytes when all its gradients were there and those that it ``sent``.
    """
    before = held() if counted else 0
    problem = Problem(size)
    system = system_of(ranks, problem.model, config)
    problem.model = system.model  # type: ignore[assignment]
    found: dict[str, Any] = {"losses": [], "seconds": []}
    with _counting(counted) as sent:
        for step in range(config.steps):
            began, sent_before = time.monotonic(), sent.bytes
            for group in system.groups:
                group["lr"] = learning_rate(config, step)
            whole = torch.zeros(())
            for part in ranks.share(config.micro_batches):
                loss, _ = problem.loss(problem.batch(step * config.micro_batches + part), step)
                whole += loss.detach() / config.micro_batches
                system.backward(loss)
                del loss
            if counted:
                found["held"] = held() - before
            system.update()
            found["sent"] = sent.bytes - sent_before
            dist.all_reduce(whole)
            found["losses"].append(whole.item())
            found["seconds"].append(time.monotonic() - began)
    return found


def _counting(counted: bool) -> AbstractContextManager[Sent]:
    return Sent() if counted else nullcontext(Sent())


def ours(ranks: Ranks, size: Size, config: TrainingConfig, counted: bool) -> dict[str, Any]:
    """The same figures of our own trainer, and the ``traffic`` of its own count."""
    before = held() if counted else 0
    problem = Problem(size)
    trainer = Trainer(problem.model, problem.loss, problem.batch, config, None, ranks)
    found: dict[str, Any] = {}
    if counted:
        _note_held(trainer, found, before)
    reports: list[StepReport] = []
    counts = [0.0]
    with _counting(counted) as sent:

        def keep(report: StepReport) -> None:
            reports.append(report)
            counts.append(sent.bytes)

        trainer.run(keep)
    trainer.close()
    return found | {
        "losses": [report.loss for report in reports],
        "seconds": [report.seconds for report in reports],
        "sent": counts[-1] - counts[-2],
        "traffic": reports[-1].traffic,
    }


def _note_held(trainer: Trainer[Any], found: dict[str, Any], before: int) -> None:
    finish = trainer.engine.finish

    def noting() -> float:
        norm = finish()
        found["held"] = held() - before
        return norm

    trainer.engine.finish = noting  # type: ignore[method-assign]


def torchs_own(ranks: Ranks, size: Size, config: TrainingConfig, name: str, counted: bool) -> dict[str, Any]:
    """Those of DDP, FSDP2, or FSDP2 with ``CPUOffloadPolicy``, by its name in ``TORCHS_OWN``."""
    return run(ranks, size, config, TORCHS_OWN[name], counted)


def ddp(ranks: Ranks, model: nn.Module, config: TrainingConfig) -> System:
    """Plain data parallelism; gradients lie in its buckets and nowhere else."""
    wrapped = nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)
    return _with_adamw(ranks, wrapped, config)


def fsdp2(ranks: Ranks, model: nn.Module, config: TrainingConfig) -> System:
    """Every block of the tower sharded, then what is left of it."""
    from torch.distributed.fsdp import OffloadPolicy

    return _sharded(ranks, model, config, OffloadPolicy())


def fsdp2_offloaded(ranks: Ranks, model: nn.Module, config: TrainingConfig) -> System:
    """The same with its offload, which has nowhere else to go on the CPU."""
    from torch.distributed.fsdp import CPUOffloadPolicy

    return _sharded(ranks, model, config, CPUOffloadPolicy(pin_memory=False))


def _sharded(ranks: Ranks, model: nn.Module, config: TrainingConfig, policy: Any) -> System:
    from torch.distributed.fsdp import fully_shard

    for block in model.blocks:  # type: ignore[union-attr]
        fully_shard(block, offload_policy=policy)
    fully_shard(model, offload_policy=policy)
    return _with_adamw(ranks, model, config)


def _with_adamw(ranks: Ranks, model: nn.Module, config: TrainingConfig) -> System:
    adamw = torch.optim.AdamW(
        groups_of(model, config), betas=config.optimizer.betas, eps=config.optimizer.epsilon, fused=True
    )

    def backward(loss: torch.Tensor) -> None:
        (loss * (ranks.size / config.micro_batches)).backward()  # gradients are averaged over the ranks

    def update() -> None:
        nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        adamw.step()
        adamw.zero_grad()

    return System(model, adamw.param_groups, backward, update)


TORCHS_OWN = {"ddp": ddp, "fsdp2": fsdp2, "fsdp2, CPUOffloadPolicy": fsdp2_offloaded}
