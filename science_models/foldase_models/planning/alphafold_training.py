"""What AlphaFold 2 holds and does in training, after ``foldase_models/folding/alphafold`` and its recipe.

Shapes: S rows of the alignment that the Evoformer sees, E extra rows, T templates, N residues of one example,
P pairs of them, c_m, c_z and c_t channels.
"""

from __future__ import annotations

from dataclasses import dataclass

from foldase_models.folding.alphafold.config import AlphaFoldConfig
from foldase_models.planning import tensors
from foldase_models.planning.alphafold import (
    ATOMS,
    DISTANCE_BINS,
    ERROR_BINS,
    EXTRA_FEATURES,
    LETTERS,
    MSA_FEATURES,
    PLDDT_BINS,
    TARGET_FEATURES,
    TEMPLATE_ANGLE_FEATURES,
    TEMPLATE_PAIR_FEATURES,
    AlphaFoldCost,
)
from foldase_models.planning.evoformer_training import evoformer_block, pair_stack
from foldase_models.planning.forms import WIDE, Forms
from foldase_models.planning.kept_layers import KeptLayers, Work, mixed_item
from foldase_models.planning.parameters import AGAIN
from foldase_models.planning.stages import Segment, Stage, activations_of, block
from foldase_models.planning.structure_training import (
    USUAL_LOSSES,
    Compared,
    gradients_of_pairs,
    losses,
    structure_module,
)
from foldase_models.planning.tensors import Tensors, Unit, linear, matrix, norm
from foldase_models.planning.trainees import Activations, Device, Part

SECONDS_PER_BLOCK, SECONDS_PER_PLACING = 0.005, 0.004
"""Of the many small operations of a pass through a block, or of the structure module: an estimate."""


