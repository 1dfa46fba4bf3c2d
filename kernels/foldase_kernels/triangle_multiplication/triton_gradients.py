"""Triton kernels of the backward pass of triangle multiplication.

Two kernels take gradients through what happens at a pair: a program owns a block of pairs. Two others sum
over pairs for the gradients of the linear layers: a program owns some rows of their weights and a fixed run
of blocks, and writes a partial sum of its own. So nothing is added to what another program writes, and every
sum has one order. All of them compute norms, projections and gates anew from z and x.
"""

from __future__ import annotations

import triton
import triton.language as tl

from foldase_kernels.triangle_multiplication.triton_kernels import _linear, _load, _normed, _scaled, _shown


@triton.jit
def _rows(
    weight: tl.tensor, rows: tl.tensor, rows_inside: tl.tensor, width: tl.int32, WIDTH: tl.constexpr
) -> tl.tensor:
    """Rows of a weight ``[*, width]``, zeros outside."""
    channels = tl.arange(0, WIDTH)
    inside = rows_inside[:, None] & (channels < width)[None, :]
    return tl.load(weight + rows[:, None] * width + channels[None, :], mask=inside, other=0.0)


@triton.jit
def _through_norm(grad: tl.tensor, normed: tl.tensor, scale: tl.tensor, width: tl.int32) -> tl.tensor:
    """The gradient before a norm, of that behind it; both are 0 outside."""
    mean = tl.sum(grad, 1) / width
    share = tl.sum(grad * normed, 1) / width
    return (grad - mean[:, None] - normed * share[:, None]) * scale[:, None]


@triton.jit
def _through_output(
    grad: tl.tuple,
    normed: tl.tensor,
    products: tl.tensor,
    gate_weight: tl.tensor,
    gate_shift: tl.tensor,
    out_weight: tl.tensor,
    out_shift: tl.tensor,
    pairs: tl.tensor,
    own: tl.tensor,
    size: tl.int32,
    width: tl.int32,
    hidden: tl.int32,
    WIDTH: tl.constexpr,
    HIDDEN: tl.constexpr,
) -> tl.tuple:
    """Gradients at the results of output layer and gate, for channels ``own`` of a block; 0 outside."""
    inside = own < width
    out = _linear(products, out_weight, out_shift, own, inside, hidden, HIDDEN)
    gate = tl.sigmoid(_linear(normed, gate_weight, gate_shift, own, inside, width, WIDTH))
    of_out = _load(grad, pairs, own, size, width) * gate
    return of_out, of_out * out * (1.0 - gate)


@triton.jit
def _through_projection(
    through: tl.tensor,
    normed: tl.tensor,
    weight: tl.tensor,
    shift: tl.tensor,
    shown: tl.tensor,
    pairs: tl.tensor,
    own: tl.tensor,
    side: tl.int32,
    size: tl.int32,
    width: tl.int32,
    hidden: tl.int32,
    WIDTH: tl.constexpr,
) -> tl.tuple:
    """Gradients at the results of a projection and its gate; ``side`` is 0 for a, 1 for b; 0 outside."""
    inside = own < hidden
    value = _linear(normed, weight, shift, 2 * side * hidden + own, inside, width, WIDTH)
    gate = tl.sigmoid(_linear(normed, weight, shift, (2 * side + 1) * hidden + own, inside, width, WIDTH))
    channel = (side * hidden + own).to(tl.int64)
    place = channel[None, :] * size * size + pairs.to(tl.int64)[:, None]
    real = shown[:, None] & inside[None, :]
    of_value = tl.load(through + place, mask=real, other=0.0).to(tl.float32) * gate
    return of_value, of_value * value * (1.0 - gate)


