"""Signs and scales by Triton: compiled without a GPU, refusals; ``interpreted_signs.py`` runs it."""

from __future__ import annotations

import pytest
from own_process import compile_kernels
from sign_pack_cases import draw, encoded

from foldase_kernels import triton_support

SPILLED = 32
"""Bytes of stack per thread: blocks of 16384 need a few, all others none."""


@pytest.mark.verify
@pytest.mark.parametrize("architecture", [80, 90])
def test_kernels_compile_without_a_gpu(architecture, tmp_path):
    """What the interpreter takes the compiler may not; a block has to fit into registers."""
    kernels = compile_kernels("compile_signs.py", str(architecture), cache=tmp_path)
    assert sorted({name for name, *_ in kernels}) == ["decode", "encode", "pack_mask"]
    assert len(kernels) == 3 * 2 * 2 + 1
    for _, spilled, _, block in kernels:
        assert int(spilled) <= (SPILLED if int(block) == 16384 else 0)


def test_missing_triton_is_said_with_a_hint(monkeypatch):
    monkeypatch.setattr(triton_support, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs the package triton; install foldase\[gpu\]"):
        encoded(draw(8), backend="triton")


def test_vectors_on_the_processor_are_refused_with_a_hint(monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match=r"tensors on cpu; expected cuda, or TRITON_INTERPRET=1"):
        encoded(draw(8), backend="triton")
