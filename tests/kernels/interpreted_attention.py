"""Attention by Triton under its interpreter; run by ``test_interpreted.py`` in a process of its own.

The interpreter takes milliseconds for one tile, so shapes are tiny, and tiles smaller still.
"""

from __future__ import annotations

import functools

import pytest
import torch
import triton
import triton.language as tl
from counted_memory import peak_of
from half_precision_peer import ERROR_RATIO, error_norm, usual_attention

from foldase_kernels import evoformer_attention
from foldase_kernels.attention import available_backends, triton_kernels, triton_layout
from foldase_kernels.attention import triton as backend
from foldase_kernels.attention.problem import Problem
from foldase_kernels.attention.triton_layout import Blocks

FORWARD_TOLERANCE = 1e-5
"""Relative to the largest value, float32 against float64."""
GRADIENT_TOLERANCE = 1e-4
HALF_TOLERANCE = {torch.bfloat16: 2e-2, torch.float16: 3e-3}
"""Weights and their gradients are rounded to the dtype before products, as on matrix units: a few times
2**-8 for bfloat16, 2**-11 for float16."""


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Several tiles at tiny sizes, of unequal sides so that none stands for another."""

    def choose(width, dtype, *, backward):
        whole = triton_layout.choose_blocks(width, dtype, backward=backward)
        return Blocks(16, 32, whole.width) if backward else Blocks(32, 16, whole.width)

    monkeypatch.setattr(backend, "choose_blocks", choose)


def draw(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def make(rows, queries, keys, heads, width, *, leading=(), dtype=torch.float32):
    """q, k and v."""
    lengths = (queries, keys, keys)
    return [
        draw(*leading, rows, length, heads, width, dtype=dtype, seed=number)
        for number, length in enumerate(lengths)
    ]


def run(tensors, biases, *, double, **options):
    """Output, log-sum-exp and all gradients of a loss that uses both; a fourth tensor is the gate."""
    leaves = [tensor.detach() for tensor in (*tensors, *biases)]
    leaves = [(leaf.double() if double else leaf).requires_grad_() for leaf in leaves]
    options["gate"] = leaves[3] if len(tensors) == 4 else None
    backend = "reference" if double else "triton"
    out, lse = evoformer_attention(
        *leaves[:3], leaves[len(tensors) :], return_lse=True, backend=backend, **options
    )
    finite = torch.where(lse == -torch.inf, 0.0, lse)
    loss = (out.double() * draw(*out.shape, seed=8)).sum() + (finite * draw(*lse.shape, seed=9)).sum()
    return out.detach(), lse.detach(), torch.autograd.grad(loss, leaves)


def compare(tensors, biases=(), *, tolerance=FORWARD_TOLERANCE, gradient=GRADIENT_TOLERANCE, **options):
    """Against the reference in float64, everything that comes out."""
    out, lse, grads = run(tensors, biases, double=False, **options)
    wanted_out, wanted_lse, wanted = run(tensors, biases, double=True, **options)
    assert out.dtype == tensors[0].dtype
    assert lse.dtype == torch.float32
    assert (out.double() - wanted_out).abs().max() <= tolerance * wanted_out.abs().max()
    empty = wanted_lse == -torch.inf
    assert torch.equal(lse == -torch.inf, empty)
    if not empty.all():
        error = (lse.double() - wanted_lse)[~empty].abs().max()
        assert error <= tolerance * wanted_lse[~empty].abs().max()
    assert (out.transpose(-3, -2)[empty] == 0).all()
    largest = max(float(grad.abs().max()) for grad in wanted)
    for number, (grad, expected) in enumerate(zip(grads, wanted, strict=True)):
        given = (*tensors, *biases)[number]
        assert grad.shape == given.shape
        assert grad.dtype == given.dtype
        # With a single key some gradients are zero but for rounding; the others give the scale then.
        floor = max(float(expected.abs().max()), 1e-3 * largest)
        assert (grad.double() - expected).abs().max() <= gradient * floor, number


def test_the_interpreter_makes_the_backend_available():
    assert available_backends() == ("reference", "cpu", "triton")


@pytest.mark.parametrize(
    ("size", "rows", "heads"),
    [
        (1, 2, 2),
        (17, 2, 2),
        *(pytest.param(*case, marks=pytest.mark.verify) for case in ((33, 2, 1), (65, 1, 1))),
    ],
)
def test_odd_sizes_with_pair_bias_and_masked_keys(size, rows, heads):
    mask = draw(rows, 1, 1, size) > -0.5
    mask[0] = size > 17
    compare(make(rows, size, size, heads, 8), [draw(1, heads, size, size)], mask=mask)


EVERY_CLASS = [
    [(1, 2, 17, 19), (2, 1, 1, 19), (1,)],  # pair, key, everything
    [(2, 2, 17, 19), (1, 2, 1, 19)],  # row and pair, head and key
    [(2, 1, 17, 19), (2, 1, 1), (17, 1)],  # row and pair for all heads, head, query
]
NOT_AMONG_MANY = [(2, 2, 17, 19), (2, 1, 17, 19), (2, 1, 1, 19), (1, 2, 1, 19), (17, 1)]
"""Classes that the test of many biases leaves out."""


@pytest.mark.parametrize(
    "shapes", [NOT_AMONG_MANY, *(pytest.param(shapes, marks=pytest.mark.verify) for shapes in EVERY_CLASS)]
)
def test_every_class_of_bias(shapes):
    biases = [draw(*shape, seed=number) for number, shape in enumerate(shapes)]
    compare(make(2, 17, 19, 2, 8), biases)


def test_many_biases_each_in_its_own_dtype():
    """Only the gradient of the one in float16 is rounded to float16."""
    shapes = [(1, 2, 17, 17), (1, 1, 17), (2, 1, 1), (17, 17), (1,)]
    dtypes = [torch.float16, torch.float32, torch.float64, torch.float32, torch.float32]
    biases = [
        draw(*shape, dtype=dtype, seed=number)
        for number, (shape, dtype) in enumerate(zip(shapes, dtypes, strict=True))
    ]
    tensors = make(1, 17, 17, 2, 8)
    grads = run(tensors, biases, double=False)[2]
    wanted = run(tensors, biases, double=True)[2]
    for grad, expected, dtype in zip(grads[3:], wanted[3:], dtypes, strict=True):
        assert grad.dtype == dtype
        allowed = HALF_TOLERANCE.get(dtype, GRADIENT_TOLERANCE)
        assert (grad.double() - expected).abs().max() <= allowed * expected.abs().max()


@pytest.mark.parametrize(
    "shape",
    [
        (17, 19),
        (2, 2, 1, 19),
        *(pytest.param(s, marks=pytest.mark.verify) for s in ((2, 1, 17, 19), (17, 1))),
    ],
)
def test_masks_with_fully_masked_queries(shape):
    mask = draw(*shape, seed=3) > -0.3
    mask[..., 0, :] = False
    if shape[-1] > 1:
        mask[..., 16:] = False
    compare(make(2, 17, 19, 2, 8), [draw(1, 2, 17, 19)], mask=mask)


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.verify)])
def test_a_gate_with_strides_of_its_own(dtype):
    """Over several tiles of queries, each of which holds two gradients one after the other."""
    tensors = make(2, 35, 17, 1, 8, dtype=dtype)
    gate = draw(35, 2, 1, 16, dtype=dtype, seed=5).transpose(0, 1)[..., ::2]
    mask = draw(2, 1, 35, 17, seed=3) > -0.3
    mask[:, :, 3] = False
    rounding = HALF_TOLERANCE.get(dtype)
    tolerances = {} if rounding is None else {"tolerance": rounding, "gradient": rounding}
    compare([*tensors, gate], [draw(1, 1, 35, 17)], mask=mask, **tolerances)


def test_a_gate_costs_its_gradient_and_nothing_else():
    tensors = make(1, 3, 3, 1, 8)

    def backward(gate):
        problem = Problem(*tensors, [], None, gate, None, 0.3, False)
        out, lse = backend.TRITON.forward(problem)
        return peak_of(lambda: backend.TRITON.backward(problem, out, lse, out, None, []))

    gate = draw(*tensors[0].shape)
    assert backward(gate) == backward(None) + gate.numel() * gate.element_size()


@pytest.mark.parametrize("causal", [True, pytest.param(False, marks=pytest.mark.verify)])
def test_keys_masked_at_both_ends_are_not_computed(causal):
    """What is not a number there would spoil every sum that it is multiplied into, even by 0."""
    keys, kept = 70, [slice(32, 64), slice(0, 5), slice(69, 70), slice(0, 0)]
    mask = torch.zeros(len(kept), 1, 1, keys, dtype=torch.bool)
    tensors = make(len(kept), 17, keys, 1, 8)
    for row, seen in enumerate(kept):
        mask[row, ..., seen] = True
    out, lse, grads = run(tensors, [], double=False, mask=mask, causal=causal)
    for row, seen in enumerate(kept):
        for tensor in tensors[1:]:
            tensor[row, : seen.start // 32 * 32] = torch.nan
            tensor[row, -(-seen.stop // 32) * 32 :] = torch.nan
    spoiled, spoiled_lse, spoiled_grads = run(tensors, [], double=False, mask=mask, causal=causal)
    assert torch.equal(spoiled, out)
    assert torch.equal(spoiled_lse, lse)
    assert all(map(torch.equal, spoiled_grads, grads))


def test_a_fully_masked_query_gets_and_gives_nothing():
    tensors = [tensor.requires_grad_() for tensor in make(1, 5, 5, 1, 8)]
    bias = draw(1, 1, 5, 5).requires_grad_()
    mask = torch.ones(1, 1, 5, 5, dtype=torch.bool)
    mask[..., 3, :] = False
    out, lse = evoformer_attention(*tensors, [bias], mask=mask, return_lse=True, backend="triton")
    assert (lse[..., 3] == -torch.inf).all()
    # exp(lse) has no usable gradient at -inf; it must not spoil anything.
    (out[:, 3].sum() + lse[..., 3].square().sum()).backward()
    for leaf in (*tensors, bias):
        assert (leaf.grad == 0).all()


def test_minus_infinity_in_a_bias_forbids_keys_and_queries():
    pair = draw(1, 1, 17, 17)
    pair[:, :, 2] = -torch.inf
    pair[:, :, :, 4] = -torch.inf
    tensors = make(2, 17, 17, 1, 8)
    found, lse = evoformer_attention(*tensors, [pair], return_lse=True, backend="triton")
    wanted, wanted_lse = evoformer_attention(*tensors, [pair], return_lse=True, backend="reference")
    assert torch.equal(lse == -torch.inf, wanted_lse == -torch.inf)
    assert (found[:, 2] == 0).all()
    assert (found - wanted).abs().max() <= FORWARD_TOLERANCE * wanted.abs().max()


@pytest.mark.parametrize(
    ("queries", "keys"), [(35, 5), (5, 35), pytest.param(33, 33, marks=pytest.mark.verify), (1, 17)]
)
@pytest.mark.parametrize(
    ("causal", "alibi"),
    [(True, True), *(pytest.param(*way, marks=pytest.mark.verify) for way in ((True, False), (False, True)))],
)
def test_cross_attention_causal_alibi(queries, keys, causal, alibi):
    slopes = torch.tensor([0.5, 0.125]) if alibi else None
    compare(
        make(1, queries, keys, 2, 8),
        [draw(queries, keys)],
        causal=causal,
        alibi_slopes=slopes,
    )


@pytest.mark.parametrize("width", [24, *(pytest.param(width, marks=pytest.mark.verify) for width in (8, 32))])
def test_strides_of_every_operand(width):
    """Transposed rows, every other channel, an expanded bias, a transposed bias, a mask with gaps."""
    size = 17
    tensors = [draw(size, 2, 2, 2 * width, seed=number).transpose(0, 1)[..., ::2] for number in range(3)]
    biases = [draw(2, size, size).mT, draw(1, 1, 1, size).expand(2, 1, size, size)]
    mask = (draw(2, 1, 1, 2 * size) > -1)[..., ::2]
    compare(tensors, biases, mask=mask, scale=0.3)
    out = evoformer_attention(*tensors, backend="triton")
    assert out.shape == tensors[0].shape


def test_leading_dimensions_that_do_not_merge():
    """Two leading dimensions, biases that lack one or the other, q swapped: no copy has to be made."""
    q, k, v = make(1, 3, 5, 2, 8, leading=(2, 3))
    q = draw(3, 2, 1, 3, 2, 8, seed=4).transpose(0, 1)
    biases = [draw(2, 1, 1, 2, 3, 5), draw(3, 1, 1, 1, 5), draw(1, 3, 1, 2, 1, 1)]
    compare([q, k, v], biases, mask=draw(2, 1, 1, 1, 1, 5) > -1)


@pytest.mark.parametrize(
    ("dtype", "queries", "gated"),
    [
        (torch.float16, 17, True),
        *(pytest.param(dtype, 33, False, marks=pytest.mark.verify) for dtype in HALF_TOLERANCE),
    ],
)
def test_half_precision(dtype, queries, gated):
    tensors = make(2, queries, 17, 1, 24, dtype=dtype)
    biases = [draw(1, 1, queries, 17, dtype=dtype), draw(2, 1, 1, 17)]
    if gated:
        tensors.append(draw(*tensors[0].shape, dtype=dtype, seed=5))
    tolerance = HALF_TOLERANCE[dtype]
    compare(tensors, biases, mask=draw(2, 1, 1, 17) > -1, tolerance=tolerance, gradient=tolerance)


@pytest.mark.parametrize("dtype", [torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.verify)])
def test_at_most_twice_the_error_of_the_usual_way(dtype):
    leaves = [*make(2, 33, 17, 1, 24, dtype=dtype), draw(1, 1, 33, 17, dtype=dtype)]
    mask, weight = draw(2, 1, 1, 17, seed=7) > -1, draw(2, 33, 1, 24, seed=8)

    def with_gradients(attend, to):
        owned = [leaf.detach().to(to).requires_grad_() for leaf in leaves]
        out = attend(*owned[:3], owned[3:], mask=mask)
        return [out.detach(), *torch.autograd.grad((out * weight.to(to)).sum(), owned)]

    found = with_gradients(functools.partial(evoformer_attention, backend="triton"), dtype)
    usual, truth = (with_gradients(usual_attention, to) for to in (dtype, torch.float64))
    for own, peer, wanted in zip(found, usual, truth, strict=True):
        assert error_norm(own, wanted) <= ERROR_RATIO * error_norm(peer, wanted)


@pytest.mark.verify
def test_partial_sums_of_a_bias_agree_with_a_single_one(monkeypatch):
    tensors, biases = make(2, 17, 35, 1, 8), [draw(1), draw(1, 1, 1, 35)]
    cut = run(tensors, biases, double=False)[2]
    again = run(tensors, biases, double=False)[2]
    assert all(torch.equal(first, second) for first, second in zip(cut, again, strict=True))
    monkeypatch.setattr(triton_layout, "ENOUGH_PROGRAMS", 1)
    whole = run(tensors, biases, double=False)[2]
    for first, second in zip(cut[3:], whole[3:], strict=True):
        assert not torch.equal(first, second)  # another order of sums
        assert (first - second).abs().max() <= GRADIENT_TOLERANCE * first.abs().max()


@pytest.mark.parametrize(
    ("trained", "kernels"),
    [
        ((), []),
        ((0,), ["backward_keys", "backward_queries"]),
        ((4,), ["backward_keys", "backward_bias", "backward_queries"]),
        ((3, 4), ["backward_keys", "backward_bias", "backward_bias", "backward_queries"]),
    ],
)
def test_only_biases_that_are_trained_cost_a_pass(trained, kernels, monkeypatch):
    started = []
    launch = backend._Call.launch

    def noted(self, kernel, *args, **options):
        started.append(kernel.fn.__name__)
        launch(self, kernel, *args, **options)

    monkeypatch.setattr(backend._Call, "launch", noted)
    leaves = [*make(1, 3, 3, 1, 8), draw(1, 1, 3, 3), draw(1, 1, 1, 3)]
    wanted = [leaf.clone().requires_grad_(number in trained) for number, leaf in enumerate(leaves)]
    out = evoformer_attention(*wanted[:3], wanted[3:], backend="triton")
    if trained:
        out.sum().backward()
    assert started == ["forward", *kernels]
    assert [leaf.grad is not None for leaf in wanted] == [number in trained for number in range(5)]


@triton.jit
def probe(out, batch, sizes, strides):
    """Write the offset of one batch index."""
    tl.store(out, triton_kernels._place(batch + tl.program_id(0), sizes, strides))


def test_offsets_beyond_32_bits():
    found = torch.zeros(1, dtype=torch.int64)
    probe[(1,)](found, 7, (3, 4), (2**31 - 1, 2**33))
    assert found.item() == 1 * (2**31 - 1) + 2 * 2**33
