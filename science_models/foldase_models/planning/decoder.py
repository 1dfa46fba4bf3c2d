"""What the language decoder holds and does in training, after ``foldase_models/language/decoder``.

Shapes: T tokens of one part of the batch, D channels, H heads of queries and G of keys, W channels each,
F channels inside of a transition, V tokens of the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

from foldase_models.language.decoder.config import DecoderConfig
from foldase_models.planning.forms import WIDE
from foldase_models.planning.tensors import Tensors, Unit, matrix, numel, vector
from foldase_models.planning.trainees import Activations, Part


@dataclass(frozen=True, slots=True)
class DecoderTrainee:
    """Of one configuration."""

    config: DecoderConfig
    kind = "decoder"

    def units(self) -> tuple[Unit, ...]:
        """Embedding, blocks, last norm and head."""
        config = self.config
        D = config.hidden_size
        table = matrix(config.vocab_size, D)
        found = [Unit("embedding", table)]
        found += [Unit(f"block {number}", self.block()) for number in range(config.num_hidden_layers)]
        head = () if config.tie_word_embeddings else table
        return (*found, Unit("norm and head", vector(D) + head))

    def block(self) -> Tensors:
        """Parameters of one block, in the order of its modules."""
        config = self.config
        D, F = config.hidden_size, config.intermediate_size
        own, shared = self._own, config.num_key_value_heads * config.head_width
        attention = matrix(D, own) + 2 * matrix(D, shared) + matrix(own, D)
        return attention + 2 * matrix(D, F) + matrix(F, D) + 2 * vector(D)

    def activations(self, part: Part, item: int) -> Activations:
        """See :class:`Trainee`."""
        config = self.config
        T, D, F, V = (
            part.examples * part.length,
            config.hidden_size,
            config.intermediate_size,
            config.vocab_size,
        )
        block = T * (item * (6 * D + 4 * self._own + 4 * F) + WIDE * (config.num_attention_heads + 2))
        ends = T * (item * (3 * D + V) + WIDE * V)
        return Activations(
            kept=config.num_hidden_layers * block + ends,
            block=block,
            inputs=config.num_hidden_layers * item * T * D + ends,
            working=max(item * T * (2 * F + 2 * D), WIDE * T * V),
        )

    def flops(self, part: Part) -> float:
        """See :class:`Trainee`."""
        T = part.examples * part.length
        config = self.config
        weights = config.num_hidden_layers * numel(self.block()) + config.vocab_size * config.hidden_size
        # Of the scores only those up to a token's own count.
        scores = 2.0 * config.num_hidden_layers * T * part.length * self._own
        return 3.0 * (2.0 * T * weights + scores)

    @property
    def _own(self) -> int:
        return self.config.num_attention_heads * self.config.head_width
