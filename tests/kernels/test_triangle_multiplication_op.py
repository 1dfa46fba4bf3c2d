"""Triangle multiplication as a torch operator: tracing, autocast, checkpointing, and what it saves."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint
from triangle_multiplication_cases import EXACT, draw_mask, force_tiles, make, relative

from foldase_kernels.triangle_multiplication import (
    TriangleMultiplicationParameters,
    cpu,
    op,
    triangle_multiplication,
)

SIZE = 5


@pytest.fixture(autouse=True)
def several_tiles_and_a_fresh_compiler(monkeypatch):
    """Small problems would be the reference; no graph of another test counts against the limit."""
    monkeypatch.setattr(cpu, "SMALL_PRODUCTS", -1)
    force_tiles(monkeypatch)
    torch.compiler.reset()


def leaves_of(*, dtype=torch.float64, biases=True):
    z, parameters = make(SIZE, 6, 5, dtype=dtype, biases=biases)
    return z.requires_grad_(), TriangleMultiplicationParameters(
        *(None if tensor is None else tensor.requires_grad_() for tensor in parameters)
    )


def gradients(out, z, parameters):
    given = [tensor for tensor in (z, *parameters) if tensor is not None]
    return torch.autograd.grad(out.sin().sum(), given)


def close(found, wanted):
    for grad, expected in zip(found, wanted, strict=True):
        assert relative(grad, expected) <= EXACT


@pytest.mark.parametrize("biases", [True, pytest.param(False, marks=pytest.mark.verify)])
def test_opcheck(biases):
    """Schema, registrations, fake against real results, and tracing with dynamic shapes."""
    z, parameters = leaves_of(biases=biases)
    mask = draw_mask("some", SIZE) if biases else None
    factor = z.detach()[:, :1].abs() if biases else None
    torch.library.opcheck(op.triangle_multiplication, (z, *parameters, mask, factor, biases, True, "cpu"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_opcheck_in_other_dtypes(dtype):
    z, parameters = leaves_of(dtype=torch.float32)
    arguments = (z.detach().to(dtype).transpose(0, 1), *parameters, None, None, True, False, "cpu")
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(op.triangle_multiplication, arguments, test_utils=tests)


def test_opcheck_of_the_backward_operator():
    z, parameters = make(SIZE)
    wanted = [number % 3 == 0 for number in range(op.COUNT + 1)]
    arguments = (z.cos(), wanted, z, *parameters, draw_mask("some", SIZE), None, False, True, "cpu")
    torch.library.opcheck(op.triangle_multiplication_backward, arguments)
    found = op.triangle_multiplication_backward(*arguments)
    given = [tensor for tensor, needed in zip((z, *parameters), wanted, strict=True) if needed]
    assert [grad.shape for grad in found] == [tensor.shape for tensor in given]


@pytest.mark.parametrize("dynamic", [False, pytest.param(True, marks=pytest.mark.verify)])
def test_compiled_without_a_graph_break(dynamic):
    counter = CompileCounterWithBackend("aot_eager")
    z, parameters = leaves_of()
    mask = draw_mask("some", SIZE)

    def layer(z, parameters):
        return z + triangle_multiplication(z * 2, parameters, mask=mask, outgoing=False).tanh()

    compiled = torch.compile(layer, backend=counter, fullgraph=True, dynamic=dynamic)
    found, wanted = compiled(z, parameters), layer(z, parameters)
    assert counter.frame_count == 1
    assert relative(found, wanted) <= EXACT
    close(gradients(found, z, parameters), gradients(wanted, z, parameters))


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_fake_tensors(backend):
    z, parameters = leaves_of(dtype=torch.bfloat16)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = mode.from_tensor(z)
        out = triangle_multiplication(fake, parameters, backend=backend)
    assert out.shape == z.shape
    assert out.dtype == z.dtype


def test_activation_checkpointing():
    z, parameters = leaves_of()

    def layer(z):
        return triangle_multiplication(z, parameters, residual=True)

    wanted = gradients(layer(z), z, parameters)
    close(gradients(checkpoint(layer, z, use_reentrant=False), z, parameters), wanted)


def test_autocast_changes_nothing():
    z, parameters = leaves_of(dtype=torch.float32)
    plain = triangle_multiplication(z, parameters)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = triangle_multiplication(z, parameters)
        grads = gradients(found, z, parameters)
    assert torch.equal(found, plain)
    assert all(map(torch.equal, grads, gradients(plain, z, parameters)))


def test_only_what_asks_for_a_gradient_gets_one():
    z, parameters = make(SIZE)
    parameters.z_weight.requires_grad_()
    triangle_multiplication(z, parameters).sum().backward()
    assert z.grad is None
    assert [name for name, own in parameters._asdict().items() if own.grad is not None] == ["z_weight"]


def test_a_second_derivative_is_refused():
    z, parameters = leaves_of()
    [grad] = torch.autograd.grad(triangle_multiplication(z, parameters).sum(), z, create_graph=True)
    with pytest.raises(RuntimeError, match="triangle_multiplication has a first derivative only"):
        grad.sum().backward()
