"""Triton kernels of the outer product mean: products of a tile of pairs go straight to the pair channels.

A tile of pairs is ROWS columns i of a times COLUMNS columns j of b, taken with PART channels of a and all
channels of b at a time. Its products come out of one matrix product over sequences as
``[ROWS PART, COLUMNS HIDDEN]``, are laid side by side as ``[pairs, PART HIDDEN]``, and meet the weight in a
second one; backward the way is the opposite. No program adds to what another one writes. They are multiplied
by ``inverse``, one over the count of a pair, before they are rounded to the dtype of the factors, so that
sums over many sequences fit into float16. Offsets are 64 bits wide.
"""

from __future__ import annotations

import triton
import triton.language as tl

from foldase_kernels.triton_tiles import place, product


@triton.jit
def _roots(
    weights: tl.tuple,
    batch: tl.tensor,
    sizes: tl.tuple,
    rows: tl.tensor,
    columns: tl.tensor,
    inside: tl.tensor,
) -> tl.tensor:
    """Roots of the weights of sequences ``rows`` and residues ``columns``, which broadcast; 0 outside."""
    at = weights[0] + place(batch, sizes, weights[1])
    at += rows.to(tl.int64) * weights[2] + columns.to(tl.int64) * weights[3]
    return tl.sqrt(tl.load(at, mask=inside, other=0).to(tl.float32))


@triton.jit
def _factor(
    factor: tl.tuple,
    weights: tl.tuple,
    batch: tl.tensor,
    sizes: tl.tuple,
    rows: tl.tensor,
    columns: tl.tensor,
    channels: tl.tensor,
    sequences: tl.tensor,
    residues: tl.tensor,
    hidden: tl.tensor,
) -> tl.tensor:
    """Sequences ``rows`` of a factor, weighted, at pairs of residue and channel; zeros outside."""
    inside = (rows < sequences)[:, None] & ((columns < residues) & (channels < hidden))[None, :]
    own = columns.to(tl.int64) * factor[3] + channels.to(tl.int64) * factor[4]
    at = factor[0] + place(batch, sizes, factor[1])
    value = tl.load(at + rows.to(tl.int64)[:, None] * factor[2] + own[None, :], mask=inside, other=0.0)
    if weights is not None:
        root = _roots(weights, batch, sizes, rows[:, None], columns[None, :], inside)
        value = (value.to(tl.float32) * root).to(value.dtype)
    return value


@triton.jit
def _weight(
    weight: tl.tuple,
    first: tl.tensor,
    hidden: tl.tensor,
    channels: tl.tensor,
    PART: tl.constexpr,
    HIDDEN: tl.constexpr,
    CHANNELS: tl.constexpr,
) -> tl.tensor:
    """``[PART HIDDEN, CHANNELS]`` of a weight with strides of pair channels and of both factors' channels."""
    inner = tl.arange(0, PART * HIDDEN)
    left, right, own = first + inner // HIDDEN, inner % HIDDEN, tl.arange(0, CHANNELS)
    inside = ((left < hidden) & (right < hidden))[:, None] & (own < channels)[None, :]
    at = (left * weight[2] + right * weight[3])[:, None] + own[None, :] * weight[1]
    return tl.load(weight[0] + at, mask=inside, other=0.0)


@triton.jit
def _scale(
    inverse: tl.tuple,
    share: tl.tensor,
    batch: tl.tensor,
    sizes: tl.tuple,
    rows: tl.tensor,
    columns: tl.tensor,
    residues: tl.tensor,
) -> tl.tensor:
    """One over the count of pairs, float32 ``[pairs, 1]``."""
    scale = (rows * 0).to(tl.float32) + share
    if inverse is not None:
        at = inverse[0] + place(batch, sizes, inverse[1])
        at += rows.to(tl.int64) * inverse[2] + columns.to(tl.int64) * inverse[3]
        scale = tl.load(at, mask=(rows < residues) & (columns < residues), other=0.0)
    return scale[:, None]


