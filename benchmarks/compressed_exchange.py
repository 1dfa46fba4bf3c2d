"""A mean of which one bit a number travels: its bytes, what becomes of the rest, and heavy tails.

Bytes are those that the collectives of real ranks count.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from typing import Any

import torch
from rank_processes import Gang

from foldase_models.training import OptimizerConfig, Ranks, TrainingConfig
from foldase_models.training.clock import Clock
from foldase_models.training.collectives import Collectives
from foldase_models.training.config import CompressionConfig
from foldase_models.training.ledger import Ledger
from foldase_models.training.optim.compressed import CompressedMean
from foldase_models.training.surroundings import Surroundings

GANGS = (2, 3, 4)
BLOCK = 4096
"""Numbers that share a scale."""
LARGE = 3 << 20
"""Numbers whose bytes are counted; every gang shares them out evenly."""
MOST_SENT = 1 / 31
"""Of float32: a bit of 32, and the scales."""
EXCHANGES, EXCHANGED = 50, 24 * BLOCK
CONSERVED = 1e-5
TAIL_BLOCKS, LARGE_ONES, TIMES_LARGER = 4, 40, 1000.0
"""A vector with a heavy tail: in each block so many numbers are that much larger than the others."""
CONTRACTED = 0.999
MANY = 200
"""Exchanges of new vectors, after which errors have long been as large as they become."""


def exchange() -> Iterator[dict[str, Any]]:
    """Bytes and sums for each number of ranks, then heavy tails on two."""
    for ranks in GANGS:
        with Gang(ranks, deadline=60.0) as gang:
            yield _volume(gang.run(volume, LARGE))
            yield from _sums(gang.run(exchanges, EXCHANGED, EXCHANGES))
    with Gang(2, deadline=60.0) as gang:
        once = gang.run(errors, EXCHANGES, False)[0]
        anew = gang.run(errors, MANY, True)[0]
    yield from heavy_tails(once, anew)


def mean_of(ranks: Ranks, numel: int) -> tuple[CompressedMean, Collectives]:
    """Of vectors [numel], every number of which travels; and what counts their bytes."""
    optimizer = OptimizerConfig(
        kind="one_bit_adam", compression=CompressionConfig(freeze_step=1, block=BLOCK)
    )
    collectives, clock = Collectives(ranks), Clock()
    config = TrainingConfig(steps=2, optimizer=optimizer)
    mean = CompressedMean("vector", numel, Surroundings(config, collectives, Ledger(ranks.device), clock))
    mean.send_where(torch.ones(numel))
    return mean, collectives


def volume(ranks: Ranks, numel: int) -> tuple[float, float]:
    """Bytes that a compressed mean and a float32 all-reduce of one vector send."""
    mean, collectives = mean_of(ranks, numel)
    _exchanged(mean, torch.randn(numel), torch.empty(numel))
    compressed = collectives.traffic.bytes
    collectives.all_reduce("vector", torch.randn(numel)).wait()
    collectives.close()
    return compressed, collectives.traffic.bytes - compressed


def exchanges(ranks: Ranks, numel: int, count: int) -> dict[str, Any]:
    """One mean after the other, of new vectors.

    Returns:
        float64 sums [numel] of what was ``given`` here and of what arrived, ``sent``; at the end what is kept
        of the ``own`` values [numel] and of the ``means`` [numel / ranks]; ``digests`` of each result.
    """
    mean, collectives = mean_of(ranks, numel)
    generator = torch.Generator().manual_seed(ranks.rank)
    given, sent = torch.zeros(numel, dtype=torch.float64), torch.zeros(numel, dtype=torch.float64)
    arrived, digests = torch.empty(numel), []
    for _ in range(count):
        values = torch.randn(numel, generator=generator)
        _exchanged(mean, values, arrived)
        given += values
        sent += arrived
        digests.append(hashlib.sha256(arrived.numpy().tobytes()).hexdigest())
    collectives.close()
    kept = {"own": mean.worker_error.double(), "means": mean.server_error.double()}
    return {"given": given, "sent": sent, "digests": digests, **kept}


def errors(ranks: Ranks, count: int, new: bool) -> list[float]:
    """Norms of what this rank keeps of its values, in norms of the first vector, that one included.

    After it comes nothing, or where ``new`` says so, one like it in each exchange.
    """
    generator = torch.Generator().manual_seed(ranks.rank)
    first = heavy_tailed(TAIL_BLOCKS, generator)
    mean, collectives = mean_of(ranks, first.numel())
    arrived = torch.empty_like(first)
    found = [1.0]
    values = first
    for _ in range(count):
        _exchanged(mean, values, arrived)
        found.append(float(mean.worker_error.norm() / first.norm()))
        values = heavy_tailed(TAIL_BLOCKS, generator) if new else torch.zeros_like(first)
    collectives.close()
    return found


def errors_by_root_mean_square(count: int, new: bool) -> list[float]:
    """The same with ``norm(z) / sqrt(BLOCK)`` as the scale of a block, where no rank is needed to see it."""
    generator = torch.Generator().manual_seed(0)
    first = heavy_tailed(TAIL_BLOCKS, generator)
    kept, values, found = torch.zeros_like(first), first, [1.0]
    for _ in range(count):
        blocks = (kept + values).view(-1, BLOCK)
        scales = blocks.norm(dim=1, keepdim=True) / BLOCK**0.5
        kept = (blocks - torch.where(blocks >= 0, scales, -scales)).view(-1)
        found.append(float(kept.norm() / first.norm()))
        values = heavy_tailed(TAIL_BLOCKS, generator) if new else torch.zeros_like(first)
    return found


def heavy_tailed(blocks: int, generator: torch.Generator) -> torch.Tensor:
    """[blocks * BLOCK] normal numbers, of which a few in each block are much larger."""
    made = torch.randn(blocks, BLOCK, generator=generator)
    large = torch.rand(blocks, BLOCK, generator=generator).topk(LARGE_ONES, dim=1).indices
    return made.scatter(1, large, TIMES_LARGER * made.gather(1, large).sign()).view(-1)


def heavy_tails(once: list[float], anew: list[float]) -> Iterator[dict[str, Any]]:
    """What :func:`errors` found for one vector and for many, beside a scale that is the root mean square.

    With that one an exchange may leave more than there was to send. What it leaves is of more even magnitude
    and shrinks faster from then on, so over many exchanges it does no worse: the last two rows have no goal.
    """
    theirs = errors_by_root_mean_square(len(once) - 1, new=False)
    what = "a heavy tail: error after its exchange, in norms of the vector"
    yield {"what": what, "figure": once[1], "at_most": CONTRACTED}
    yield {"what": f"{what}, by root mean squares", "figure": theirs[1], "at_least": 1.0}
    what = "the same, then nothing: largest error after an exchange, in that before it"
    yield {"what": what, "figure": _most_growth(once), "at_most": CONTRACTED}
    yield {"what": f"{what}, by root mean squares", "figure": _most_growth(theirs), "at_least": 1.0}
    theirs = errors_by_root_mean_square(len(anew) - 1, new=True)
    for name, found in (("", anew), (", by root mean squares", theirs)):
        what = f"a new one in each of {len(anew) - 1} exchanges: largest error, in norms of the first{name}"
        yield {"what": what, "figure": max(found[1:])}


def _most_growth(found: list[float]) -> float:
    return max(after / before for before, after in itertools.pairwise(found))


def _exchanged(mean: CompressedMean, values: torch.Tensor, into: torch.Tensor) -> None:
    mean.begin(values)
    mean.turn_round()
    mean.end(into)


def _volume(found: list[tuple[float, float]]) -> dict[str, Any]:
    return {
        "what": f"{len(found)} ranks: sent by a compressed mean, of float32's all-reduce",
        "figure": max(compressed / plain for compressed, plain in found),
        "at_most": MOST_SENT,
    }


def _sums(found: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    ranks = len(found)
    given = sum(one["given"] for one in found) / ranks
    kept = sum(one["own"] for one in found) / ranks + torch.cat([one["means"] for one in found])
    off = float((found[0]["sent"] + kept - given).norm() / given.norm())
    after = f"{ranks} ranks, {EXCHANGES} exchanges"
    yield {"what": f"{after}: sent and kept, off what was given", "figure": off, "at_most": CONSERVED}
    share = float(kept.norm() / given.norm())
    yield {"what": f"{after}: kept, of what was given", "figure": share}
    differ = sum(len(set(one)) > 1 for one in zip(*(one["digests"] for one in found), strict=True))
    yield {"what": f"{after}: results that differ in any bit", "figure": float(differ), "at_most": 0.0}
