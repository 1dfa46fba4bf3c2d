"""Biased attention: gradients in float64, and the CPU path against the reference over odd sizes."""

from __future__ import annotations

import itertools

import pytest
import torch

from foldase_kernels import evoformer_attention, merge_attention
from foldase_kernels.attention import backends, cpu, cpu_tiles

FORWARD_TOLERANCE = 1e-5
"""Relative to the largest value, float32 against float64."""
GRADIENT_TOLERANCE = 1e-4
HALF_TOLERANCE = 2e-2
EXACT = 1e-10
"""float64 against float64."""

SIZES = (1, 15, 17, 63, 65, 129)


def force_tiles(monkeypatch):
    """Several tiles at tiny sizes."""
    monkeypatch.setattr(cpu, "SMALL_SCORES", -1)
    monkeypatch.setattr(cpu_tiles, "TILE", 2000)
    monkeypatch.setattr(cpu_tiles, "QUERIES", 5)


@pytest.fixture(params=["direct", "tiled"])
def cpu_form(request, monkeypatch):
    """Both forms of the CPU path."""
    if request.param == "tiled":
        force_tiles(monkeypatch)
    return request.param


def make(leading, rows, queries, keys, heads, width, *, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        "q": (*leading, rows, queries, heads, width),
        "k": (*leading, rows, keys, heads, width),
        "v": (*leading, rows, keys, heads, width),
        "gate": (*leading, rows, queries, heads, width),
    }
    return {
        name: torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
        for name, shape in shapes.items()
    }


def bias_shapes(leading, rows, heads, queries, keys):
    """Every class of bias: pair, key, row-pair, per head, per query, scalar, with and without leading."""
    ones = (1,) * len(leading)
    return [
        (*leading, 1, heads, queries, keys),
        (*ones, 1, heads, queries, keys),
        (*leading, rows, 1, 1, keys),
        (*leading, rows, heads, queries, keys),
        (rows, 1, queries, keys),
        (heads, 1, 1),
        (queries, 1),
        (*ones, rows, heads, 1, keys),
        (1,),
    ]


def relative(found, wanted):
    difference = (found.double() - wanted.double()).abs().max()
    return (difference / wanted.double().abs().max().clamp(min=1e-30)).item()


def run_with_gradients(tensors, biases, weight_out, weight_lse, **options):
    leaves = {name: tensor.detach().clone().requires_grad_() for name, tensor in tensors.items()}
    leaf_biases = [bias.detach().clone().requires_grad_() for bias in biases]
    out, lse = evoformer_attention(
        leaves["q"], leaves["k"], leaves["v"], leaf_biases, gate=leaves["gate"], return_lse=True, **options
    )
    finite = torch.where(lse == -torch.inf, 0.0, lse)
    loss = (out * weight_out.to(out.dtype)).sum() + (finite * weight_lse.to(lse.dtype)).sum()
    loss.backward()
    grads = {name: leaf.grad for name, leaf in leaves.items()}
    grads |= {f"bias{number}": leaf.grad for number, leaf in enumerate(leaf_biases)}
    return out.detach(), lse.detach(), grads


def compare(tensors, biases, *, tolerance, gradient_tolerance, dtype=torch.float64, backend="cpu", **options):
    """A backend in ``dtype`` against the reference in float64."""
    generator = torch.Generator().manual_seed(9)
    q = tensors["q"]
    weight_out = torch.randn(q.shape, generator=generator, dtype=torch.float64)
    lse_shape = (*q.shape[:-3], q.shape[-2], q.shape[-3])
    weight_lse = torch.randn(lse_shape, generator=generator, dtype=torch.float64)
    rounded = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    rounded_biases = [bias.to(dtype) for bias in biases]
    found = run_with_gradients(rounded, rounded_biases, weight_out, weight_lse, backend=backend, **options)
    wanted = run_with_gradients(
        {name: tensor.double() for name, tensor in rounded.items()},
        [bias.double() for bias in rounded_biases],
        weight_out,
        weight_lse,
        backend="reference",
        **options,
    )
    assert found[0].dtype == dtype
    assert not found[0].isnan().any()
    assert relative(found[0], wanted[0]) <= tolerance
    assert torch.equal(found[1] == -torch.inf, wanted[1] == -torch.inf)
    live = wanted[1] != -torch.inf
    if live.any():
        assert relative(found[1][live], wanted[1][live]) <= tolerance
    scale = {name: max(1e-12, float(grad.abs().max())) for name, grad in wanted[2].items()}
    for name, grad in wanted[2].items():
        assert found[2][name].shape == grad.shape
        error = (found[2][name].double() - grad).abs().max().item()
        # k's gradient sums to almost nothing where there is one key; measure against v's then.
        floor = max(scale[name], 1e-3 * max(scale.values()))
        assert error <= gradient_tolerance * floor, (name, error, floor)