@triton.jit
def output_kernel(
    z: tl.tuple,
    x: tl.tuple,
    grad: tl.tuple,
    total: tl.tuple,
    gate_weight: tl.tensor,
    gate_shift: tl.tensor,
    out_weight: tl.tensor,
    out_shift: tl.tensor,
    size: tl.int32,
    width: tl.int32,
    hidden: tl.int32,
    epsilon: tl.float32,
    PAIRS: tl.constexpr,
    WIDTH: tl.constexpr,
    HIDDEN: tl.constexpr,
    CHANNELS: tl.constexpr,
) -> None:
    """Turn x into its gradient, and write into ``total`` what reaches normed z through the last gate."""
    pairs = tl.program_id(0) * PAIRS + tl.arange(0, PAIRS)
    normed = _normed(z, pairs, size, width, epsilon, WIDTH)
    products, scale = _scaled(x, pairs, size, hidden, epsilon, HIDDEN)
    of_products = tl.zeros([PAIRS, HIDDEN], tl.float32)
    of_normed = tl.zeros([PAIRS, WIDTH], tl.float32)
    for first in range(0, width, CHANNELS):
        own = first + tl.arange(0, CHANNELS)
        of_out, of_gate = _through_output(
            grad,
            normed,
            products,
            gate_weight,
            gate_shift,
            out_weight,
            out_shift,
            pairs,
            own,
            size,
            width,
            hidden,
            WIDTH,
            HIDDEN,
        )
        rows = _rows(out_weight, own, own < width, hidden, HIDDEN)
        of_products += tl.dot(of_out.to(rows.dtype), rows, input_precision="ieee")
        rows = _rows(gate_weight, own, own < width, width, WIDTH)
        of_normed += tl.dot(of_gate.to(rows.dtype), rows, input_precision="ieee")
    of_x = _through_norm(of_products, products, scale, hidden)
    _store(x, of_x, pairs, size, hidden, HIDDEN)
    _store(total, of_normed, pairs, size, width, WIDTH)


