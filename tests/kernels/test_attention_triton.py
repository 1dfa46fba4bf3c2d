"""The Triton backend: how calls are laid out, what it refuses, and its kernels compiled without a GPU."""

from __future__ import annotations

import pytest
import torch
from own_process import compile_kernels, in_a_process_of_its_own

from foldase_kernels import evoformer_attention
from foldase_kernels.attention import backends, cuda
from foldase_kernels.attention import triton as backend
from foldase_kernels.attention.triton_layout import (
    ENOUGH_PROGRAMS,
    BiasPlan,
    Blocks,
    choose_blocks,
    form,
    merge_dims,
    operands,
)

SPILLED = 16
"""Bytes of stack per thread: none for sm_90, a few numbers in two kernels for sm_80. Tiles that do not fit
into registers take hundreds."""


@pytest.mark.verify
@pytest.mark.parametrize("architecture", [80, 90])
def test_kernels_compile_without_a_gpu_and_hardly_spill(architecture, tmp_path):
    """What the interpreter takes the compiler may not; registers and shared memory must suffice."""
    kernels = compile_kernels("compile_attention.py", str(architecture), cache=tmp_path)
    assert len(kernels) == 4 * 5 + 7
    assert [kernel for kernel in kernels if int(kernel[1]) > SPILLED] == []


def test_an_interpreter_asked_for_too_late_is_said():
    pytest.importorskip("triton")
    code = (
        "import os, torch, foldase_kernels.attention.triton_kernels\n"
        "os.environ['TRITON_INTERPRET'] = '1'\n"
        "from foldase_kernels import evoformer_attention\n"
        "evoformer_attention(*[torch.zeros(1, 3, 1, 8)] * 3, backend='triton')\n"
    )
    done = in_a_process_of_its_own(["-c", code], TRITON_INTERPRET="0")
    assert "ValueError: TRITON_INTERPRET was set after triton had been imported" in done.stderr


def call(dtype=torch.float32):
    return evoformer_attention(*[torch.zeros(1, 3, 1, 8, dtype=dtype)] * 3, backend="triton")


def test_tensors_on_the_processor_are_refused_with_a_hint(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match=r"tensors on cpu; expected cuda, or TRITON_INTERPRET=1"):
        call()


def test_missing_triton_is_said_with_a_hint(monkeypatch):
    monkeypatch.setattr(backend, "find_spec", lambda name: None)
    assert not backend.is_available()
    with pytest.raises(ValueError, match=r"needs the package triton; install foldase\[gpu\]"):
        call()


def test_float64_is_refused(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(ValueError, match=r"q is torch.float64; backend 'triton' takes float32"):
        call(torch.float64)


@pytest.mark.parametrize(
    ("device", "dtype", "present", "chosen"),
    [
        ("cuda", torch.bfloat16, True, "triton"),
        ("cuda", torch.float64, True, "reference"),
        ("cuda", torch.bfloat16, False, "reference"),
        ("cpu", torch.float32, True, "cpu"),
    ],
)
def test_auto_takes_triton_on_a_gpu_without_a_library(device, dtype, present, chosen, monkeypatch):
    monkeypatch.setattr(backend, "is_available", lambda: present)
    monkeypatch.setattr(cuda, "why_not", lambda device, dtype: "no library")
    monkeypatch.setattr(backends, "_no_cuda", {})
    assert backends.choose_backend(torch.device(device), dtype) == chosen


def test_dimensions_merge_only_where_all_tensors_agree():
    dense, swapped, shared = (12, 4, 1), (12, 1, 3), (0, 0, 1)
    assert merge_dims((2, 3, 4), [dense]) == ((24,), [(1,)])
    assert merge_dims((2, 3, 4), [dense, shared]) == ((4, 6), [(1, 4), (1, 0)])
    assert merge_dims((2, 3, 4), [swapped, dense]) == ((4, 3, 2), [(3, 1, 12), (1, 4, 12)])
    assert merge_dims((1, 4, 1), [(7, 2, 9)]) == ((4,), [(2,)])
    assert merge_dims((1, 1), [(5, 5)]) == ((1,), [(0,)])


def test_operands_point_where_the_tensors_lie():
    """Every element is found again from merged sizes and strides, through views of one storage."""
    base = torch.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    view = base.transpose(0, 1)[1:]
    bias = torch.arange(3 * 5).reshape(3, 1, 1, 5)[1:].expand(2, 2, 4, 5)
    sizes, (found, absent, shared) = operands((2, 2), [view, None, bias])
    assert absent is None
    assert shared[1:] == ((0, 5), 0, 1)
    assert (form(view, 2), form(bias, 2)) == (3, 2)
    for batch in range(4):
        place, rest = 0, batch
        for size, stride in zip(sizes, found[1], strict=True):
            place += rest % size * stride
            rest //= size
        at = view.storage_offset() + place + 3 * found[2] + 4 * found[3]
        assert base.flatten()[at] == view[batch // 2, batch % 2, 3, 4]


@pytest.mark.parametrize(
    "shape", [(1, 4, 300, 300), (9, 1, 1, 300), (1, 1, 1, 1), (9, 4, 300, 1), (1, 4, 1, 1)]
)
def test_every_score_is_summed_once_into_a_bias(shape):
    full, blocks = (9, 4, 300, 300), Blocks(64, 32, 16)
    plan = BiasPlan.make(shape, full, blocks)
    tiles_of_scores = 9 * 4 * 5 * 10
    assert plan.programs * plan.steps == tiles_of_scores
    assert plan.own * plan.repeats == 9 * 4
    assert (plan.groups - 1) * plan.group_steps < plan.steps <= plan.groups * plan.group_steps
    assert plan.groups == 1 or plan.groups * plan.programs <= ENOUGH_PROGRAMS
    assert plan.programs * plan.groups >= min(tiles_of_scores, ENOUGH_PROGRAMS) / 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backward", [False, True])
def test_tiles_hold_every_width(dtype, backward):
    for width in range(1, 129):
        blocks = choose_blocks(width, dtype, backward=backward)
        for side in (blocks.queries, blocks.keys, blocks.width):
            assert side >= 16
            assert side & (side - 1) == 0
        assert width <= blocks.width < max(17, 2 * width)
