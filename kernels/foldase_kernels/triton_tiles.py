"""What Triton kernels of several operations share.

An operand is a tuple: pointer, strides of the merged leading dimensions (innermost first), then the strides
of its own dimensions; see :func:`foldase_kernels.attention.triton_layout.operands`.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def place(index: tl.tensor, sizes: tl.tuple, strides: tl.tuple) -> tl.tensor:
    """64-bit offsets of flat indices of the leading dimensions."""
    rest = index.to(tl.int64)
    offset = rest * 0
    for dim in tl.static_range(len(sizes) - 1):
        offset += (rest % sizes[dim]) * strides[dim]
        rest = rest // sizes[dim]
    return offset + rest * strides[len(sizes) - 1]


@triton.jit
def product(left: tl.tensor, right: tl.tensor, WIDEN: tl.constexpr) -> tl.tensor:
    """A matrix product summed in float32; ``WIDEN`` for the interpreter, which cannot multiply bfloat16."""
    if WIDEN:
        left = left.to(tl.float32)
        right = right.to(tl.float32)
    return tl.dot(left, right, input_precision="ieee")
