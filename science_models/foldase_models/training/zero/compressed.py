"""1-bit Adam and 0/1 Adam: gradients stay where they are, and signs of what a rank changed travel, if at all.

Which step exchanges what is for a policy to say (:mod:`foldase_models.training.optim.policies`):

- Whole gradients are reduced while the backward pass goes on, as at stages 0 and 1.
- With one bit a number, every rank takes its own gradient into its own momentum, and what ranks changed since
  the last exchange is averaged by :class:`foldase_models.training.optim.compressed.CompressedMean`; whether
  all of them are finite is agreed on before.
- Without exchange a rank steps alone (:mod:`foldase_models.training.optim.alone`). A gradient that is not
  finite counts as 0 then, on that rank alone; the others hear of it at the next exchange.

Clipping: a whole gradient as ever; else each rank clips its own estimate of it, ranks times its part, by that
one's norm and a limit that is larger by as much as these were longer than whole gradients
(:mod:`foldase_models.training.optim.gradient_noise`).

At stage 1 moments and average are shared out until the second moment is frozen, and gathered then, once.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from foldase_kernels.adam import square_sum
from foldase_models.errors import ModelError
from foldase_models.training.collectives import Pending
from foldase_models.training.config import check_ranks
from foldase_models.training.optim.alone import Alone, Span
from foldase_models.training.optim.compressed import CompressedMean
from foldase_models.training.optim.gradient_noise import GradientNoise
from foldase_models.training.optim.moments import Denominator, MomentStepper, take_in
from foldase_models.training.optim.policies import Exchange, make_policy
from foldase_models.training.shards import FlatShard
from foldase_models.training.surroundings import Surroundings, Update
from foldase_models.training.zero.compressed_state import Progress, RankState
from foldase_models.training.zero.layout import Bucket
from foldase_models.training.zero.replicated import ReplicatedEngine
from foldase_models.training.zero.sharded import total

_log = logging.getLogger("foldase_models")


class CompressedEngine(ReplicatedEngine):
    """Holds weights, gradients and, once they are needed, all moments on every rank."""

    stepper: MomentStepper

    def __init__(self, model: nn.Module, surroundings: Surroundings) -> None:
        """Take a model over.

        Raises:
            ModelError: ``bad_config``: there is a single rank, or the second moment would never be frozen.
        """
        config = surroundings.config
        check_ranks(config, surroundings.collectives.ranks.size)
        self._policy = make_policy(config)
        self.course = self._policy.begin()
        super().__init__(model, surroundings, shared=config.stage == 1)
        self._means: list[CompressedMean] = []
        self.alone: list[Alone] = []
        self.spans = {decays: Span() for decays in (True, False)}
        self.pending_steps, self._kept, self._lost, self._all_lost = 0, 1.0, 0, 0
        self._masked_after = -1
        self._noise, self._own_square, self._squares = GradientNoise(), 0.0, (0.0, 0.0)
        self._scale = 1.0
        self._hooks = [
            parameter.register_hook(partial(_refuse_sparse, name))  # type: ignore[no-untyped-call]
            for name, parameter in self.parameters.items()
        ]

    @property
    def communicates(self) -> bool:
        """Unless ranks step alone."""
        return self._policy.turn(self.course).exchange is not Exchange.LOCAL

    @property
    def gradients_lost(self) -> int:
        """As far as all ranks know."""
        return self._all_lost

    def backward(self, loss: torch.Tensor | None, *, last: bool) -> None:
        """Reduce with the last pass where gradients travel whole."""
        super().backward(loss, last=last and self._policy.turn(self.course).exchange is Exchange.WHOLE)

    def finish(self) -> float:
        """Of the whole gradient, or of what ranks take for it: the root of the mean of their squares.

        The latter by as much shorter as they were longer when both were known.
        """
        turn = self._policy.turn(self.course)
        ranks = self.around.collectives.ranks.size
        if turn.exchange is Exchange.WHOLE:
            return self._finish_whole(ranks)
        own = ranks**2 * sum(square_sum(gradient) for gradient in self._gradients)
        if turn.exchange is Exchange.LOCAL and not math.isfinite(own):
            for gradient in self._gradients:
                gradient.zero_()
            own, self._lost = 0.0, self._lost + 1
        longer = self._noise.longer(ranks)
        self._scale = ranks * min(1.0, longer * self.config.clip_norm / (math.sqrt(own) + 1e-6))
        if turn.exchange is Exchange.LOCAL:
            return math.sqrt(own) / longer
        known = torch.tensor([own, float(self._lost)], dtype=torch.float64)
        self.around.collectives.all_reduce("squared norms of the ranks", known).wait()
        self._lost, self._all_lost = 0, self._all_lost + int(known[1])
        return math.sqrt(float(known[0]) / ranks) / longer

    def _finish_whole(self, ranks: int) -> float:
        norm = super().finish()
        own = torch.tensor([ranks * self._own_square], dtype=torch.float64)
        self.around.collectives.all_reduce("squared norms of the ranks", own).wait()
        self._own_square, self._squares = 0.0, (norm**2, float(own))
        return norm

    def step(self, update: Update) -> None:
        """Take the step that comes next on the course."""
        turn = self._policy.turn(self.course)
        self._kept *= 1.0 if update.average_decay is None else update.average_decay
        if turn.exchange is Exchange.WHOLE:
            kept = self._policy.kept(self.course) if turn.variance else 1.0
            rest = self.course.variance_rest * kept
            self.stepper.prepare(kept=kept, rest=rest, number=self.course.step + 1)
            super().step(update)
            self._kept = 1.0
            self._noise.take_in(*self._squares, self.around.collectives.ranks.size, kept=kept)
        else:
            self._step_alone(update)
            if turn.exchange is Exchange.SYNC:
                self._exchange()
            else:
                self._show_own()
            self.begin_step()
        size = self._size() if self._policy.measures(self.course) else None
        self._policy.done(self.course, turn, size)
        if self.course.frozen:
            self._freeze()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the model has the mean of the ranks' weights, or the average with that taken in."""
        if not self.pending_steps:
            with super().averaged():
                yield
            return
        with torch.no_grad():
            for (bucket, one), weights in zip(self._states(), self._weights, strict=True):
                common = self.common(bucket, one)
                if one.vectors.average is not None:
                    common.lerp_(one.vectors.average, self._kept)
                weights.copy_(common)
        try:
            with self.forward():
                yield
        finally:
            self._show_own()

    def state(self) -> dict[str, FlatShard]:
        """Also what this rank alone has: see :mod:`foldase_models.training.zero.compressed_state`."""
        found = super().state() | self._own().saved()
        if self.pending_steps:
            means = [self.pending_mean(bucket, one) for bucket, one in self._states()]
            found |= self._own().saved_pending(means, self.spans, self._by())
        return found

    def progress(self) -> dict[str, Any]:
        """Of the course, and of what is pending."""
        return Progress(
            kind=self.config.optimizer.kind,
            ranks=self.around.collectives.ranks.size,
            course=self.course,
            spans=self.spans,
            pending_steps=self.pending_steps,
            kept=self._kept,
            lost=self._all_lost,
            errors=bool(self._means),
            noise=self._noise,
        ).to_json()

    def loading(self, values: Mapping[str, Any]) -> Mapping[str, FlatShard]:
        """What a checkpoint of this optimizer, or of AdamW, is written into.

        Raises:
            ModelError: ``bad_checkpoint``: it is of another one.
        """
        if not values:
            return super().state()
        known = Progress.from_json(values)
        if known.kind != self.config.optimizer.kind:
            return super().loading(values)
        if known.course.frozen:
            self._freeze(gather=False)
        if known.errors:
            self._need_means()
        for mean in self._means:
            mean.worker_error.zero_()
            mean.server_error.zero_()
        return super().state() | self._own().loading(known)

    @torch.no_grad()
    def take_up(self, step: int, values: Mapping[str, Any]) -> None:
        """Go on on the saved course; after AdamW on the one that it would have come to."""
        if not values:
            self.course = self._policy.after_adamw(step)
            if self.around.collectives.ranks.first:
                _log.warning(
                    "the checkpoint is of adamw: %s takes its moments over after %d steps",
                    self.config.optimizer.kind,
                    step,
                )
        else:
            known = Progress.from_json(values)
            self.course, self._all_lost, self._kept = known.course, known.lost, known.kept
            self._noise = known.noise
            if known.ranks == self.around.collectives.ranks.size:
                self.spans, self.pending_steps = dict(known.spans), known.pending_steps
            else:
                self._settle()
        if self.course.frozen:
            self._freeze()
        self._masked_after = -1

    @torch.no_grad()
    def loaded(self) -> None:
        """Show the model its weights."""
        if self.pending_steps:
            self._show_own()
            return
        super().loaded()
        for one in self.alone:
            one.go_on()

    @torch.no_grad()
    def weights(self, *, averaged: bool) -> dict[str, torch.Tensor]:
        """The mean of the ranks' own, or the average with that taken in."""
        if not self.pending_steps:
            return super().weights(averaged=averaged)
        found: dict[str, torch.Tensor] = {}
        for bucket, one in self._states():
            common = self.common(bucket, one)
            if averaged and one.vectors.average is not None:
                common.lerp_(one.vectors.average, self._kept)
            if self.around.collectives.ranks.first:
                for entry in bucket.entries:
                    found[entry.name] = common[entry.start : entry.stop].view(entry.shape).cpu().clone()
        return {name: found[name] for name in self.parameters if name in found}

    def close(self) -> None:
        """Let go of the model."""
        for hook in self._hooks:
            hook.remove()
        super().close()

    def reduce(self, name: str, bucket: Bucket, gradient: torch.Tensor) -> Pending:
        """Over the ranks; at stage 1 into the own slice, until all of it is needed."""
        held = self.buckets[bucket.index]
        if held.ranks == 1:
            return super().reduce(name, bucket, gradient)
        own = gradient[held.slice_of(self.rank)]
        return self.around.collectives.reduce_scatter(name, own, gradient)

    def square_sum(self) -> float:
        """Of the whole gradient."""
        own = self.stepper.square_sum()
        return own if self.buckets[0].ranks == 1 else total(self.around.collectives, own)

    @torch.no_grad()
    def pending_mean(self, bucket: Bucket, one: Alone) -> torch.Tensor:
        """The exact mean of what is pending on all ranks, a new vector; collective."""
        assert one.pending is not None
        mean = one.pending / self.around.collectives.ranks.size
        self.around.collectives.all_reduce(f"pending updates of bucket {bucket.index}", mean).wait()
        return mean

    def common(self, bucket: Bucket, one: Alone) -> torch.Tensor:
        """The exact mean of the ranks' weights, a new vector; collective."""
        return one.common(self.pending_mean(bucket, one), self.spans[bucket.decays], self._by())

    def _launch(self, bucket: Bucket) -> None:
        self._own_square += square_sum(self._gradients[bucket.index])
        super()._launch(bucket)

    def _step_alone(self, update: Update) -> None:
        """Take this rank's own gradients in."""
        optimizer = self.config.optimizer
        self._need_means()
        rate = update.rate / (1.0 - optimizer.betas[0] ** (self.course.step + 1))
        for decays, span in self.spans.items():
            span.add(rate, update.rate * optimizer.weight_decay * decays)
        for (bucket, one), gradient in zip(self._states(), self._gradients, strict=True):
            take_in(one.vectors, gradient, self._scale, optimizer)
            one.add(rate, update.rate * optimizer.weight_decay * bucket.decays)
        self.pending_steps += 1

    @torch.no_grad()
    def _exchange(self) -> None:
        """Bucket by bucket, so that one travels while another is packed."""
        if self._masked_after != self.course.variance_updates:
            self._masked_after = self.course.variance_updates
            for one, mean in zip(self.alone, self._means, strict=True):
                mean.send_where(one.vectors.exp_avg_sq)
        by = self._by()
        for (bucket, one), mean in zip(self._states(), self._means, strict=True):
            mean.begin(one.change(self.spans[bucket.decays], by))
        for mean in self._means:
            mean.turn_round()
        for (bucket, one), mean, weights in zip(self._states(), self._means, self._weights, strict=True):
            mean.end(one.vectors.exp_avg)
            one.agree(weights, self.spans[bucket.decays], by)
            if one.vectors.average is not None:
                one.vectors.average.lerp_(one.anchor, 1.0 - self._kept)
        self.pending_steps, self._kept = 0, 1.0
        self.spans = {decays: Span() for decays in self.spans}

    def _settle(self) -> None:
        """What was pending on other ranks was applied when it was saved."""
        for vectors in self.stepper.vectors:
            if vectors.average is not None:
                vectors.average.lerp_(vectors.weights, 1.0 - self._kept)
        self._kept = 1.0

    def _show_own(self) -> None:
        by = self._by()
        for (bucket, one), weights in zip(self._states(), self._weights, strict=True):
            one.show(weights, self.spans[bucket.decays], by)

    def _states(self) -> Iterator[tuple[Bucket, Alone]]:
        return zip(self.buckets, self.alone, strict=True)

    def _by(self) -> Denominator:
        return Denominator(self.course.variance_rest, self.config.optimizer.epsilon)

    def _size(self) -> float:
        """Sum of the second moment without its bias, after this step."""
        own = sum(float(vectors.exp_avg_sq.sum(dtype=torch.float64)) for vectors in self.stepper.vectors)
        every = total(self.around.collectives, own)  # alike on all ranks, to the last bit
        return every / (1.0 - self.course.variance_rest * self.config.optimizer.betas[1])

    def _need_means(self) -> None:
        if not self._means:
            self._means = [
                CompressedMean(f"bucket {bucket.index}", bucket.size, self.around) for bucket in self.buckets
            ]
        if not self.alone:
            self.alone = [Alone(vectors) for vectors in self.stepper.vectors]

    def _freeze(self, *, gather: bool = True) -> None:
        """The second moment is as it will stay: every rank needs all of it, and may step alone."""
        if self.buckets[0].ranks > 1:
            self._take_all(gather=gather)
        self._need_means()
        if self.config.optimizer.compression.longest_interval == 1:
            return
        if self.config.optimizer.kind == "zero_one_adam" and self.alone[0].pending is None:
            for one, weights in zip(self.alone, self._weights, strict=True):
                one.leave(weights, self.around.ledger)

    @torch.no_grad()
    def _take_all(self, *, gather: bool) -> None:
        """Hold all of what was shared out; the other ranks' parts of it are fetched, or will be read."""
        self._await_weights()
        before, held = self.stepper, self.buckets
        ledger, collectives = self.around.ledger, self.around.collectives
        self.buckets = tuple(replace(bucket, ranks=1) for bucket in held)
        wide = [
            weights
            if weights.dtype == torch.float32
            else ledger.zeros("device", "float32 weights", weights.numel(), torch.float32)
            for weights in self._weights
        ]
        self.stepper = MomentStepper(self.buckets, 0, wide, self.around)
        self.rank, self.alone = 0, []
        if not gather:
            return
        for bucket, old, new in zip(held, before.vectors, self.stepper.vectors, strict=True):
            pairs = [(old.weights, new.weights), (old.exp_avg, new.exp_avg), (old.exp_avg_sq, new.exp_avg_sq)]
            if old.average is not None and new.average is not None:
                pairs.append((old.average, new.average))
            for own, whole in pairs:
                collectives.all_gather(f"frozen state of bucket {bucket.index}", whole, own).wait()

    def _own(self) -> RankState:
        alone = self.alone if self._means else []
        buckets = self.buckets if self._means else ()
        return RankState(self.around.collectives.ranks, buckets, alone, self._means)


def _refuse_sparse(name: str, gradient: torch.Tensor) -> None:
    if gradient.layout is not torch.strided:
        raise ModelError(
            f"the gradient of {name} is sparse; one bit a number is sent of every number",
            code="bad_config",
            location=name,
            hint="build its embedding with sparse=False, or set optimizer.kind to adamw",
        )
