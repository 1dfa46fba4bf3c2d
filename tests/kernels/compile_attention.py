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
from foldase_kernels.attention.problem import Problem

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


def launch(problem):
    """Forward and backward with every gradient."""
    out, lse = backend.TRITON.forward(problem)
    grads = (torch.zeros_like(out), torch.zeros_like(lse))
    backend.TRITON.backward(problem, out, lse, *grads, [True] * len(problem.biases))


def both_ways(dtype, width):
    """The launches of a pair bias, masked keys and a gate, forward and backward."""
    size, rows, heads = 256, 4, 4
    heads_of = [torch.zeros(rows, size, heads, width, dtype=dtype) for _ in range(3)]
    bias = torch.zeros(1, heads, size, size, dtype=dtype)
    mask = torch.ones(rows, 1, 1, size, dtype=torch.bool)
    launch(Problem(*heads_of, [bias], mask, heads_of[0], None, 0.3, False))


def odd_ones():
    """Causal, ALiBi, several biases, strides without alignment."""
    heads_of = [torch.zeros(3, 7, 2, 24).transpose(0, 1) for _ in range(3)]
    biases = [torch.zeros(shape) for shape in ((1,), (3, 1), (2, 1, 3))]
    launch(Problem(*heads_of, biases, None, None, torch.zeros(2), 0.3, True))


def main():
    driver.set_active(Absent(int(sys.argv[1])))
    kernels = SimpleNamespace(**{name: Compiled(getattr(triton_kernels, name)) for name in NAMES})
    backend._kernels = lambda q: kernels
    backend.check_runs_here = lambda device, dtype: None
    triton_bias.backward_bias = Compiled(triton_bias.backward_bias)
    for dtype in (torch.bfloat16, torch.float32):
        for width in (32, 128):
            both_ways(dtype, width)
    odd_ones()


if __name__ == "__main__":
    main()