@pytest.mark.parametrize("form", ["reference", "direct", "tiled"])
@pytest.mark.parametrize("number", range(9))
def test_gradcheck_every_bias(form, number, monkeypatch):
    if form == "tiled":
        force_tiles(monkeypatch)
        monkeypatch.setattr(cpu_tiles, "QUERIES", 2)
    backend = "reference" if form == "reference" else "cpu"
    leading, rows, heads, queries, keys, width = (), 2, 2, 3, 4, 2
    tensors = make(leading, rows, queries, keys, heads, width)
    bias = torch.randn(bias_shapes(leading, rows, heads, queries, keys)[number], dtype=torch.float64)
    mask = torch.rand(*leading, rows, 1, 1, keys) > 0.3
    mask[0] = False

    def call(q, k, v, gate, bias):
        out, lse = evoformer_attention(
            q, k, v, [bias], mask=mask, gate=gate, return_lse=True, backend=backend
        )
        return out, torch.where(lse == -torch.inf, 0.0, lse)

    leaves = [tensor.requires_grad_() for tensor in (*tensors.values(), bias)]
    assert torch.autograd.gradcheck(call, leaves)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("masked", ["none", "keys", "pairs", "rows_and_pairs"])
def test_odd_sizes_float32(size, masked, cpu_form, monkeypatch):
    if cpu_form == "tiled":
        monkeypatch.setattr(cpu_tiles, "QUERIES", 32)
        monkeypatch.setattr(cpu_tiles, "TILE", 60_000)
    rows, heads, width = 3, 2, 16
    tensors = make((), rows, size, size, heads, width, seed=size)
    generator = torch.Generator().manual_seed(size)
    shapes = ((1, heads, size, size), (rows, 1, 1, size))
    biases = [torch.randn(shape, generator=generator) for shape in shapes]
    shape = {
        "none": None,
        "keys": (rows, 1, 1, size),
        "pairs": (size, size),
        "rows_and_pairs": (rows, 1, size, size),
    }[masked]
    mask = None if shape is None else torch.rand(shape, generator=generator) > 0.4
    if masked == "keys":
        mask[1] = False
    elif mask is not None:
        mask[..., 0, :] = False
    compare(
        tensors,
        biases,
        mask=mask,
        dtype=torch.float32,
        tolerance=FORWARD_TOLERANCE,
        gradient_tolerance=GRADIENT_TOLERANCE,
    )


@pytest.mark.parametrize(("queries", "keys"), [(7, 3), (3, 7), (1, 6), (6, 1)])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("alibi", [False, True])
def test_cross_attention_causal_alibi(queries, keys, causal, alibi, cpu_form):
    tensors = make((2,), 2, queries, keys, 3, 8)
    biases = [torch.randn(shape, dtype=torch.float64) for shape in bias_shapes((2,), 2, 3, queries, keys)[:3]]
    slopes = torch.tensor([0.5, 0.25, 0.125], dtype=torch.float64) if alibi else None
    compare(
        tensors,
        biases,
        causal=causal,
        alibi_slopes=slopes,
        tolerance=EXACT,
        gradient_tolerance=EXACT,
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype, cpu_form):
    tensors = make((), 2, 33, 33, 2, 32)
    biases = [torch.randn(1, 2, 33, 33, dtype=torch.float64)]
    mask = torch.rand(2, 1, 1, 33) > 0.3
    compare(
        tensors, biases, mask=mask, dtype=dtype, tolerance=HALF_TOLERANCE, gradient_tolerance=HALF_TOLERANCE
    )


@pytest.mark.parametrize("width", [8, 24, 128])
def test_head_widths_and_scale(width, cpu_form):
    tensors = make((), 2, 9, 11, 2, width)
    compare(tensors, [], scale=0.3, tolerance=EXACT, gradient_tolerance=EXACT)


def test_strides_and_expanded_biases(cpu_form):
    """The ending-node form is a call on transposed views; an expanded bias stays a view."""
    base = make((), 6, 6, 6, 2, 8)
    views = {name: tensor.transpose(0, 1) for name, tensor in base.items()}
    bias = torch.randn(2, 6, 6, dtype=torch.float64).mT.expand(6, 2, 6, 6)
    found = evoformer_attention(views["q"], views["k"], views["v"], [bias], gate=views["gate"], backend="cpu")
    copies = {name: tensor.contiguous() for name, tensor in views.items()}
    wanted = evoformer_attention(
        copies["q"], copies["k"], copies["v"], [bias.contiguous()], gate=copies["gate"], backend="reference"
    )
    assert relative(found, wanted) <= EXACT
    every_other = {name: tensor[..., ::2] for name, tensor in make((), 3, 5, 5, 2, 16).items()}
    found = evoformer_attention(*(every_other[name] for name in "qkv"), backend="cpu")
    wanted = evoformer_attention(*(every_other[name] for name in "qkv"), backend="reference")
    assert relative(found, wanted) <= EXACT


