"""The Triton kernels of triangle multiplication; run by ``test_interpreted.py`` in a process of its own."""

from __future__ import annotations

import pytest
import torch
from counted_memory import peak_of
from test_triangle_multiplication_memory import both_ways, forward, in_place
from test_triangle_multiplication_memory import make as make_case
from triangle_multiplication_cases import (
    FORWARD_TOLERANCE,
    GRADIENT_TOLERANCE,
    HALF_TOLERANCE,
    compare,
    draw_mask,
    make,
    relative,
    with_gradients,
)

from foldase_kernels.triangle_multiplication import op, triangle_multiplication, triton

EXACT = {"tolerance": FORWARD_TOLERANCE, "gradient_tolerance": GRADIENT_TOLERANCE}
CASES = [(1, 5, 3, "none", True), (5, 9, 20, "some", False)]
MORE_CASES = [
    (15, 17, 36, "some", True),
    (17, 17, 20, "none", False),
    (33, 9, 20, "some", False),
    (33, 9, 20, "nothing", True),
]


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Several blocks, chunks, groups of channels and partial sums at tiny sizes."""
    monkeypatch.setattr(triton, "choose_blocks", lambda dtype: triton.Blocks(32, 16, 4))
    monkeypatch.setattr(triton, "LEAST_CHANNELS", 16)
    monkeypatch.setattr(triton, "GROUPS", 2)


def check(size, width, hidden, masked, outgoing):
    z, parameters = make(size, width, hidden, leading=(2,) if size < 15 else (), dtype=torch.float32)
    mask = draw_mask(masked, size)
    compare(z, parameters, mask=mask, outgoing=outgoing, residual=outgoing, backend="triton", **EXACT)


@pytest.mark.parametrize(
    "case", [*CASES, pytest.param((7, 9, 20, "some", False), marks=pytest.mark.verify)], ids=str
)
def test_odd_sizes_float32(case):
    check(*case)


@pytest.mark.verify
@pytest.mark.parametrize("case", MORE_CASES, ids=str)
def test_more_odd_sizes_float32(case, monkeypatch):
    monkeypatch.setattr(triton, "choose_blocks", lambda dtype: triton.Blocks(128, 16, 4))
    check(*case)


@pytest.mark.parametrize("dtype", [torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.verify)])
def test_half_precision(dtype):
    z, parameters = make(6, 16, 16, dtype=dtype)
    compare(
        z,
        parameters,
        residual=True,
        backend="triton",
        tolerance=HALF_TOLERANCE,
        gradient_tolerance=HALF_TOLERANCE,
    )


@pytest.mark.verify
def test_strides_and_parameters_without_biases():
    """A transposed z, every other channel of an expanded gradient, parameters in another dtype."""
    z, parameters = make(6, 20, 17, dtype=torch.float32, biases=False)
    leaves = [tensor for tensor in (z.transpose(0, 1).bfloat16(), *parameters) if tensor is not None]
    leaves = [leaf.detach().requires_grad_() for leaf in leaves]
    weights = iter(leaves[1:])
    given = type(parameters)(*(None if tensor is None else next(weights) for tensor in parameters))
    found = triangle_multiplication(leaves[0], given, backend="triton")
    wanted = triangle_multiplication(leaves[0], given, backend="reference")
    upstream = torch.linspace(-1, 1, 40)[::2].bfloat16().expand(6, 6, 20)
    grads = torch.autograd.grad(found, leaves, upstream)
    for grad, expected in zip(grads, torch.autograd.grad(wanted, leaves, upstream), strict=True):
        assert grad.dtype == expected.dtype
        assert relative(grad, expected) <= HALF_TOLERANCE


@pytest.mark.parametrize("masked", ["some", pytest.param("nothing", marks=pytest.mark.verify)])
def test_in_place(masked):
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


@pytest.mark.verify
@pytest.mark.parametrize("outgoing", [True, False])
def test_bitwise_deterministic(outgoing, monkeypatch):
    z, parameters = make(11, 16, 16, dtype=torch.float32)
    options = {"mask": draw_mask("some", 11), "outgoing": outgoing, "backend": "triton"}
    out, grads = with_gradients(z, parameters, z, **options)
    again, grads_again = with_gradients(z, parameters, z, **options)
    assert torch.equal(out, again)
    assert all(torch.equal(grad, grads_again[name]) for name, grad in grads.items())
    monkeypatch.setattr(triton, "GROUPS", 1)
    _, whole = with_gradients(z, parameters, z, **options)
    assert torch.equal(whole["z"], grads["z"])
    assert not torch.equal(whole["a_p_weight"], grads["a_p_weight"])  # another order of sums


@pytest.mark.parametrize(
    ("wanted", "kernels"),
    [
        ([True] + [False] * 16, {"output_kernel", "projections_kernel"}),
        (
            [True] * 17,
            {"output_kernel", "projections_kernel", "output_sums_kernel", "projection_sums_kernel"},
        ),
    ],
    ids=["z alone", "all"],
)
def test_frozen_parameters_cost_no_sums(wanted, kernels, monkeypatch):
    started = []
    launch = triton._Call.launch

    def noted(self, kernel, *arguments, **constants):
        started.append(kernel.fn.__name__)
        launch(self, kernel, *arguments, **constants)

    monkeypatch.setattr(triton._Call, "launch", noted)
    z, parameters = make(2, 3, 3, dtype=torch.float32)
    grads = op.triangle_multiplication_backward(z, wanted, z, *parameters, None, None, True, False, "triton")
    assert len(grads) == sum(wanted)
    assert set(started) - {"operands_kernel"} == kernels


def stated_bytes(run, z, parameters):
    """The bound of the public docstring, with what both passes of a training step hold at once."""
    size, _, width = z.shape
    hidden = parameters.a_p_weight.shape[0]
    whole = z.numel() * z.element_size()
    products = size * size * hidden * (4 if z.dtype == torch.float16 else z.element_size())
    inside = hidden <= width and z.dtype != torch.float16
    scratch = triton.scratch_bound(size, width, hidden, z.dtype)
    if run is in_place:
        return products + scratch
    if run is forward:
        return whole + (0 if inside else products) + scratch
    scratch = triton.scratch_bound(size, width, hidden, z.dtype, backward=True)
    of_parameters = sum(tensor.numel() * tensor.element_size() for tensor in parameters)
    # The result is still there while its gradient is taken.
    return 2 * whole + 2 * products + scratch + of_parameters


@pytest.mark.parametrize(
    ("run", "hidden", "dtype"),
    [
        pytest.param(in_place, 16, torch.float32, marks=pytest.mark.verify),
        pytest.param(forward, 24, torch.float32, marks=pytest.mark.verify),
        pytest.param(both_ways, 16, torch.float32, marks=pytest.mark.verify),
        pytest.param(forward, 16, torch.bfloat16, marks=pytest.mark.verify),
        pytest.param(forward, 24, torch.float16, marks=pytest.mark.verify),
        pytest.param(both_ways, 16, torch.bfloat16, marks=pytest.mark.verify),
    ],
)
def test_counted_bytes_stay_below_the_bound(run, hidden, dtype, monkeypatch):
    monkeypatch.setattr(triton, "LEAST_CHANNELS", 4)
    monkeypatch.setattr(triton, "choose_blocks", lambda dtype: triton.Blocks(256, 16, 4))
    case = make_case(32, 16, hidden, dtype)
    counted = peak_of(lambda: run(*case, "triton"))
    stated = stated_bytes(run, *case[:2])
    assert counted <= stated
    assert counted >= 0.6 * stated  # else the bound says little


def test_what_it_refuses():
    z, parameters = make(3)
    with pytest.raises(ValueError, match=r"z is torch\.float64; backend 'triton'"):
        triangle_multiplication(z, parameters, backend="triton")
    z, parameters = make(3, 129, 4, dtype=torch.float32)
    with pytest.raises(ValueError, match="at most 128 channels"):
        triangle_multiplication(z, parameters, backend="triton")
