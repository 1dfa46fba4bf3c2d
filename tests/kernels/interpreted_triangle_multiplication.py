"""The Triton kernels of triangle multiplication under the interpreter, in a process started for them."""

from __future__ import annotations

import pytest
import torch
from test_triangle_multiplication import (
    FORWARD_TOLERANCE,
    GRADIENT_TOLERANCE,
    HALF_TOLERANCE,
    compare,
    draw_mask,
    make,
    relative,
)

from foldase_kernels.triangle_multiplication import cpu_tiles, triangle_multiplication


@pytest.mark.parametrize("outgoing", [True, False])
@pytest.mark.parametrize(("size", "width", "hidden"), [(1, 5, 3), (7, 17, 36)])
def test_odd_sizes_float32(size, width, hidden, outgoing):
    z, parameters = make(size, width, hidden, leading=(2,), dtype=torch.float32)
    compare(
        z,
        parameters,
        mask=draw_mask("some", size),
        outgoing=outgoing,
        residual=outgoing,
        backend="triton",
        tolerance=FORWARD_TOLERANCE,
        gradient_tolerance=GRADIENT_TOLERANCE,
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    z, parameters = make(9, 16, 16, dtype=dtype)
    compare(
        z,
        parameters,
        residual=True,
        backend="triton",
        tolerance=HALF_TOLERANCE,
        gradient_tolerance=HALF_TOLERANCE,
    )


@pytest.mark.parametrize("masked", ["some", "nothing"])
def test_several_groups_strides_and_in_place(masked, monkeypatch):
    monkeypatch.setattr(cpu_tiles, "SMALL", 0)
    z, parameters = make(6, 20, 17, dtype=torch.float32)
    z, mask = z.transpose(0, 1), draw_mask(masked, 6).mT
    exact = parameters.to(torch.float64)
    wanted = triangle_multiplication(z.double(), exact, mask=mask, residual=True, backend="reference")
    found = triangle_multiplication(z, parameters, mask=mask, residual=True, backend="triton")
    assert relative(found, wanted) <= FORWARD_TOLERANCE
    assert triangle_multiplication(z, parameters, mask=mask, inplace=True, backend="triton") is z
    assert torch.equal(z, found)


def test_a_mask_that_is_one_row():
    z, parameters = make(5, 8, 8, dtype=torch.float32)
    mask = torch.tensor([True, False, True, True, False])
    exact = parameters.to(torch.float64)
    wanted = triangle_multiplication(z.double(), exact, mask=mask, backend="reference")
    found = triangle_multiplication(z, parameters, mask=mask, backend="triton")
    assert relative(found, wanted) <= FORWARD_TOLERANCE


def test_what_it_refuses():
    z, parameters = make(3)
    with pytest.raises(ValueError, match=r"z is torch\.float64; backend 'triton'"):
        triangle_multiplication(z, parameters, backend="triton")
    z, parameters = make(3, 129, 4, dtype=torch.float32)
    with pytest.raises(ValueError, match="at most 128 channels"):
        triangle_multiplication(z, parameters, backend="triton")
