"""Triangle multiplication by Triton: its kernels compiled without a GPU, and when it is taken."""

from __future__ import annotations

import pytest
import torch
from own_process import compile_kernels
from triangle_multiplication_cases import make

from foldase_kernels import backend_choice
from foldase_kernels.triangle_multiplication import choose_backend, triangle_multiplication, triton
from foldase_kernels.triton_support import is_available

SPILLED = 16
"""Bytes of stack per thread: none for sm_80 with triton 3.9. Tiles that do not fit into registers take
hundreds."""


@pytest.mark.verify
@pytest.mark.parametrize("architecture", [80, 90])
def test_kernels_compile_without_a_gpu_and_hardly_spill(architecture, tmp_path):
    """What the interpreter takes the compiler may not; registers and shared memory must suffice."""
    kernels = compile_kernels("compile_triangle_multiplication.py", str(architecture), cache=tmp_path)
    assert {name for name, _, _ in kernels} == {
        "operands_kernel",
        "finish_kernel",
        "output_kernel",
        "output_sums_kernel",
        "projections_kernel",
        "projection_sums_kernel",
    }
    assert [kernel for kernel in kernels if int(kernel[1]) > SPILLED] == []


@pytest.mark.skipif(is_available(), reason="a GPU or the interpreter is there")
def test_triton_says_what_it_needs():
    z, parameters = make(3, dtype=torch.float32)
    with pytest.raises(ValueError, match=r"TRITON_INTERPRET=1 in the environment|needs the package triton"):
        triangle_multiplication(z, parameters, backend="triton")


@pytest.mark.parametrize(
    ("device", "dtype", "present", "chosen"),
    [
        ("cuda", torch.bfloat16, True, "triton"),
        ("cuda", torch.float64, True, "reference"),
        ("cuda", torch.bfloat16, False, "reference"),
        ("cpu", torch.float32, True, "cpu"),
    ],
)
def test_auto_takes_triton_on_a_gpu(device, dtype, present, chosen, monkeypatch):
    monkeypatch.setattr(backend_choice, "is_available", lambda: present)
    assert choose_backend(torch.device(device), dtype) == chosen


def test_what_is_too_wide_is_left_to_others():
    z, parameters = make(2, 128, 128, dtype=torch.float32)
    assert triton.suits(z, parameters)
    assert not triton.suits(z.double(), parameters)
    assert not triton.suits(*make(2, 4, 129, dtype=torch.float32))


def test_groups_of_channels():
    """Whole chunks of the kernels, a quarter where that is more."""
    assert [triton.group_channels(hidden) for hidden in (1, 24, 32, 33, 128)] == [1, 24, 32, 32, 32]
