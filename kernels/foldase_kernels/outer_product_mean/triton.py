"""The outer product mean on a GPU by Triton: outer products exist as tiles on the chip only.

The backward pass keeps nothing but the inputs and takes the same way back: once for a, once for b, and once
for the weight, for which the products of a tile are computed anew. No program adds to what another one
writes, so there are no atomics and results are the same in every run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch

from foldase_kernels import triton_support
from foldase_kernels.attention.triton_layout import Operand, operands
from foldase_kernels.outer_product_mean.cpu_tiles import Grads
from foldase_kernels.triton_support import ENOUGH_PROGRAMS

MAX_HIDDEN, MAX_CHANNELS = 128, 256
"""Channels of a factor and of a pair that a program holds at once."""

COUNTED, COUNTED_SEQUENCES = 32, 32
"""Sides of the tiles in which sequences of pairs are counted."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """Sizes of the tiles of one kernel, and how Triton is to run it."""

    rows: int
    columns: int
    part: int
    hidden: int
    channels: int
    sequences: int
    warps: int = 8
    stages: int = 1


def choose_blocks(hidden: int, channels: int, dtype: torch.dtype, *, factors: bool) -> Blocks:
    """Tile sizes by channels and dtype; ``factors`` for the kernel of the gradients of a and b.

    Guesses after the size of registers and shared memory, not yet measured on a GPU.
    """
    inner = triton_support.padded(hidden, 4)
    outer = triton_support.padded(channels)
    wide = dtype == torch.float32
    columns = min(8, max(1, (64 if wide else 128) // inner))
    part = min(inner, max(1, (64 if wide else 128) // inner))
    sequences = (32 if wide else 64) if factors else 32
    return Blocks(16, columns, part, inner, outer, sequences)


def suits(a: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether the kernels take tensors of this dtype and width."""
    narrow = a.shape[-1] <= MAX_HIDDEN and weight.shape[0] <= MAX_CHANNELS
    return narrow and a.dtype in triton_support.DTYPES


def check_runs_here(a: torch.Tensor, weight: torch.Tensor) -> None:
    """Refuse what Triton cannot work on.

    Raises:
        ValueError: as :func:`foldase_kernels.triton_support.check_runs_here`, or too many channels.
    """
    triton_support.check_runs_here("a", a)
    if not suits(a, weight):
        raise ValueError(
            f"a has shape {list(a.shape)} and c_z is {weight.shape[0]}; backend 'triton' takes at most "
            f"{MAX_HIDDEN} channels and c_z = {MAX_CHANNELS}"
        )


def scratch_bytes(a: torch.Tensor, weight: torch.Tensor, *, weighted: bool, backward: bool) -> int:
    """The most bytes this backend holds beyond inputs, the result and the gradients asked for.

    One float32 number a pair where positions are ``weighted``; the weight in the dtype of a, where its own is
    another. Backward float32 sums of the weight's gradient, one set for each group of pairs and one for their
    total: fewer than :data:`foldase_kernels.triton_support.ENOUGH_PROGRAMS` and once more the parts of the
    channels in programs, whatever the number of sequences and residues.
    """
    pairs = math.prod(a.shape[:-3]) * a.shape[-2] ** 2
    channels, products = weight.shape
    copied = weight.dtype != a.dtype or not weight.is_contiguous()
    total = 4 * pairs * weighted + weight.numel() * a.element_size() * copied
    if not backward:
        return total
    plan = _Groups(a, choose_blocks(a.shape[-1], channels, a.dtype, factors=False))
    return total + 4 * ((plan.groups + 1) * channels * (products + 1))


def outer_product_mean_forward(
    a: torch.Tensor,
    b: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    weights: torch.Tensor | None,
    epsilon: float,
    out: torch.Tensor,
    *,
    add: bool,
) -> None:
    """Write the update into ``out`` ``[..., N, N, c_z]``, or add it; ``weights`` are ``[..., S, N]``."""
    check_runs_here(a, weight)
    blocks = choose_blocks(a.shape[-1], weight.shape[0], a.dtype, factors=False)
    with torch.cuda.device_of(a):  # type: ignore[no-untyped-call]
        call = _Call(a, b, weight, weights, epsilon, out)
        tensors = (*call.factors, *call.shared, call.weight, None if bias is None else bias.contiguous())
        call.launch(call.kernels.forward, blocks, _Groups(a, blocks).tiles, tensors, ADD=add)


def outer_product_mean_backward(
    a: torch.Tensor,
    b: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    weights: torch.Tensor | None,
    epsilon: float,
    grad_out: torch.Tensor,
    wanted: Sequence[bool],
) -> Grads:
    """Gradients of a, b, weight and bias, None where not wanted; scratch is :func:`scratch_bytes`."""
    check_runs_here(a, weight)
    grads: list[torch.Tensor | None] = [None] * 4
    with torch.cuda.device_of(a):  # type: ignore[no-untyped-call]
        call = _Call(a, b, weight, weights, epsilon, grad_out)
        for side in range(2):
            if wanted[side]:
                grads[side] = _of_factor(call, (a, b)[side], side)
        if wanted[2] or wanted[3]:
            of_weight, of_bias = _of_weight(call, a, weight)
            grads[2] = of_weight.view(weight.shape).to(weight.dtype) if wanted[2] else None
            grads[3] = of_bias.to(bias.dtype) if wanted[3] and bias is not None else None
    return tuple(grads)


