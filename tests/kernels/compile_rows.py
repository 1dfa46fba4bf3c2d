"""Compile the Triton kernels of transition and outer product mean for a GPU that is not there.

Run by ``test_rows_triton.py``. Prints one line per kernel: name, bytes of registers spilled to the stack,
bytes of shared memory. Usage: ``compile_rows.py ARCHITECTURE OPERATION``, for example ``90 transition``.
"""

from __future__ import annotations

import sys
from types import SimpleNamespace

import torch
from compile_attention import Absent, Compiled
from triton.runtime.driver import driver

from foldase_kernels import triton_support
from foldase_kernels.transition import TransitionParameters
from foldase_kernels.transition import triton as transition


def transitions(dtype, channels, gated):
    """Forward, and every gradient."""
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
        for channels in (128, 256, 512):
            transitions(dtype, channels, gated=channels != 256)


OPERATIONS = {"transition": compile_transition}


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
