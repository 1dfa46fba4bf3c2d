"""How many parameters the shared blocks have, exactly, and the floating point operations of a pass over them.

Operations are those of matrix products, two for a multiplication and an addition. Shapes: N residues, S
sequences, c channels. A test counts the parameters of the modules.
"""

from __future__ import annotations

from foldase_models.layers.dims import EvoformerDims
from foldase_models.layers.structure_dims import StructureDims
from foldase_models.planning.cpu_kernels import triangle_channels
from foldase_models.planning.forms import Forms, ceil_div

AGAIN = "pairs, read for each group of channels"


def linear(width_in: int, width_out: int, *, bias: bool = True) -> int:
    """Of a linear layer."""
    return width_in * width_out + (width_out if bias else 0)


def attention(width: int, inner: int, *, source: int | None = None, gate: bool = True) -> int:
    """Of ``layers.attention.Attention``; keys and values have ``source`` channels, or ``width``."""
    theirs = width if source is None else source
    own = linear(width, inner, bias=False) + linear(inner, width)
    return own + 2 * linear(theirs, inner, bias=False) + (linear(width, inner) if gate else 0)


def transition(width: int, factor: int) -> int:
    """Of ``layers.transition.Transition``."""
    return 2 * width + linear(width, factor * width) + linear(factor * width, width)


def outer_product_mean(width: int, hidden: int, channels: int) -> int:
    """Of ``layers.outer_product.OuterProductMean``."""
    return 2 * width + 2 * linear(width, hidden) + linear(hidden * hidden, channels)


def pair_stack(dims: EvoformerDims) -> int:
    """Of ``layers.evoformer.PairStack``."""
    c, hidden, inner = dims.c_z, dims.c_hidden_mul, dims.c_hidden_pair_att * dims.no_heads_pair
    multiplication = 2 * c + 4 * linear(c, hidden) + 2 * hidden + linear(hidden, c) + linear(c, c)
    triangle = 2 * c + linear(c, dims.no_heads_pair, bias=False) + attention(c, inner)
    return 2 * multiplication + 2 * triangle + transition(c, dims.transition_n)


def evoformer_block(dims: EvoformerDims, *, global_columns: bool = False) -> int:
    """Of ``layers.evoformer.EvoformerBlock``, or of a block of extra rows."""
    c, width, heads = dims.c_m, dims.c_hidden_msa_att, dims.no_heads_msa
    row = 2 * c + 2 * dims.c_z + linear(dims.c_z, heads, bias=False) + attention(c, width * heads)
    column = 2 * c + attention(c, width * heads)
    if global_columns:
        column -= 2 * (linear(c, width * heads, bias=False) - linear(c, width, bias=False))
    outer = outer_product_mean(c, dims.c_hidden_opm, dims.c_z)
    return row + column + transition(c, dims.transition_n) + outer + pair_stack(dims)


def structure_module(dims: StructureDims) -> int:
    """Of ``layers.structure_module.StructureModule``, whose blocks share their weights."""
    c, heads = dims.c_s, dims.no_heads_ipa
    inner, points = heads * dims.c_ipa, 3 * heads
    ipa = linear(c, inner) + linear(c, 2 * inner) + linear(c, points * dims.no_qk_points)
    ipa += linear(c, points * (dims.no_qk_points + dims.no_v_points)) + linear(dims.c_z, heads) + heads
    ipa += linear(heads * (dims.c_z + dims.c_ipa + 4 * dims.no_v_points), c)
    norms = 2 * c + 2 * dims.c_z + 2 * c
    transitions = dims.no_transition_layers * 3 * linear(c, c) + 2 * c
    angles = 2 * linear(c, dims.c_resnet) + linear(dims.c_resnet, 2 * dims.no_angles)
    angles += dims.no_resnet_blocks * 2 * linear(dims.c_resnet, dims.c_resnet)
    return norms + linear(c, c) + ipa + transitions + linear(c, 6) + angles


def self_attention_work(rows: int, positions: int, width: int, inner: int) -> float:
    """Projections and products of attention along ``rows`` rows."""
    return 2.0 * rows * positions * (5 * width * inner + 2 * positions * inner)


def pair_stack_work(dims: EvoformerDims, N: int, forms: Forms) -> dict[str, float]:
    """By part; under :data:`AGAIN` not operations, but numbers of z that are read again and again."""
    c, hidden, inner = dims.c_z, dims.c_hidden_mul, dims.c_hidden_pair_att * dims.no_heads_pair
    pairs = float(N) * N
    multiplication = 2 * (2.0 * pairs * (5 * c * hidden + c * c) + 2.0 * pairs * N * hidden)
    return {
        "triangle multiplication": multiplication,
        AGAIN: 2 * pairs * c * ceil_div(hidden, triangle_channels(forms, residues=N, hidden=hidden)),
        "triangle attention": 2 * self_attention_work(N, N, c, inner),
        "transition of pairs": 4.0 * pairs * c * c * dims.transition_n,
    }


def evoformer_work(dims: EvoformerDims, S: int, N: int, forms: Forms) -> dict[str, float]:
    """By part, of one block."""
    inner, hidden = dims.c_hidden_msa_att * dims.no_heads_msa, dims.c_hidden_opm
    outer = min(
        2.0 * N * N * hidden**2 * (S + dims.c_z),
        2.0 * N * N * S * hidden * dims.c_z + 2.0 * N * S * hidden**2,
    )
    return {
        "attention along rows of the alignment": self_attention_work(S, N, dims.c_m, inner),
        "attention along columns of the alignment": self_attention_work(N, S, dims.c_m, inner),
        "transition of the alignment": 4.0 * S * N * dims.c_m**2 * dims.transition_n,
        "outer product mean": outer + 4.0 * S * N * dims.c_m * hidden,
        **pair_stack_work(dims, N, forms),
    }


def structure_work(dims: StructureDims, N: int) -> float:
    """All blocks of the structure module."""
    c, heads = dims.c_s, dims.no_heads_ipa
    features = heads * (dims.c_z + dims.c_ipa + 4 * dims.no_v_points)
    of_pairs = (
        2.0 * N * N * heads * (2 * dims.c_z + 2 * dims.c_ipa + 3 * dims.no_qk_points + 3 * dims.no_v_points)
    )
    return dims.no_blocks * (of_pairs + 2.0 * N * c * (features + 6 * c))