@triton.jit
def _pair_at(
    pairs: tl.tuple,
    batch: tl.tensor,
    sizes: tl.tuple,
    rows: tl.tensor,
    columns: tl.tensor,
    CHANNELS: tl.constexpr,
) -> tl.tensor:
    """Pointers ``[pairs, CHANNELS]`` into the pair representation."""
    at = rows.to(tl.int64) * pairs[2] + columns.to(tl.int64) * pairs[3]
    own = tl.arange(0, CHANNELS).to(tl.int64) * pairs[4]
    return pairs[0] + place(batch, sizes, pairs[1]) + at[:, None] + own[None, :]


@triton.jit
def _products(
    a: tl.tuple,
    b: tl.tuple,
    weights: tl.tuple,
    batch: tl.tensor,
    sizes: tl.tuple,
    first_row: tl.tensor,
    first_column: tl.tensor,
    first_channel: tl.tensor,
    sequences: tl.tensor,
    residues: tl.tensor,
    hidden: tl.tensor,
    WIDEN: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PART: tl.constexpr,
    HIDDEN: tl.constexpr,
    SEQUENCES: tl.constexpr,
) -> tl.tensor:
    """Sums over sequences of outer products of a tile, float32 ``[pairs, PART HIDDEN]``."""
    left, right = tl.arange(0, ROWS * PART), tl.arange(0, COLUMNS * HIDDEN)
    total = tl.zeros([ROWS * PART, COLUMNS * HIDDEN], tl.float32)
    for start in range(0, sequences, SEQUENCES):
        rows = start + tl.arange(0, SEQUENCES)
        of_a = _factor(
            a,
            weights,
            batch,
            sizes,
            rows,
            first_row + left // PART,
            first_channel + left % PART,
            sequences,
            residues,
            hidden,
        )
        of_b = _factor(
            b,
            weights,
            batch,
            sizes,
            rows,
            first_column + right // HIDDEN,
            right % HIDDEN,
            sequences,
            residues,
            hidden,
        )
        total += product(tl.trans(of_a), of_b, WIDEN)
    apart = tl.permute(tl.reshape(total, [ROWS, PART, COLUMNS, HIDDEN]), [0, 2, 1, 3])
    return tl.reshape(apart, [ROWS * COLUMNS, PART * HIDDEN])


