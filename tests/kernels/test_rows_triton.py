"""Transition and outer product mean by Triton: compiled without a GPU, refusals."""

from __future__ import annotations

import pytest
import torch
from own_process import compile_kernels

from foldase_kernels import backend_choice, triton_support
from foldase_kernels.outer_product_mean import triton as outer_triton
from foldase_kernels.transition import TransitionParameters, transition
from foldase_kernels.transition import triton as transition_triton

OPERATIONS = ("transition", "outer_product_mean")
SPILLED = 1024
"""Bytes of stack per thread that half precision may take. Only the gradient of x with 512 channels needs so
many; nearly all others need none, and tiles that do not fit thousands."""


@pytest.mark.verify
@pytest.mark.parametrize("architecture", [80, 90])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_kernels_compile_without_a_gpu(operation, architecture, tmp_path):
    """What the interpreter takes the compiler may not; registers and shared memory must suffice."""
    kernels = compile_kernels("compile_rows.py", str(architecture), operation, cache=tmp_path)
    assert len(kernels) == {"transition": 5 * 3, "outer_product_mean": 2 * (6 + 4)}[operation]
    half = [kernel for kernel in kernels if kernel[-1] == "bfloat16"]
    assert len(half) >= len(kernels) // 2
    assert [kernel for kernel in half if int(kernel[1]) > SPILLED] == []


def test_missing_triton_is_said_with_a_hint(monkeypatch):
    monkeypatch.setattr(triton_support, "find_spec", lambda name: None)
    assert not triton_support.is_available()
    with pytest.raises(ValueError, match=r"needs the package triton; install foldase\[gpu\]"):
        run_by_triton()


def test_tensors_on_the_processor_are_refused_with_a_hint(monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match=r"tensors on cpu; expected cuda, or TRITON_INTERPRET=1"):
        run_by_triton()


def run_by_triton():
    matrices = torch.ones(4, 3), None, torch.ones(3, 4), None
    return transition(
        torch.ones(2, 3), TransitionParameters(torch.ones(3), None, *matrices), backend="triton"
    )


@pytest.mark.parametrize(
    ("device", "suits", "present", "chosen"),
    [
        ("cuda", True, True, "triton"),
        ("cuda", False, True, "reference"),
        ("cuda", True, False, "reference"),
        ("cpu", True, True, "cpu"),
    ],
)
def test_auto_takes_triton_on_a_gpu(device, suits, present, chosen, monkeypatch, caplog):
    monkeypatch.setattr(backend_choice, "is_available", lambda: present)
    monkeypatch.setattr(backend_choice, "_reported", set())
    with caplog.at_level("INFO", logger="foldase_kernels"):
        for _ in range(2):
            found = backend_choice.automatic("transition", torch.device(device), suits_triton=suits)
            assert found == chosen
    said = [record.getMessage() for record in caplog.records]
    assert said == [f"transition on {device} uses backend {chosen!r}"]


@pytest.mark.parametrize(
    ("dtype", "widest"), [(torch.float64, 0), (torch.float32, 256), (torch.bfloat16, 512)]
)
def test_what_the_kernels_of_the_transition_take(dtype, widest):
    assert transition_triton.suits(torch.empty(1, max(1, widest), dtype=dtype)) == (widest > 0)
    assert not transition_triton.suits(torch.empty(1, widest + 1, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tiles_of_the_transition_hold_every_width(dtype):
    for channels in range(1, transition_triton.MAX_CHANNELS[dtype] + 1):
        for purpose in ("forward", "positions", "weights"):
            blocks = transition_triton.choose_blocks(channels, dtype, purpose)
            for side in (blocks.positions, blocks.hidden, blocks.width):
                assert side >= 16
                assert side & (side - 1) == 0
            assert channels <= blocks.width < max(17, 2 * channels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("factors", [False, True])
def test_products_of_the_outer_product_mean_have_sides_a_matrix_unit_takes(dtype, factors):
    for hidden in range(1, outer_triton.MAX_HIDDEN + 1):
        blocks = outer_triton.choose_blocks(hidden, 128, dtype, factors=factors)
        pairs, products = blocks.rows * blocks.columns, blocks.part * blocks.hidden
        for side in (blocks.rows * blocks.part, blocks.columns * blocks.hidden, pairs, products):
            assert side >= 16
            assert side & (side - 1) == 0
        assert hidden <= blocks.hidden < max(5, 2 * hidden)


@pytest.mark.parametrize("shape", [(3, 5, 5), (2, 2, 40, 300), (1, 1, 1)])
def test_every_tile_of_pairs_is_in_one_group(shape):
    a = torch.empty(*shape[:-1], shape[-1], 32, device="meta")
    blocks = outer_triton.choose_blocks(32, 128, torch.bfloat16, factors=False)
    plan = outer_triton._Groups(a, blocks)
    assert (plan.groups - 1) * plan.per_group < plan.tiles <= plan.groups * plan.per_group
    assert plan.groups * plan.parts < triton_support.ENOUGH_PROGRAMS + plan.parts


def test_scratch_does_not_grow_with_positions():
    """16 MiB, where the hidden layer of a pair representation of 1024 residues takes 1 GiB."""
    rows = [torch.empty(size, size, 128, dtype=torch.bfloat16, device="meta") for size in (1024, 4096)]
    matrices = [torch.empty(512, 128, dtype=torch.bfloat16, device="meta") for _ in range(2)]
    parameters = TransitionParameters(
        torch.empty(128), None, matrices[0], None, matrices[0].mT.contiguous(), None, matrices[1]
    )
    first, second = (transition_triton.scratch_bytes(x, parameters) for x in rows)
    assert first == second < 16 * 2**20
