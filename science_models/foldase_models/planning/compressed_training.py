"""Optimizers that compress what they send: what a rank holds for them, and what travels in a training.

Bytes of P parameters on each of N ranks, beside weights and gradients, which are as at AdamW's stage 0: the
moments 8 P, an average 4 P, what rounding to one bit left behind 4 P (the worker's error) and 4 P / N (the
server's), messages 3 P / 8 and their scales, in mixed precision float32 weights 4 P. Where ranks step alone,
``zero_one_adam`` holds 4 P more once the second moment is frozen, the updates that are still to be sent, and
in float32 another 4 P, the weights at the last exchange; in mixed precision these are the float32 weights. At
stage 1 moments, float32 weights and average are shared out until the second moment is frozen, 1 / N of them
each. Until then errors and messages are needed at stage 0 with ``zero_one_adam`` only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from foldase_models.planning.buckets import Bucket
from foldase_models.planning.forms import WIDE
from foldase_models.training.config import TrainingConfig, check_ranks
from foldase_models.training.optim.policies import Exchange, make_policy

SCRATCH, TOGETHER = 2, 2**20
"""``training.optim.moments``: vectors that weights are moved with, and the most numbers in one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchanges:
    """What travels in a whole training.

    Attributes:
        steps: how many exchange what: ``whole``, ``sync``, ``local``.
        sent: bytes that a rank sends in a step of each kind.
        frozen: the step from which on the second moment is frozen, or will be at the earliest.
    """

    steps: Mapping[str, int]
    sent: Mapping[str, float]
    frozen: int

    @property
    def rounds(self) -> int:
        """Steps in which anything travels."""
        return sum(count for kind, count in self.steps.items() if kind != Exchange.LOCAL.value)


def compressed_states(
    buckets: Sequence[Bucket], training: TrainingConfig, *, frozen: bool = True
) -> dict[str, int]:
    """Bytes by owner, beside weights and gradients; ``frozen`` says whether the second moment is."""
    shared = training.stage > 0 and not frozen
    own = [(bucket.share if shared else bucket.size, bucket.item) for bucket in buckets]
    numel = sum(size for size, _ in own)
    apart = sum(size for size, item in own if item != WIDE)
    found = {"float32 weights": WIDE * apart, "optimizer": 2 * WIDE * numel}
    if training.average_decay:
        found["average"] = WIDE * numel
    whole = training.stage > 0 or training.optimizer.kind == "one_bit_adam"
    if whole and not frozen:
        return found
    compression = training.optimizer.compression
    found["compression errors"] = WIDE * sum(bucket.size + bucket.share for bucket in buckets)
    found["messages"] = sum(
        bucket.size // 8 + 2 * message_bytes(bucket, compression.block) for bucket in buckets
    )
    alone = training.optimizer.kind == "zero_one_adam" and compression.longest_interval > 1
    if frozen and alone:
        found["pending updates"] = WIDE * numel
        found["weights at the last exchange"] = WIDE * (numel - apart)
    return found


def held_for_moments(buckets: Sequence[Bucket], training: TrainingConfig) -> int:
    """Bytes that are there while there are no activations: of a bucket's change before it is sent.

    At stage 1 also of the shares of the state, beside all of it, when the second moment is frozen.
    """
    largest = max(bucket.size for bucket in buckets)
    change = WIDE * (largest + SCRATCH * min(largest, TOGETHER))
    if not training.stage:
        return change
    shares = compressed_states(buckets, training, frozen=False)
    later = compressed_states(buckets, training)
    return max(change, sum(shares.values()) - sum(size for name, size in later.items() if name not in shares))


def message_bytes(bucket: Bucket, block: int) -> int:
    """Of a bucket's message: for every rank's chunk a scale a block, and bits in whole words."""
    ranks = bucket.size // bucket.share
    return ranks * WIDE * (-(-bucket.share // block) + -(-bucket.share // (8 * WIDE)))


def check_exchanges(training: TrainingConfig, ranks: int) -> None:
    """Make sure that an optimizer that compresses will do so; no other is looked at.

    Raises:
        ModelError: ``bad_config``: there is one rank, or the second moment would never be frozen.
    """
    check_ranks(training, ranks)
    if training.optimizer.compresses:
        make_policy(training).first_frozen()


def count_exchanges(
    buckets: Sequence[Bucket], whole: Mapping[str, float], training: TrainingConfig, ranks: int
) -> tuple[Exchanges, dict[str, float]]:
    """What travels in a training, and the mean of a step's bytes by kind of operation.

    At stage 1 weights, moments and average are gathered once, in float32.

    Args:
        buckets: of the parameters.
        whole: bytes that a rank sends where gradients travel whole, by kind of operation.
        training: of an optimizer that compresses.
        ranks: that take part.

    Raises:
        ModelError: ``bad_config``: the second moment would never be frozen.
    """
    policy = make_policy(training)
    packed = sum(message_bytes(bucket, training.optimizer.compression.block) for bucket in buckets)
    phase = (ranks - 1) / ranks * packed
    kinds: dict[Exchange, Mapping[str, float]] = {
        Exchange.WHOLE: whole,
        Exchange.SYNC: {"all_to_all": phase, "all_gather": phase},
        Exchange.LOCAL: {},
    }
    counts = policy.counts()
    mean: dict[str, float] = {}
    if training.stage:
        vectors = 4 if training.average_decay else 3
        once = vectors * WIDE * sum(bucket.size for bucket in buckets)
        mean["all_gather"] = (ranks - 1) / ranks * once / training.steps
    for kind, sent in kinds.items():
        for operation, size in sent.items():
            mean[operation] = mean.get(operation, 0.0) + counts[kind] * size / training.steps
    made = Exchanges(
        steps={kind.value: counts[kind] for kind in kinds},
        sent={kind.value: sum(sent.values()) for kind, sent in kinds.items()},
        frozen=policy.first_frozen(),
    )
    return made, mean
