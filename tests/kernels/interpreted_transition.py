"""The transition by Triton under its interpreter; run by ``test_interpreted.py`` in its own process.

The interpreter takes milliseconds for one tile, so shapes are tiny, and tiles smaller still.
"""

from __future__ import annotations

import pytest
import torch
from counted_memory import peak_of
from transition_cases import (
    FORWARD_TOLERANCE,
    GRADIENT_TOLERANCE,
    HALF_TOLERANCE,
    compare,
    draw,
    make_parameters,
    run_with_gradients,
)

from foldase_kernels.transition import available_backends, op, transition, triton
from foldase_kernels.transition.triton import Blocks

EXACT = {"tolerance": FORWARD_TOLERANCE, "gradient_tolerance": GRADIENT_TOLERANCE}


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Several tiles, chunks and groups at tiny sizes."""

    choose_blocks = triton.choose_blocks

    def choose(channels, dtype, purpose):
        return Blocks(32 if purpose == "forward" else 16, 16, choose_blocks(channels, dtype, purpose).width)

    monkeypatch.setattr(triton, "choose_blocks", choose)
    monkeypatch.setattr(triton, "ENOUGH_PROGRAMS", 4)
    monkeypatch.setattr(triton, "MOST_PROGRAMS", 2)


def masked(size, which):
    """No mask, some positions, none of them."""
    return {"all": None, "some": draw(size, size, seed=7) > -0.3, "none": torch.zeros(size, 1) > 0}[which]


@pytest.mark.parametrize(
    ("size", "channels", "hidden", "activation", "which"),
    [
        (1, 5, 3, "relu", "all"),
        (5, 12, 33, "swiglu", "some"),
        (5, 16, 17, "relu", "some"),
        pytest.param(5, 17, 16, "swiglu", "none", marks=pytest.mark.verify),
    ],
)
def test_odd_sizes_float32(size, channels, hidden, activation, which):
    compare(
        draw(size, size, channels),
        make_parameters(channels, hidden, activation),
        activation=activation,
        mask=masked(size, which),
        residual=which == "some",
        dtype=torch.float32,
        backend="triton",
        **EXACT,
    )


@pytest.mark.verify
@pytest.mark.parametrize("size", [1, 15, 17, 33])
@pytest.mark.parametrize("activation", ["relu", "swiglu"])
@pytest.mark.parametrize(("which", "biases"), [("all", False), ("some", True)])
def test_all_odd_sizes_float32(size, activation, which, biases):
    compare(
        draw(size, size, 33),
        make_parameters(33, 20, activation, biases=biases),
        activation=activation,
        mask=masked(size, which),
        residual=biases,
        dtype=torch.float32,
        backend="triton",
        **EXACT,
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.verify)])
def test_half_precision(dtype):
    compare(
        draw(2, 17, 16),
        make_parameters(16, 32, "swiglu"),
        activation="swiglu",
        residual=True,
        dtype=dtype,
        backend="triton",
        tolerance=HALF_TOLERANCE,
        gradient_tolerance=HALF_TOLERANCE,
    )


def test_parameters_keep_their_own_dtype():
    x, parameters = draw(20, 8, dtype=torch.bfloat16), make_parameters(8, 16, dtype=torch.float32)
    out, grad_x, *grads = run_with_gradients(x, parameters, backend="triton")
    assert out.dtype == grad_x.dtype == torch.bfloat16
    assert {grad.dtype for grad in grads} == {torch.float32}


def test_strides_masks_of_rows_and_in_place():
    x, parameters = draw(4, 3, 9, 16)[..., ::2].transpose(0, 2), make_parameters(8, 20)
    mask = draw(3, 1, seed=3) > -0.5
    compare(x, parameters, mask=mask, dtype=torch.float32, backend="triton", **EXACT)
    x, parameters = x.float(), parameters.to(torch.float32)
    wanted = transition(x, parameters, mask=mask, residual=True, backend="triton")
    assert transition(x, parameters, mask=mask, inplace=True, backend="triton") is x
    assert torch.equal(x, wanted)


def test_nothing_and_a_single_position():
    parameters = make_parameters(6, 11, dtype=torch.float32)
    for shape in ((6,), (2, 0, 6)):
        x = draw(*shape, dtype=torch.float32)
        found = run_with_gradients(x, parameters, backend="triton")
        wanted = run_with_gradients(x, parameters, backend="reference")
        for ours, theirs in zip(found, wanted, strict=True):
            assert (ours - theirs).abs().sum() <= GRADIENT_TOLERANCE * theirs.abs().sum()


@pytest.mark.verify
@pytest.mark.parametrize("frozen", ["x", "parameters"])
def test_gradients_only_where_asked(frozen):
    x, parameters = draw(5, 8, dtype=torch.float32), make_parameters(8, 24, dtype=torch.float32)
    whole = run_with_gradients(x, parameters, backend="triton")
    x.requires_grad_(frozen == "parameters")
    weight = parameters.weight_out.requires_grad_(frozen == "x")
    out = transition(x, parameters, backend="triton")
    (found,) = torch.autograd.grad((out * draw(5, 8, seed=99)).sum(), x if frozen == "parameters" else weight)
    assert torch.equal(found, whole[1] if frozen == "parameters" else whole[6])


def test_bitwise_deterministic():
    x = draw(33, 16, dtype=torch.float32)
    parameters = make_parameters(16, 20, "swiglu", dtype=torch.float32)
    first, second = (
        run_with_gradients(x, parameters, activation="swiglu", backend="triton") for _ in range(2)
    )
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(first, second, strict=True))


@pytest.mark.verify
@pytest.mark.parametrize("way", ["forward", "both", "inplace"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_keeps_to_its_memory_bound(way, dtype):
    x = draw(60, 16, dtype=dtype)
    parameters = make_parameters(16, 32, "swiglu", dtype=torch.float32)
    leaves = [x, *parameters]
    if way == "both":
        for leaf in leaves:
            leaf.requires_grad_()

    def work():
        out = transition(
            x, parameters, activation="swiglu", inplace=way == "inplace", residual=True, backend="triton"
        )
        return torch.autograd.grad(out, leaves, torch.ones_like(out)) if way == "both" else out

    own = sum(leaf.nbytes for leaf in leaves)
    allowed = {"forward": x.nbytes, "both": 2 * x.nbytes + own, "inplace": 0}[way]
    assert peak_of(work) - allowed <= triton.scratch_bytes(x, parameters)


@pytest.mark.verify
def test_the_operator():
    """Schema, registrations, fake against real results, and tracing."""
    x, parameters = draw(3, 5, 8, dtype=torch.float32), make_parameters(8, 16, dtype=torch.float32)
    leaves = [None if leaf is None else leaf.requires_grad_() for leaf in (x, *parameters)]
    mask = draw(3, 5) > 0
    torch.library.opcheck(op.transition, (*leaves, mask, True, 1e-5, "triton"))


def test_it_says_that_it_is_there_and_what_it_refuses():
    assert available_backends() == ("reference", "cpu", "triton")
    with pytest.raises(ValueError, match=r"x is torch\.float64; backend 'triton'"):
        transition(draw(3, 8), make_parameters(8, 16), backend="triton")
    with pytest.raises(ValueError, match=r"x has shape \[2, 257\]; backend 'triton' takes at most 256"):
        transition(
            draw(2, 257, dtype=torch.float32), make_parameters(257, 4, dtype=torch.float32), backend="triton"
        )
