"""What ranks have each for itself between two exchanges, in checkpoints: for as many ranks, and for others.

Beside the weights and moments that all have in common there are errors of compression, and where ranks had
moved on alone what was pending on each, with its own first moment and the weights at the last exchange. As
many ranks go on with exactly that. Other numbers of ranks begin with the mean weights, and every one of them
with the mean of the workers' errors plus the servers': what they send from then on has the same mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch

from foldase_models.training.optim.alone import Alone, Span
from foldase_models.training.optim.compressed import CompressedMean
from foldase_models.training.optim.gradient_noise import GradientNoise
from foldase_models.training.optim.moments import Denominator
from foldase_models.training.optim.policies import Course
from foldase_models.training.ranks import Ranks
from foldase_models.training.shards import FIRST_MOMENT, WEIGHTS, FlatShard, absent, part
from foldase_models.training.zero.layout import Bucket, Entry

WORKER_ERROR, SERVER_ERROR = "worker_error", "server_error"
PENDING, OWN_MOMENT, ANCHOR = "pending", "own_exp_avg", "anchor"
"""Kinds of state; all but the second and the last come with the number of a rank."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Plain values beside the state.

    Attributes:
        kind: of the optimizer.
        ranks: that saved.
        course: of its policy.
        spans: of the buckets that decay, and of those that do not.
        pending_steps: since the last exchange.
        kept: share of the average that is left since it took in weights.
        lost: gradients of single ranks that were not finite.
        errors: whether there are errors of compression.
        noise: of gradients.
    """

    kind: str
    ranks: int
    course: Course
    spans: Mapping[bool, Span]
    pending_steps: int
    kept: float
    lost: int
    errors: bool
    noise: GradientNoise

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        spans = [asdict(self.spans[decays]) for decays in (True, False)]
        simple = ("kind", "ranks", "pending_steps", "kept", "lost", "errors")
        return {name: getattr(self, name) for name in simple} | {
            "course": self.course.to_json(),
            "spans": spans,
            "noise": asdict(self.noise),
        }

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Progress:
        """What :meth:`to_json` gave."""
        decaying, others = (Span(**span) for span in plain["spans"])
        changed = {
            "course": Course.from_json(plain["course"]),
            "spans": {True: decaying, False: others},
            "noise": GradientNoise(**plain["noise"]),
        }
        return cls(**{**plain, **changed})


@dataclass(frozen=True, slots=True)
class RankState:
    """One rank's, bucket by bucket.

    Attributes:
        ranks: of the training.
        buckets: whole ones.
        alone: what a rank has of each.
        means: their compression.
    """

    ranks: Ranks
    buckets: Sequence[Bucket]
    alone: Sequence[Alone]
    means: Sequence[CompressedMean]

    def saved(self) -> dict[str, FlatShard]:
        """Errors of compression, by key; those of other ranks as parts without elements."""
        found: dict[str, FlatShard] = {}
        for bucket, mean in zip(self.buckets, self.means, strict=True):
            found |= self._of_ranks(WORKER_ERROR, bucket, mean.worker_error, self.ranks.size)
            found |= self._of_servers(bucket, mean)
        return found

    def saved_pending(
        self, means: Sequence[torch.Tensor], spans: Mapping[bool, Span], by: Denominator
    ) -> dict[str, FlatShard]:
        """What is pending, and in place of weights and first moments those that all have in common.

        Args:
            means: of what is pending on all ranks, for each bucket.
            spans: of the steps since the last exchange.
            by: what moments are divided by.
        """
        found: dict[str, FlatShard] = {}
        for bucket, one, mean in zip(self.buckets, self.alone, means, strict=True):
            assert one.pending is not None
            found |= self._of_ranks(PENDING, bucket, one.pending, self.ranks.size)
            found |= self._of_ranks(OWN_MOMENT, bucket, one.vectors.exp_avg, self.ranks.size)
            for entry in bucket.entries:
                own = slice(entry.start, entry.stop)
                span = spans[bucket.decays]
                found[f"{ANCHOR}/{entry.name}"] = part(one.anchor[own], entry.shape, 0)
                found[f"{WEIGHTS}/{entry.name}"] = _made(entry, partial(one.common, mean, span, by, own))
                found[f"{FIRST_MOMENT}/{entry.name}"] = _made(entry, partial(_share, mean[own], span.rates))
        return found

    def loading(self, known: Progress) -> dict[str, FlatShard]:
        """What a checkpoint's own part is written into, in place of what all have in common where needed."""
        found: dict[str, FlatShard] = {}
        same = known.ranks == self.ranks.size
        for bucket, mean in zip(self.buckets, self.means, strict=True):
            if known.errors and same:
                found |= self._of_ranks(WORKER_ERROR, bucket, mean.worker_error, known.ranks)
                found |= self._of_servers(bucket, mean)
            elif known.errors:
                found |= _folded(bucket, mean, known.ranks)
        for bucket, one in zip(self.buckets, self.alone, strict=True):
            if known.pending_steps:
                found |= self._pending(bucket, one, known.ranks) if same else _left_out(bucket, known.ranks)
        return found

    def _pending(self, bucket: Bucket, one: Alone, ranks: int) -> dict[str, FlatShard]:
        assert one.pending is not None
        found = self._of_ranks(PENDING, bucket, one.pending, ranks)
        found |= self._of_ranks(OWN_MOMENT, bucket, one.vectors.exp_avg, ranks)
        for entry in bucket.entries:
            found[f"{ANCHOR}/{entry.name}"] = part(one.anchor[entry.start : entry.stop], entry.shape, 0)
            for kind in (WEIGHTS, FIRST_MOMENT):
                found[f"{kind}/{entry.name}"] = absent(entry.shape)
        return found

    def _of_ranks(self, kind: str, bucket: Bucket, vector: torch.Tensor, ranks: int) -> dict[str, FlatShard]:
        """This rank's, whole, and nothing of the others'."""
        found = {}
        for entry in bucket.entries:
            for rank in range(ranks):
                mine = rank == self.ranks.rank
                view = part(vector[entry.start : entry.stop], entry.shape, 0) if mine else absent(entry.shape)
                found[f"{kind}/{rank}/{entry.name}"] = view
        return found

    def _of_servers(self, bucket: Bucket, mean: CompressedMean) -> dict[str, FlatShard]:
        """Every rank's chunk."""
        found = {f"{SERVER_ERROR}/{entry.name}": absent(entry.shape) for entry in bucket.entries}
        for piece in replace(bucket, ranks=self.ranks.size).pieces(self.ranks.rank):
            view = mean.server_error[piece.offset : piece.offset + piece.length]
            found[f"{SERVER_ERROR}/{piece.name}"] = part(view, piece.shape, piece.start)
        return found


