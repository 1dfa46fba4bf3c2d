"""The CUDA sources compile for the devices we name, and no kernel spills registers to memory."""

from __future__ import annotations

import os
import re
import shutil
import subprocess

import pytest
from attention_on_host import one_instance, sources

ARCHITECTURES = ("sm_80", "sm_90a")
KERNELS = 9
"""Three dtypes and three padded head widths."""
INSTRUCTIONS = (
    "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32",
    "ldmatrix.sync.aligned.m8n8.x4.shared.b16",
    "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16",
    "cp.async.cg.shared.global",
    "shfl.sync.bfly.b32",
    "bar.sync",
)
COMPILE_SECONDS = 500


def nvcc():
    """The CUDA compiler; only where the long checks were not asked for may it be missing."""
    found = shutil.which("nvcc")
    if found is None:
        message = "no nvcc on PATH: the CUDA sources are not compiled for a device"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return found


@pytest.mark.verify
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_kernel_spills(architecture, tmp_path):
    command = [
        nvcc(), "-std=c++17", "-O3", f"-arch={architecture}", "-cubin", "-Xptxas", "-v",
        "-o", str(tmp_path / "attention.cubin"), str(sources() / "attention" / "forward.cu"),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_SECONDS)
    assert done.returncode == 0, done.stderr[-4000:]
    spills = re.findall(
        r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", done.stderr
    )
    assert len(spills) == KERNELS
    assert set(spills) == {("0", "0", "0")}, done.stderr


def test_the_wrappers_become_the_instructions_they_are_named_for(tmp_path):
    folder = one_instance(tmp_path / "csrc")
    target = tmp_path / "attention.ptx"
    source = folder / "attention" / "forward.cu"
    command = [nvcc(), "-std=c++17", "-arch=compute_80", "-ptx", "-o", str(target), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_SECONDS)
    assert done.returncode == 0, done.stderr[-4000:]
    text = target.read_text()
    for instruction in INSTRUCTIONS:
        assert instruction in text, instruction
    assert "st.local" not in text, "an array is addressed by a variable and lies in memory"
