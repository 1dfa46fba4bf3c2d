"""Triton kernels of triangle multiplication: what comes before the products over k, and what comes after.

A program owns a block of pairs and reads nothing of others, so a result may overwrite z, or x where x lies
in the memory of the result. Pairs are counted flat over rows and columns; offsets are 64 bits wide. Norms
are computed in float32, their scale and shift are folded into the weights.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _normed(
    tensor: tl.tensor,
    stride_row: tl.int64,
    stride_column: tl.int64,
    stride_channel: tl.int64,
    pairs: tl.tensor,
    size: tl.int32,
    width: tl.int32,
    epsilon: tl.float32,
    WIDTH: tl.constexpr,
) -> tl.tensor:
    """Pairs of a tensor less their mean, over their deviation, float32 ``[pairs, WIDTH]``, 0 outside."""
    channels = tl.arange(0, WIDTH)
    start = (pairs // size).to(tl.int64) * stride_row + (pairs % size).to(tl.int64) * stride_column
    inside = (pairs < size * size)[:, None] & (channels < width)[None, :]
    at = tensor + start[:, None] + channels.to(tl.int64)[None, :] * stride_channel
    values = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    mean = tl.sum(values, 1) / width
    values = tl.where(inside, values - mean[:, None], 0.0)
    deviation = tl.sqrt(tl.sum(values * values, 1) / width + epsilon)
    return values / deviation[:, None]


@triton.jit
def _linear(
    values: tl.tensor,
    weight: tl.tensor,
    shift: tl.tensor,
    columns: tl.tensor,
    columns_inside: tl.tensor,
    width: tl.int32,
    WIDTH: tl.constexpr,
) -> tl.tensor:
    """Rows ``columns`` of ``weight`` ``[*, width]`` applied to normed pairs, in the dtype of the weight."""
    channels = tl.arange(0, WIDTH)
    inside = columns_inside[None, :] & (channels < width)[:, None]
    part = tl.load(weight + columns[None, :] * width + channels[:, None], mask=inside, other=0.0)
    product = tl.dot(values.to(part.dtype), part, input_precision="ieee")
    return product + tl.load(shift + columns, mask=columns_inside, other=0.0)[None, :]


@triton.jit
def operands_kernel(
    z: tl.tensor,
    stride_row: tl.int64,
    stride_column: tl.int64,
    stride_channel: tl.int64,
    mask: tl.tensor,
    mask_row: tl.int64,
    mask_column: tl.int64,
    weight: tl.tensor,
    shift: tl.tensor,
    a: tl.tensor,
    b: tl.tensor,
    size: tl.int32,
    width: tl.int32,
    hidden: tl.int32,
    first: tl.int32,
    count: tl.int32,
    epsilon: tl.float32,
    MASKED: tl.constexpr,
    PAIRS: tl.constexpr,
    WIDTH: tl.constexpr,
    CHANNELS: tl.constexpr,
) -> None:
    """Write a and b ``[count, N, N]``: channels from ``first`` of ``weight`` ``[4, hidden, width]``."""
    pairs = tl.program_id(0) * PAIRS + tl.arange(0, PAIRS)
    own = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    normed = _normed(z, stride_row, stride_column, stride_channel, pairs, size, width, epsilon, WIDTH)
    real = pairs < size * size
    if MASKED:
        place = (pairs // size).to(tl.int64) * mask_row + (pairs % size).to(tl.int64) * mask_column
        shown = tl.load(mask + place, mask=real, other=0) != 0
    else:
        shown = real
    inside = own < count
    store = real[:, None] & inside[None, :]
    place = own.to(tl.int64)[None, :] * size * size + pairs.to(tl.int64)[:, None]
    columns = first + own
    for side in tl.static_range(2):
        value = _linear(normed, weight, shift, 2 * side * hidden + columns, inside, width, WIDTH)
        gate = _linear(normed, weight, shift, (2 * side + 1) * hidden + columns, inside, width, WIDTH)
        result = tl.where(shown[:, None], value * tl.sigmoid(gate), 0.0)
        target = a if side == 0 else b
        tl.store(target + place, result.to(target.dtype.element_ty), mask=store)


@triton.jit
def finish_kernel(
    z: tl.tensor,
    stride_row: tl.int64,
    stride_column: tl.int64,
    stride_channel: tl.int64,
    x: tl.tensor,
    x_row: tl.int64,
    x_column: tl.int64,
    x_channel: tl.int64,
    result: tl.tensor,
    result_row: tl.int64,
    result_column: tl.int64,
    result_channel: tl.int64,
    gate_weight: tl.tensor,
    gate_shift: tl.tensor,
    out_weight: tl.tensor,
    out_shift: tl.tensor,
    size: tl.int32,
    width: tl.int32,
    hidden: tl.int32,
    epsilon: tl.float32,
    RESIDUAL: tl.constexpr,
    PAIRS: tl.constexpr,
    WIDTH: tl.constexpr,
    HIDDEN: tl.constexpr,
    CHANNELS: tl.constexpr,
) -> None:
    """Norm and output layer of x, times the gate, plus z. All of a block is read before it is written."""
    pairs = tl.program_id(0) * PAIRS + tl.arange(0, PAIRS)
    normed = _normed(z, stride_row, stride_column, stride_channel, pairs, size, width, epsilon, WIDTH)
    products = _normed(x, x_row, x_column, x_channel, pairs, size, hidden, epsilon, HIDDEN)
    row, column = (pairs // size).to(tl.int64), (pairs % size).to(tl.int64)
    real = pairs < size * size
    for first in range(0, width, CHANNELS):
        own = first + tl.arange(0, CHANNELS)
        inside = own < width
        update = _linear(products, out_weight, out_shift, own, inside, hidden, HIDDEN)
        gate = _linear(normed, gate_weight, gate_shift, own, inside, width, WIDTH)
        update = update * tl.sigmoid(gate)
        both = real[:, None] & inside[None, :]
        channel = own.to(tl.int64)[None, :]
        if RESIDUAL:
            place = row[:, None] * stride_row + column[:, None] * stride_column + channel * stride_channel
            update += tl.load(z + place, mask=both, other=0.0).to(tl.float32)
        place = row[:, None] * result_row + column[:, None] * result_column + channel * result_channel
        tl.store(result + place, update.to(result.dtype.element_ty), mask=both)
