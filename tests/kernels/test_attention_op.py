"""Attention as a torch operator: tracing, autocast, checkpointing, batching, and what it saves."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.testing import CompileCounterWithBackend
from torch._functorch.aot_autograd import make_boxed_func
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

from foldase_kernels import evoformer_attention
from foldase_kernels.attention import backends, cpu, cpu_tiles, op
from foldase_kernels.attention.reference import attention_reference

EXACT = 1e-12
"""float64 against float64, sums in another order."""

ROWS, QUERIES, KEYS, HEADS, WIDTH = 2, 5, 6, 3, 8
PAIR, KEY, PER_HEAD = (1, HEADS, QUERIES, KEYS), (ROWS, 1, 1, KEYS), (HEADS, 1, 1)

CASES = {
    "plain": {},
    "pair bias": {"biases": (PAIR,)},
    "three biases": {"biases": (PAIR, KEY, PER_HEAD)},
    "mask": {"mask": KEY},
    "gate": {"gate": True},
    "causal": {"causal": True},
    "alibi": {"alibi": True},
    "lse alone": {"biases": (PAIR,), "gate": True, "uses": "lse"},
    "strided": {"biases": (PAIR,), "gate": True, "strided": True},
    "all": {"biases": (PAIR, KEY), "mask": PAIR, "gate": True, "causal": True, "alibi": True, "uses": "both"},
}


@pytest.fixture(params=["reference", "direct", "tiled"])
def backend(request, monkeypatch):
    """The reference and both forms of the CPU path, the latter with several tiles at tiny sizes."""
    if request.param == "tiled":
        monkeypatch.setattr(cpu, "SMALL_SCORES", -1)
        monkeypatch.setattr(cpu_tiles, "TILE", 1000)
        monkeypatch.setattr(cpu_tiles, "QUERIES", 2)
    return "reference" if request.param == "reference" else "cpu"


@pytest.fixture(autouse=True)
def fresh_compiler():
    """No graph of another test counts against the limit of recompilations."""
    torch.compiler.reset()


def draw(*shape, dtype=torch.float64, seed=0, grad=True):
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_(grad)


def heads(positions, *, seed, strided=False, dtype=torch.float64):
    if strided:
        return draw(positions, ROWS, HEADS, WIDTH, seed=seed, dtype=dtype).transpose(0, 1)
    return draw(ROWS, positions, HEADS, WIDTH, seed=seed, dtype=dtype)


def case(name, *, dtype=torch.float64):
    """The arguments of one call of the operator, without the backend."""
    wanted = CASES[name]
    strided = wanted.get("strided", False)
    q, k, v, gate = (
        heads(positions, seed=seed, strided=strided, dtype=dtype)
        for seed, positions in enumerate((QUERIES, KEYS, KEYS, QUERIES))
    )
    biases = [draw(*shape, seed=7, dtype=dtype) for shape in wanted.get("biases", ())]
    mask = None
    if "mask" in wanted:
        mask = draw(*wanted["mask"], seed=8, grad=False) > -0.5
        mask[0, ..., 0, :] = False
    slopes = torch.tensor([0.5, 0.25, 0.125], dtype=dtype) if "alibi" in wanted else None
    return (
        q, k, v, biases, mask, gate if "gate" in wanted else None, slopes, 0.3, wanted.get("causal", False)
    )  # fmt: skip


def loss_of(out, lse, uses="out"):
    live = torch.where(lse == -torch.inf, 0.0, lse)
    terms = {"out": out.sin().sum(), "lse": live.cos().sum()}
    return terms["out"] + terms["lse"] if uses == "both" else terms[uses]


def leaves_of(arguments):
    return [leaf for leaf in (*arguments[:3], arguments[5], *arguments[3]) if leaf is not None]


def call(arguments, backend="auto"):
    q, k, v, biases, mask, gate, slopes, scale, causal = arguments
    return evoformer_attention(
        q, k, v, biases, mask=mask, gate=gate, scale=scale, causal=causal, alibi_slopes=slopes,
        return_lse=True, backend=backend,
    )  # fmt: skip


def close(found, wanted):
    assert found.dtype == wanted.dtype
    torch.testing.assert_close(found, wanted, rtol=EXACT, atol=EXACT)


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_the_definition(name, backend):
    """Autograd through the formula itself, gate and all, against the operator's backward pass."""
    arguments, uses = case(name), CASES[name].get("uses", "out")
    q, k, v, biases, mask, gate, slopes, scale, causal = arguments
    out, lse = attention_reference(q, k, v, biases, mask, scale, causal, slopes)
    out = out if gate is None else out * torch.sigmoid(gate)
    wanted = torch.autograd.grad(loss_of(out, lse, uses), leaves_of(arguments), materialize_grads=True)
    found_out, found_lse = call(arguments, backend)
    close(found_out, out)
    close(found_lse, lse)
    found = torch.autograd.grad(
        loss_of(found_out, found_lse, uses), leaves_of(arguments), materialize_grads=True
    )
    for grad, expected in zip(found, wanted, strict=True):
        close(grad, expected)


