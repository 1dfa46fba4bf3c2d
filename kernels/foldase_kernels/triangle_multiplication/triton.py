"""The Triton backend: fused kernels around the products over k, which the matrix library of torch does.

Forward, a kernel norms, projects, gates and masks a block of pairs at once, and another one norms the
products, applies output layer and gate and adds z. The backward pass recomputes a, b and x by these kernels
and goes through them by the sweeps of the CPU path, in ordinary torch operations.
"""

from __future__ import annotations

import os
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import torch

from foldase_kernels.triangle_multiplication.cpu import Tiled, run
from foldase_kernels.triangle_multiplication.cpu_tiles import Pairs, held_dtype
from foldase_kernels.triangle_multiplication.parameters import EPSILON, TriangleMultiplicationParameters

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MAX_WIDTH = 128
"""Channels that a program holds at once."""
MAX_SIZE = 46_340
"""Beyond it the number of pairs does not fit into 32 bits."""
BLOCK_PAIRS, BLOCK_CHANNELS = 32, 32


def interpreted() -> bool:
    """Whether the environment asks Triton to interpret kernels on the CPU."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes")


def is_available() -> bool:
    """Whether Triton is installed and has something to run on: a GPU, or its interpreter."""
    return find_spec("triton") is not None and (interpreted() or torch.cuda.is_available())


def check_runs_here(z: torch.Tensor, hidden: int) -> None:
    """Refuse what Triton cannot work on.

    Raises:
        ValueError: Triton is missing, z is neither on a GPU nor interpreted, of float64, or too large.
    """
    if find_spec("triton") is None:
        raise ValueError("backend 'triton' needs the package triton; install foldase[gpu]")
    if z.dtype not in DTYPES:
        raise ValueError(f"z is {z.dtype}; backend 'triton' takes float32, bfloat16 and float16")
    if z.device.type != "cuda" and not interpreted():
        raise ValueError(
            f"backend 'triton' was asked for tensors on {z.device}; expected cuda, or TRITON_INTERPRET=1 in "
            "the environment before triton is imported"
        )
    if max(z.shape[-1], hidden) > MAX_WIDTH or z.shape[-2] > MAX_SIZE:
        raise ValueError(
            f"z has shape {list(z.shape)} and C is {hidden}; backend 'triton' takes at most {MAX_WIDTH} "
            f"channels and N = {MAX_SIZE}"
        )


def triangle_multiplication_triton(
    z: torch.Tensor,
    parameters: TriangleMultiplicationParameters,
    mask: torch.Tensor | None,
    outgoing: bool,
    residual: bool,
) -> torch.Tensor:
    """The update, or ``z + update`` with ``residual``; shapes as in the API."""
    check_runs_here(z, parameters.a_p_weight.shape[0])
    result: torch.Tensor = Tiled.apply(z, mask, outgoing, residual, TritonPairs, *parameters)  # type: ignore[no-untyped-call]
    return result


def triangle_multiplication_triton_(
    z: torch.Tensor, parameters: TriangleMultiplicationParameters, mask: torch.Tensor | None, outgoing: bool
) -> torch.Tensor:
    """Write ``z + update`` into z; only without gradients."""
    check_runs_here(z, parameters.a_p_weight.shape[0])
    run(z, parameters, mask, outgoing, residual=True, result=z, kind=TritonPairs)
    return z


def _padded(width: int) -> int:
    """The next power of two that a matrix product takes."""
    return max(16, 1 << (width - 1).bit_length())


class TritonPairs(Pairs):
    """One leading index on a GPU; statistics are needed for gradients only."""

    @property
    def _kernels(self) -> ModuleType:
        return import_module("foldase_kernels.triangle_multiplication.triton_kernels")

    def _weight(self, weight: torch.Tensor) -> torch.Tensor:
        # Tensor cores want the dtype of z; the interpreter multiplies float32 only.
        return weight.to(self.z.dtype).contiguous() if self.z.is_cuda else weight.contiguous()

    @staticmethod
    def operand_dtype(dtype: torch.dtype) -> torch.dtype:
        """That of x: tensor cores multiply bfloat16 and sum in float32."""
        return held_dtype(dtype)

    def start(self) -> None:
        """Nothing: the kernels norm what they load."""

    def operands(self, channels: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """Both operands of some channels, each ``[channels, N, N]``, in the first two group buffers."""
        count = channels.stop - channels.start
        a, b = self.scratch.groups[0][:count], self.scratch.groups[1][:count]
        mask = self.z if self.mask is None else self.mask.view(torch.uint8)
        grid = (-(-(self.size**2) // BLOCK_PAIRS), -(-count // BLOCK_CHANNELS))
        self._kernels.operands_kernel[grid](
            self.z,
            *self.z.stride(),
            mask,
            *mask.stride()[:2],
            self._weight(self.weights.pair),
            self.weights.pair_shift.contiguous(),
            a,
            b,
            self.size,
            self.width,
            self.hidden,
            channels.start,
            count,
            EPSILON,
            MASKED=self.mask is not None,
            PAIRS=BLOCK_PAIRS,
            WIDTH=_padded(self.width),
            CHANNELS=BLOCK_CHANNELS,
        )
        return a, b

    def finish(self, held: torch.Tensor, result: torch.Tensor, residual: bool) -> None:
        """Write the result, which may be z itself, or hold x in the first channels of every pair."""
        x = held.movedim(0, -1)
        self._kernels.finish_kernel[(-(-(self.size**2) // BLOCK_PAIRS),)](
            self.z,
            *self.z.stride(),
            x,
            *x.stride(),
            result,
            *result.stride(),
            self._weight(self.weights.gate),
            self.weights.gate_shift,
            self._weight(self.weights.out),
            self.weights.out_shift,
            self.size,
            self.width,
            self.hidden,
            EPSILON,
            RESIDUAL=residual,
            PAIRS=BLOCK_PAIRS,
            WIDTH=_padded(self.width),
            HIDDEN=_padded(self.hidden),
            CHANNELS=BLOCK_CHANNELS,
        )
