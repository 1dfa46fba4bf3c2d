"""The transition on a GPU by Triton: a tile of positions stays on the chip from layer norm to result.

The backward pass keeps nothing but the inputs and computes the hidden layer anew, once for the gradient of x
and once for those of the weights. No program adds to what another one writes, so there are no atomics and
results are the same in every run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

import torch

from foldase_kernels import triton_support
from foldase_kernels.attention.triton_layout import operands
from foldase_kernels.transition.parameters import TransitionParameters
from foldase_kernels.triton_support import ENOUGH_PROGRAMS

MAX_CHANNELS = {torch.float32: 256, torch.bfloat16: 512, torch.float16: 512}
"""A program holds all channels of its positions, in registers and shared memory."""

MOST_PROGRAMS = 1024
"""Of the kernel of the gradient of x, each with three rows of sums."""

Grads = tuple[torch.Tensor | None, ...]


@dataclass(frozen=True, slots=True)
class Blocks:
    """Sizes of the tiles of one kernel, and how Triton is to run it."""

    positions: int
    hidden: int
    width: int
    warps: int = 8
    stages: int = 1


Purpose = Literal["forward", "positions", "weights"]

HALF_BLOCKS: dict[int, dict[Purpose, tuple[int, int]]] = {
    128: {"forward": (64, 32), "positions": (32, 32), "weights": (64, 32)},
    256: {"forward": (32, 32), "positions": (16, 32), "weights": (32, 16)},
    512: {"forward": (16, 16), "positions": (16, 32), "weights": (16, 16)},
}
"""Positions and hidden units by padded channels, the largest whose kernels hardly spill registers."""


def choose_blocks(channels: int, dtype: torch.dtype, purpose: Purpose) -> Blocks:
    """Tile sizes by width and dtype, after the size of registers; not yet measured on a GPU."""
    width = triton_support.padded(channels)
    sizes = (16, 16) if dtype == torch.float32 else HALF_BLOCKS[max(128, width)][purpose]
    return Blocks(*sizes, width)


def suits(x: torch.Tensor) -> bool:
    """Whether the kernels take tensors of this dtype and width."""
    return x.shape[-1] <= MAX_CHANNELS.get(x.dtype, 0)


def check_runs_here(x: torch.Tensor) -> None:
    """Refuse what Triton cannot work on.

    Raises:
        ValueError: as :func:`foldase_kernels.triton_support.check_runs_here`, or too many channels.
    """
    triton_support.check_runs_here("x", x)
    if not suits(x):
        raise ValueError(
            f"x has shape {list(x.shape)}; backend 'triton' takes at most {MAX_CHANNELS[x.dtype]} channels "
            f"of {x.dtype}"
        )


def scratch_bytes(x: torch.Tensor, parameters: TransitionParameters) -> int:
    """The most bytes this backend holds beyond inputs, the result and the gradients asked for.

    Copies of the matrices in the dtype of x, where theirs is another. For gradients of the parameters
    float32 sums: of the weights one set for each group of positions and one for their total, with fewer than
    :data:`foldase_kernels.triton_support.ENOUGH_PROGRAMS` and once more the chunks of the hidden layer in
    programs, whatever the number of positions; and three rows for each of :data:`MOST_PROGRAMS` programs.
    """
    blocks = choose_blocks(x.shape[-1], x.dtype, "weights")
    hidden, channels = parameters.weight_in.shape
    tiles = max(1, _ceil(x.numel() // channels, blocks.positions))
    groups = _groups(tiles, _ceil(hidden, blocks.hidden))
    present = [matrix for matrix in parameters if matrix is not None and matrix.dim() == 2]
    weights = sum(matrix.numel() for matrix in present) + 2 * hidden
    sums = (groups + 1) * weights + 3 * (min(tiles, MOST_PROGRAMS) + 1) * channels
    copied = [matrix for matrix in present if matrix.dtype != x.dtype or not matrix.is_contiguous()]
    vectors = 6 * max(hidden, channels)
    return 4 * (sums + vectors) + sum(2 * matrix.numel() * x.element_size() for matrix in copied)


def transition_forward(
    x: torch.Tensor,
    parameters: TransitionParameters,
    mask: torch.Tensor | None,
    residual: bool,
    epsilon: float,
    out: torch.Tensor,
) -> None:
    """Write the update, or with ``residual`` ``x + update``, into ``out``, which may be x itself."""
    check_runs_here(x)
    if x.numel() == 0:
        return
    with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
        call = _Call(x, parameters, mask, epsilon, "forward")
        sizes, views = call.operands(out)
        tensors = (*views, *call.norm, *call.into, call.weight_out, call.bias_out, *call.gate)
        call.launch(call.kernels.forward, call.tiles, tensors, sizes, RESIDUAL=residual)


def transition_backward(
    x: torch.Tensor,
    parameters: TransitionParameters,
    mask: torch.Tensor | None,
    residual: bool,
    epsilon: float,
    grad_out: torch.Tensor,
    wants_x: bool,
    wanted: Sequence[bool],
) -> tuple[torch.Tensor | None, Grads]:
    """Gradients of x and of the parameters, None where not wanted; scratch is :func:`scratch_bytes`."""
    check_runs_here(x)
    need = TransitionParameters(*wanted)  # type: ignore[arg-type]
    if x.numel() == 0:
        empty = (torch.zeros_like(own) if own is not None else None for own in parameters)
        return torch.empty(x.shape, dtype=x.dtype, device=x.device), tuple(empty)
    of_x = torch.empty(x.shape, dtype=x.dtype, device=x.device) if wants_x else None
    found: dict[str, torch.Tensor] = {}
    with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
        if wants_x or need.norm_weight or need.norm_bias or need.bias_out:
            call = _Call(x, parameters, mask, epsilon, "positions")
            found |= _of_positions(call, grad_out, of_x, residual)
        if any((need.weight_in, need.bias_in, need.weight_out, need.weight_gate, need.bias_gate)):
            found |= _of_weights(_Call(x, parameters, mask, epsilon, "weights"), grad_out)
    grads = (
        found[name].to(own.dtype) if needed and own is not None else None
        for name, own, needed in zip(parameters._fields, parameters, wanted, strict=True)
    )
    return of_x, tuple(grads)


class _Call:
    """What the launches of one call share."""

    def __init__(
        self,
        x: torch.Tensor,
        parameters: TransitionParameters,
        mask: torch.Tensor | None,
        epsilon: float,
        purpose: Purpose,
    ) -> None:
        self.x, self.blocks = x, choose_blocks(x.shape[-1], x.dtype, purpose)
        # Booleans are read as bytes: Triton has no pointer to single bits.
        self.mask = None if mask is None else mask.view(torch.uint8).expand(x.shape[:-1])
        self.hidden, self.channels = parameters.weight_in.shape
        count = x.numel() // self.channels
        self.tiles = _ceil(count, self.blocks.positions)
        self.chunks = _ceil(self.hidden, self.blocks.hidden)
        self.numbers = (count, self.channels, self.hidden, epsilon)
        vectors = TransitionParameters(*(None if p is None else p.contiguous() for p in parameters))  # type: ignore[arg-type]
        matrices = vectors.to(x.dtype)
        self.norm = (vectors.norm_weight, vectors.norm_bias)
        self.into = (matrices.weight_in, vectors.bias_in)
        self.weight_out, self.bias_out = matrices.weight_out, vectors.bias_out
        self.gate = (matrices.weight_gate, vectors.bias_gate)

    @property
    def kernels(self) -> ModuleType:
        """Triton is imported here and not before."""
        module = "foldase_kernels.transition.triton_kernels"
        return triton_support.kernels(module, "forward", self.x.device)

    def operands(self, *others: torch.Tensor | None) -> tuple[tuple[int, ...], tuple[Any, ...]]:
        """Merged sizes of the positions; x, the first of the others, the mask, the rest of the others."""
        views = [self.x, others[0], self.mask, *others[1:]]
        sizes, found = operands(self.x.shape[:-1], views)
        return sizes, tuple(found)

    def sums(self, *shape: int) -> torch.Tensor:
        """Room for sums of groups."""
        return torch.empty(shape, dtype=torch.float32, device=self.x.device)

    def launch(
        self,
        kernel: Any,
        programs: int,
        tensors: Sequence[Any],
        sizes: tuple[int, ...],
        *extra: int,
        **constants: bool,
    ) -> None:
        """Run a kernel on tensors, plain numbers and what it is compiled for."""
        blocks = self.blocks
        kernel[(programs,)](
            *tensors,
            sizes,
            *self.numbers,
            *extra,
            **constants,
            WIDEN=triton_support.interpreted() and self.x.dtype == torch.bfloat16,
            POSITIONS=blocks.positions,
            WIDTH=blocks.width,
            HIDDEN=blocks.hidden,
            num_warps=blocks.warps,
            num_stages=blocks.stages,
            enable_fp_fusion=True,
        )


def _of_positions(
    call: _Call, grad: torch.Tensor, of_x: torch.Tensor | None, residual: bool
) -> dict[str, torch.Tensor]:
    """Fill the gradient of x; give those of the norm and of ``bias_out``."""
    per_program = _ceil(call.tiles, MOST_PROGRAMS)
    programs = _ceil(call.tiles, per_program)
    sums = call.sums(programs, 3, call.channels)
    sizes, views = call.operands(grad, of_x)
    tensors = (*views, *call.norm, *call.into, call.weight_out, *call.gate, sums)
    call.launch(call.kernels.backward_positions, programs, tensors, sizes, per_program, RESIDUAL=residual)
    names = ("norm_weight", "norm_bias", "bias_out")
    return {name: part.sum(0) for name, part in zip(names, sums.unbind(1), strict=True)}


def _of_weights(call: _Call, grad: torch.Tensor) -> dict[str, torch.Tensor]:
    """Gradients of the matrices and of the biases of the hidden layer."""
    per_group = _ceil(call.tiles, _groups(call.tiles, call.chunks))
    groups = _ceil(call.tiles, per_group)
    of_in = call.sums(groups, call.hidden, call.channels)
    of_out = call.sums(groups, call.channels, call.hidden)
    of_gate = None if call.gate[0] is None else torch.empty_like(of_in)
    of_biases = call.sums(groups, 2, call.hidden)
    sizes, views = call.operands(grad)
    shared = (*views, *call.norm, *call.into, call.weight_out, *call.gate)
    tensors = (*shared, of_in, of_out, of_gate, of_biases)
    call.launch(call.kernels.backward_weights, groups * call.chunks, tensors, sizes, per_group)
    found = {"weight_in": of_in.sum(0), "weight_out": of_out.sum(0)}
    found |= {"bias_in": of_biases[:, 0].sum(0), "bias_gate": of_biases[:, 1].sum(0)}
    if of_gate is not None:
        found["weight_gate"] = of_gate.sum(0)
    return found


def _groups(tiles: int, chunks: int) -> int:
    """Into how many groups tiles are cut where every group has a program a chunk."""
    return min(tiles, _ceil(ENOUGH_PROGRAMS, chunks))


def _ceil(number: int, step: int) -> int:
    return -(-number // step)
