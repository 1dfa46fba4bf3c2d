"""Compile the Triton kernels of triangle multiplication for a GPU that is not there.

Run by ``test_triangle_multiplication_triton.py``. Prints one line per kernel: name, bytes of registers
spilled to the stack, bytes of shared memory. Usage: ``compile_triangle_multiplication.py ARCHITECTURE``.
"""

from __future__ import annotations

import sys
from types import SimpleNamespace

import torch
from compile_attention import Absent, Compiled
from triton.runtime.driver import driver

from foldase_kernels import triton_support
from foldase_kernels.triangle_multiplication import TriangleMultiplicationParameters, triton


def both_ways(dtype, width, *, masked):
    """The launches of forward and backward with every gradient."""
    z = torch.zeros(6, 6, width, dtype=dtype)
    narrow, square = torch.zeros(width), torch.zeros(width, width)
    of_projections = [tensor for _ in range(4) for tensor in (square, narrow)]
    parameters = TriangleMultiplicationParameters(
        narrow, narrow, *of_projections, narrow, narrow, square, narrow, square, narrow
    )
    mask = torch.ones(6, 6, dtype=torch.bool) if masked else None
    out = torch.empty_like(z)
    triton.triangle_multiplication_forward(z, parameters, mask, True, True, out)
    triton.triangle_multiplication_backward(z, parameters, mask, True, True, out, [True] * 17)


def main():
    driver.set_active(Absent(int(sys.argv[1])))
    real = triton_support.kernels

    def compiled(module, probe, device):
        found = vars(real(module, probe, torch.device("cuda")))
        return SimpleNamespace(
            **{name: Compiled(value) for name, value in found.items() if name.endswith("_kernel")}
        )

    triton_support.kernels = compiled
    triton_support.check_runs_here = lambda name, tensor: None
    both_ways(torch.bfloat16, 128, masked=True)
    both_ways(torch.float32, 128, masked=False)


if __name__ == "__main__":
    main()
