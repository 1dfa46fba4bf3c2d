"""Compile the Triton kernels that pack and unpack signs for a GPU that is not there.

Run by ``test_compressed_signs_triton.py``. Prints one line per kernel: name, bytes of registers spilled to
the stack, bytes of shared memory, coordinates of a block. Usage: ``compile_signs.py ARCHITECTURE``.
"""

from __future__ import annotations

import sys
from types import SimpleNamespace

import torch
from compile_attention import Absent, stack
from triton.runtime.driver import driver

from foldase_kernels import triton_support
from foldase_kernels.sign_pack import block_count, decode_, encode_, pack_mask_
from foldase_kernels.sign_pack.checks import LARGEST_BLOCK, LEAST_BLOCK

COUNT = 2**16 + 8


class Compiled:
    """Stands for a kernel: compiles it for the arguments of a launch instead of running it."""

    def __init__(self, kernel):
        self.kernel = kernel

    def __getitem__(self, grid):
        def launch(*args, BLOCK, **options):
            done = self.kernel.warmup(*args, BLOCK=BLOCK, grid=grid, **options)
            told = self.kernel.fn.__name__, stack(done.asm["cubin"]), done.metadata.shared, BLOCK
            print(*told, flush=True)

        return launch


def main():
    driver.set_active(Absent(int(sys.argv[1])))
    real = triton_support.kernels

    def compiled(module, probe, device):
        found = real(module, probe, torch.device("cuda"))
        return SimpleNamespace(**{probe: Compiled(getattr(found, probe))})

    triton_support.kernels = compiled
    triton_support.check_runs_here = lambda name, tensor: None
    vector, packed = torch.zeros(COUNT), torch.zeros(COUNT // 8, dtype=torch.uint8)
    for block in (LEAST_BLOCK, 4096, LARGEST_BLOCK):
        scales = torch.zeros(block_count(COUNT, block))
        for mask in (None, packed.clone()):
            options = {"mask": mask, "block": block, "backend": "triton"}
            encode_(vector, vector.clone(), packed, scales, **options)
            decode_(packed, scales, vector, add=mask is not None, **options)
    pack_mask_(vector, packed, backend="triton")


if __name__ == "__main__":
    main()