def _folded(bucket: Bucket, mean: CompressedMean, ranks: int) -> dict[str, FlatShard]:
    """All errors of other ranks, into every rank's own."""
    found = {}
    for entry in bucket.entries:
        view = mean.worker_error[entry.start : entry.stop]
        found[f"{SERVER_ERROR}/{entry.name}"] = _added(entry, view, 1.0)
        for rank in range(ranks):
            found[f"{WORKER_ERROR}/{rank}/{entry.name}"] = _added(entry, view, 1.0 / ranks)
    return found


def _left_out(bucket: Bucket, ranks: int) -> dict[str, FlatShard]:
    """The weights and first moments that all have in common hold it already."""
    found = {}
    for entry in bucket.entries:
        found[f"{ANCHOR}/{entry.name}"] = absent(entry.shape)
        for kind in (PENDING, OWN_MOMENT):
            for rank in range(ranks):
                found[f"{kind}/{rank}/{entry.name}"] = absent(entry.shape)
    return found


def _added(entry: Entry, view: torch.Tensor, weight: float) -> FlatShard:
    def write(values: torch.Tensor) -> None:
        with torch.no_grad():
            view.add_(values.to(view.device), alpha=weight)

    return FlatShard(entry.shape, view.dtype, 0, entry.numel, view.detach, write)


def _made(entry: Entry, make: Any) -> FlatShard:
    def write(values: torch.Tensor) -> None:
        raise AssertionError(f"{values.numel()} numbers for what is computed when it is saved")

    return FlatShard(entry.shape, torch.float32, 0, entry.numel, make, write)


def _share(mean: torch.Tensor, rates: float) -> torch.Tensor:
    return mean / rates
