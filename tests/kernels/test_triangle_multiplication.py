"""Triangle multiplication: gradients in float64, and the CPU path against the reference over odd sizes."""

from __future__ import annotations

import itertools

import pytest
import torch
from triangle_multiplication_cases import (
    EXACT,
    FORWARD_TOLERANCE,
    GRADIENT_TOLERANCE,
    HALF_TOLERANCE,
    compare,
    draw_mask,
    force_tiles,
    make,
    relative,
    with_gradients,
)

from foldase_kernels import backend_choice, operations
from foldase_kernels.triangle_multiplication import (
    TriangleMultiplicationParameters,
    api,
    cpu,
    cpu_tiles,
    triangle_multiplication,
)
from foldase_kernels.triton_support import is_available

SIZES = (1, 15, 17, 33)
BACKENDS = ("reference", "cpu")
"""Those that work in float64 and on any machine."""


@pytest.fixture(autouse=True)
def tiles_at_every_size(monkeypatch):
    """Small problems would be computed at once."""
    monkeypatch.setattr(cpu, "SMALL_PRODUCTS", -1)


@pytest.fixture(params=["whole", "tiled"])
def cpu_form(request, monkeypatch):
    """All channels and rows at once, as small problems run, and many groups and blocks."""
    if request.param == "tiled":
        force_tiles(monkeypatch)
    return request.param


def test_a_small_problem_is_the_reference(monkeypatch):
    monkeypatch.setattr(cpu, "SMALL_PRODUCTS", 2**20)
    z, parameters = make(5, leading=(2,))
    expected = triangle_multiplication(z, parameters, backend="reference")
    assert torch.equal(triangle_multiplication(z, parameters, backend="cpu"), expected)


@pytest.mark.parametrize("outgoing", [True, False])
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_definition(backend, outgoing):
    """Against loops over the published algorithm."""
    z, p = make(4)
    mask = draw_mask("some", 4)
    layer_norm, linear = torch.nn.functional.layer_norm, torch.nn.functional.linear
    n = layer_norm(z, (6,), p.norm_in_weight, p.norm_in_bias)
    a = torch.sigmoid(linear(n, p.a_g_weight, p.a_g_bias)) * linear(n, p.a_p_weight, p.a_p_bias)
    b = torch.sigmoid(linear(n, p.b_g_weight, p.b_g_bias)) * linear(n, p.b_p_weight, p.b_p_bias)
    x = torch.zeros(4, 4, 5, dtype=torch.float64)
    for i, j, k in itertools.product(range(4), repeat=3):
        first, second = ((i, k), (j, k)) if outgoing else ((k, i), (k, j))
        if mask[first] and mask[second]:
            x[i, j] += a[first] * b[second]
    out = linear(layer_norm(x, (5,), p.norm_out_weight, p.norm_out_bias), p.z_weight, p.z_bias)
    wanted = torch.sigmoid(linear(n, p.g_weight, p.g_bias)) * out
    found = triangle_multiplication(z, p, mask=mask, outgoing=outgoing, backend=backend)
    assert relative(found, wanted) <= EXACT


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("outgoing", [True, False])
@pytest.mark.parametrize("hidden", [2, 4], ids=["narrow", "wide"])
def test_gradcheck_every_parameter(backend, outgoing, hidden, monkeypatch):
    monkeypatch.setattr(cpu_tiles, "SMALL", 0)
    monkeypatch.setattr(cpu_tiles, "PAIRS", 3)
    z, parameters = make(3, 3, hidden)
    mask = torch.tensor([[1, 1, 0], [0, 1, 1], [1, 1, 1]], dtype=torch.bool)

    def call(z, *tensors):
        return triangle_multiplication(
            z,
            TriangleMultiplicationParameters(*tensors),
            mask=mask,
            outgoing=outgoing,
            residual=hidden == 2,
            backend=backend,
        )

    assert torch.autograd.gradcheck(call, [tensor.requires_grad_() for tensor in (z, *parameters)])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("outgoing", [True, False])
