"""The CUDA attention on the processor under the sanitizers for addresses and undefined behaviour."""

from __future__ import annotations

import pytest
from attention_backward_on_host import build_backward, one_backward
from attention_on_host import SANITIZERS, build, one_instance, run_sanitized, sources


def test_one_kernel_of_each_kind(tmp_path):
    """In one process: it imports torch under the sanitizers, which takes long."""
    folder, units = one_backward(tmp_path / "backward")
    run_sanitized(
        {
            "attention_on_host": build(
                one_instance(tmp_path / "forward"), tmp_path / "forward.so", *SANITIZERS
            ),
            "attention_backward_on_host": build_backward(
                folder, tmp_path / "backward.so", *SANITIZERS, units=units
            ),
        }
    )


@pytest.mark.verify
def test_all_kernels_of_the_forward_pass(tmp_path):
    run_sanitized({"attention_on_host": build(sources(), tmp_path / "forward.so", *SANITIZERS)})