def test_minus_infinity_in_a_bias(cpu_form):
    """A bias of -inf forbids a key; where it forbids all, the query is fully masked."""
    tensors = make((), 2, 7, 7, 2, 8)
    pair = torch.randn(1, 2, 7, 7, dtype=torch.float64)
    pair[:, :, 2] = -torch.inf
    pair[:, :, :, 4] = -torch.inf
    for biases in ([pair], [pair, torch.zeros(2, 1, 1, 7, dtype=torch.float64)]):
        found, lse = evoformer_attention(
            *(tensors[name] for name in "qkv"), biases, return_lse=True, backend="cpu"
        )
        wanted, wanted_lse = evoformer_attention(
            *(tensors[name] for name in "qkv"), biases, return_lse=True, backend="reference"
        )
        assert torch.equal(lse == -torch.inf, wanted_lse == -torch.inf)
        assert (lse[:, :, 2] == -torch.inf).all()
        assert relative(found, wanted) <= EXACT
        assert (found[:, 2] == 0).all()


def test_fully_masked_query_gives_zero_and_zero_gradients(cpu_form):
    tensors = {name: tensor.requires_grad_() for name, tensor in make((), 2, 5, 5, 2, 8).items()}
    mask = torch.ones(2, 1, 5, 5, dtype=torch.bool)
    mask[0, :, 3] = False
    bias = torch.randn(1, 2, 5, 5, dtype=torch.float64, requires_grad=True)
    out, lse = evoformer_attention(
        tensors["q"], tensors["k"], tensors["v"], [bias], mask=mask, return_lse=True, backend="cpu"
    )
    assert (out[0, 3] == 0).all()
    assert (lse[0, :, 3] == -torch.inf).all()
    out[0, 3].sum().backward()
    for leaf in (tensors["q"], tensors["k"], tensors["v"], bias):
        assert (leaf.grad == 0).all()


def test_merge_attention_over_key_shards():
    tensors = make((2,), 3, 5, 12, 2, 8)
    bias = torch.randn(2, 1, 2, 5, 12, dtype=torch.float64, requires_grad=True)
    mask = torch.rand(2, 3, 1, 1, 12) > 0.3
    mask[..., :4] = False
    leaves = [tensors[name].requires_grad_() for name in "qkv"]
    whole, whole_lse = evoformer_attention(*leaves, [bias], mask=mask, return_lse=True)
    wanted = torch.autograd.grad((whole.sin().sum() + whole_lse.sum()), [*leaves, bias])
    parts = []
    for start in (0, 4, 8):
        keys = slice(start, start + 4)
        parts.append(
            evoformer_attention(
                leaves[0],
                leaves[1][:, :, keys],
                leaves[2][:, :, keys],
                [bias[..., keys]],
                mask=mask[..., keys],
                return_lse=True,
            )
        )
    out, lse = merge_attention([part[0] for part in parts], [part[1] for part in parts])
    assert relative(out, whole) <= EXACT
    assert relative(lse, whole_lse) <= EXACT
    found = torch.autograd.grad((out.sin().sum() + lse.sum()), [*leaves, bias])
    for grad, expected in zip(found, wanted, strict=True):
        assert relative(grad, expected) <= EXACT


def test_bitwise_deterministic(cpu_form):
    tensors = make((), 4, 40, 40, 2, 16, dtype=torch.float32)
    biases = [torch.randn(1, 2, 40, 40)]
    weights = torch.randn(4, 40, 2, 16), torch.randn(4, 2, 40)
    runs = [run_with_gradients(tensors, biases, *weights, backend="cpu") for _ in range(3)]
    for out, lse, grads in runs[1:]:
        assert torch.equal(out, runs[0][0])
        assert torch.equal(lse, runs[0][1])
        assert all(torch.equal(grads[name], runs[0][2][name]) for name in grads)


