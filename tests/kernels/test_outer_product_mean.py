"""The outer product mean: gradients in float64, and the CPU path against the reference over odd sizes."""

from __future__ import annotations

import pytest
import torch
from outer_product_cases import (
    EXACT,
    FORMS,
    FORWARD_TOLERANCE,
    GRADIENT_TOLERANCE,
    HALF_TOLERANCE,
    SIZES,
    compare,
    draw,
    force,
    make,
    make_weights,
    run_with_gradients,
)

from foldase_kernels import operations
from foldase_kernels.outer_product_mean import available_backends, cpu_few, outer_product_mean
from foldase_kernels.triton_support import is_available


@pytest.fixture(params=FORMS)
def cpu_form(request, monkeypatch):
    """All forms of the CPU path."""
    force(request.param, monkeypatch)
    return request.param


def test_reference_is_the_sum_over_sequences():
    """Against loops over sequences and pairs."""
    a, b, weight, bias = make((), 4, 3, 2, 5)
    weights = make_weights("numbers", (4, 3))
    found = outer_product_mean(a, b, weight, bias, weights=weights, backend="reference")
    for i in range(3):
        for j in range(3):
            shares = [(weights[s, i] * weights[s, j]).sqrt() for s in range(4)]
            outer = sum(share * torch.outer(a[s, i], b[s, j]) for s, share in enumerate(shares))
            wanted = (weight @ outer.flatten() + bias) / (sum(shares) + 1e-3)
            assert (found[i, j] - wanted).abs().max() <= EXACT * max(1.0, float(wanted.abs().max()))


@pytest.mark.parametrize("form", ["reference", *FORMS])
@pytest.mark.parametrize("kind", [None, "mask", "numbers"])
@pytest.mark.parametrize("bias", [True, False])
def test_gradcheck_of_every_input(form, kind, bias, monkeypatch):
    if form != "reference":
        force(form, monkeypatch, tile=200)
    tensors = make((), 3, 4, 2, 3, bias=bias)
    weights = make_weights(kind, (3, 4))
    backend = "reference" if form == "reference" else "cpu"

    def call(a, b, weight, *rest):
        return outer_product_mean(
            a, b, weight, rest[0] if rest else None, weights=weights, epsilon=0.1, backend=backend
        )

    assert torch.autograd.gradcheck(call, [t.requires_grad_() for t in tensors if t is not None])


@pytest.mark.parametrize("residues", SIZES)
@pytest.mark.parametrize("sequences", [1, 17])
@pytest.mark.parametrize("kind", [None, "mask", "numbers"])
def test_odd_sizes_float32(residues, sequences, kind, cpu_form):
    compare(
        make((), sequences, residues, 5, 7),
        weights=make_weights(kind, (sequences, residues)),
        dtype=torch.float32,
        tolerance=FORWARD_TOLERANCE,
        gradient_tolerance=GRADIENT_TOLERANCE,
    )


@pytest.mark.parametrize("leading", [(1,), (3,), (2, 2)])
@pytest.mark.parametrize("kind", [None, "numbers"])
def test_leading_dimensions(leading, kind, cpu_form):
    weights = make_weights(kind, (*leading, 6, 9))
    compare(make(leading, 6, 9, 4, 20), weights=weights, tolerance=EXACT, gradient_tolerance=EXACT)


def test_strides_and_broadcast_weights(cpu_form):
    """Transposed and sliced factors; weights of sequences only, and of one alignment for a batch."""
    weight, bias = draw(6, 16, seed=3), draw(6, seed=4)
    a, b = draw(2, 9, 7, 4).transpose(1, 2), draw(2, 7, 9, 8, seed=1)[..., ::2]
    for weights in (None, draw(7, 1, seed=5).abs(), draw(7, 9, seed=5) > 0):
        compare([a, b, weight, bias], weights=weights, tolerance=EXACT, gradient_tolerance=EXACT)
    views = [draw(7, 4, 9).transpose(1, 2), draw(4, 7, 9).permute(1, 2, 0), weight.mT.contiguous().mT, bias]
    compare(views, tolerance=EXACT, gradient_tolerance=EXACT)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", [None, "mask"])
def test_half_precision(dtype, kind, cpu_form):
    compare(
        make((), 8, 15, 8, 16),
        weights=make_weights(kind, (8, 15)),
        dtype=dtype,
        tolerance=HALF_TOLERANCE,
        gradient_tolerance=HALF_TOLERANCE,
    )


@pytest.mark.parametrize("wanted", [[0], [1], [2], [3], [0, 2]])
def test_gradients_only_where_asked(wanted, cpu_form):
    tensors = make((), 5, 9, 4, 3)
    weights = make_weights("numbers", (5, 9))
    whole = run_with_gradients(tensors, weights=weights, backend="reference")
    leaves = [t.clone().requires_grad_(number in wanted) for number, t in enumerate(tensors)]
    out = outer_product_mean(*leaves, weights=weights, backend="cpu")
    loss = (out * draw(*out.shape, seed=99)).sum()
    for number, grad in zip(wanted, torch.autograd.grad(loss, [leaves[n] for n in wanted]), strict=True):
        assert (grad - whole[1 + number]).abs().max() <= EXACT * whole[1 + number].abs().max()


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("transposed", [False, True])
def test_residual_is_added_to_in_place(backend, transposed, cpu_form):
    tensors = make((2,), 6, 9, 4, 5)
    z = draw(2, 9, 9, 5, seed=8)
    z = z.transpose(1, 2) if transposed else z
    wanted = z + outer_product_mean(*tensors, backend="reference")
    assert outer_product_mean(*tensors, residual=z, backend=backend) is z
    assert (z - wanted).abs().max() <= EXACT * wanted.abs().max()


