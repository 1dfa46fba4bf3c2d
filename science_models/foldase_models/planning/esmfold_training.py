"""What ESMFold holds and does in training, after ``foldase_models/folding/esmfold`` and its recipe.

Shapes: N residues of one example, P pairs of them, L = N + 2 tokens and D channels of the language model, c_s
and c_z channels of sequence and pair representation.
"""

from __future__ import annotations

from dataclasses import dataclass

from foldase_models.folding.esmfold.config import TOKENS, EsmFoldConfig
from foldase_models.planning import tensors
from foldase_models.planning.esmfold import RECYCLE_BINS, EsmFoldCost, pair_dims
from foldase_models.planning.forms import WIDE, Forms
from foldase_models.planning.kept_layers import KeptLayers, Work, mixed_item
from foldase_models.planning.parameters import AGAIN
from foldase_models.planning.stages import Segment, Stage, activations_of, block, recomputed
from foldase_models.planning.structure_training import (
    LDDT_BINS,
    LETTERS,
    PAIR_BINS,
    PLACES,
    USUAL_LOSSES,
    Compared,
    gradients_of_pairs,
    losses,
    structure_module,
)
from foldase_models.planning.tensors import Tensors, Unit, linear, matrix, norm, table, vector
from foldase_models.planning.trainees import Activations, Device, Part

LANGUAGE = "language model"
SECONDS_PER_BLOCK, SECONDS_PER_PLACING = 0.003, 0.004
"""Of the many small operations of a pass through a block, or of the structure module: an estimate."""