@pytest.mark.parametrize("masked", ["none", "some", "nothing"])
def test_odd_sizes_float32(size, outgoing, masked, cpu_form):
    z, parameters = make(size, 12, 10, dtype=torch.float32, seed=size)
    compare(
        z,
        parameters,
        mask=draw_mask(masked, size),
        outgoing=outgoing,
        tolerance=FORWARD_TOLERANCE,
        gradient_tolerance=GRADIENT_TOLERANCE,
    )


@pytest.mark.parametrize("outgoing", [True, False])
@pytest.mark.parametrize("hidden", [4, 6, 9], ids=["narrower", "equal", "wider"])
@pytest.mark.parametrize("leading", [(), (2,), (2, 3)], ids=str)
def test_leading_dimensions_and_widths(leading, hidden, outgoing, cpu_form):
    z, parameters = make(7, 6, hidden, leading=leading)
    for mask in (draw_mask("some", 7, leading), draw_mask("some", 7), torch.arange(7)[:, None] > 1):
        compare(
            z,
            parameters,
            mask=mask,
            outgoing=outgoing,
            residual=True,
            tolerance=EXACT,
            gradient_tolerance=EXACT,
        )


@pytest.mark.parametrize("backend", BACKENDS)
def test_without_biases(backend, cpu_form):
    z, parameters = make(9, biases=False)
    assert parameters.z_bias is None
    compare(z, parameters, backend=backend, tolerance=EXACT, gradient_tolerance=EXACT)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("hidden", [16, 24], ids=["equal", "wider"])
def test_half_precision(dtype, hidden, cpu_form):
    z, parameters = make(17, 16, hidden, dtype=dtype)
    compare(
        z,
        parameters,
        mask=draw_mask("some", 17),
        residual=True,
        tolerance=HALF_TOLERANCE,
        gradient_tolerance=HALF_TOLERANCE,
    )


def test_float32_parameters_for_bfloat16_pairs():
    """As under autocast: every parameter keeps its own dtype, and so does its gradient."""
    z, parameters = make(9, dtype=torch.float32)
    compare(z.bfloat16(), parameters, tolerance=HALF_TOLERANCE, gradient_tolerance=HALF_TOLERANCE)