@triton.jit
def _store(
    target: tl.tuple,
    values: tl.tensor,
    pairs: tl.tensor,
    size: tl.int32,
    width: tl.int32,
    WIDTH: tl.constexpr,
) -> None:
    """Write all channels of a block of pairs."""
    channels = tl.arange(0, WIDTH)
    start = (pairs // size).to(tl.int64) * target[1] + (pairs % size).to(tl.int64) * target[2]
    inside = (pairs < size * size)[:, None] & (channels < width)[None, :]
    at = target[0] + start[:, None] + channels.to(tl.int64)[None, :] * target[3]
    tl.store(at, values.to(target[0].dtype.element_ty), mask=inside)


@triton.jit
def output_sums_kernel(
    z: tl.tuple,
    x: tl.tuple,
    grad: tl.tuple,
    of_out_weight: tl.tensor,
    of_gate_weight: tl.tensor,
    of_shifts: tl.tensor,
    gate_weight: tl.tensor,
    gate_shift: tl.tensor,
    out_weight: tl.tensor,
    out_shift: tl.tensor,
    size: tl.int32,
    width: tl.int32,
    hidden: tl.int32,
    blocks: tl.int32,
    epsilon: tl.float32,
    PAIRS: tl.constexpr,
    WIDTH: tl.constexpr,
    HIDDEN: tl.constexpr,
    CHANNELS: tl.constexpr,
) -> None:
    """Sums over ``blocks`` blocks of pairs: weights ``[groups, width, *]``, shifts ``[groups, 2, width]``."""
    group = tl.program_id(0)
    own = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    out_sum = tl.zeros([CHANNELS, HIDDEN], tl.float32)
    gate_sum = tl.zeros([CHANNELS, WIDTH], tl.float32)
    out_total = tl.zeros([CHANNELS], tl.float32)
    gate_total = tl.zeros([CHANNELS], tl.float32)
    for block in range(group * blocks, tl.minimum((group + 1) * blocks, tl.cdiv(size * size, PAIRS))):
        pairs = block * PAIRS + tl.arange(0, PAIRS)
        normed = _normed(z, pairs, size, width, epsilon, WIDTH)
        products = _normed(x, pairs, size, hidden, epsilon, HIDDEN)
        of_out, of_gate = _through_output(
            grad,
            normed,
            products,
            gate_weight,
            gate_shift,
            out_weight,
            out_shift,
            pairs,
            own,
            size,
            width,
            hidden,
            WIDTH,
            HIDDEN,
        )
        out_sum = _outer(out_sum, of_out, products, out_weight.dtype.element_ty)
        gate_sum = _outer(gate_sum, of_gate, normed, gate_weight.dtype.element_ty)
        out_total += tl.sum(of_out, 0)
        gate_total += tl.sum(of_gate, 0)
    first = group.to(tl.int64) * width
    inside = own < width
    _store_rows(of_out_weight, out_sum, first + own, inside, hidden, HIDDEN)
    _store_rows(of_gate_weight, gate_sum, first + own, inside, width, WIDTH)
    tl.store(of_shifts + 2 * first + own, out_total, mask=inside)
    tl.store(of_shifts + 2 * first + width + own, gate_total, mask=inside)


@triton.jit
def _outer(total: tl.tensor, grad: tl.tensor, values: tl.tensor, dtype: tl.constexpr) -> tl.tensor:
    """Add ``grad^T values``, a product in ``dtype``."""
    return total + tl.dot(tl.trans(grad.to(dtype)), values.to(dtype), input_precision="ieee")


@triton.jit
def _store_rows(
    target: tl.tensor,
    values: tl.tensor,
    rows: tl.tensor,
    rows_inside: tl.tensor,
    width: tl.int32,
    WIDTH: tl.constexpr,
) -> None:
    """Write rows of a contiguous matrix."""
    channels = tl.arange(0, WIDTH)
    inside = rows_inside[:, None] & (channels < width)[None, :]
    tl.store(target + rows.to(tl.int64)[:, None] * width + channels[None, :], values, mask=inside)


@triton.jit
def projections_kernel(
    z: tl.tuple,
    mask: tl.tuple,
    through: tl.tensor,
    grad: tl.tuple,
    total: tl.tuple,
    weight: tl.tensor,
    shift: tl.tensor,
    size: tl.int32,
    width: tl.int32,
    hidden: tl.int32,
    epsilon: tl.float32,
    RESIDUAL: tl.constexpr,
    PAIRS: tl.constexpr,
    WIDTH: tl.constexpr,
    CHANNELS: tl.constexpr,
) -> None:
    """The gradient of z, from those of a and b ``[2, hidden, N, N]`` and what ``total`` holds already."""
    pairs = tl.program_id(0) * PAIRS + tl.arange(0, PAIRS)
    channels = tl.arange(0, WIDTH)
    normed, scale = _scaled(z, pairs, size, width, epsilon, WIDTH)
    shown = _shown(mask, pairs, size)
    of_normed = _load(total, pairs, channels, size, width)
    for side in range(2):
        for first in range(0, hidden, CHANNELS):
            own = first + tl.arange(0, CHANNELS)
            of_value, of_gate = _through_projection(
                through, normed, weight, shift, shown, pairs, own, side, size, width, hidden, WIDTH
            )
            rows = _rows(weight, 2 * side * hidden + own, own < hidden, width, WIDTH)
            of_normed += tl.dot(of_value.to(rows.dtype), rows, input_precision="ieee")
            rows = _rows(weight, (2 * side + 1) * hidden + own, own < hidden, width, WIDTH)
            of_normed += tl.dot(of_gate.to(rows.dtype), rows, input_precision="ieee")
    of_z = _through_norm(of_normed, normed, scale, width)
    if RESIDUAL:
        of_z += _load(grad, pairs, channels, size, width)
    _store(total, of_z, pairs, size, width, WIDTH)


@triton.jit
def projection_sums_kernel(
    z: tl.tuple,
    mask: tl.tuple,
    through: tl.tensor,
    of_weight: tl.tensor,
    of_shift: tl.tensor,
    weight: tl.tensor,
    shift: tl.tensor,
    size: tl.int32,
    width: tl.int32,
    hidden: tl.int32,
    blocks: tl.int32,
    epsilon: tl.float32,
    PAIRS: tl.constexpr,
    WIDTH: tl.constexpr,
    CHANNELS: tl.constexpr,
) -> None:
    """Sums over ``blocks`` blocks of pairs: ``[groups, 4, hidden, width]`` and ``[groups, 4, hidden]``."""
    group = tl.program_id(0)
    chunks = tl.cdiv(hidden, CHANNELS)
    side = tl.program_id(1) // chunks
    own = tl.program_id(1) % chunks * CHANNELS + tl.arange(0, CHANNELS)
    value_sum = tl.zeros([CHANNELS, WIDTH], tl.float32)
    gate_sum = tl.zeros([CHANNELS, WIDTH], tl.float32)
    value_total = tl.zeros([CHANNELS], tl.float32)
    gate_total = tl.zeros([CHANNELS], tl.float32)
    for block in range(group * blocks, tl.minimum((group + 1) * blocks, tl.cdiv(size * size, PAIRS))):
        pairs = block * PAIRS + tl.arange(0, PAIRS)
        normed = _normed(z, pairs, size, width, epsilon, WIDTH)
        shown = _shown(mask, pairs, size)
        of_value, of_gate = _through_projection(
            through, normed, weight, shift, shown, pairs, own, side, size, width, hidden, WIDTH
        )
        value_sum = _outer(value_sum, of_value, normed, weight.dtype.element_ty)
        gate_sum = _outer(gate_sum, of_gate, normed, weight.dtype.element_ty)
        value_total += tl.sum(of_value, 0)
        gate_total += tl.sum(of_gate, 0)
    inside = own < hidden
    first = (group.to(tl.int64) * 4 + 2 * side) * hidden
    _store_rows(of_weight, value_sum, first + own, inside, width, WIDTH)
    _store_rows(of_weight, gate_sum, first + hidden + own, inside, width, WIDTH)
    tl.store(of_shift + first + own, value_total, mask=inside)
    tl.store(of_shift + first + hidden + own, gate_total, mask=inside)
