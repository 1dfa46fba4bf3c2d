"""Triangle multiplication on a GPU by Triton: fused kernels around the products over k.

Forward, one kernel norms, projects, gates and masks blocks of pairs, and another one norms the products,
applies output layer and gate and adds z; the products, for groups of channels, are the matrix library's. The
backward pass keeps z alone. It recomputes x, turns it into its gradient where it lies, and, group by group,
that into the gradients of a and b; a last kernel takes these through gates, projections and the first norm.
Gradients of weights are summed in a fixed number of partial sums. Nothing adds to what another
program writes, so there are no atomics and results are the same in every run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from foldase_kernels import triton_support
from foldase_kernels.triangle_multiplication.cpu import full_mask, indices
from foldase_kernels.triangle_multiplication.cpu_gradients import Sums
from foldase_kernels.triangle_multiplication.cpu_tiles import fold, held_dtype, spans
from foldase_kernels.triangle_multiplication.parameters import EPSILON, TriangleMultiplicationParameters

MAX_WIDTH = 128
"""Channels that a program holds at once."""
MAX_SIZE = 46_340
"""Beyond it the number of pairs does not fit into 32 bits."""
GROUP_SHARE = 4
"""The products over k run for at most this part of the channels at once ..."""
LEAST_CHANNELS = 32
"""... or so many: fewer make kernels read z more often than they compute."""
GROUPS = 64
"""Partial sums of the gradients of weights. A constant, so that sums come out alike on every machine."""

_FOLDER = "foldase_kernels.triangle_multiplication"


@dataclass(frozen=True, slots=True)
class Blocks:
    """Sizes of the tiles of a kernel, and how Triton is to run it."""

    pairs: int
    channels: int
    warps: int


def choose_blocks(dtype: torch.dtype) -> Blocks:
    """Tile sizes by dtype; guesses after the size of registers, not yet measured on a GPU."""
    return Blocks(16, 16, 8) if dtype == torch.float32 else Blocks(32, 32, 8)


def suits(z: torch.Tensor, parameters: TriangleMultiplicationParameters) -> bool:
    """Whether the kernels take tensors of these sizes and dtype."""
    widest = max(z.shape[-1], parameters.a_p_weight.shape[0])
    return z.dtype in triton_support.DTYPES and widest <= MAX_WIDTH and z.shape[-2] <= MAX_SIZE


def check_runs_here(z: torch.Tensor, parameters: TriangleMultiplicationParameters) -> None:
    """Refuse what Triton cannot work on.

    Raises:
        ValueError: Triton is missing, z is neither on a GPU nor interpreted, of float64, or too large.
    """
    triton_support.check_runs_here("z", z)
    if not suits(z, parameters):
        raise ValueError(
            f"z has shape {list(z.shape)} and C is {parameters.a_p_weight.shape[0]}; backend 'triton' takes "
            f"at most {MAX_WIDTH} channels and N = {MAX_SIZE}"
        )


def group_channels(hidden: int) -> int:
    """How many channels the products over k run for at once."""
    share = -(-hidden // GROUP_SHARE)
    return min(hidden, -(-share // LEAST_CHANNELS) * LEAST_CHANNELS)


def scratch_bound(size: int, width: int, hidden: int, dtype: torch.dtype, *, backward: bool = False) -> int:
    """Bytes of scratch that one pass over ``z`` ``[N, N, width]`` stays below.

    Buffers for a group of channels (a quarter of them, rounded up to 32), three forward, two in place and
    backward; folded parameters in float32 and in the dtype of z; backward :data:`GROUPS` partial sums of the
    gradients of weights, whatever N (26 MiB with 128 channels), and their totals. Not the results, nor what
    ``api`` names beside them.
    """
    parameters = (5 * hidden + width + 8) * (width + 8)
    copies = 4 * (5 + GROUPS) if backward else 4 * 4
    group = group_channels(hidden) * size * size * held_dtype(dtype).itemsize
    return (2 if backward else 3) * group + copies * parameters


def triangle_multiplication_forward(
    z: torch.Tensor,
    parameters: TriangleMultiplicationParameters,
    mask: torch.Tensor | None,
    outgoing: bool,
    residual: bool,
    result: torch.Tensor,
) -> None:
    """Write the update, or ``z + update``, into ``result``, which may be z; memory as in the API."""
    check_runs_here(z, parameters)
    size, width = z.shape[-2:]
    hidden = parameters.a_p_weight.shape[0]
    own = result is z or hidden > width or held_dtype(z.dtype) != z.dtype
    held = z.new_empty(hidden, size, size, dtype=held_dtype(z.dtype)) if own else None
    mask = full_mask(z, mask)
    with torch.cuda.device_of(z):  # type: ignore[no-untyped-call]
        call = _Call(z, parameters, outgoing, buffers=2 if own else 3)
        for index in indices(z):
            x = result[index][..., :hidden].movedim(-1, 0) if held is None else held
            part = z[index], None if mask is None else mask[index]
            call.multiply(*part, x)
            call.finish(part[0], x, result[index], residual)


def triangle_multiplication_backward(
    z: torch.Tensor,
    parameters: TriangleMultiplicationParameters,
    mask: torch.Tensor | None,
    outgoing: bool,
    residual: bool,
    grad: torch.Tensor,
    wanted: Sequence[bool],
) -> tuple[torch.Tensor | None, ...]:
    """Gradients of z and, where any is wanted, of the parameters in their order."""
    check_runs_here(z, parameters)
    size, hidden = z.shape[-2], parameters.a_p_weight.shape[0]
    grad_z = torch.empty(z.shape, dtype=z.dtype, device=z.device)
    both = z.new_empty(2, hidden, size, size, dtype=held_dtype(z.dtype))
    mask = full_mask(z, mask)
    with torch.cuda.device_of(z):  # type: ignore[no-untyped-call]
        call = _Call(z, parameters, outgoing, buffers=2)
        sums = Sums(call.weights) if any(wanted[1:]) else None
        for index in indices(z):
            part = z[index], None if mask is None else mask[index]
            call.multiply(*part, both[0])
            call.through_output(part[0], both[0], grad[index], grad_z[index], sums)
            call.through_products(*part, both)
            call.through_projections(*part, both, grad[index] if residual else None, grad_z[index], sums)
        of_parameters = (None,) * len(parameters) if sums is None else sums.of(parameters)
    return (grad_z, *of_parameters)


def _operand(tensor: torch.Tensor) -> tuple[Any, ...]:
    """Pairs ``[N, N, channels]`` as the kernels take them."""
    return (tensor, *tensor.stride())


class _Call:
    """What the launches of one call share; ``buffers`` for a group of channels each."""

    def __init__(
        self, z: torch.Tensor, parameters: TriangleMultiplicationParameters, outgoing: bool, buffers: int
    ) -> None:
        load = triton_support.kernels
        self.forward = load(f"{_FOLDER}.triton_kernels", "operands_kernel", z.device)
        self.gradients = load(f"{_FOLDER}.triton_gradients", "output_kernel", z.device)
        self.outgoing = outgoing
        self.size, self.width = z.shape[-2:]
        self.hidden = parameters.a_p_weight.shape[0]
        self.weights = fold(parameters, torch.float32)
        # Tensor cores want the dtype of z; the interpreter multiplies float32 only.
        dtype = torch.float32 if triton_support.interpreted() else z.dtype
        self.pair, self.gate, self.out = (
            weight.to(dtype).contiguous()
            for weight in (self.weights.pair, self.weights.gate, self.weights.out)
        )
        self.blocks = choose_blocks(z.dtype)
        self.padded = triton_support.padded(self.width), triton_support.padded(self.hidden)
        self.channels = group_channels(self.hidden)
        shape = (self.channels, self.size, self.size)
        kept = held_dtype(z.dtype)
        self.groups = [torch.empty(shape, dtype=kept, device=z.device) for _ in range(buffers)]

    @property
    def count(self) -> int:
        """Blocks of pairs."""
        return -(-(self.size**2) // self.blocks.pairs)

    def chunks(self, channels: int) -> int:
        """Programs that channels are divided among."""
        return -(-channels // self.blocks.channels)

    def launch(self, kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
        """Run a kernel; all take the tiles of pairs and channels and the padded width."""
        kernel[grid](
            *arguments,
            EPSILON,
            **constants,
            PAIRS=self.blocks.pairs,
            CHANNELS=self.blocks.channels,
            WIDTH=self.padded[0],
            num_warps=self.blocks.warps,
            num_stages=1,
        )

    def masked(self, mask: torch.Tensor | None) -> tuple[Any, ...] | None:
        """Booleans are read as bytes: Triton has no pointer to single bits."""
        return None if mask is None else _operand(mask.view(torch.uint8))

    def operands(
        self, z: torch.Tensor, mask: torch.Tensor | None, channels: slice
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Both operands of some channels, each ``[channels, N, N]``, in the first two group buffers."""
        count = channels.stop - channels.start
        a, b = self.groups[0][:count], self.groups[1][:count]
        self.launch(
            self.forward.operands_kernel,
            (self.count, self.chunks(count)),
            _operand(z),
            self.masked(mask),
            self.pair,
            self.weights.pair_shift,
            a,
            b,
            self.size,
            self.width,
            self.hidden,
            channels.start,
            count,
        )
        return a, b

    def multiply(self, z: torch.Tensor, mask: torch.Tensor | None, held: torch.Tensor) -> None:
        """Write x into ``held`` ``[C, N, N]``, by a buffer where it does not lie as a product would."""
        for channels in spans(self.hidden, self.channels):
            a, b = self.operands(z, mask, channels)
            target = held[channels]
            x = target if target.is_contiguous() else self.groups[2][: a.shape[0]]
            if self.outgoing:
                torch.bmm(a, b.mT, out=x)
            else:
                torch.bmm(a.mT, b, out=x)
            if x is not target:
                target.copy_(x)

    def finish(self, z: torch.Tensor, held: torch.Tensor, result: torch.Tensor, residual: bool) -> None:
        """Write the result, which may be z itself, or hold x in the first channels of every pair."""
        self.launch(
            self.forward.finish_kernel,
            (self.count,),
            _operand(z),
            _operand(held.movedim(0, -1)),
            _operand(result),
            *self.after(),
            self.size,
            self.width,
            self.hidden,
            RESIDUAL=residual,
            HIDDEN=self.padded[1],
        )

    def after(self) -> tuple[torch.Tensor, ...]:
        """Weights and shifts of gate and output layer."""
        return self.gate, self.weights.gate_shift, self.out, self.weights.out_shift

    def parts(self) -> tuple[int, int]:
        """Partial sums, and the blocks of pairs in each."""
        each = -(-self.count // min(GROUPS, self.count))
        return -(-self.count // each), each

    def through_output(
        self,
        z: torch.Tensor,
        x: torch.Tensor,
        grad: torch.Tensor,
        total: torch.Tensor,
        sums: Sums | None,
    ) -> None:
        """Gate, output layer and second norm: x becomes its gradient, ``total`` gets the gate's share."""
        tensors = _operand(z), _operand(x.movedim(0, -1)), _operand(grad)
        sizes = self.size, self.width, self.hidden
        if sums is not None:
            groups, each = self.parts()
            of_out = sums.out.new_empty(groups, self.width, self.hidden)
            of_gate = sums.gate.new_empty(groups, self.width, self.width)
            of_shifts = sums.gate.new_empty(groups, 2, self.width)
            grid = groups, self.chunks(self.width)
            partial = of_out, of_gate, of_shifts
            kernel = self.gradients.output_sums_kernel
            self.launch(kernel, grid, *tensors, *partial, *self.after(), *sizes, each, HIDDEN=self.padded[1])
            sums.out += of_out.sum(0)
            sums.gate += of_gate.sum(0)
            sums.out_shift += of_shifts[:, 0].sum(0)
            sums.gate_shift += of_shifts[:, 1].sum(0)
        kernel = self.gradients.output_kernel
        whole = _operand(total)
        self.launch(kernel, (self.count,), *tensors, whole, *self.after(), *sizes, HIDDEN=self.padded[1])

    def through_products(self, z: torch.Tensor, mask: torch.Tensor | None, both: torch.Tensor) -> None:
        """The gradient of x, in the first half of ``both``, becomes that of a; that of b is the second."""
        for channels in spans(self.hidden, self.channels):
            a, b = self.operands(z, mask, channels)
            of_x, of_b = both[0, channels], both[1, channels]
            if self.outgoing:
                torch.bmm(of_x.mT, a, out=of_b)
                torch.bmm(of_x, b, out=a)
            else:
                torch.bmm(a, of_x, out=of_b)
                torch.bmm(b, of_x.mT, out=a)
            of_x.copy_(a)

    def through_projections(
        self,
        z: torch.Tensor,
        mask: torch.Tensor | None,
        both: torch.Tensor,
        grad: torch.Tensor | None,
        total: torch.Tensor,
        sums: Sums | None,
    ) -> None:
        """Gates, projections and first norm; ``grad`` is the residual's share."""
        tensors = _operand(z), self.masked(mask), both
        weights = self.pair, self.weights.pair_shift
        sizes = self.size, self.width, self.hidden
        if sums is not None:
            groups, each = self.parts()
            of_weight = sums.pair.new_empty(groups, *sums.pair.shape)
            of_shift = sums.pair.new_empty(groups, *sums.pair_shift.shape)
            grid = groups, 2 * self.chunks(self.hidden)
            kernel = self.gradients.projection_sums_kernel
            self.launch(kernel, grid, *tensors, of_weight, of_shift, *weights, *sizes, each)
            sums.pair += of_weight.sum(0)
            sums.pair_shift += of_shift.sum(0)
        whole = None if grad is None else _operand(grad), _operand(total)
        kernel = self.gradients.projections_kernel
        self.launch(kernel, (self.count,), *tensors, *whole, *weights, *sizes, RESIDUAL=grad is not None)
