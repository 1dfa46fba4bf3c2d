"""Compile the Triton kernels of transition and outer product mean for a GPU that is not there.

Run by ``test_rows_triton.py``. Prints one line per kernel: name, bytes of registers spilled to the stack,
bytes of shared memory, dtype. Usage: ``compile_rows.py ARCHITECTURE OPERATION``, such as ``90 transition``.
"""

from __future__ import annotations

import sys
from types import SimpleNamespace

import torch
from compile_attention import Absent, stack
from triton.runtime.driver import driver

from foldase_kernels import triton_support
from foldase_kernels.outer_product_mean import triton as outer_product_mean
from foldase_kernels.transition import TransitionParameters
from foldase_kernels.transition import triton as transition


class Compiled:
    """Stands for a kernel: compiles it for the arguments of a launch instead of running it."""

    dtype = None

    def __init__(self, kernel):
        self.kernel = kernel

    def __getitem__(self, grid):
        def launch(*args, **options):
            done = self.kernel.warmup(*args, grid=grid, **options)
            told = self.kernel.fn.__name__, stack(done.asm["cubin"]), done.metadata.shared, Compiled.dtype
            print(*told, flush=True)

        return launch


def transitions(dtype, channels, gated):
    """Forward, and every gradient."""
    Compiled.dtype = str(dtype).removeprefix("torch.")
    hidden = 4 * channels
    x = torch.zeros(40, 50, channels, dtype=dtype)
    parameters = TransitionParameters(
        *(torch.zeros(channels) for _ in range(2)),
        torch.zeros(hidden, channels),
        torch.zeros(hidden),
        torch.zeros(channels, hidden),
        torch.zeros(channels),
        torch.zeros(hidden, channels) if gated else None,
        None,
    )
    mask = torch.ones(40, 50, dtype=torch.bool)
    transition.transition_forward(x, parameters, mask, True, 1e-5, torch.empty_like(x))
    transition.transition_backward(x, parameters, mask, True, 1e-5, x, True, [True] * 8)


def compile_transition():
    for dtype in (torch.bfloat16, torch.float32):
        for channels in (128, 256, 512)[: 2 + (dtype == torch.bfloat16)]:
            transitions(dtype, channels, gated=channels != 256)


def means(dtype, hidden, channels, weighted):
    """Forward, and every gradient."""
    Compiled.dtype = str(dtype).removeprefix("torch.")
    a = torch.zeros(64, 40, hidden, dtype=dtype)
    weight, bias = torch.zeros(channels, hidden**2), torch.zeros(channels)
    weights = torch.ones(64, 40) if weighted else None
    out = torch.zeros(40, 40, channels, dtype=dtype)
    outer_product_mean.outer_product_mean_forward(a, a, weight, bias, weights, 1e-3, out, add=False)
    outer_product_mean.outer_product_mean_backward(a, a, weight, bias, weights, 1e-3, out, [True] * 4)


def compile_outer_product_mean():
    for dtype in (torch.bfloat16, torch.float32):
        means(dtype, 32, 128, weighted=True)
        means(dtype, 64, 256, weighted=False)


OPERATIONS = {"transition": compile_transition, "outer_product_mean": compile_outer_product_mean}


def main():
    driver.set_active(Absent(int(sys.argv[1])))
    real = triton_support.kernels

    def compiled(module, probe, device):
        names = vars(real(module, probe, torch.device("cuda")))
        return SimpleNamespace(**{name: Compiled(value) for name, value in names.items() if is_kernel(value)})

    triton_support.kernels = compiled
    triton_support.check_runs_here = lambda name, tensor: None
    OPERATIONS[sys.argv[2]]()


def is_kernel(value):
    return type(value).__name__ == "JITFunction"


if __name__ == "__main__":
    main()
