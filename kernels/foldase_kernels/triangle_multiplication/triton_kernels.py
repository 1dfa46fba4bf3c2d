"""Triton kernels of triangle multiplication: what comes before the products over k, and what comes after.

An operand is a tuple: pointer, then the strides of rows, columns and channels. A program owns a block of
pairs and reads nothing of others, so a result may overwrite z, or x where x lies in the memory of the result.
Pairs are counted flat over rows and columns; offsets are 64 bits wide. Norms are computed in float32, their
scale and shift are folded into the weights.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _load(
    operand: tl.tuple, pairs: tl.tensor, channels: tl.tensor, size: tl.int32, width: tl.int32
) -> tl.tensor:
    """Channels of a block of pairs, float32 ``[pairs, channels]``, 0 outside."""
    start = (pairs // size).to(tl.int64) * operand[1] + (pairs % size).to(tl.int64) * operand[2]
    inside = (pairs < size * size)[:, None] & (channels < width)[None, :]
    at = operand[0] + start[:, None] + channels.to(tl.int64)[None, :] * operand[3]
    return tl.load(at, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _shown(mask: tl.tuple, pairs: tl.tensor, size: tl.int32) -> tl.tensor:
    """Which of a block of pairs exist and are real."""
    real = pairs < size * size
    if mask is not None:
        place = (pairs // size).to(tl.int64) * mask[1] + (pairs % size).to(tl.int64) * mask[2]
        real = real & (tl.load(mask[0] + place, mask=real, other=0) != 0)
    return real


@triton.jit
def _scaled(
    operand: tl.tuple,
    pairs: tl.tensor,
    size: tl.int32,
    width: tl.int32,
    epsilon: tl.float32,
    WIDTH: tl.constexpr,
) -> tl.tuple:
    """Pairs less their mean, over their deviation, 0 outside, and 1 over the deviation."""
    channels = tl.arange(0, WIDTH)
    values = _load(operand, pairs, channels, size, width)
    mean = tl.sum(values, 1) / width
    inside = (pairs < size * size)[:, None] & (channels < width)[None, :]
    values = tl.where(inside, values - mean[:, None], 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(values * values, 1) / width + epsilon)
    return values * scale[:, None], scale


@triton.jit
def _normed(
    operand: tl.tuple,
    pairs: tl.tensor,
    size: tl.int32,
    width: tl.int32,
    epsilon: tl.float32,
    WIDTH: tl.constexpr,
) -> tl.tensor:
    """Only the first of :func:`_scaled`."""
    values, _ = _scaled(operand, pairs, size, width, epsilon, WIDTH)
    return values


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
    z: tl.tuple,
    mask: tl.tuple,
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
    PAIRS: tl.constexpr,
    WIDTH: tl.constexpr,
    CHANNELS: tl.constexpr,
) -> None:
    """Write a and b ``[count, N, N]``: channels from ``first`` of ``weight`` ``[4, hidden, width]``."""
    pairs = tl.program_id(0) * PAIRS + tl.arange(0, PAIRS)
    own = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    normed = _normed(z, pairs, size, width, epsilon, WIDTH)
    shown = _shown(mask, pairs, size)
    inside = own < count
    store = (pairs < size * size)[:, None] & inside[None, :]
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
    z: tl.tuple,
    x: tl.tuple,
    result: tl.tuple,
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
    normed = _normed(z, pairs, size, width, epsilon, WIDTH)
    products = _normed(x, pairs, size, hidden, epsilon, HIDDEN)
    row, column = (pairs // size).to(tl.int64), (pairs % size).to(tl.int64)
    start = result[0] + (row * result[1] + column * result[2])[:, None]
    for first in range(0, width, CHANNELS):
        own = first + tl.arange(0, CHANNELS)
        inside = own < width
        update = _linear(products, out_weight, out_shift, own, inside, hidden, HIDDEN)
        gate = _linear(normed, gate_weight, gate_shift, own, inside, width, WIDTH)
        update = update * tl.sigmoid(gate)
        if RESIDUAL:
            update += _load(z, pairs, own, size, width)
        both = (pairs < size * size)[:, None] & inside[None, :]
        at = start + own.to(tl.int64)[None, :] * result[3]
        tl.store(at, update.to(result[0].dtype.element_ty), mask=both)
