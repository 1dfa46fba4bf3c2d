"""Transition and outer product mean as torch operators: tracing, autocast, checkpointing, what they save."""

from __future__ import annotations

import pytest
import torch
from outer_product_cases import draw, force, make, make_weights
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.testing import CompileCounterWithBackend
from torch._functorch.aot_autograd import make_boxed_func
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint
from transition_cases import force_tiles, make_parameters

from foldase_kernels import backend_choice, triton_support
from foldase_kernels.outer_product_mean import op as outer_op
from foldase_kernels.outer_product_mean import outer_product_mean
from foldase_kernels.transition import TransitionParameters, transition
from foldase_kernels.transition import op as transition_op

EXACT = 1e-12
"""float64 against float64, sums in another order."""

POSITIONS, CHANNELS, HIDDEN = (3, 4), 5, 7
CASES = ("relu", "swiglu", "products")


@pytest.fixture(autouse=True)
def always_the_operator(monkeypatch):
    """No problem is small enough to be left to plain torch, and no graph is left from another test."""
    force_tiles(monkeypatch, tile=500)
    force("tiled", monkeypatch)
    torch.compiler.reset()


def case(name, dtype=torch.float64):
    """A function of tensors, the tensors, and the operator with its own arguments."""
    if name == "products":
        tensors = [tensor.to(dtype) for tensor in make((2,), 3, 4, 3, 5)]
        weights = make_weights("mask", (2, 3, 4))
        arguments = (weights, 1e-3, "cpu")

        def call(*leaves, backend="auto"):
            return outer_product_mean(*leaves, weights=weights, backend=backend)

        return call, leaves_of(tensors), (outer_op.outer_product_mean, arguments)
    parameters = make_parameters(CHANNELS, HIDDEN, name, dtype=dtype)
    mask = draw(POSITIONS[1], seed=3) > -0.5

    def run(x, *leaves, backend="auto"):
        own = TransitionParameters(*leaves)
        return transition(x, own, activation=name, mask=mask, residual=True, backend=backend)

    tensors = [draw(*POSITIONS, CHANNELS, dtype=dtype), *(p for p in parameters if p is not None)]
    arguments = (*[None] * (9 - len(tensors)), mask, True, 1e-5, "cpu")
    return run, leaves_of(tensors), (transition_op.transition, arguments)


def leaves_of(tensors):
    return [tensor.detach().requires_grad_() for tensor in tensors]


def gradients(call, leaves):
    out = call(*leaves)
    return [out, *torch.autograd.grad(out.sin().sum(), leaves)]


def same(found, wanted, tolerance=EXACT):
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", [pytest.param("relu", marks=pytest.mark.verify), *CASES[1:]])
def test_opcheck(name):
    """Schema, registrations, fake against real results, and tracing with dynamic shapes."""
    _, leaves, (operator, arguments) = case(name)
    torch.library.opcheck(operator, (*leaves, *arguments))


@pytest.mark.verify
@pytest.mark.parametrize("name", CASES)
def test_opcheck_of_the_backward_operator(name):
    _, leaves, (operator, arguments) = case(name)
    leaves = [leaf.detach() for leaf in leaves]
    out = operator(*leaves, *arguments)
    count = 4 if name == "products" else 9
    wanted = [number % 2 == 0 and number < len(leaves) for number in range(count)]
    backward = (
        outer_op.outer_product_mean_backward if name == "products" else transition_op.transition_backward
    )
    torch.library.opcheck(backward, (torch.ones_like(out), wanted, *leaves, *arguments))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dynamic", [False, pytest.param(True, marks=pytest.mark.verify)])