@dataclass(frozen=True, slots=True)
class EsmFoldTrainee:
    """ESMFold as a training sees it; ``rows`` of a part are none.

    Attributes:
        config: of the model.
        checkpoint: as in ``ForwardOptions``.
        losses: names of those that count.
        hidden: whether letters are hidden and told.
    """

    config: EsmFoldConfig
    checkpoint: bool = False
    losses: frozenset[str] = USUAL_LOSSES
    hidden: bool = True
    kind = "esmfold"

    def units(self) -> tuple[Unit, ...]:
        """See :class:`Trainee`; the language model is not trained."""
        config, trunk = self.config, self.config.trunk
        D, c_s, c_z = config.language.hidden_size, trunk.c_s, trunk.c_z
        first = norm(D) + linear(D, c_s) + linear(c_s, c_s)
        first += table(TOKENS, c_s) if config.embed_aa else ()
        around = norm(c_s) + norm(c_z) + table(RECYCLE_BINS, c_z)
        behind = linear(c_s, config.structure.c_s) + linear(c_z, config.structure.c_z)
        lddt, width = config.structure.c_s, config.lddt_width
        heads = 2 * linear(c_z, PAIR_BINS) + linear(c_s, TOKENS) + norm(lddt)
        heads += linear(lddt, width) + linear(width, width) + linear(width, PLACES * LDDT_BINS)
        return (
            Unit("shares of layers", vector(config.language.num_hidden_layers + 1)),
            Unit(LANGUAGE, self._language(), trained=False),
            Unit("embedding", first + table(2 * trunk.position_bins + 2, c_z)),
            *(Unit(f"block {number}", self._block(), repeats=True) for number in range(trunk.no_blocks)),
            Unit("recycling", around),
            tensors.structure_module(config.structure),
            Unit("heads", behind + heads),
        )

    def _language(self) -> Tensors:
        config = self.config.language
        D, inner = config.hidden_size, config.intermediate_size
        tables = table(config.vocab_size, D)
        if config.position_embedding_type == "absolute":
            tables += table(config.max_position_embeddings, D)
        tables += norm(D) if config.emb_layer_norm_before else ()
        layer = 4 * linear(D, D) + norm(D) + linear(D, inner) + linear(inner, D) + norm(D)
        contacts = linear(config.num_hidden_layers * config.num_attention_heads, 1)
        return tables + config.num_hidden_layers * layer + norm(D) + contacts

    def _block(self) -> Tensors:
        trunk, dims = self.config.trunk, pair_dims(self.config.trunk)
        c_s, c_z = trunk.c_s, trunk.c_z
        sequence = norm(c_s) + norm(c_s) + linear(c_s, c_z) + linear(c_z, c_z)
        sequence += norm(c_z) + matrix(c_z, trunk.sequence_heads)
        sequence += matrix(c_s, 3 * c_s) + 2 * linear(c_s, c_s)
        pairs = tensors.triangles(c_z, dims.c_hidden_mul, dims.no_heads_pair, c_z)
        return sequence + pairs + tensors.transition(c_s, 4) + tensors.transition(c_z, 4)

    def activations(self, part: Part, item: int, device: Device) -> Activations:
        """See :class:`Trainee`; follows the layers in float32, in other dtypes as :func:`mixed_item` says.

        Structure module and losses are float32 always.
        """
        layers = KeptLayers(device, item)
        own = [self._ahead(layers, part)]
        own += self.config.trunk.no_blocks * [self._segment(layers, part.length)]
        own += [Segment((Stage(kept=part.length**2 * self.config.trunk.c_z),))]
        scaled = [segment.times(mixed_item(item, device)) for segment in own]
        scaled += [segment.times(WIDE) for segment in self._behind(part.length)]
        return activations_of(scaled, part.examples)

    def flops(self, part: Part) -> float:
        """See :class:`Trainee`; a backward pass costs two forward ones, half of the passes are drawn."""
        work = EsmFoldCost(self.config).work(part.length, Forms(), recycles=0)
        once = work[LANGUAGE]
        each = sum(count for name, count in work.items() if name not in (LANGUAGE, AGAIN))
        return part.examples * (once + part.forward_passes * each)

    def overhead(self, part: Part) -> float:
        """See :class:`Trainee`."""
        each = self.config.trunk.no_blocks * SECONDS_PER_BLOCK
        each += self.config.structure.no_blocks * SECONDS_PER_PLACING
        return part.examples * part.forward_passes * each

    def _ahead(self, layers: KeptLayers, part: Part) -> Segment:
        """The language model's states, which stay for the shares of its layers, and the first pairs."""
        language, trunk, N = self.config.language, self.config.trunk, part.length
        state = (N + 2) * language.hidden_size
        states = (language.num_hidden_layers + 1) * state
        known = Stage(kept=states + 2 * state + 3 * N * trunk.c_s, forward=2 * states, backward=2 * state)
        fed_back = part.passes > 1

        def of_rows(taken: int) -> Work:
            count = taken * N
            # Statistics of the norm, places of offsets and of distances.
            kept = count * (6 if fed_back else 4)
            return Work(kept, 3 * count * trunk.c_z, 2 * count * trunk.c_z)

        first = layers.by_rows(N, N * trunk.c_z, N * trunk.c_z, of_rows, argument=fed_back)
        return Segment((known, first))

    def _segment(self, layers: KeptLayers, N: int) -> Segment:
        """One block of the trunk."""
        trunk, dims = self.config.trunk, pair_dims(self.config.trunk)
        c_s, c_z, pairs = trunk.c_s, trunk.c_z, N * N * trunk.c_z
        bias = layers.pair_bias(N, c_z, trunk.sequence_heads, own=True)
        attention = layers.attention(1, N, c_s, trunk.sequence_heads, trunk.sequence_head_width, bias=True)
        stages = (
            bias,
            attention.beside(pairs),
            layers.transition(N, c_s, 4 * c_s).beside(pairs),
            self._to_pairs(layers, N),
            *layers.triangles(dims, N, dropped=bool(trunk.dropout)),
            layers.transition(N * N, c_z, 4 * c_z),
        )
        if trunk.dropout:
            stages += (Stage(kept=N * N * c_z, forward=2 * pairs, backward=2 * pairs),)
        arguments = N * c_s + pairs
        if self.checkpoint:
            stages = (recomputed(arguments, stages, results=arguments),)
        return block(arguments, stages)

    def _to_pairs(self, layers: KeptLayers, N: int) -> Stage:
        """``SequenceToPair``: the weights of each row, which the product is taken with."""
        trunk = self.config.trunk
        inner = trunk.c_z // 2

        def of_rows(taken: int) -> Work:
            pairs = taken * N * trunk.c_z
            return Work(taken * trunk.c_z * inner, 2 * pairs, 4 * pairs)

        stage = layers.by_rows(N, N * trunk.c_z, N * trunk.c_z, of_rows, argument=False)
        return Stage(
            kept=stage.kept + N * (2 * trunk.c_s + 4 * trunk.c_z),
            forward=stage.forward,
            backward=stage.backward,
        )

    def _behind(self, N: int) -> tuple[Segment, ...]:
        """Structure module, heads and losses."""
        config, forms = self.config, Forms()
        seen = Compared(
            residues=N,
            blocks=config.structure.no_blocks,
            rated=PLACES,
            rows=int(self.hidden),
            errors=True,
            resolved=False,
        )
        rated, pairs = N * PLACES * LDDT_BINS, N * N * PAIR_BINS
        waiting = N * N * gradients_of_pairs(self.losses, seen)
        heads = (
            Stage(
                kept=N * (config.structure.c_s + 2 + 2 * config.lddt_width),
                shown=rated + N * PLACES,
                forward=2 * rated,
                backward=rated + N * N * config.trunk.c_z,
            ),
            # Logits both ways are summed and halved.
            Stage(shown=pairs, forward=2 * pairs, backward=waiting + 2 * pairs + N * N * config.trunk.c_z),
            Stage(shown=pairs + N * LETTERS * self.hidden, backward=waiting + N * N * config.trunk.c_z),
        )
        placed = structure_module(config.structure, forms, N)
        return (*placed, Segment((*heads, *losses(self.losses, seen, forms))))