@pytest.mark.parametrize("backward", [False, True])
def test_few_sequences_take_the_order_with_fewer_products(backward):
    """With 32 channels to 128 pair channels the orders meet near 40 sequences forward, 50 backward."""
    few, many = (torch.empty(count, 512, 32, device="meta") for count in (24, 64))
    assert cpu_few.is_cheaper(few, 128, backward=backward)
    assert not cpu_few.is_cheaper(many, 128, backward=backward)


def test_pairs_that_no_sequence_covers(cpu_form):
    """Nothing but the bias over epsilon; no gradient for the factors, and no NaN anywhere."""
    tensors = make((), 5, 6, 3, 4)
    weights = torch.ones(5, 6)
    weights[:, 2] = 0
    out, *grads = run_with_gradients(tensors, weights=weights, backend="cpu")
    assert (out[2] - tensors[3] / 1e-3).abs().max() <= EXACT * out[2].abs().max()
    assert (grads[0][:, 2] == 0).all()
    assert (grads[1][:, 2] == 0).all()
    assert not any(grad.isnan().any() for grad in grads)


def test_bitwise_deterministic(cpu_form):
    tensors = [t.float() for t in make((), 9, 20, 4, 8)]
    weights = make_weights("numbers", (9, 20)).float()
    first, *others = (run_with_gradients(tensors, weights=weights, backend="cpu") for _ in range(3))
    for other in others:
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(first, other, strict=True))


def test_listed_backends_are_those_that_run():
    listed = {operation.name: operation.backends for operation in operations.OPERATIONS}
    runs = listed["outer_product_mean"]
    assert available_backends() == (runs if is_available() else runs[:-1])


def bad_calls():
    a, b, weight, bias = make((), 3, 5, 2, 4)
    z = draw(5, 5, 4)
    yield r"a has shape \[5, 2\]; expected \[..., sequences", {"a": a[0]}
    yield r"a is torch.int64", {"a": a.long()}
    yield r"a has shape \[0, 5, 2\]; expected no empty", {"a": a[:0], "b": b[:0]}
    yield r"b has shape \[3, 4, 2\]; expected that of a, \[3, 5, 2\]", {"b": b[:, :4]}
    yield r"b is torch.float32, a torch.float64", {"b": b.float()}
    yield r"b is on meta", {"b": b.to("meta")}
    yield r"weight has shape \[4, 3\]; expected \[c_z, C \* C\] = \[c_z, 4\]", {"weight": weight[:, :3]}
    yield r"weight is torch.int64", {"weight": weight.long()}
    yield r"weight is on meta", {"weight": weight.to("meta")}
    yield r"bias has shape \[3\]; expected \[c_z\] = \[4\]", {"bias": bias[:3]}
    yield r"weights has shape \[5, 3\].*= \[3, 5\]", {"weights": torch.ones(5, 3)}
    yield r"weights is torch.int64", {"weights": torch.ones(3, 5, dtype=torch.long)}
    yield r"weights is on meta", {"weights": torch.ones(3, 5, device="meta")}
    yield r"weights requires a gradient", {"weights": torch.ones(3, 5, requires_grad=True)}
    yield r"weights \[3, 5\] has negative", {"weights": -torch.ones(3, 5)}
    yield r"weights \[3, 5\] has negative", {"weights": torch.full((3, 5), torch.nan)}
    yield r"epsilon is 0", {"epsilon": 0}
    yield r"residual has shape \[5, 4\]; expected .* = \[5, 5, 4\]", {"residual": z[0]}
    yield r"residual is torch.int64", {"residual": z.long()}
    yield r"residual is on meta", {"residual": z.to("meta")}
    yield r"residual \[5, 5, 4\] is an expanded view", {"residual": z[0].expand(5, 5, 4)}
    yield r"residual is for inference", {"residual": z, "bias": bias.clone().requires_grad_()}
    yield r"backend 'triton9' is not available; expected auto", {"backend": "triton9"}


@pytest.mark.parametrize(("said", "changed"), list(bad_calls()))
def test_wrong_arguments_are_named(said, changed):
    a, b, weight, bias = make((), 3, 5, 2, 4)
    with pytest.raises(ValueError, match=said):
        outer_product_mean(**{"a": a, "b": b, "weight": weight, "bias": bias, **changed})


def test_cpu_backend_refuses_other_devices():
    tensors = [tensor.to("meta") for tensor in make((), 3, 5, 2, 4)]
    with pytest.raises(ValueError, match="backend 'cpu' was asked for tensors on meta"):
        outer_product_mean(*tensors, backend="cpu")
    assert outer_product_mean(*tensors).shape == (5, 5, 4)