@dataclass(frozen=True, slots=True)
class AlphaFoldTrainee:
    """AlphaFold as a training sees it; ``rows`` of a part are those of its alignment.

    Attributes:
        config: of the model.
        templates: that an example has.
        checkpoint: as in ``ForwardOptions``.
        losses: names of those that count.
    """

    config: AlphaFoldConfig
    templates: int = 0
    checkpoint: bool = False
    losses: frozenset[str] = USUAL_LOSSES
    kind = "alphafold"

    def units(self) -> tuple[Unit, ...]:
        """See :class:`Trainee`."""
        config, c_m, c_z = self.config, self.config.evoformer.c_m, self.config.evoformer.c_z
        c_s, plddt = config.structure.c_s, config.plddt_width
        first = 2 * linear(TARGET_FEATURES, c_z) + linear(TARGET_FEATURES, c_m) + linear(MSA_FEATURES, c_m)
        first += linear(2 * config.max_offset + 1, c_z)
        first += linear(config.recycle_bins, c_z) + norm(c_m) + norm(c_z)
        heads = norm(c_s) + linear(c_s, plddt) + linear(plddt, plddt) + linear(plddt, PLDDT_BINS)
        heads += linear(c_z, DISTANCE_BINS) + linear(c_m, LETTERS) + linear(c_s, ATOMS)
        heads += linear(c_z, ERROR_BINS) if config.tm else ()
        of_extra = tensors.evoformer_block(config.extra_msa, global_columns=True)
        of_rows = tensors.evoformer_block(config.evoformer)
        return (
            Unit("embedding", first),
            *self._template_units(),
            Unit("embedding of extra rows", linear(EXTRA_FEATURES, config.extra_msa.c_m)),
            *_blocks("extra block", of_extra, config.extra_msa_blocks),
            *_blocks("block", of_rows, config.evoformer_blocks),
            Unit("single representation", linear(c_m, c_s)),
            tensors.structure_module(config.structure),
            Unit("heads", heads),
        )

    def _template_units(self) -> tuple[Unit, ...]:
        config, dims, c_m = self.config, self.config.template, self.config.evoformer.c_m
        if dims is None:
            return ()
        rows = linear(TEMPLATE_ANGLE_FEATURES, c_m) + linear(c_m, c_m)
        inner = config.template_attention_width * config.template_attention_heads
        attention = matrix(config.evoformer.c_z, inner) + 2 * matrix(dims.c_z, inner)
        attention += linear(inner, config.evoformer.c_z)
        return (
            Unit("embedding of templates", rows + linear(TEMPLATE_PAIR_FEATURES, dims.c_z)),
            *_blocks("template block", tensors.pair_stack_of(dims), config.template_blocks),
            Unit("attention to templates", norm(dims.c_z) + attention),
        )

    def activations(self, part: Part, item: int, device: Device) -> Activations:
        """See :class:`Trainee`; follows the layers in float32, in other dtypes as :func:`mixed_item` says.

        Structure module and losses are float32 always.
        """
        layers, config, N = KeptLayers(device, item), self.config, part.length
        cost = self._cost(part)
        own = [self._first_pairs(layers, N)]
        own += self._template_segments(layers, N, cost.shown_templates)
        letters = cost.extra * N
        own.append(Segment((Stage(kept=6 * letters, forward=3 * letters * config.extra_msa.c_m),)))
        extra = evoformer_block(
            layers, config.extra_msa, cost.extra, N, global_columns=True, checkpoint=self.checkpoint
        )
        own += config.extra_msa_blocks * [extra]
        rows = cost.rows * N
        clusters = cost.clusters * N * (MSA_FEATURES + LETTERS) + rows * config.evoformer.c_m
        # The extra rows that leave their last block, and the first of the clusters.
        own.append(Segment((Stage(kept=letters * config.extra_msa.c_m + clusters),)))
        seen = evoformer_block(layers, config.evoformer, cost.rows, N, checkpoint=self.checkpoint)
        own += config.evoformer_blocks * [seen]
        scaled = [segment.times(mixed_item(item, device)) for segment in own]
        scaled += [segment.times(WIDE) for segment in self._behind(N, cost.clusters)]
        return activations_of(scaled, part.examples)

    def flops(self, part: Part) -> float:
        """See :class:`Trainee`; a backward pass costs two forward ones, half of the passes are drawn."""
        work = self._cost(part).work(part.length, Forms(), recycles=0)
        each = sum(count for name, count in work.items() if name != AGAIN)
        return part.examples * part.forward_passes * each

    def overhead(self, part: Part) -> float:
        """See :class:`Trainee`."""
        config = self.config
        blocks = config.evoformer_blocks + config.extra_msa_blocks
        blocks += config.template_blocks * self._cost(part).shown_templates
        each = blocks * SECONDS_PER_BLOCK + config.structure.no_blocks * SECONDS_PER_PLACING
        return part.examples * part.forward_passes * each

    def _cost(self, part: Part) -> AlphaFoldCost:
        return AlphaFoldCost(self.config, part.rows, self.templates)

    def _first_pairs(self, layers: KeptLayers, N: int) -> Segment:
        """``embed_pairs``, over the pairs of the pass before or over zeros."""
        c_z = self.config.evoformer.c_z

        def of_rows(taken: int) -> Work:
            # Statistics of the norm, places of offsets and of distances.
            pairs = taken * N
            return Work(6 * pairs, 3 * pairs * c_z, 2 * pairs * c_z)

        stage = layers.by_rows(N, N * c_z, N * c_z, of_rows)
        return Segment((Stage(kept=N * (4 * c_z + TARGET_FEATURES)), stage))

    def _template_segments(self, layers: KeptLayers, N: int, count: int) -> list[Segment]:
        """Pairs of each template, and the attention of pairs to them."""
        config, dims = self.config, self.config.template
        if dims is None or not count:
            return []
        heads, inner = (
            config.template_attention_heads,
            config.template_attention_heads * config.template_attention_width,
        )
        c_z, c_t, P = config.evoformer.c_z, dims.c_z, N * N
        side_by_side = c_z + count * c_t

        def embedded(taken: int) -> Work:
            pairs = taken * N
            return Work(6 * pairs, 3 * pairs * c_t, 2 * pairs * c_t)

        def normed(taken: int) -> Work:
            return Work(2 * taken * N, taken * N * c_t, 2 * taken * N * c_t)

        def attended(taken: int) -> Work:
            pairs = taken * N
            kept = inner * (2 + 2 * count) + 2 * heads * count
            return Work(pairs * kept, pairs * 2 * c_z, pairs * (kept + 2 * side_by_side))

        stack = pair_stack(layers, dims, N, attention_first=True, checkpoint=self.checkpoint)
        one = [
            Segment((layers.by_rows(N, N * c_t, N * c_t, embedded, argument=False),)),
            *config.template_blocks * [block(P * c_t, stack)],
            Segment((layers.by_rows(N, N * c_t, N * c_t, normed),)),
        ]
        together = layers.by_rows(N, N * side_by_side, N * side_by_side, attended)
        return [*count * one, Segment((together,))]

    def _behind(self, N: int, clusters: int) -> tuple[Segment, ...]:
        """What leaves the Evoformer, structure module, heads and losses."""
        config, forms = self.config, Forms()
        c_m, c_z, c_s = config.evoformer.c_m, config.evoformer.c_z, config.structure.c_s
        seen = Compared(
            residues=N,
            blocks=config.structure.no_blocks,
            rated=1,
            rows=clusters,
            errors=config.tm,
            resolved=True,
        )
        P, waiting = N * N, N * N * gradients_of_pairs(self.losses, seen)
        known = Stage(kept=clusters * N * c_m + N * c_s)
        rated = N * (PLDDT_BINS + ATOMS)
        heads = [
            Stage(kept=N * (c_s + 2 + 2 * config.plddt_width), shown=rated, forward=rated),
            # Logits both ways are summed.
            Stage(shown=P * DISTANCE_BINS, forward=P * DISTANCE_BINS, backward=waiting + P * (64 + c_z)),
            Stage(shown=clusters * N * LETTERS, backward=waiting + clusters * N * (LETTERS + c_m)),
        ]
        if config.tm:
            heads.append(Stage(shown=P * ERROR_BINS, backward=waiting + P * c_z))
        placed = structure_module(config.structure, forms, N)
        return (Segment((known,)), *placed, Segment((*heads, *losses(self.losses, seen, forms))))


def _blocks(name: str, own: Tensors, count: int) -> tuple[Unit, ...]:
    return tuple(Unit(f"{name} {number}", own, repeats=True) for number in range(count))