def test_compiles_without_a_graph_break(name, dynamic):
    """Of the backend's tiles nothing is traced, so the graph holds one operator each way."""
    call, leaves, _ = case(name)
    targets = []

    def remember(graph, example):
        targets.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return make_boxed_func(graph.forward)

    compiled = torch.compile(
        call, fullgraph=True, dynamic=dynamic, backend=aot_autograd(fw_compiler=remember)
    )
    same(gradients(compiled, leaves), gradients(call, leaves))
    operator = "outer_product_mean" if name == "products" else "transition"
    assert targets.count(f"foldase.{operator}.default") == 1
    assert targets.count(f"foldase.{operator}_backward.default") == 1
    assert not any(inner in target for target in targets for inner in ("aten.mm", "bmm", "layer_norm"))


@pytest.mark.verify
def test_one_dynamic_graph_serves_every_length():
    counter = CompileCounterWithBackend("aot_eager")
    call, (_, *parameters), _ = case("relu")
    compiled = torch.compile(call, fullgraph=True, dynamic=True, backend=counter)
    counted = []
    for size in (3, 6, 9):
        x = draw(size, POSITIONS[1], CHANNELS)
        same([compiled(x, *parameters)], [call(x, *parameters)])
        counted.append(counter.frame_count)
    # The first call may start over, once it knows that epsilon is a number and no symbol.
    assert len(set(counted)) == 1


def test_a_choice_for_a_gpu_breaks_no_graph(monkeypatch):
    """What looks for Triton on the disk runs while the graph is traced, and is not part of it."""
    monkeypatch.setattr(triton_support, "find_spec", lambda name: None)

    def choose(x):
        return x + (
            1 if backend_choice.automatic("transition", torch.device("cuda"), suits_triton=True) else 0
        )

    compiled = torch.compile(choose, fullgraph=True, backend="aot_eager")
    assert compiled(torch.zeros(2)).tolist() == [1, 1]


@pytest.mark.parametrize("name", CASES)
def test_an_autocast_region_changes_nothing(name):
    call, leaves, _ = case(name, torch.float32)
    wanted = gradients(call, leaves)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = gradients(call, leaves)
        direct = call(*leaves, backend="reference")
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, wanted, strict=True))
    assert torch.equal(direct, call(*leaves, backend="reference"))


@pytest.mark.parametrize("name", CASES)
def test_activation_checkpointing(name):
    """The same gradients bit for bit; the pass is run once more and nothing of it was kept."""
    call, leaves, _ = case(name)
    wanted = gradients(call, leaves)
    found = gradients(lambda *own: checkpoint(call, *own, use_reentrant=False), leaves)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, wanted, strict=True))


@pytest.mark.parametrize("name", CASES)
def test_saves_nothing_but_its_inputs(name):
    call, leaves, _ = case(name)
    saved = []

    def keep(tensor):
        saved.append(tensor.untyped_storage().data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        call(*leaves)
    own = {leaf.untyped_storage().data_ptr() for leaf in leaves}
    assert own <= set(saved)
    assert len(saved) == len(leaves) + 1, "and the mask or the weights"


@pytest.mark.parametrize("name", CASES)
def test_a_second_derivative_is_refused(name):
    call, leaves, _ = case(name)
    (grad,) = torch.autograd.grad(call(*leaves).sin().sum(), leaves[0], create_graph=True)
    with pytest.raises(RuntimeError, match="first derivative only"):
        grad.sum().backward()


def test_fake_tensors():
    """Shapes and dtypes without a byte of data, at sizes no machine could compute here."""
    with FakeTensorMode():
        x = torch.empty(100_000, 100_000, 128, dtype=torch.bfloat16, requires_grad=True)
        weight = torch.empty(512, 128, requires_grad=True)
        parameters = TransitionParameters(torch.ones(128), None, weight, None, weight.mT.contiguous(), None)
        transition(x, parameters).float().sum().backward()
        assert (x.grad.shape, x.grad.dtype, weight.grad.dtype) == (x.shape, x.dtype, torch.float32)
        a = torch.empty(5000, 100_000, 32, requires_grad=True)
        projection, weights = torch.empty(128, 1024), torch.rand(5000, 100_000)
        out = outer_product_mean(a, a, projection, None, weights=weights)
        out.sum().backward()
        assert (out.shape, a.grad.shape) == ((100_000, 100_000, 128), a.shape)
