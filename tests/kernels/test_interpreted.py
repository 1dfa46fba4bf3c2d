"""Every Triton kernel, executed by Triton's interpreter: the checks are in ``interpreted_*.py``."""

from __future__ import annotations

import pytest
from own_process import KERNELS, interpret

OPERATIONS = sorted(path.stem.removeprefix("interpreted_") for path in KERNELS.glob("interpreted_*.py"))


def test_every_kernel_with_every_change():
    """Every branch at the smallest sizes that reach it, all in one process: starting it takes long."""
    interpret("not verify", *OPERATIONS)


@pytest.mark.verify
@pytest.mark.parametrize("operation", OPERATIONS)
def test_more_sizes_and_dtypes(operation):
    interpret("verify", operation)