@pytest.mark.parametrize("name", CASES)
def test_opcheck(name, backend):
    """Schema, registrations, fake against real results, and tracing with dynamic shapes."""
    torch.library.opcheck(op.attention, (*case(name), backend))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_opcheck_in_other_dtypes(dtype, backend):
    arguments = case("all", dtype=dtype)
    arguments[3][0] = arguments[3][0].detach().float().requires_grad_()
    torch.library.opcheck(op.attention, (*arguments, backend), test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize("given", [(True, True), (True, False), (False, True)])
def test_opcheck_of_the_backward_operator(given, backend):
    q, k, v, biases, mask, gate, slopes, scale, causal = case("all")
    inputs = [tensor.detach() for tensor in (q, k, v)]
    biases = [bias.detach() for bias in biases]
    arguments = (*inputs, biases, mask, gate.detach(), slopes, scale, causal, backend)
    out, lse = op.attention(*arguments)
    grads = (torch.ones_like(out) if given[0] else None, torch.ones_like(lse) if given[1] else None)
    wanted = [True, False, True, True, False, True]
    torch.library.opcheck(op.attention_backward, (*grads, out, lse, wanted, *arguments))
    found = op.attention_backward(*grads, out, lse, wanted, *arguments)
    assert [grad.shape for grad in found] == [q.shape, v.shape, gate.shape, biases[1].shape]


@pytest.mark.parametrize("name", ["plain", "all", "strided"])
@pytest.mark.parametrize("dynamic", [True, pytest.param(False, marks=pytest.mark.verify)])
def test_compiles_without_a_graph_break(name, dynamic, backend):
    """Forward and training; of the backend's tiles nothing is traced, so the graph holds one operator."""
    arguments, targets = case(name), []

    def remember(graph, example):
        targets.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return make_boxed_func(graph.forward)

    def step(*arguments):
        return loss_of(*call(arguments, backend), "both")

    compiled = torch.compile(
        step, fullgraph=True, dynamic=dynamic, backend=aot_autograd(fw_compiler=remember)
    )
    loss = compiled(*arguments)
    close(loss, step(*arguments))
    found = torch.autograd.grad(loss, leaves_of(arguments))
    for grad, expected in zip(
        found, torch.autograd.grad(step(*arguments), leaves_of(arguments)), strict=True
    ):
        close(grad, expected)
    assert targets.count("foldase.evoformer_attention.default") == 1
    assert targets.count("foldase.evoformer_attention_backward.default") == 1
    assert not any(inner in target for target in targets for inner in ("bmm", "softmax", "aten.exp."))


def test_one_dynamic_graph_serves_every_length():
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(
        lambda x, bias: evoformer_attention(x, x, x, [bias]), fullgraph=True, dynamic=True, backend=counter
    )
    for size in (4, 7, 9):
        x, bias = draw(3, size, 2, 8), draw(1, 2, size, size)
        close(compiled(x, bias), evoformer_attention(x, x, x, [bias]))
    assert counter.frame_count == 1


@pytest.mark.verify
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch's default compiler needs g++")
def test_compiles_with_the_default_compiler():
    arguments = case("all")
    compiled = torch.compile(lambda *arguments: loss_of(*call(arguments), "both"), fullgraph=True)
    wanted = torch.autograd.grad(loss_of(*call(arguments), "both"), leaves_of(arguments))
    found = torch.autograd.grad(compiled(*arguments), leaves_of(arguments))
    for grad, expected in zip(found, wanted, strict=True):
        close(grad, expected)


def test_a_compiled_call_says_what_it_chose_too(caplog, monkeypatch):
    monkeypatch.setattr(backends, "_reported", set())
    q, k, v = (tensor.detach() for tensor in case("plain")[:3])
    compiled = torch.compile(evoformer_attention, fullgraph=True, backend="aot_eager")
    with caplog.at_level("INFO", logger="foldase_kernels"):
        compiled(q, k, v)
    said = [record.getMessage() for record in caplog.records if record.name == "foldase_kernels"]
    assert said == ["evoformer_attention on cpu uses backend 'cpu'"]


@pytest.mark.parametrize(
    ("message", "options"),
    [
        (r"biases\[0\] has shape \[4, 4\]", {"biases": [torch.zeros(4, 4)]}),
        ("mask is torch.float32", {"mask": torch.zeros(KEYS)}),
        ("backend 'fpga' is not available", {"backend": "fpga"}),
    ],
)
def test_bad_arguments_are_named_under_compile(message, options):
    q, k, v = (tensor.detach() for tensor in case("plain")[:3])
    compiled = torch.compile(evoformer_attention, backend="aot_eager")
    with pytest.raises(ValueError, match=message):
        compiled(q, k, v, **options)


@pytest.mark.parametrize("compiled", [False, True])
def test_autocast_takes_the_products_and_leaves_the_biases(compiled, backend):
    q, k, v, biases, mask, gate, *_ = case("all", dtype=torch.float32)
    leaves = (q, k, v, gate, *biases)

    def run(q, k, v, gate):
        return evoformer_attention(q, k, v, biases, mask=mask, gate=gate, return_lse=True, backend=backend)

    traced = torch.compile(run, fullgraph=True, backend="aot_eager") if compiled else run
    with torch.autocast("cpu", dtype=torch.bfloat16):
        # What a linear layer and a layer norm in such a region give: two dtypes in one call.
        out, lse = traced(q.bfloat16(), k, v, gate)
        found = torch.autograd.grad(out.sum() + torch.where(lse == -torch.inf, 0.0, lse).sum(), leaves)
    wanted_out, wanted_lse = run(*(tensor.bfloat16() for tensor in (q, k, v, gate)))
    wanted = torch.autograd.grad(
        wanted_out.sum() + torch.where(wanted_lse == -torch.inf, 0.0, wanted_lse).sum(), leaves
    )
    assert (out.dtype, lse.dtype) == (torch.bfloat16, torch.float32)
    assert torch.equal(out, wanted_out)
    assert torch.equal(lse, wanted_lse)
    for grad, expected in zip(found, wanted, strict=True):
        assert grad.dtype == torch.float32
        assert torch.equal(grad, expected)


def test_autocast_leaves_float64_alone():
    q, k, v = case("plain")[:3]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = evoformer_attention(q, k, v)
    close(found, evoformer_attention(q, k, v))


def test_fake_tensors_and_meta_tensors():
    """Shapes and dtypes without a byte of data, at a size no machine could compute here."""
    with FakeTensorMode():
        q = torch.empty(512, 100_000, 8, 32, dtype=torch.bfloat16, requires_grad=True)
        bias = torch.empty(1, 8, 100_000, 100_000, requires_grad=True)
        out, lse = evoformer_attention(q, q, q, [bias], gate=q, return_lse=True)
        out.float().sum().backward()
        assert (out.shape, out.dtype) == (q.shape, torch.bfloat16)
        assert (lse.shape, lse.dtype) == ((512, 8, 100_000), torch.float32)
        assert (bias.grad.shape, bias.grad.dtype) == (bias.shape, torch.float32)
    q = torch.empty(ROWS, QUERIES, HEADS, WIDTH, device="meta", dtype=torch.float64)
    assert evoformer_attention(q, q, q, return_lse=True)[1].dtype == torch.float64


def test_activation_checkpointing(backend):
    """The same gradients bit for bit; the pass is run once more and nothing of it was kept."""
    arguments = case("all")
    wanted = torch.autograd.grad(loss_of(*call(arguments, backend), "both"), leaves_of(arguments))

    def block(*arguments):
        return loss_of(*call(arguments, backend), "both")

    loss = checkpoint(block, *arguments, use_reentrant=False)
    for grad, expected in zip(torch.autograd.grad(loss, leaves_of(arguments)), wanted, strict=True):
        assert torch.equal(grad, expected)


def test_saves_its_inputs_its_result_and_the_log_sum_exp(backend):
    """The gate costs no tensor of its own beside itself."""
    arguments, saved = case("all"), []

    def keep(tensor):
        saved.append(tensor.untyped_storage().data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out, lse = call(arguments, backend)
    mask, slopes = arguments[4], arguments[6]
    known = (*leaves_of(arguments), mask, slopes, out, lse)
    assert sorted(saved) == sorted(tensor.untyped_storage().data_ptr() for tensor in known)


def test_a_second_derivative_is_refused():
    arguments = case("gate")
    out, _ = call(arguments)
    (grad,) = torch.autograd.grad(out.sin().sum(), arguments[0], create_graph=True)
    with pytest.raises(RuntimeError, match="first derivative only"):
        grad.sum().backward()


def test_only_what_asks_for_a_gradient_gets_one(backend):
    q, k, v, biases, mask, gate, *_ = case("all")
    k, gate, first = k.detach(), gate.detach(), biases[0].detach()
    out = evoformer_attention(q, k, v, [first, biases[1]], mask=mask, gate=gate, backend=backend)
    out.sum().backward()
    assert [tensor.grad is None for tensor in (q, k, v, gate, first, biases[1])] == [
        False, True, False, True, True, False
    ]  # fmt: skip


BATCH = 4
VMAPPED = {
    "all batched, in front": (0, 0, 0, (0, 0), 0, 0),
    "elsewhere": (2, 1, 3, (1, 4), 2, 4),
    "shared keys and pair bias": (0, None, None, (None, 0), None, 0),
    "one bias alone": (None, None, None, (0, None), None, None),
    "the mask alone": (None, None, None, (None, None), 1, None),
}


def batched(shape, dim, seed, *, grad=True):
    if dim is None:
        return draw(*shape, seed=seed, grad=grad)
    return draw(*shape[:dim], BATCH, *shape[dim:], seed=seed, grad=grad)


@pytest.mark.parametrize("dims", VMAPPED.values(), ids=VMAPPED)
def test_vmap(dims, backend):
    """As a loop over the batch, forward and backward, whichever arguments are batched and where."""
    shape_q, shape_k = (ROWS, QUERIES, HEADS, WIDTH), (ROWS, KEYS, HEADS, WIDTH)
    shapes = (shape_q, shape_k, shape_k)
    q, k, v = (batched(shape, dim, seed) for seed, (shape, dim) in enumerate(zip(shapes, dims, strict=False)))
    # A bias with fewer dimensions than the scores, and one with all.
    biases = tuple(
        batched(shape, dim, 5)
        for shape, dim in zip(((HEADS, 1, KEYS), (ROWS, 1, QUERIES, KEYS)), dims[3], strict=True)
    )
    mask = batched((ROWS, 1, 1, KEYS), dims[4], 6, grad=False) > -0.5
    gate = batched(shape_q, dims[5], 7)

    def one(q, k, v, biases, mask, gate):
        return evoformer_attention(q, k, v, biases, mask=mask, gate=gate, return_lse=True, backend=backend)

    def at(tensor, dim, index):
        return tensor if dim is None else tensor.select(dim, index)

    out, lse = torch.func.vmap(one, in_dims=dims)(q, k, v, biases, mask, gate)
    parts = [
        one(
            *(at(tensor, dim, i) for tensor, dim in zip((q, k, v), dims, strict=False)),
            tuple(at(bias, dim, i) for bias, dim in zip(biases, dims[3], strict=True)),
            at(mask, dims[4], i),
            at(gate, dims[5], i),
        )
        for i in range(BATCH)
    ]
    close(out, torch.stack([part[0] for part in parts]))
    close(lse, torch.stack([part[1] for part in parts]))
    leaves = (q, k, v, gate, *biases)
    wanted = torch.autograd.grad(sum(loss_of(*part, "both") for part in parts), leaves)
    for grad, expected in zip(torch.autograd.grad(loss_of(out, lse, "both"), leaves), wanted, strict=True):
        close(grad, expected)


def test_batched_gradients(backend):
    """Several incoming gradients at once: each has its own gradient of every bias."""
    arguments = case("all")
    out, _ = call(arguments, backend)
    leaves, incoming = leaves_of(arguments), draw(3, *out.shape, grad=False)
    found = torch.func.vmap(lambda grad: torch.autograd.grad(out, leaves, grad, retain_graph=True))(incoming)
    for number in range(3):
        wanted = torch.autograd.grad(out, leaves, incoming[number], retain_graph=True)
        for grad, expected in zip(found, wanted, strict=True):
            close(grad[number], expected)


def test_slopes_cannot_be_batched():
    q, k, v = (tensor.detach() for tensor in case("plain")[:3])
    with pytest.raises(ValueError, match="alibi_slopes is batched"):
        torch.func.vmap(lambda slopes: evoformer_attention(q, k, v, alibi_slopes=slopes))(
            torch.ones(2, HEADS)
        )
