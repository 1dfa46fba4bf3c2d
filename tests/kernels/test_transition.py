"""The transition: gradients in float64, and the CPU path against the reference over odd sizes."""

from __future__ import annotations

import pytest
import torch
from transition_cases import (
    ACTIVATIONS,
    EXACT,
    FORWARD_TOLERANCE,
    GRADIENT_TOLERANCE,
    HALF_TOLERANCE,
    SIZES,
    compare,
    draw,
    force_tiles,
    make_parameters,
    run_with_gradients,
)

from foldase_kernels import operations
from foldase_kernels.transition import TransitionParameters, available_backends, transition
from foldase_kernels.triton_support import is_available


@pytest.fixture(params=["direct", "tiled"])
def cpu_form(request, monkeypatch):
    """Both forms of the CPU path."""
    if request.param == "tiled":
        force_tiles(monkeypatch)
    return request.param


@pytest.mark.parametrize("form", ["reference", "direct", "tiled"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize("residual", [True, False])
def test_gradcheck_of_every_input(form, activation, biases, residual, monkeypatch):
    if form == "tiled":
        force_tiles(monkeypatch, tile=200)
    parameters = make_parameters(3, 5, activation, biases=biases)
    names = [name for name, tensor in zip(parameters._fields, parameters, strict=True) if tensor is not None]
    mask = torch.tensor([[True, False, True], [True, True, False]])

    def call(x, *tensors):
        named = TransitionParameters(
            **{**dict.fromkeys(parameters._fields), **dict(zip(names, tensors, strict=True))}
        )
        backend = "reference" if form == "reference" else "cpu"
        return transition(x, named, activation=activation, mask=mask, residual=residual, backend=backend)

    leaves = [draw(2, 3, 3), *(getattr(parameters, name) for name in names)]
    assert torch.autograd.gradcheck(call, [leaf.requires_grad_() for leaf in leaves])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("masked", [False, True])
def test_odd_sizes_float32(size, activation, masked, cpu_form):
    mask = draw(size, size, seed=7) > -0.3 if masked else None
    compare(
        draw(size, size, 12),
        make_parameters(12, 40, activation),
        activation=activation,
        mask=mask,
        residual=masked,
        dtype=torch.float32,
        tolerance=FORWARD_TOLERANCE,
        gradient_tolerance=GRADIENT_TOLERANCE,
    )


@pytest.mark.parametrize("leading", [(), (1,), (2, 0), (2, 1, 3), (2, 3, 4, 5)])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_leading_dimensions(leading, activation, cpu_form):
    x = draw(*leading, 6)
    found = transition(x, make_parameters(6, 11, activation), activation=activation, backend="cpu")
    wanted = transition(x, make_parameters(6, 11, activation), activation=activation, backend="reference")
    assert found.shape == x.shape
    assert (found - wanted).abs().sum() <= EXACT * wanted.abs().sum()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_strides_and_expanded_masks(activation, cpu_form):
    """Transposed, sliced and expanded inputs; a mask of rows only."""
    for x in (
        draw(5, 7, 3, 8).transpose(0, 2),
        draw(4, 9, 16)[:, 1::2, ::2],
        draw(8, 4, 9).permute(1, 2, 0),
        draw(3, 1, 8).expand(3, 6, 8),
    ):
        mask = (draw(x.shape[-2], seed=3) > -0.5).expand(x.shape[:-1])
        compare(
            x,
            make_parameters(8, 13, activation),
            activation=activation,
            mask=mask,
            tolerance=EXACT,
            gradient_tolerance=EXACT,
        )


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(activation, dtype, cpu_form):
    compare(
        draw(6, 17, 16),
        make_parameters(16, 32, activation),
        activation=activation,
        residual=True,
        dtype=dtype,
        tolerance=HALF_TOLERANCE,
        gradient_tolerance=HALF_TOLERANCE,
    )


def test_parameters_keep_their_own_dtype(cpu_form):
    """A bfloat16 x with float32 parameters: the gradients of the parameters are float32."""
    x, parameters = draw(40, 8, dtype=torch.bfloat16), make_parameters(8, 16, dtype=torch.float32)
    out, grad_x, *grads = run_with_gradients(x, parameters, backend="cpu")
    assert out.dtype == grad_x.dtype == torch.bfloat16
    assert {grad.dtype for grad in grads} == {torch.float32}


@pytest.mark.parametrize("frozen", ["x", "parameters"])
def test_gradients_only_where_asked(frozen, cpu_form):
    x, parameters = draw(30, 6), make_parameters(6, 24, "swiglu")
    whole = run_with_gradients(x, parameters, activation="swiglu", backend="reference")
    if frozen == "x":
        leaves = TransitionParameters(*(p.clone().requires_grad_() for p in parameters))
        out = transition(x, leaves, activation="swiglu", backend="cpu")
        found, wanted = torch.autograd.grad((out * draw(30, 6, seed=99)).sum(), leaves), whole[2:]
    else:
        leaf = x.clone().requires_grad_()
        out = transition(leaf, parameters, activation="swiglu", backend="cpu")
        found, wanted = torch.autograd.grad((out * draw(30, 6, seed=99)).sum(), leaf), whole[1:2]
    for ours, theirs in zip(found, wanted, strict=True):
        assert (ours - theirs).abs().max() <= EXACT * theirs.abs().max()


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("transposed", [False, True])
def test_inplace_writes_into_x(backend, transposed, cpu_form):
    x = draw(5, 9, 8)
    x = x.transpose(0, 1) if transposed else x
    mask = draw(*x.shape[:-1], seed=3) > 0
    parameters = make_parameters(8, 20)
    wanted = x + transition(x, parameters, mask=mask, backend="reference")
    found = transition(x, parameters, mask=mask, inplace=True, backend=backend)
    assert found is x
    assert (x - wanted).abs().max() <= EXACT


def test_masked_positions_get_no_update_and_no_gradient(cpu_form):
    x = draw(6, 7, 8).requires_grad_()
    mask = torch.ones(6, 7, dtype=torch.bool)
    mask[2] = False
    out = transition(x, make_parameters(8, 20), mask=mask, backend="cpu")
    assert (out[2] == 0).all()
    (grad,) = torch.autograd.grad(out.sum(), x)
    assert (grad[2] == 0).all()
    assert (grad[3] != 0).any()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_bitwise_deterministic(activation, cpu_form):
    x, parameters = (
        draw(50, 16, dtype=torch.float32),
        make_parameters(16, 64, activation, dtype=torch.float32),
    )
    first, *others = (
        run_with_gradients(x, parameters, activation=activation, backend="cpu") for _ in range(3)
    )
    for other in others:
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(first, other, strict=True))


def test_listed_backends_are_those_that_run():
    listed = {operation.name: operation.backends for operation in operations.OPERATIONS}
    runs = listed["transition"]
    assert available_backends() == (runs if is_available() else runs[:-1])


def bad_calls():
    good = make_parameters(8, 16)
    gated = make_parameters(8, 16, "swiglu")
    yield r"activation is 'gelu'; expected 'relu' or 'swiglu'", {"activation": "gelu"}
    yield r"x has shape \[\]", {"x": torch.tensor(1.0)}
    yield r"x is torch.int64", {"x": torch.zeros(3, 8, dtype=torch.long)}
    yield r"parameters is a tuple", {"parameters": tuple(good)}
    yield r"parameters.weight_in has shape \[16\]", {"parameters": good._replace(weight_in=draw(16))}
    yield (
        r"parameters.weight_in has shape \[16, 9\]; expected \[16, 8\]",
        {"parameters": good._replace(weight_in=draw(16, 9))},
    )
    for name in ("norm_weight", "norm_bias", "bias_in", "bias_out", "weight_out"):
        yield rf"parameters.{name} has shape \[3\]", {"parameters": good._replace(**{name: draw(3)})}
    yield (
        r"parameters.bias_gate has shape \[16\]; expected None with relu",
        {"parameters": good._replace(bias_gate=draw(16))},
    )
    yield r"parameters.weight_gate is None; swiglu expects \[h, c\] = \[16, 8\]", {"activation": "swiglu"}
    yield (
        r"parameters.weight_gate has shape \[8, 16\]; expected \[16, 8\]",
        {
            "parameters": gated._replace(weight_gate=draw(8, 16)),
            "activation": "swiglu",
        },
    )
    yield (
        r"parameters.bias_in is torch.int64",
        {"parameters": good._replace(bias_in=torch.zeros(16, dtype=torch.long))},
    )
    yield r"parameters.bias_in is on meta", {"parameters": good._replace(bias_in=draw(16).to("meta"))}
    yield r"mask is torch.float64", {"mask": torch.ones(4, 5, dtype=torch.float64)}
    yield r"mask has shape \[5, 4\].*\[4, 5\]", {"mask": torch.ones(5, 4, dtype=torch.bool)}
    yield r"mask has shape \[1, 4, 5\].*\[4, 5\]", {"mask": torch.ones(1, 4, 5, dtype=torch.bool)}
    yield r"mask is on meta", {"mask": torch.ones(4, 5, dtype=torch.bool, device="meta")}
    yield r"epsilon is 0.0", {"epsilon": 0.0}
    yield r"inplace=True is for inference", {"x": draw(4, 5, 8).requires_grad_(), "inplace": True}
    yield r"x \[4, 5, 8\] is an expanded view", {"x": draw(5, 8).expand(4, 5, 8), "inplace": True}
    yield r"backend 'cuda' is not available; expected auto", {"backend": "cuda"}


@pytest.mark.parametrize(("said", "changed"), list(bad_calls()))
def test_wrong_arguments_are_named(said, changed):
    arguments = {"x": draw(4, 5, 8), "parameters": make_parameters(8, 16), **changed}
    with pytest.raises(ValueError, match=said):
        transition(**arguments)


def test_cpu_backend_refuses_other_devices():
    parameters = TransitionParameters(*(None if p is None else p.to("meta") for p in make_parameters(8, 16)))
    with pytest.raises(ValueError, match="backend 'cpu' was asked for tensors on meta"):
        transition(draw(4, 8).to("meta"), parameters, backend="cpu")
    assert transition(draw(4, 8).to("meta"), parameters).device.type == "meta"
