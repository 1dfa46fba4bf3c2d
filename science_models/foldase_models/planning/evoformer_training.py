"""What blocks of the Evoformer keep in training, after ``layers/evoformer.py`` and AlphaFold's extra rows.

Shapes: S rows of the alignment, N residues; sizes are counts of numbers.
"""

from __future__ import annotations

from foldase_models.layers.dims import EvoformerDims
from foldase_models.planning import cpu_kernels
from foldase_models.planning.kept_layers import KeptLayers, Work
from foldase_models.planning.stages import Segment, Stage, block, recomputed


def pair_stack(
    layers: KeptLayers,
    dims: EvoformerDims,
    residues: int,
    *,
    attention_first: bool = False,
    checkpoint: bool = False,
) -> tuple[Stage, ...]:
    """``PairStack`` while it is trained; with ``checkpoint`` as its option says."""
    dropped = bool(dims.pair_dropout)
    pairs = residues * residues * dims.c_z
    one = layers.triangle_multiplication(residues, dims.c_z, dims.c_hidden_mul, dropped=dropped)
    stages = [(one, one), layers.triangle_attentions(dims, residues, dropped=dropped)]
    if attention_first:
        stages.reverse()
    if checkpoint:
        stages = [(recomputed(pairs, stage, results=pairs),) for stage in stages]
    transition = layers.transition(residues * residues, dims.c_z, dims.transition_n * dims.c_z)
    return (*stages[0], *stages[1], transition)


def evoformer_block(
    layers: KeptLayers,
    dims: EvoformerDims,
    sequences: int,
    residues: int,
    *,
    global_columns: bool = False,
    checkpoint: bool = False,
) -> Segment:
    """``EvoformerBlock``, or with ``global_columns`` a block of extra rows."""
    alignment, pairs = sequences * residues * dims.c_m, residues * residues * dims.c_z
    columns = (
        global_column_attention(layers, dims, sequences, residues)
        if global_columns
        else layers.attention(residues, sequences, dims.c_m, dims.no_heads_msa, dims.c_hidden_msa_att)
    )
    of_alignment: tuple[Stage, ...] = (
        layers.pair_bias(residues, dims.c_z, dims.no_heads_msa, own=True),
        layers.attention(
            sequences,
            residues,
            dims.c_m,
            dims.no_heads_msa,
            dims.c_hidden_msa_att,
            bias=True,
            dropped=bool(dims.msa_dropout),
        ),
        columns,
        layers.transition(sequences * residues, dims.c_m, dims.transition_n * dims.c_m),
    )
    # Gradients of pairs wait while those of the alignment are computed.
    of_alignment = (of_alignment[0], *(stage.beside(pairs) for stage in of_alignment[1:]))
    outer = layers.outer_product(sequences, residues, dims.c_m, dims.c_hidden_opm, dims.c_z)
    stack = pair_stack(layers, dims, residues, checkpoint=checkpoint)
    outer = (outer[0].beside(pairs), outer[1])
    if not checkpoint:
        return block(alignment + pairs, (*of_alignment, *outer, *stack))
    both = alignment + pairs
    of_pairs = (recomputed(0, outer, results=both), *stack)
    stages = (recomputed(both, of_alignment, results=both), recomputed(0, of_pairs, results=both))
    return block(both, stages)


def global_column_attention(layers: KeptLayers, dims: EvoformerDims, sequences: int, residues: int) -> Stage:
    """``MSAColumnGlobalAttention``: one query a head, keys and values of one head."""
    c, heads, width = dims.c_m, dims.no_heads_msa, dims.c_hidden_msa_att

    def of_rows(taken: int) -> Work:
        count = taken * sequences
        call = cpu_kernels.Attention(
            rows=taken, heads=1, queries=heads, keys=sequences, width=width, gate=False, mask=False
        )
        kernel = layers.attention_kernel(call)
        kept = count * (c + 2 + 2 * heads * width) + taken * c + kernel.kept
        gates = 2 * count * heads * width
        return Work(kept, max(kernel.forward, 2 * count * c), max(kernel.backward, 3 * count * c, gates))

    return layers.by_rows(residues, sequences * c, sequences * c, of_rows)
