"""What the language decoder holds and does in training, after ``foldase_models/language/decoder``.

Shapes: T tokens of one part of the batch, D channels, H heads of queries and G of keys, W channels each,
F channels inside of a transition, V tokens of the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

from foldase_models.language.decoder.config import DecoderConfig
from foldase_models.planning.cpu_kernels import ATTENTION_QUERIES, ATTENTION_TILE, SMALL_SCORES
from foldase_models.planning.forms import WIDE, ceil_div
from foldase_models.planning.tensors import Tensors, Unit, matrix, numel, table, vector
from foldase_models.planning.trainees import Activations, Device, Part

SECONDS_PER_BLOCK = 0.001
"""Of the many small operations of a pass through a block, about."""


@dataclass(frozen=True, slots=True)
class DecoderTrainee:
    """Of one configuration."""

    config: DecoderConfig
    kind = "decoder"

    def units(self) -> tuple[Unit, ...]:
        """Embedding, blocks, last norm and head."""
        config = self.config
        D = config.hidden_size
        tokens = table(config.vocab_size, D)
        found = [Unit("embedding", tokens)]
        found += [
            Unit(f"block {number}", self.block(), repeats=True) for number in range(config.num_hidden_layers)
        ]
        head = () if config.tie_word_embeddings else tokens
        return (*found, Unit("norm and head", vector(D) + head))

    def block(self) -> Tensors:
        """Parameters of one block, in the order of its modules."""
        config = self.config
        D, F = config.hidden_size, config.intermediate_size
        own, shared = self._own, config.num_key_value_heads * config.head_width
        attention = matrix(D, own) + 2 * matrix(D, shared) + matrix(own, D)
        return attention + 2 * matrix(D, F) + matrix(F, D) + 2 * vector(D)

    def activations(self, part: Part, item: int, device: Device) -> Activations:
        """See :class:`Trainee`; counted on a CPU, float32 exactly, bfloat16 under autocast likewise.

        The peak lies where the backward pass begins, or in that of the last block: in its transition or in
        its attention, when what came after them is gone already.
        """
        config, own = self.config, self._own
        T, D, F, V = (
            part.examples * part.length,
            config.hidden_size,
            config.intermediate_size,
            config.vocab_size,
        )
        norms = 4 * WIDE + 2 * item
        block = T * (norms * D + item * (4 * own + 4 * F) + WIDE * (config.num_attention_heads + 2))
        ends = T * ((2 * WIDE + item) * D + WIDE * (V + 1)) + WIDE * part.length * config.head_width
        ended = T * ((4 * WIDE + item) * D + 4 * item * F + WIDE * V)
        working = max(
            2 * WIDE * T * V,
            T * (2 * item * F - 2 * WIDE * D - WIDE * V),
            self._attention_backward(part, item, device) - ended,
        )
        layers = config.num_hidden_layers
        return Activations(
            kept=layers * block + ends,
            block=block,
            working=working,
            recomputed=layers * item * T * D + ends + block + working,
        )

    def flops(self, part: Part) -> float:
        """See :class:`Trainee`."""
        T = part.examples * part.length
        config = self.config
        weights = config.num_hidden_layers * numel(self.block()) + config.vocab_size * config.hidden_size
        # Of the scores only those up to a token's own count.
        scores = 2.0 * config.num_hidden_layers * T * part.length * self._own
        return 3.0 * (2.0 * T * weights + scores)

    def overhead(self, part: Part) -> float:  # of the protocol
        """See :class:`Trainee`."""
        return 3 * self.config.num_hidden_layers * SECONDS_PER_BLOCK

    def _attention_backward(self, part: Part, item: int, device: Device) -> int:
        """Bytes around attention in the backward pass, gradients of its inputs included."""
        rows, length, heads = part.examples, part.length, self.config.num_attention_heads
        width, own = self.config.head_width, part.examples * part.length * self._own
        if device == "gpu":
            return 8 * item * own
        if WIDE * rows * heads * length**2 <= SMALL_SCORES:
            # With one row the heads already lie as matrices.
            copies = 10 * WIDE + 2 * item if rows > 1 or item != WIDE else 8 * WIDE
            return 2 * WIDE * rows * heads * length**2 + copies * own
        step = min(length, ATTENTION_QUERIES)
        taken = ceil_div(rows, ceil_div(rows * heads * step * length * WIDE, ATTENTION_TILE))
        scratch = length * (6 * width + 9) + step * (width + 2) + 2 * step * length
        return WIDE * taken * heads * scratch + WIDE * step * length + 8 * item * own

    @property
    def _own(self) -> int:
        return self.config.num_attention_heads * self.config.head_width
