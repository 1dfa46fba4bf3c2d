"""The outer product mean by Triton under its interpreter; run by ``test_interpreted.py`` in its own process.

The interpreter takes milliseconds for one tile, so shapes are tiny, and tiles smaller still.
"""

from __future__ import annotations

import pytest
import torch
from counted_memory import peak_of
from outer_product_cases import (
    FORWARD_TOLERANCE,
    GRADIENT_TOLERANCE,
    HALF_TOLERANCE,
    compare,
    draw,
    make,
    make_weights,
    run_with_gradients,
)

from foldase_kernels.outer_product_mean import available_backends, op, outer_product_mean, triton
from foldase_kernels.outer_product_mean.triton import Blocks

EXACT = {"tolerance": FORWARD_TOLERANCE, "gradient_tolerance": GRADIENT_TOLERANCE, "dtype": torch.float32}


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Several tiles of unequal sides, parts and groups at tiny sizes."""
    choose_blocks = triton.choose_blocks

    def choose(hidden, channels, dtype, *, factors):
        whole = choose_blocks(hidden, channels, dtype, factors=factors)
        return Blocks(16, 4, 4, whole.hidden, whole.channels, 16)

    monkeypatch.setattr(triton, "choose_blocks", choose)
    monkeypatch.setattr(triton, "ENOUGH_PROGRAMS", 6)


@pytest.mark.parametrize(
    ("sequences", "residues", "hidden", "channels", "kind"),
    [(1, 1, 3, 4, None), (17, 5, 5, 7, "mask"), (3, 9, 4, 20, "numbers")],
)
def test_odd_sizes_float32(sequences, residues, hidden, channels, kind):
    tensors = make((), sequences, residues, hidden, channels, bias=kind != "numbers")
    compare(tensors, weights=make_weights(kind, (sequences, residues)), backend="triton", **EXACT)


@pytest.mark.verify
@pytest.mark.parametrize("residues", [1, 15, 17, 33])
@pytest.mark.parametrize(("sequences", "kind"), [(1, None), (17, "numbers")])
def test_all_odd_sizes_float32(sequences, residues, kind):
    tensors = make((), sequences, residues, 5, 17)
    compare(tensors, weights=make_weights(kind, (sequences, residues)), backend="triton", **EXACT)


@pytest.mark.verify
@pytest.mark.parametrize("hidden", [1, 2, 16, 32, 64, 128])
def test_blocks_of_every_width(hidden, monkeypatch):
    """As they are on a GPU."""
    monkeypatch.undo()
    compare(make((), 3, 5, hidden, 8), weights=make_weights("mask", (3, 5)), backend="triton", **EXACT)


@pytest.mark.parametrize("dtype", [torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.verify)])
def test_half_precision(dtype):
    tensors, weights = make((), 8, 5, 8, 16), make_weights("mask", (8, 5))
    compare(
        tensors,
        weights=weights,
        dtype=dtype,
        backend="triton",
        tolerance=HALF_TOLERANCE,
        gradient_tolerance=HALF_TOLERANCE,
    )


def test_sums_that_float16_cannot_hold():
    """The mean is taken before products are rounded."""
    a, b, weight, bias = make((), 40, 2, 4, 8)
    tensors = [a.half().mul(0).add(60), b.half().mul(0).add(60), weight.half(), bias.half()]
    found = outer_product_mean(*tensors, backend="triton")
    wanted = outer_product_mean(*(t.double() for t in tensors), backend="reference")
    assert (found.double() - wanted).abs().max() <= HALF_TOLERANCE * wanted.abs().max()


@pytest.mark.parametrize(
    "weights",
    [
        draw(2, 1, 7, 1, seed=5).abs(),
        *(
            pytest.param(weights, marks=pytest.mark.verify)
            for weights in (draw(7, 1, seed=5).abs(), draw(2, 1, 7, 5, seed=5) > 0)
        ),
    ],
    ids=lambda weights: str(tuple(weights.shape)),
)
def test_leading_dimensions_strides_and_broadcast_weights(weights):
    weight, bias = draw(6, 16, seed=3), draw(6, seed=4)
    a, b = draw(2, 2, 5, 7, 4).transpose(2, 3), draw(2, 2, 7, 5, 8, seed=1)[..., ::2]
    compare([a, b, weight, bias], weights=weights, backend="triton", **EXACT)


def test_pairs_that_no_sequence_covers():
    tensors = [t.float() for t in make((), 5, 6, 3, 4)]
    weights = torch.ones(5, 6)
    weights[:, 2] = 0
    out, *grads = run_with_gradients(tensors, weights=weights, backend="triton")
    assert (out[2] - tensors[3] / 1e-3).abs().max() <= FORWARD_TOLERANCE * out[2].abs().max()
    assert (grads[0][:, 2] == 0).all()
    assert (grads[1][:, 2] == 0).all()


@pytest.mark.verify
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_residual_is_added_to_in_place(dtype):
    tensors = [t.to(dtype) for t in make((2,), 6, 9, 4, 5)]
    z = draw(2, 9, 9, 5, seed=8, dtype=torch.float32).transpose(1, 2)
    wanted = z.double() + outer_product_mean(*(t.double() for t in tensors), backend="reference")
    assert outer_product_mean(*tensors, residual=z, backend="triton") is z
    bound = HALF_TOLERANCE if dtype == torch.bfloat16 else FORWARD_TOLERANCE
    assert (z - wanted).abs().max() <= bound * wanted.abs().max()


@pytest.mark.verify
@pytest.mark.parametrize("wanted", [[0], [1], [2], [3]])
def test_gradients_only_where_asked(wanted):
    tensors, weights = [t.float() for t in make((), 5, 9, 4, 3)], make_weights("numbers", (5, 9))
    whole = run_with_gradients(tensors, weights=weights, backend="triton")
    leaves = [t.clone().requires_grad_(number in wanted) for number, t in enumerate(tensors)]
    out = outer_product_mean(*leaves, weights=weights, backend="triton")
    loss = (out * draw(*out.shape, seed=99)).sum()
    for number, grad in zip(wanted, torch.autograd.grad(loss, [leaves[n] for n in wanted]), strict=True):
        assert torch.equal(grad, whole[1 + number])


def test_bitwise_deterministic():
    tensors, weights = [t.float() for t in make((), 9, 5, 4, 8)], make_weights("numbers", (9, 5))
    first, second = (run_with_gradients(tensors, weights=weights, backend="triton") for _ in range(2))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(first, second, strict=True))


@pytest.mark.verify
@pytest.mark.parametrize("way", ["forward", "both", "inplace"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_keeps_to_its_memory_bound(way, dtype):
    a, b, weight, bias = (t.to(dtype) for t in make((), 9, 20, 8, 16))
    tensors, weights = [a, b, weight.float(), bias], torch.ones(9, 20)
    if way == "both":
        for tensor in tensors:
            tensor.requires_grad_()
    z = torch.zeros(20, 20, 16, dtype=dtype)
    residual = z if way == "inplace" else None

    def work():
        out = outer_product_mean(*tensors, weights=weights, residual=residual, backend="triton")
        return torch.autograd.grad(out, tensors, torch.ones_like(out)) if way == "both" else out

    own = sum(tensor.nbytes for tensor in tensors)
    allowed = {"forward": z.nbytes, "both": 2 * z.nbytes + own, "inplace": 0}[way]
    bound = triton.scratch_bytes(a, tensors[2], weighted=True, backward=way == "both")
    assert peak_of(work) - allowed <= bound
    assert bound < 20 * 20 * 8 * 8 * 4


@pytest.mark.verify
def test_the_operator():
    """Schema, registrations, fake against real results, and tracing."""
    leaves = [t.float().requires_grad_() for t in make((2,), 3, 5, 4, 3)]
    weights = make_weights("mask", (2, 3, 5))
    torch.library.opcheck(op.outer_product_mean, (*leaves, weights, 1e-3, "triton"))


def test_it_says_that_it_is_there_and_what_it_refuses():
    assert available_backends() == ("reference", "cpu", "triton")
    with pytest.raises(ValueError, match=r"a is torch\.float64; backend 'triton'"):
        outer_product_mean(*make((), 3, 5, 2, 4), backend="triton")
    with pytest.raises(ValueError, match=r"a has shape \[1, 1, 129\].*at most 128 channels"):
        outer_product_mean(*(t.float() for t in make((), 1, 1, 129, 2)), backend="triton")