class _Groups:
    """How many tiles of pairs there are, and how they are grouped for the gradient of the weight."""

    def __init__(self, a: torch.Tensor, blocks: Blocks) -> None:
        residues, hidden = a.shape[-2:]
        tiles = _ceil(residues, blocks.rows) * _ceil(residues, blocks.columns)
        self.tiles = math.prod(a.shape[:-3]) * tiles
        self.parts = _ceil(hidden, blocks.part)
        self.per_group = _ceil(self.tiles, min(self.tiles, _ceil(ENOUGH_PROGRAMS, self.parts)))
        self.groups = _ceil(self.tiles, self.per_group)


class _Call:
    """What the launches of one call share; ``pairs`` is the result or its gradient."""

    def __init__(
        self,
        a: torch.Tensor,
        b: torch.Tensor,
        weight: torch.Tensor,
        weights: torch.Tensor | None,
        epsilon: float,
        pairs: torch.Tensor,
    ) -> None:
        self.a = a
        self.leading = a.shape[:-3]
        *_, sequences, residues, hidden = a.shape
        self.numbers = (1.0 / (sequences + epsilon), sequences, residues, hidden, weight.shape[0])
        matrix = weight.to(a.dtype).contiguous()
        self.weight: Operand = (matrix, hidden * hidden, hidden, 1)
        # Booleans are read as bytes: Triton has no pointer to single bits.
        if weights is not None and weights.dtype == torch.bool:
            weights = weights.view(torch.uint8)
        inverse = None if weights is None else self._count(weights, epsilon)
        self.views = (a, b, weights, inverse, pairs)
        self.sizes, found = operands(self.leading, self.views)
        self.factors, self.shared = tuple(found[:2]), tuple(found[2:])

    @property
    def kernels(self) -> ModuleType:
        """Triton is imported here and not before."""
        module = "foldase_kernels.outer_product_mean.triton_kernels"
        return triton_support.kernels(module, "forward", self.a.device)

    def _count(self, weights: torch.Tensor, epsilon: float) -> torch.Tensor:
        """One over the count of every pair, float32 ``[..., N, N]``."""
        _, sequences, residues, *_ = self.numbers
        shape = (*self.leading, residues, residues)
        inverse = torch.empty(shape, dtype=torch.float32, device=weights.device)
        sizes, found = operands(self.leading, [weights, inverse])
        programs = math.prod(self.leading) * _ceil(residues, COUNTED) ** 2
        self.kernels.count[(programs,)](
            *found, sizes, sequences, residues, epsilon, PAIRS=COUNTED, SEQUENCES=COUNTED_SEQUENCES
        )
        return inverse

    def launch(
        self,
        kernel: Any,
        blocks: Blocks,
        programs: int,
        tensors: Sequence[Any],
        *extra: int,
        sizes: tuple[int, ...] | None = None,
        **constants: bool,
    ) -> None:
        """Run a kernel on tensors, plain numbers and what it is compiled for."""
        kernel[(programs,)](
            *tensors,
            self.sizes if sizes is None else sizes,
            *self.numbers,
            *extra,
            **constants,
            WIDEN=triton_support.interpreted() and self.a.dtype == torch.bfloat16,
            ROWS=blocks.rows,
            COLUMNS=blocks.columns,
            PART=blocks.part,
            HIDDEN=blocks.hidden,
            CHANNELS=blocks.channels,
            SEQUENCES=blocks.sequences,
            num_warps=blocks.warps,
            num_stages=blocks.stages,
            enable_fp_fusion=True,
        )


def _of_factor(call: _Call, factor: torch.Tensor, side: int) -> torch.Tensor:
    """The gradient of a (side 0) or of b (side 1)."""
    grad = torch.empty(factor.shape, dtype=factor.dtype, device=factor.device)
    _, sequences, residues, hidden, channels = call.numbers
    a, b, weights, inverse, pairs = call.views
    other, weight = b, call.weight
    if side:
        # Seen from b everything is the same with both sides of a pair exchanged; counts are symmetric.
        other, pairs = a, pairs.transpose(-3, -2)
        weight = (*weight[:2], weight[3], weight[2])
    sizes, found = operands(call.leading, [other, weights, inverse, pairs, grad])
    blocks = choose_blocks(hidden, channels, factor.dtype, factors=True)
    programs = math.prod(call.leading) * _ceil(residues, blocks.rows)
    programs *= _ceil(hidden, blocks.part) * _ceil(sequences, blocks.sequences)
    call.launch(call.kernels.backward_factor, blocks, programs, (*found, weight), sizes=sizes)
    return grad


def _of_weight(call: _Call, a: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Float32 gradients of the weight and of the bias."""
    blocks = choose_blocks(a.shape[-1], weight.shape[0], a.dtype, factors=False)
    plan = _Groups(a, blocks)
    of_weight, of_bias = (
        torch.empty(plan.groups, *shape, dtype=torch.float32, device=a.device)
        for shape in (weight.shape, weight.shape[:1])
    )
    call.launch(
        call.kernels.backward_weight,
        blocks,
        plan.groups * plan.parts,
        (*call.factors, *call.shared, of_weight, of_bias),
        plan.tiles,
        plan.per_group,
    )
    return of_weight.sum(0), of_bias.sum(0)


def _ceil(number: int, step: int) -> int:
    return -(-number // step)