def test_autocast_does_not_reach_the_sums():
    z, parameters = make(9, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        compare(
            z,
            parameters,
            backend="cpu",
            tolerance=FORWARD_TOLERANCE,
            gradient_tolerance=GRADIENT_TOLERANCE,
        )


def test_float16_sums_beyond_its_range():
    """Products of long rows overflow float16; they are kept in float32."""
    z, parameters = make(40, 4, 4, dtype=torch.float16)
    loud = parameters._replace(
        a_p_bias=torch.full((4,), 300.0).half(), b_p_bias=torch.full((4,), 300.0).half()
    )
    found = triangle_multiplication(z, loud, backend="cpu")
    wanted = triangle_multiplication(z.double(), loud.to(torch.float64), backend="reference")
    assert relative(found, wanted) <= HALF_TOLERANCE


@pytest.mark.parametrize("backend", BACKENDS)
def test_strides(backend, cpu_form):
    z, parameters = make(11, 12)
    views = (z.transpose(0, 1), z[..., ::2], z[::2, ::2], z[:1, :1].expand(5, 5, 12))
    for view in views:
        fitting = parameters if view.shape[-1] == 12 else make(11, 6)[1]
        assert not view.is_contiguous()
        found = triangle_multiplication(view, fitting, residual=True, backend=backend)
        wanted = triangle_multiplication(view.contiguous(), fitting, residual=True, backend="reference")
        assert relative(found, wanted) <= EXACT
    compare(z.transpose(0, 1), parameters, backend=backend, tolerance=EXACT, gradient_tolerance=EXACT)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("outgoing", [True, False])
@pytest.mark.parametrize("leading", [(), (2,)], ids=str)
def test_in_place(backend, outgoing, leading, cpu_form):
    z, parameters = make(9, leading=leading)
    mask = draw_mask("some", 9, leading)
    wanted = triangle_multiplication(
        z, parameters, mask=mask, outgoing=outgoing, residual=True, backend="reference"
    )
    base = torch.zeros(*leading, 9, 9, 8, dtype=torch.float64)
    for own in (z.clone(), z.transpose(-3, -2).clone().transpose(-3, -2), base[..., 1:7].copy_(z)):
        found = triangle_multiplication(
            own, parameters, mask=mask, outgoing=outgoing, inplace=True, backend=backend
        )
        assert found is own
        assert relative(own, wanted) <= EXACT
    assert (base[..., 0] == 0).all()
    assert (base[..., 7] == 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("leading", [(), (2,)], ids=str)
def test_a_factor_on_the_update(backend, leading, cpu_form):
    """As dropout shared along rows or columns: in the result, its gradients, and in place."""
    z, parameters = make(9, leading=leading)
    mask, weight = draw_mask("some", 9, leading), torch.randn(*z.shape, dtype=z.dtype)
    for factor in (torch.rand(1, 9, 6, dtype=z.dtype), torch.rand(*leading, 9, 1, 6, dtype=z.dtype)):
        options = {"mask": mask, "factor": factor, "backend": backend}
        found, grads = with_gradients(z, parameters, weight, residual=True, **options)
        wanted, expected = with_gradients(z, parameters, weight * factor, mask=mask, backend="reference")
        expected = {**expected, "z": expected["z"] + weight}
        assert relative(found, z + factor * wanted) <= EXACT
        assert all(
            relative(grads[name], expected[name]) <= EXACT
            for name in ("z", *TriangleMultiplicationParameters._fields)
        )
        own = z.clone()
        assert triangle_multiplication(own, parameters, inplace=True, **options) is own
        assert relative(own, found) <= EXACT


def test_in_place_under_no_grad_takes_trained_parameters():
    z, parameters = make(5)
    for tensor in parameters:
        tensor.requires_grad_()
    with torch.no_grad():
        wanted = triangle_multiplication(z, parameters, residual=True)
        assert relative(triangle_multiplication(z, parameters, inplace=True), wanted) <= EXACT


def test_masked_pairs_give_nothing_to_others(cpu_form):
    """Not even where they hold NaN; their own update is their own affair."""
    z, parameters = make(8)
    mask = torch.ones(8, 8, dtype=torch.bool)
    mask[2, 5] = False
    spoiled = z.clone()
    spoiled[2, 5] = torch.nan
    for backend, outgoing in itertools.product(BACKENDS, (True, False)):
        options = {"mask": mask, "outgoing": outgoing, "backend": backend}
        found = triangle_multiplication(spoiled, parameters, **options)
        wanted = triangle_multiplication(z, parameters, **options)
        assert torch.equal(found[mask], wanted[mask])


@pytest.mark.parametrize("outgoing", [True, False])
def test_bitwise_deterministic(outgoing, cpu_form):
    z, parameters = make(33, 16, 16, dtype=torch.float32)
    mask, weight = draw_mask("some", 33), torch.randn(33, 33, 16)
    runs = [with_gradients(z, parameters, weight, mask=mask, outgoing=outgoing) for _ in range(3)]
    for out, grads in runs[1:]:
        assert torch.equal(out, runs[0][0])
        assert all(torch.equal(grads[name], runs[0][1][name]) for name in grads)


def test_the_graph_may_be_walked_twice():
    z, parameters = make(6)
    out = triangle_multiplication(z.requires_grad_(), parameters)
    first, second = (torch.autograd.grad(out.sum(), z, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


def bad_calls():
    z, parameters = make(5, dtype=torch.float32)
    changed = parameters._replace
    yield "z has shape .5, 6.; expected", {"z": z[0]}
    yield "z has shape .5, 4, 6.; expected", {"z": z[:, :4]}
    yield "no empty dimension", {"z": z[:0, :0]}
    yield "z is torch.int32", {"z": z.int()}
    yield "parameters is a tuple", {"parameters": tuple(parameters)}
    yield "parameters.a_p_weight is None", {"parameters": changed(a_p_weight=None)}
    yield "parameters.b_p_weight is None", {"parameters": changed(b_p_weight=None)}
    yield "parameters.g_bias is torch.int64", {"parameters": changed(g_bias=torch.zeros(6).long())}
    for name in TriangleMultiplicationParameters._fields:
        wrong = torch.zeros(2, 2) if name != "a_p_weight" else torch.zeros(2)
        yield f"parameters.{name} ", {"parameters": changed(**{name: wrong})}
    yield "parameters.z_bias is on meta", {"parameters": changed(z_bias=torch.zeros(6, device="meta"))}
    yield "mask is torch.float32", {"mask": torch.ones(5, 5)}
    yield "mask has shape .4, 5.", {"mask": torch.ones(4, 5, dtype=torch.bool)}
    yield "mask has shape .2, 5, 5.", {"mask": torch.ones(2, 5, 5, dtype=torch.bool)}
    yield "mask is on meta", {"mask": torch.ones(5, 5, dtype=torch.bool, device="meta")}
    yield "factor is torch.bool", {"factor": torch.ones(5, 5, 6, dtype=torch.bool)}
    yield "factor has shape .5, 6, 6.", {"factor": torch.ones(5, 6, 6)}
    yield "factor has shape .1, 5, 5, 6.", {"factor": torch.ones(1, 5, 5, 6)}
    yield "factor is on meta", {"factor": torch.ones(5, 5, 6, device="meta")}
    yield "factor requires a gradient", {"factor": torch.ones(5, 5, 6, requires_grad=True)}
    yield "inplace is True where", {"z": z.clone().requires_grad_(), "inplace": True}
    trained = changed(z_weight=parameters.z_weight.clone().requires_grad_())
    yield "inplace is True where", {"parameters": trained, "inplace": True}
    yield "inplace is True and z has strides", {"z": z[:1, :1].expand(5, 5, 6), "inplace": True}
    yield "not available; expected auto, reference, cpu", {"backend": "cuda"}


@pytest.mark.parametrize(("message", "changes"), list(bad_calls()), ids=lambda value: str(value)[:30])
def test_bad_arguments_are_named(message, changes):
    z, parameters = make(5, dtype=torch.float32)
    arguments = {"z": z, "parameters": parameters, **changes}
    with pytest.raises(ValueError, match=message):
        triangle_multiplication(arguments.pop("z"), arguments.pop("parameters"), **arguments)


def test_the_cpu_backend_refuses_other_devices():
    z, parameters = make(5)
    elsewhere = parameters.to(torch.device("meta"))
    with pytest.raises(ValueError, match="backend 'cpu' was asked for tensors on meta"):
        triangle_multiplication(z.to("meta"), elsewhere, backend="cpu")


def test_auto_says_once_what_it_chose(caplog, monkeypatch):
    monkeypatch.setattr(backend_choice, "_reported", set())
    z, parameters = make(3)
    with caplog.at_level("INFO", logger="foldase_kernels"):
        for _ in range(3):
            triangle_multiplication(z, parameters)
    assert [record.getMessage() for record in caplog.records] == [
        "triangle_multiplication on cpu uses backend 'cpu'"
    ]


def test_the_listed_backends_are_those_that_run():
    listed = {operation.name: operation.backends for operation in operations.OPERATIONS}
    runs = ("reference", "cpu", "triton") if is_available() else ("reference", "cpu")
    assert api.available_backends() == runs
    assert listed["triangle_multiplication"] == ("reference", "cpu", "triton")
