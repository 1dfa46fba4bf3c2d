"""The CUDA sources compile for the devices we name; no kernel spills or takes more registers than planned."""

from __future__ import annotations

import re
import subprocess

import pytest
from attention_on_host import one_instance, sources

from foldase_kernels.compiling.resources import read_ptxas
from foldase_kernels.compiling.toolchain import find_nvcc
from foldase_kernels.errors import KernelError

ARCHITECTURES = ("sm_80", "sm_90a", "sm_100")
"""The last one where the compiler knows it."""
BACKWARD = {
    "attention_backward_prologue": 1,
    "attention_backward_sweep": 6,
    "attention_backward_bias": 3,
    "attention_backward_partials": 2,
}
UNITS = {
    "forward": {"attention_forward": 9, "attention_forward_rows": 2},
    "backward_bfloat16": BACKWARD,
    "backward_float16": BACKWARD,
    "backward_float32": BACKWARD,
}
"""Files, and how many kernels of each name they hold: dtypes, padded head widths, owners of a sweep."""
THREE_BLOCKS, TWO_BLOCKS = 168, 255
"""Registers a thread with which that many blocks of 128 threads fit on a multiprocessor."""
FAST = re.compile(r"attention_(forward|backward_sweep)I(NS_7Float16|NS_8BFloat16)ELi32E")
"""What decides the time of most calls: 16 bits, heads of up to 32 channels. Rows taken together need the
registers of two blocks."""
INSTRUCTIONS = (
    "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32",
    "ldmatrix.sync.aligned.m8n8.x4.shared.b16",
    "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16",
    "cp.async.cg.shared.global",
    "shfl.sync.bfly.b32",
    "vote.sync.any",
    "bar.sync",
)
COMPILE_SECONDS = 500


@pytest.mark.verify
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("unit", UNITS)
def test_no_kernel_spills_or_takes_too_many_registers(unit, architecture, tmp_path):
    nvcc = str(find_nvcc().path)  # its absence fails the long checks
    known = subprocess.run([nvcc, "--list-gpu-code"], capture_output=True, text=True, check=True).stdout
    if architecture.rstrip("a") not in known.split():
        pytest.skip(f"this nvcc makes no code for {architecture}")
    command = [
        nvcc, "-std=c++17", "-O3", f"-arch={architecture}", "-cubin", "-Xptxas", "-v",
        "-o", str(tmp_path / "unit.cubin"), str(sources() / "attention" / f"{unit}.cu"),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_SECONDS)
    assert done.returncode == 0, done.stderr[-4000:]
    kernels = read_ptxas(done.stderr)
    counts = {name: sum(f"{name}I" in kernel.kernel for kernel in kernels) for name in UNITS[unit]}
    assert counts == UNITS[unit]
    assert len(kernels) == sum(counts.values())
    for kernel in kernels:
        assert (kernel.stack, kernel.spill_stores, kernel.spill_loads) == (0, 0, 0), kernel
        assert kernel.registers <= (THREE_BLOCKS if FAST.search(kernel.kernel) else TWO_BLOCKS), kernel


def test_the_wrappers_become_the_instructions_they_are_named_for(tmp_path):
    try:
        nvcc = str(find_nvcc().path)
    except KernelError as error:
        pytest.skip(f"needs nvcc: {error.message}")
    folder = one_instance(tmp_path / "csrc")
    target = tmp_path / "attention.ptx"
    source = folder / "attention" / "forward.cu"
    command = [nvcc, "-std=c++17", "-arch=compute_80", "-ptx", "-o", str(target), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_SECONDS)
    assert done.returncode == 0, done.stderr[-4000:]
    text = target.read_text()
    for instruction in INSTRUCTIONS:
        assert instruction in text, instruction
    assert "st.local" not in text, "an array is addressed by a variable and lies in memory"
