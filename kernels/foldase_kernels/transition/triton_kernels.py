"""Triton kernels of the transition: a tile of positions goes through both layers, the hidden one in chunks.

No program adds to what another one writes: sums over positions are over fixed groups of tiles, and the
groups are added up afterwards in their order. A result may overwrite x, since a program reads its positions
before it writes them and no others. Matrices are contiguous and in the dtype of x; biases and the norm's
parameters come in their own. ``weight_gate`` is None with ReLU. Positions are counted flat, in 64 bits.
"""

from __future__ import annotations

import triton
import triton.language as tl

from foldase_kernels.triton_tiles import place, product


@triton.jit
def _at(operand: tl.tuple, positions: tl.tensor, sizes: tl.tuple, WIDTH: tl.constexpr) -> tl.tensor:
    """Pointers ``[positions, channels]``."""
    channels = tl.arange(0, WIDTH).to(tl.int64)
    return operand[0] + place(positions, sizes, operand[1])[:, None] + channels[None, :] * operand[2]


@triton.jit
def _normed(
    x: tl.tuple,
    positions: tl.tensor,
    inside: tl.tensor,
    sizes: tl.tuple,
    width: tl.tensor,
    epsilon: tl.tensor,
    WIDTH: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """Positions less their mean over their deviation, float32, 0 outside; and one over the deviation."""
    values = tl.load(_at(x, positions, sizes, WIDTH), mask=inside, other=0.0).to(tl.float32)
    mean = tl.sum(values, 1) / width
    values = tl.where(inside, values - mean[:, None], 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(values * values, 1) / width + epsilon)
    return values * scale[:, None], scale


@triton.jit
def _row(vector: tl.tensor, columns: tl.tensor, length: tl.tensor) -> tl.tensor:
    """A vector of parameters, float32 ``[1, columns]``, 0 outside."""
    return tl.load(vector + columns, mask=columns < length, other=0.0).to(tl.float32)[None, :]


@triton.jit
def _layer_norm(
    x: tl.tuple,
    norm_weight: tl.tensor,
    norm_bias: tl.tensor,
    positions: tl.tensor,
    inside: tl.tensor,
    sizes: tl.tuple,
    width: tl.tensor,
    epsilon: tl.tensor,
    WIDTH: tl.constexpr,
) -> tl.tensor:
    """What enters the first layer, in the dtype of x."""
    channels = tl.arange(0, WIDTH)
    values, _ = _normed(x, positions, inside, sizes, width, epsilon, WIDTH)
    values = values * _row(norm_weight, channels, width)
    if norm_bias is not None:
        values += tl.where(inside, _row(norm_bias, channels, width), 0.0)
    return values.to(x[0].dtype.element_ty)


@triton.jit
def _shown(mask: tl.tuple, positions: tl.tensor, count: tl.tensor, sizes: tl.tuple) -> tl.tensor:
    """Which positions get an update and pass a gradient on."""
    shown = positions < count
    if mask is not None:
        shown = tl.load(mask[0] + place(positions, sizes, mask[1]), mask=shown, other=0) != 0
    return shown


@triton.jit
def _into(
    rows: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    units: tl.tensor,
    width: tl.tensor,
    hidden: tl.tensor,
    WIDEN: tl.constexpr,
    WIDTH: tl.constexpr,
) -> tl.tensor:
    """Some units of the hidden layer before activation: ``weight`` is ``[hidden, width]``."""
    channels = tl.arange(0, WIDTH)
    inside = (channels < width)[:, None] & (units < hidden)[None, :]
    part = tl.load(weight + units[None, :] * width + channels[:, None], mask=inside, other=0.0)
    value = product(rows, part, WIDEN)
    if bias is not None:
        value += _row(bias, units, hidden)
    return value


@triton.jit
def _back(
    rows: tl.tensor,
    weight: tl.tensor,
    units: tl.tensor,
    width: tl.tensor,
    hidden: tl.tensor,
    WIDEN: tl.constexpr,
    WIDTH: tl.constexpr,
) -> tl.tensor:
    """Gradients of some units times ``weight`` ``[hidden, width]``, in the dtype of the weight."""
    channels = tl.arange(0, WIDTH)
    inside = (units < hidden)[:, None] & (channels < width)[None, :]
    part = tl.load(weight + units[:, None] * width + channels[None, :], mask=inside, other=0.0)
    return product(rows.to(part.dtype), part, WIDEN)


@triton.jit
def forward(
    x: tl.tuple,
    out: tl.tuple,
    mask: tl.tuple,
    norm_weight: tl.tensor,
    norm_bias: tl.tensor,
    weight_in: tl.tensor,
    bias_in: tl.tensor,
    weight_out: tl.tensor,
    bias_out: tl.tensor,
    weight_gate: tl.tensor,
    bias_gate: tl.tensor,
    sizes: tl.tuple,
    count: tl.tensor,
    width: tl.tensor,
    hidden: tl.tensor,
    epsilon: tl.tensor,
    RESIDUAL: tl.constexpr,
    WIDEN: tl.constexpr,
    POSITIONS: tl.constexpr,
    WIDTH: tl.constexpr,
    HIDDEN: tl.constexpr,
) -> None:
    """One program: the update of one tile of positions."""
    positions = tl.program_id(0).to(tl.int64) * POSITIONS + tl.arange(0, POSITIONS)
    channels = tl.arange(0, WIDTH)
    inside = (positions < count)[:, None] & (channels < width)[None, :]
    rows = _layer_norm(x, norm_weight, norm_bias, positions, inside, sizes, width, epsilon, WIDTH)
    total = tl.zeros([POSITIONS, WIDTH], tl.float32)
    for first in range(0, hidden, HIDDEN):
        units = first + tl.arange(0, HIDDEN)
        active = _into(rows, weight_in, bias_in, units, width, hidden, WIDEN, WIDTH)
        if weight_gate is not None:
            gate = _into(rows, weight_gate, bias_gate, units, width, hidden, WIDEN, WIDTH)
            active = active * gate * tl.sigmoid(gate)
        else:
            active = tl.where(active <= 0.0, 0.0, active)
        own = (units < hidden)[:, None] & (channels < width)[None, :]
        part = tl.load(weight_out + channels[None, :] * hidden + units[:, None], mask=own, other=0.0)
        total += product(active.to(part.dtype), part, WIDEN)
    if bias_out is not None:
        total += _row(bias_out, channels, width)
    total = tl.where(_shown(mask, positions, count, sizes)[:, None], total, 0.0)
    if RESIDUAL:
        total += tl.load(_at(x, positions, sizes, WIDTH), mask=inside, other=0.0).to(tl.float32)
    tl.store(_at(out, positions, sizes, WIDTH), total.to(out[0].dtype.element_ty), mask=inside)


@triton.jit
def _gradients_of_units(
    rows: tl.tensor,
    grad: tl.tensor,
    weight_in: tl.tensor,
    bias_in: tl.tensor,
    weight_out: tl.tensor,
    weight_gate: tl.tensor,
    bias_gate: tl.tensor,
    units: tl.tensor,
    width: tl.tensor,
    hidden: tl.tensor,
    WIDEN: tl.constexpr,
    WIDTH: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Some units after activation, the gradients of both factors before it (the same twice with ReLU)."""
    channels = tl.arange(0, WIDTH)
    factor = _into(rows, weight_in, bias_in, units, width, hidden, WIDEN, WIDTH)
    inside = (channels < width)[:, None] & (units < hidden)[None, :]
    part = tl.load(weight_out + channels[:, None] * hidden + units[None, :], mask=inside, other=0.0)
    arrived = product(grad, part, WIDEN)
    if weight_gate is not None:
        gate = _into(rows, weight_gate, bias_gate, units, width, hidden, WIDEN, WIDTH)
        share = tl.sigmoid(gate)
        active = gate * share * factor
        of_gate = arrived * factor * share * (1.0 + gate * (1.0 - share))
        of_factor = arrived * gate * share
    else:
        active = tl.where(factor <= 0.0, 0.0, factor)
        of_factor = tl.where(factor <= 0.0, 0.0, arrived)
        of_gate = of_factor
    return active, of_factor, of_gate


@triton.jit
def backward_positions(
    x: tl.tuple,
    grad: tl.tuple,
    mask: tl.tuple,
    of_x: tl.tuple,
    norm_weight: tl.tensor,
    norm_bias: tl.tensor,
    weight_in: tl.tensor,
    bias_in: tl.tensor,
    weight_out: tl.tensor,
    weight_gate: tl.tensor,
    bias_gate: tl.tensor,
    sums: tl.tensor,
    sizes: tl.tuple,
    count: tl.tensor,
    width: tl.tensor,
    hidden: tl.tensor,
    epsilon: tl.tensor,
    per_program: tl.tensor,
    RESIDUAL: tl.constexpr,
    WIDEN: tl.constexpr,
    POSITIONS: tl.constexpr,
    WIDTH: tl.constexpr,
    HIDDEN: tl.constexpr,
) -> None:
    """One program: the gradients of ``per_program`` tiles of x, tile by tile, unless ``of_x`` is None.

    Its shares in the gradients of the norm's weight, of its bias and of ``bias_out`` go to
    ``sums`` ``[programs, 3, width]``.
    """
    channels = tl.arange(0, WIDTH)
    of_norm_weight = tl.zeros([WIDTH], tl.float32)
    of_norm_bias = tl.zeros([WIDTH], tl.float32)
    of_bias_out = tl.zeros([WIDTH], tl.float32)
    for number in range(per_program):
        tile = tl.program_id(0).to(tl.int64) * per_program + number
        positions = tile * POSITIONS + tl.arange(0, POSITIONS)
        inside = (positions < count)[:, None] & (channels < width)[None, :]
        shown = inside & _shown(mask, positions, count, sizes)[:, None]
        arrived = tl.load(_at(grad, positions, sizes, WIDTH), mask=shown, other=0.0)
        of_bias_out += tl.sum(arrived.to(tl.float32), 0)
        arrived = arrived.to(x[0].dtype.element_ty)
        rows = _layer_norm(x, norm_weight, norm_bias, positions, inside, sizes, width, epsilon, WIDTH)
        of_rows = tl.zeros([POSITIONS, WIDTH], tl.float32)
        for first in range(0, hidden, HIDDEN):
            units = first + tl.arange(0, HIDDEN)
            _, of_factor, of_gate = _gradients_of_units(
                rows,
                arrived,
                weight_in,
                bias_in,
                weight_out,
                weight_gate,
                bias_gate,
                units,
                width,
                hidden,
                WIDEN,
                WIDTH,
            )
            of_rows += _back(of_factor, weight_in, units, width, hidden, WIDEN, WIDTH)
            if weight_gate is not None:
                of_rows += _back(of_gate, weight_gate, units, width, hidden, WIDEN, WIDTH)
        # Read once more: registers are scarcer than reads of what lies in the cache.
        normed, scale = _normed(x, positions, inside, sizes, width, epsilon, WIDTH)
        of_norm_weight += tl.sum(of_rows * normed, 0)
        of_norm_bias += tl.sum(of_rows, 0)
        if of_x is not None:
            of_normed = of_rows * _row(norm_weight, channels, width)
            mean = tl.sum(of_normed, 1) / width
            along = tl.sum(of_normed * normed, 1) / width
            total = (of_normed - mean[:, None] - normed * along[:, None]) * scale[:, None]
            if RESIDUAL:
                total += tl.load(_at(grad, positions, sizes, WIDTH), mask=inside, other=0.0).to(tl.float32)
            tl.store(_at(of_x, positions, sizes, WIDTH), total.to(of_x[0].dtype.element_ty), mask=inside)
    own = sums + tl.program_id(0) * 3 * width + channels
    tl.store(own, of_norm_weight, mask=channels < width)
    tl.store(own + width, of_norm_bias, mask=channels < width)
    tl.store(own + 2 * width, of_bias_out, mask=channels < width)


@triton.jit
def backward_weights(
    x: tl.tuple,
    grad: tl.tuple,
    mask: tl.tuple,
    norm_weight: tl.tensor,
    norm_bias: tl.tensor,
    weight_in: tl.tensor,
    bias_in: tl.tensor,
    weight_out: tl.tensor,
    weight_gate: tl.tensor,
    bias_gate: tl.tensor,
    of_in: tl.tensor,
    of_out: tl.tensor,
    of_gate: tl.tensor,
    of_biases: tl.tensor,
    sizes: tl.tuple,
    count: tl.tensor,
    width: tl.tensor,
    hidden: tl.tensor,
    epsilon: tl.tensor,
    per_group: tl.tensor,
    WIDEN: tl.constexpr,
    POSITIONS: tl.constexpr,
    WIDTH: tl.constexpr,
    HIDDEN: tl.constexpr,
) -> None:
    """One program: the shares of one group of tiles in the gradients of the weights of a chunk of units.

    ``of_in`` and ``of_gate`` are ``[groups, hidden, width]``, ``of_out`` ``[groups, width, hidden]``, and
    ``of_biases``, of ``bias_in`` and ``bias_gate``, ``[groups, 2, hidden]``. Chunks of a
    group run side by side, so that its positions are read from the cache by all but the first.
    """
    chunks = tl.cdiv(hidden, HIDDEN)
    group = tl.program_id(0) // chunks
    units = (tl.program_id(0) % chunks) * HIDDEN + tl.arange(0, HIDDEN)
    channels = tl.arange(0, WIDTH)
    sum_in = tl.zeros([HIDDEN, WIDTH], tl.float32)
    sum_out = tl.zeros([HIDDEN, WIDTH], tl.float32)
    sum_gate = tl.zeros([HIDDEN, WIDTH], tl.float32)
    sum_bias_in = tl.zeros([HIDDEN], tl.float32)
    sum_bias_gate = tl.zeros([HIDDEN], tl.float32)
    for number in range(per_group):
        tile = group.to(tl.int64) * per_group + number
        positions = tile * POSITIONS + tl.arange(0, POSITIONS)
        inside = (positions < count)[:, None] & (channels < width)[None, :]
        shown = inside & _shown(mask, positions, count, sizes)[:, None]
        arrived = tl.load(_at(grad, positions, sizes, WIDTH), mask=shown, other=0.0)
        arrived = arrived.to(x[0].dtype.element_ty)
        rows = _layer_norm(x, norm_weight, norm_bias, positions, inside, sizes, width, epsilon, WIDTH)
        active, of_factor, of_gated = _gradients_of_units(
            rows,
            arrived,
            weight_in,
            bias_in,
            weight_out,
            weight_gate,
            bias_gate,
            units,
            width,
            hidden,
            WIDEN,
            WIDTH,
        )
        sum_out += product(tl.trans(active.to(arrived.dtype)), arrived, WIDEN)
        sum_in += product(tl.trans(of_factor.to(rows.dtype)), rows, WIDEN)
        sum_bias_in += tl.sum(of_factor, 0)
        if weight_gate is not None:
            sum_gate += product(tl.trans(of_gated.to(rows.dtype)), rows, WIDEN)
            sum_bias_gate += tl.sum(of_gated, 0)
    start = group.to(tl.int64) * hidden * width
    own = (units < hidden)[:, None] & (channels < width)[None, :]
    lying = start + units[:, None] * width + channels[None, :]
    tl.store(of_in + lying, sum_in, mask=own)
    tl.store(of_out + (start + channels[None, :] * hidden + units[:, None]), sum_out, mask=own)
    biases = of_biases + group * 2 * hidden + units
    tl.store(biases, sum_bias_in, mask=units < hidden)
    if weight_gate is not None:
        tl.store(of_gate + lying, sum_gate, mask=own)
        tl.store(biases + hidden, sum_bias_gate, mask=units < hidden)
