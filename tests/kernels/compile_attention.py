"""Compile the Triton kernels of attention for a GPU that is not there; run by ``test_attention_triton.py``.

Prints one line per kernel: name, bytes of registers spilled to the stack, bytes of shared memory.
Usage: ``compile_attention.py ARCHITECTURE``, for example 90.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from foldase_kernels.attention import triton as backend
from foldase_kernels.attention import triton_bias, triton_kernels

CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
NAMES = ("forward", "prepare", "backward_keys", "backward_queries")


class Absent:
    """As much of a driver as compiling asks for."""

    def __init__(self, architecture):
        self.architecture = architecture

    def get_current_target(self):
        return GPUTarget("cuda", self.architecture, 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device=None):
        return 0


class Compiled:
    """Stands for a kernel: compiles it for the arguments of a launch instead of running it."""

    def __init__(self, kernel):
        self.kernel = kernel

    def __getitem__(self, grid):
        def launch(*args, **options):
            done = self.kernel.warmup(*args, grid=grid, **options)
            print(self.kernel.fn.__name__, stack(done.asm["cubin"]), done.metadata.shared, flush=True)

        return launch


def stack(code):
    """Bytes of stack of a compiled kernel, which the compiler uses for nothing but spills."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code)
        file.flush()
        said = subprocess.run(
            [CUOBJDUMP, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        )
    return int(re.search(r"STACK:(\d+)", said.stdout)[1])


def both_ways(dtype, width):
    """The launches of a pair bias and masked keys, forward and backward."""
    size, rows, heads = 256, 4, 4
    leaves = [torch.zeros(rows, size, heads, width, dtype=dtype, requires_grad=True) for _ in range(3)]
    bias = torch.zeros(1, heads, size, size, dtype=dtype, requires_grad=True)
    mask = torch.ones(rows, 1, 1, size, dtype=torch.bool)
    out, lse = backend.attention_triton(*leaves, [bias], mask, 0.3, False, None)
    torch.autograd.grad(out.sum() + lse.sum(), [*leaves, bias])


def odd_ones():
    """Causal, ALiBi, several biases, strides without alignment."""
    leaves = [torch.zeros(3, 7, 2, 24, requires_grad=True).transpose(0, 1) for _ in range(3)]
    biases = [torch.zeros(shape, requires_grad=True) for shape in ((1,), (3, 1), (2, 1, 3))]
    out, lse = backend.attention_triton(*leaves, biases, None, 0.3, True, torch.zeros(2))
    torch.autograd.grad(out.sum() + lse.sum(), [*leaves, *biases])


def main():
    driver.set_active(Absent(int(sys.argv[1])))
    kernels = SimpleNamespace(**{name: Compiled(getattr(triton_kernels, name)) for name in NAMES})
    backend._kernels = lambda q: kernels
    backend.check_runs_here = lambda q: None
    triton_bias.backward_bias = Compiled(triton_bias.backward_bias)
    for dtype in (torch.bfloat16, torch.float32):
        for width in (32, 128):
            both_ways(dtype, width)
    odd_ones()


if __name__ == "__main__":
    main()