@triton.jit
def count(
    weights: tl.tuple,
    inverse: tl.tuple,
    sizes: tl.tuple,
    sequences: tl.tensor,
    residues: tl.tensor,
    epsilon: tl.tensor,
    PAIRS: tl.constexpr,
    SEQUENCES: tl.constexpr,
) -> None:
    """One program: ``1 / (sum_s r_si r_sj + epsilon)`` of a square of pairs."""
    tiles = tl.cdiv(residues, PAIRS)
    batch = tl.program_id(0) // (tiles * tiles)
    tile = tl.program_id(0) % (tiles * tiles)
    rows = (tile // tiles) * PAIRS + tl.arange(0, PAIRS)
    columns = (tile % tiles) * PAIRS + tl.arange(0, PAIRS)
    total = tl.zeros([PAIRS, PAIRS], tl.float32)
    for start in range(0, sequences, SEQUENCES):
        own = start + tl.arange(0, SEQUENCES)
        real = (own < sequences)[:, None]
        inside = real & (rows < residues)[None, :]
        left = _roots(weights, batch, sizes, own[:, None], rows[None, :], inside)
        inside = real & (columns < residues)[None, :]
        right = _roots(weights, batch, sizes, own[:, None], columns[None, :], inside)
        total += tl.dot(tl.trans(left), right, input_precision="ieee")
    at = inverse[0] + place(batch, sizes, inverse[1])
    at += rows.to(tl.int64)[:, None] * inverse[2] + columns.to(tl.int64)[None, :] * inverse[3]
    inside = (rows < residues)[:, None] & (columns < residues)[None, :]
    tl.store(at, 1.0 / (total + epsilon), mask=inside)


@triton.jit
def forward(
    a: tl.tuple,
    b: tl.tuple,
    weights: tl.tuple,
    inverse: tl.tuple,
    out: tl.tuple,
    weight: tl.tuple,
    bias: tl.tensor,
    sizes: tl.tuple,
    share: tl.tensor,
    sequences: tl.tensor,
    residues: tl.tensor,
    hidden: tl.tensor,
    channels: tl.tensor,
    ADD: tl.constexpr,
    WIDEN: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PART: tl.constexpr,
    HIDDEN: tl.constexpr,
    CHANNELS: tl.constexpr,
    SEQUENCES: tl.constexpr,
) -> None:
    """One program: the update of one tile of pairs; with ``ADD`` added to what lies there."""
    along = tl.cdiv(residues, COLUMNS)
    tiles = tl.cdiv(residues, ROWS) * along
    batch = tl.program_id(0) // tiles
    tile = tl.program_id(0) % tiles
    first_row, first_column = (tile // along) * ROWS, (tile % along) * COLUMNS
    pairs, own = tl.arange(0, ROWS * COLUMNS), tl.arange(0, CHANNELS)
    rows, columns = first_row + pairs // COLUMNS, first_column + pairs % COLUMNS
    scale = _scale(inverse, share, batch, sizes, rows, columns, residues)
    total = tl.zeros([ROWS * COLUMNS, CHANNELS], tl.float32)
    if bias is not None:
        total += tl.load(bias + own, mask=own < channels, other=0.0).to(tl.float32)[None, :] * scale
    for first in range(0, hidden, PART):
        products = _products(
            a,
            b,
            weights,
            batch,
            sizes,
            first_row,
            first_column,
            first,
            sequences,
            residues,
            hidden,
            WIDEN,
            ROWS,
            COLUMNS,
            PART,
            HIDDEN,
            SEQUENCES,
        )
        part = _weight(weight, first, hidden, channels, PART, HIDDEN, CHANNELS)
        total += product((products * scale).to(part.dtype), part, WIDEN)
    inside = ((rows < residues) & (columns < residues))[:, None] & (own < channels)[None, :]
    at = _pair_at(out, batch, sizes, rows, columns, CHANNELS)
    if ADD:
        total += tl.load(at, mask=inside, other=0.0).to(tl.float32)
    tl.store(at, total.to(out[0].dtype.element_ty), mask=inside)


@triton.jit
def backward_factor(
    b: tl.tuple,
    weights: tl.tuple,
    inverse: tl.tuple,
    grad: tl.tuple,
    of_a: tl.tuple,
    weight: tl.tuple,
    sizes: tl.tuple,
    share: tl.tensor,
    sequences: tl.tensor,
    residues: tl.tensor,
    hidden: tl.tensor,
    channels: tl.tensor,
    WIDEN: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PART: tl.constexpr,
    HIDDEN: tl.constexpr,
    CHANNELS: tl.constexpr,
    SEQUENCES: tl.constexpr,
) -> None:
    """One program: the gradient of a for some residues, channels and sequences, over all residues of b.

    That of b comes of the same kernel with the factors, the two sides of pairs and those of the weight
    exchanged.
    """
    parts, blocks = tl.cdiv(hidden, PART), tl.cdiv(sequences, SEQUENCES)
    rest = tl.program_id(0)
    first = (rest % parts) * PART
    rest = rest // parts
    start = (rest % blocks) * SEQUENCES
    rest = rest // blocks
    along = tl.cdiv(residues, ROWS)
    first_row, batch = (rest % along) * ROWS, rest // along
    pairs, own = tl.arange(0, ROWS * COLUMNS), tl.arange(0, CHANNELS)
    left, right = tl.arange(0, ROWS * PART), tl.arange(0, COLUMNS * HIDDEN)
    own_rows = start + tl.arange(0, SEQUENCES)
    dtype = b[0].dtype.element_ty
    part = tl.trans(_weight(weight, first, hidden, channels, PART, HIDDEN, CHANNELS))
    total = tl.zeros([SEQUENCES, ROWS * PART], tl.float32)
    for first_column in range(0, residues, COLUMNS):
        rows, columns = first_row + pairs // COLUMNS, first_column + pairs % COLUMNS
        inside = ((rows < residues) & (columns < residues))[:, None] & (own < channels)[None, :]
        at = _pair_at(grad, batch, sizes, rows, columns, CHANNELS)
        arrived = tl.load(at, mask=inside, other=0.0).to(dtype)
        of_pairs = product(arrived, part, WIDEN)
        of_pairs *= _scale(inverse, share, batch, sizes, rows, columns, residues)
        apart = tl.permute(tl.reshape(of_pairs, [ROWS, COLUMNS, PART, HIDDEN]), [1, 3, 0, 2])
        of_products = tl.reshape(apart, [COLUMNS * HIDDEN, ROWS * PART]).to(dtype)
        of_b = _factor(
            b,
            weights,
            batch,
            sizes,
            own_rows,
            first_column + right // HIDDEN,
            right % HIDDEN,
            sequences,
            residues,
            hidden,
        )
        total += product(of_b, of_products, WIDEN)
    columns, at_channels = first_row + left // PART, first + left % PART
    inside = (own_rows < sequences)[:, None] & ((columns < residues) & (at_channels < hidden))[None, :]
    if weights is not None:
        total *= _roots(weights, batch, sizes, own_rows[:, None], columns[None, :], inside)
    lying = columns.to(tl.int64) * of_a[3] + at_channels.to(tl.int64) * of_a[4]
    at = of_a[0] + place(batch, sizes, of_a[1]) + own_rows.to(tl.int64)[:, None] * of_a[2]
    tl.store(at + lying[None, :], total.to(of_a[0].dtype.element_ty), mask=inside)


@triton.jit
def backward_weight(
    a: tl.tuple,
    b: tl.tuple,
    weights: tl.tuple,
    inverse: tl.tuple,
    grad: tl.tuple,
    of_weight: tl.tensor,
    of_bias: tl.tensor,
    sizes: tl.tuple,
    share: tl.tensor,
    sequences: tl.tensor,
    residues: tl.tensor,
    hidden: tl.tensor,
    channels: tl.tensor,
    tiles: tl.tensor,
    per_group: tl.tensor,
    WIDEN: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PART: tl.constexpr,
    HIDDEN: tl.constexpr,
    CHANNELS: tl.constexpr,
    SEQUENCES: tl.constexpr,
) -> None:
    """One program: the share of one group of tiles of pairs in the gradient of PART channels of the weight.

    ``of_weight`` is ``[groups, channels, hidden, hidden]``, ``of_bias`` ``[groups, channels]``. ``tiles``
    counts those of all leading indices.
    """
    parts = tl.cdiv(hidden, PART)
    group = tl.program_id(0) // parts
    first = (tl.program_id(0) % parts) * PART
    pairs, own = tl.arange(0, ROWS * COLUMNS), tl.arange(0, CHANNELS)
    along = tl.cdiv(residues, COLUMNS)
    of_one = tl.cdiv(residues, ROWS) * along
    total = tl.zeros([CHANNELS, PART * HIDDEN], tl.float32)
    sum_bias = tl.zeros([CHANNELS], tl.float32)
    for number in range(group * per_group, tl.minimum((group + 1) * per_group, tiles)):
        batch, tile = number // of_one, number % of_one
        first_row, first_column = (tile // along) * ROWS, (tile % along) * COLUMNS
        rows, columns = first_row + pairs // COLUMNS, first_column + pairs % COLUMNS
        scale = _scale(inverse, share, batch, sizes, rows, columns, residues)
        products = _products(
            a,
            b,
            weights,
            batch,
            sizes,
            first_row,
            first_column,
            first,
            sequences,
            residues,
            hidden,
            WIDEN,
            ROWS,
            COLUMNS,
            PART,
            HIDDEN,
            SEQUENCES,
        )
        inside = ((rows < residues) & (columns < residues))[:, None] & (own < channels)[None, :]
        at = _pair_at(grad, batch, sizes, rows, columns, CHANNELS)
        arrived = tl.load(at, mask=inside, other=0.0)
        sum_bias += tl.sum(arrived.to(tl.float32) * scale, 0)
        arrived = arrived.to(a[0].dtype.element_ty)
        total += product(tl.trans(arrived), (products * scale).to(arrived.dtype), WIDEN)
    inner = tl.arange(0, PART * HIDDEN)
    left, right = first + inner // HIDDEN, inner % HIDDEN
    inside = (own < channels)[:, None] & ((left < hidden) & (right < hidden))[None, :]
    start = of_weight + group.to(tl.int64) * channels * hidden * hidden
    at = own[:, None] * hidden * hidden + (left * hidden + right)[None, :]
    tl.store(start + at, total, mask=inside)
    if first == 0:
        tl.store(of_bias + group * channels + own, sum_bias, mask=own < channels)
