"""What the contact model keeps in training, after ``foldase_models/folding/contacts`` and ``layers``.

Shapes: B proteins, S rows of the Evoformer, E rows of the outer product, N residues, c channels, H heads of
w channels, P pairs, M letters. A layer whose representation is small keeps what autograd wants, a larger one
its arguments only; each has its own idea of small. Everything counts numbers, not bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

from foldase_models.folding.contacts.config import PAIR_FEATURES, ContactModelConfig
from foldase_models.planning import cpu_kernels
from foldase_models.planning.contacts import SECONDS_PER_PASS, forward_flops, units
from foldase_models.planning.cpu_kernels import (
    ATTENTION_QUERIES,
    ATTENTION_TILE,
    SMALL_HIDDEN,
    SMALL_PRODUCTS_OUTER,
    SMALL_SCORES,
)
from foldase_models.planning.forms import SMALL, WIDE, Forms, ceil_div
from foldase_models.planning.kept_layers import SMALL_PRODUCTS
from foldase_models.planning.ledger import Ledger
from foldase_models.planning.tensors import Unit
from foldase_models.planning.trainees import Activations, Device, Part

KEPT_BY_MULTIPLICATION = 11
"""Tensors like z of a triangle multiplication that is computed at once, its argument apart."""
SHARE_OF_PAIRS = 0.45
"""Of all pairs, those that the loss looks at: above the diagonal, and not the nearest."""


@dataclass(frozen=True, slots=True)
class ContactTrainee:
    """The contact model as a training sees it; ``rows`` of a part are those whose covariance it sees."""

    config: ContactModelConfig
    kind = "contacts"

    def units(self) -> tuple[Unit, ...]:
        """See :class:`Trainee`."""
        return units(self.config)

    def activations(self, part: Part, item: int, device: Device) -> Activations:
        """See :class:`Trainee`; follows the layers in float32, other dtypes in proportion."""
        kept = _Kept(self.config, part, device)
        blocks = self.config.blocks
        block = kept.msa_block() + kept.pair_block()
        around = kept.embedding() + kept.heads()
        # Nothing reads the alignment that leaves the last block, so what it kept dies when the block ends.
        last = kept.last_alignment()
        whole = blocks * block - last + around
        forward = last - kept.heads() + kept.attention_forward() + kept.P * self.config.width
        backward = kept.attention_backward() - kept.heads() + kept.P * self.config.width
        losses = kept.P * (5 * self.config.distance_bins + self.config.width)
        inputs = blocks * (kept.P + kept.M) * self.config.width
        working = max(forward, backward, losses)
        return Activations(
            kept=round(item * whole),
            block=round(item * block),
            working=round(item * working),
            recomputed=round(item * (inputs + around + block + working)),
        )

    def flops(self, part: Part) -> float:
        """See :class:`Trainee`; a backward pass costs two forward ones, half of the passes are drawn."""
        return part.forward_passes * part.examples * forward_flops(self.config, part.length, part.rows)

    def overhead(self, part: Part) -> float:
        """See :class:`Trainee`."""
        return part.forward_passes * self.config.blocks * SECONDS_PER_PASS


class _Kept:
    """Numbers that layers keep for the backward pass."""

    def __init__(self, config: ContactModelConfig, part: Part, device: Device) -> None:
        self.config, self.part = config, part
        B, N = part.examples, part.length
        S = config.sequences if config.inputs == "letters" else 0
        self.P, self.M, self.X = B * N * N, B * S * N, B * part.rows * N
        self.inner = config.heads * config.head_width
        self.at_once = device == "cpu"

    def small(self, numbers: int, limit: int) -> bool:
        """Whether a layer keeps what autograd wants: kernels of a GPU never do."""
        return self.at_once and WIDE * numbers <= limit

    def attention(self, positions: int) -> int:
        """The representation; and where it is small its norm, projections, result and sums."""
        c = self.config.width
        more = c + 5 * self.inner + self.config.heads + 2
        return positions * (c + (more if self.small(positions * c, SMALL) else 0))

    def bias(self) -> int:
        """Of pairs, for attention."""
        c = self.config.width
        return self.P * (self.config.heads + (c + 2 if self.small(self.P * c, SMALL) else 0))

    def transition(self, positions: int) -> int:
        """The representation, its norm and the hidden layer."""
        c, n = self.config.width, self.config.transition_n
        more = c + n * c + 2 if self.small(positions * n * c, SMALL_HIDDEN) else 0
        return positions * (c + more)

    def outer_product(self, letters: int) -> int:
        """Both factors with their norms, and the products."""
        c, o = self.config.width, self.config.outer_width
        kept = letters * (2 * o + (2 * (c + 2) if self.small(letters * c, SMALL) else 0))
        return kept + (self.P * o * o if self.small(self.P * max(o * o, c), SMALL_PRODUCTS_OUTER) else 0)

    def last_alignment(self) -> int:
        """What a block keeps for the alignment that leaves it."""
        if self.config.inputs == "couplings":
            return 0
        return self.bias() + 2 * self.attention(self.M) + self.transition(self.M)

    def msa_block(self) -> int:
        """The part of a block that sees the alignment."""
        return 0 if self.config.inputs == "couplings" else self.outer_product(self.M) + self.last_alignment()

    def pair_block(self) -> int:
        """The part that sees pairs, convolutions before it included."""
        c = self.config.width
        more = KEPT_BY_MULTIPLICATION * c + 4 if self.small(self.P * c, SMALL_PRODUCTS) else 0
        kept = 2 * self.P * (c + more) + 2 * (self.bias() + self.attention(self.P)) + self.transition(self.P)
        return kept + self.config.convolutions * self.P * (3 * c + 2)

    def embedding(self) -> int:
        """Of letters, or of features of pairs."""
        c = self.config.width
        if self.config.inputs == "couplings":
            return self.P * (PAIR_FEATURES + 2 * c)
        return self.X * (c + 2) + self.outer_product(self.X) + 2 * self.M

    def heads(self) -> int:
        """Norms, the distogram, and its pairs in the loss."""
        bins = self.config.distance_bins
        return round(self.P * (4 * self.config.width + (1 + SHARE_OF_PAIRS) * bins))

    def attention_forward(self) -> int:
        """Scratch of a triangle attention."""
        if not self.at_once:
            return self.P * self.inner
        ledger, config, N = Ledger(), self.config, self.part.length
        call = cpu_kernels.Attention(
            rows=self.part.examples * N,
            heads=config.heads,
            queries=N,
            keys=N,
            width=config.head_width,
            mask=False,
        )
        cpu_kernels.attention(ledger, Forms(), call)
        return ledger.peak // WIDE

    def attention_backward(self) -> int:
        """Scratch of the backward pass of a triangle attention, and gradients on their way."""
        N, H, w = self.part.length, self.config.heads, self.config.head_width
        rows = self.part.examples * N
        if not self.at_once:
            return 5 * self.P * self.inner
        if WIDE * rows * H * N**2 <= SMALL_SCORES:
            return 2 * rows * H * N**2 + (12 if H > 1 else 8) * self.P * self.inner
        step = min(N, ATTENTION_QUERIES)
        taken = ceil_div(rows, ceil_div(rows * H * step * N * WIDE, ATTENTION_TILE))
        scratch = N * (6 * w + 9) + step * (w + 2) + 2 * step * N
        return taken * H * scratch + H * step * N + 4 * self.P * self.inner