def bad_calls():
    """Every kind of wrong argument: what is named of it, and what was expected."""
    good = {name: tensor.float() for name, tensor in make((), 2, 5, 6, 2, 8).items()}
    q, k, v = good["q"], good["k"], good["v"]
    far = torch.zeros(2, 5, 2, 8, device="meta")
    yield r"q has shape \[5, 2, 8\]; expected \[\.\.\., rows, positions, heads, width\]", {"q": q[0]}
    yield r"k has shape \[1, 6, 2, 8\], q \[2, 5, 2, 8\]; all but", {"k": k[:1], "v": v[:1]}
    yield r"k and v differ in shape: \[2, 6, 2, 8\] and \[2, 3, 2, 8\]", {"v": v[:, :3]}
    yield "torch.float32, torch.float64, torch.float32; expected one dtype", {"k": k.double()}
    yield "expected float32", {"q": q.int(), "k": k.int(), "v": v.int()}
    yield "no empty dimension", {"k": k[:, :0], "v": v[:, :0]}
    yield (
        r"biases\[0\] has shape \[2, 2, 5, 5\], which does not broadcast to .* = \[2, 2, 5, 6\]",
        {"biases": [torch.zeros(2, 2, 5, 5)]},
    )
    yield r"biases\[0\] has shape \[1, 1, 1, 1, 1\]", {"biases": [torch.zeros(1, 1, 1, 1, 1)]}
    yield r"biases\[1\] is torch.bool", {"biases": [torch.zeros(1), torch.zeros(1, dtype=torch.bool)]}
    yield r"mask is torch.float32 of shape \[6\]; expected torch.bool", {"mask": torch.zeros(6)}
    yield r"mask has shape \[7\], which does not broadcast", {"mask": torch.zeros(7, dtype=torch.bool)}
    yield r"gate has shape \[2, 5, 2, 4\] .*expected that of q: \[2, 5, 2, 8\]", {"gate": q[..., :4]}
    yield "scale is", {"scale": float("nan")}
    yield r"alibi_slopes has shape \[3\]; expected \[heads\] = \[2\]", {"alibi_slopes": torch.zeros(3)}
    yield "alibi_slopes requires a gradient", {"alibi_slopes": torch.zeros(2, requires_grad=True)}
    yield "k is on meta, q on cpu; expected one device", {"k": far, "v": far}
    yield r"biases\[0\] is on meta, q on cpu; expected one device", {"biases": [far[0, 0, 0, :1]]}
    yield "mask is on meta, q on cpu; expected one device", {"mask": far[0, 0, 0, :1].bool()}
    yield r"gate has shape .*meta.*expected that of q: .*cpu", {"gate": far}
    yield "alibi_slopes is on meta, q on cpu; expected one device", {"alibi_slopes": far[0, 0, :, 0]}
    yield "available; expected auto, reference, cpu", {"backend": "rocm"}
    yield "'cuda' is not available: no_gpu: .*foldase_kernels doctor", {"backend": "cuda"}
    wide = [torch.zeros(1, 3, 1, 136)] * 3
    yield (
        r"q has shape \[1, 3, 1, 136\]; expected a head width of at most 128",
        {"q": wide[0], "k": wide[1], "v": wide[2]},
    )


@pytest.mark.parametrize(("message", "changes"), list(bad_calls()), ids=lambda value: str(value)[:30])
def test_bad_arguments_are_named(message, changes):
    good = {name: tensor.float() for name, tensor in make((), 2, 5, 6, 2, 8).items()}
    arguments = {"q": good["q"], "k": good["k"], "v": good["v"], "biases": (), **changes}
    with pytest.raises(ValueError, match=message):
        evoformer_attention(
            arguments.pop("q"), arguments.pop("k"), arguments.pop("v"), arguments.pop("biases"), **arguments
        )


def test_auto_says_once_what_it_chose(caplog, monkeypatch):
    monkeypatch.setattr(backends, "_reported", set())
    tensors = make((), 1, 3, 3, 1, 8, dtype=torch.float32)
    with caplog.at_level("INFO", logger="foldase_kernels"):
        for _ in range(3):
            evoformer_attention(*(tensors[name] for name in "qkv"))
    assert [record.getMessage() for record in caplog.records] == [
        "evoformer_attention on cpu uses backend 'cpu'"
    ]


def test_merge_refuses_parts_that_do_not_fit():
    out, lse = torch.zeros(2, 5, 2, 8), torch.zeros(2, 2, 5)
    with pytest.raises(ValueError, match="1 outputs and 0"):
        merge_attention([out], [])
    with pytest.raises(ValueError, match="part 1"):
        merge_attention([out, out], [lse, lse[:1]])


def test_all_combinations_of_two_biases(cpu_form):
    """Columns and tiles mixed, in the dtype of the caller."""
    shapes = bias_shapes((2,), 2, 2, 4, 5)
    tensors = make((2,), 2, 4, 5, 2, 8)
    for first, second in itertools.combinations(shapes, 2):
        biases = [torch.randn(first, dtype=torch.float64), torch.randn(second, dtype=torch.float64)]
        compare(tensors, biases, tolerance=EXACT, gradient_tolerance=EXACT)
