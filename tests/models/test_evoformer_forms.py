"""In place, in groups of rows, with checkpoints: the block is the same function in every form."""

from __future__ import annotations

import pytest
import torch

from foldase_kernels.outer_product_mean import cpu as outer_cpu
from foldase_kernels.transition import cpu as transition_cpu
from foldase_kernels.triangle_multiplication import cpu as triangle_cpu
from foldase_models.layers import Evoformer, EvoformerBlock, EvoformerDims, TriangleAttention, row_groups

EXACT = 1e-10
"""float64 against float64, relative to the largest value."""
SINGLE = 1e-5
"""The same in float32."""
HALF = 2e-2
"""bfloat16 regions, whose sums are made in groups."""
WIDTHS = {
    "c_m": 10,
    "c_z": 6,
    "c_hidden_msa_att": 4,
    "c_hidden_opm": 3,
    "c_hidden_mul": 5,
    "c_hidden_pair_att": 4,
    "no_heads_msa": 2,
    "no_heads_pair": 3,
    "transition_n": 2,
}


@pytest.fixture
def in_groups(monkeypatch):
    """Three rows to a group, the last one smaller, and every operation in tiles."""
    monkeypatch.setattr(row_groups, "SMALL", 0)
    monkeypatch.setattr(row_groups, "_rows_per_group", lambda x: 3)
    monkeypatch.setattr(triangle_cpu, "SMALL_PRODUCTS", -1)
    monkeypatch.setattr(transition_cpu, "SMALL_HIDDEN", -1)
    monkeypatch.setattr(outer_cpu, "SMALL_PRODUCTS", -1)


def randomised(module, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    module = module.to(dtype).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=dtype) * 0.5)
    return module


def make(opm_first=False, dtype=torch.float64):
    """A block, m and z of two proteins, and masks that leave one residue of the second no key at all."""
    block = randomised(EvoformerBlock(EvoformerDims(opm_first=opm_first, **WIDTHS)), dtype)
    generator = torch.Generator().manual_seed(1)
    m = torch.randn(2, 4, 7, 10, generator=generator, dtype=dtype)
    z = torch.randn(2, 7, 7, 6, generator=generator, dtype=dtype)
    msa_mask, pair_mask = (torch.rand(x.shape[:-1], generator=generator) > 0.2 for x in (m, z))
    pair_mask[1, 3] = False
    return block, m, z, (msa_mask, pair_mask)


def by_updates(block, m, z, masks):
    """The block as the supplement writes it: a sum of updates, each of them whole."""
    msa_mask, pair_mask = masks
    stack = block.pair_stack
    if block.opm_first:
        z = z + block.outer_product_mean(m, msa_mask)
    m = m + block.msa_dropout_layer(block.msa_att_row(m, z, msa_mask))
    m = m + block.msa_att_col(m, msa_mask)
    m = m + block.msa_transition(m, msa_mask)
    if not block.opm_first:
        z = z + block.outer_product_mean(m, msa_mask)
    row, column = stack.ps_dropout_row_layer, stack.ps_dropout_column_layer
    z = z + row(stack.tri_mul_out(z, pair_mask))
    z = z + row(stack.tri_mul_in(z, pair_mask))
    z = z + row(stack.tri_att_start(z, pair_mask))
    z = z + column(stack.tri_att_end(z, pair_mask))
    return m, z + stack.pair_transition(z, pair_mask)


def step(run, block, m, z):
    """New m and z, and the gradients of m, z and all parameters for a loss that tells positions apart."""
    leaves = [m.clone().requires_grad_(), z.clone().requires_grad_()]
    torch.manual_seed(3)
    results = run(*leaves)
    generator = torch.Generator().manual_seed(2)
    weights = [torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in results]
    loss = sum((x * weight).sum() for x, weight in zip(results, weights, strict=True))
    return [*results, *torch.autograd.grad(loss, [*leaves, *block.parameters()])]


def close(found, wanted, tolerance):
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert one.shape == other.shape
        assert (one - other).abs().max() <= tolerance * max(1.0, float(other.detach().abs().max()))


@pytest.mark.parametrize("opm_first", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, EXACT), (torch.float32, SINGLE)])
def test_inference_in_place(opm_first, dtype, tolerance, in_groups, monkeypatch):
    block, m, z, masks = make(opm_first, dtype)
    with torch.no_grad():
        given = m.clone(), z.clone()
        found = block(m, z, *masks)
        close((m, z), given, 0.0)
        over = block(m, z, *masks, inplace=True)
        assert over[0] is m
        assert over[1] is z
        monkeypatch.undo()
        wanted = by_updates(block, *given, masks)
    close(found, wanted, tolerance)
    close((m, z), wanted, tolerance)


@pytest.mark.parametrize("opm_first", [False, True])
@pytest.mark.parametrize("checkpoint", [False, True])
def test_gradients_with_dropout(opm_first, checkpoint, in_groups, monkeypatch):
    """The recomputation draws the same dropout as the first pass."""
    block, m, z, masks = make(opm_first)
    block.train()
    found = step(lambda *x: block(*x, *masks, checkpoint=checkpoint), block, m, z)
    monkeypatch.undo()
    close(found, step(lambda *x: by_updates(block, *x, masks), block, m, z), EXACT)


def test_a_stack_takes_the_options_of_its_blocks(in_groups):
    stack = randomised(Evoformer(EvoformerDims(**WIDTHS), 2))
    _, m, z, masks = make()
    plain = step(lambda *x: stack(*x, *masks), stack, m, z)
    close(step(lambda *x: stack(*x, *masks, checkpoint=True), stack, m, z), plain, EXACT)
    with torch.no_grad():
        given = m.clone(), z.clone()
        close(stack(m, z, *masks), plain[:2], EXACT)
        close((m, z), given, 0.0)
        stack(m, z, *masks, inplace=True)
    close((m, z), plain[:2], EXACT)


@pytest.mark.parametrize("starting", [True, False])
def test_weights_alone_may_want_a_gradient(starting, in_groups):
    layer = randomised(TriangleAttention(6, 4, 3, starting=starting))
    _, _, z, _ = make()
    found = torch.autograd.grad(layer(z).square().sum(), list(layer.parameters()))
    wanted = torch.autograd.grad(layer(z.requires_grad_()).square().sum(), list(layer.parameters()))
    close(found, wanted, 0.0)


def test_results_lie_as_what_they_update(in_groups):
    """The ending node works on a transposed view; neither it nor its gradient is laid out anew."""
    layer = randomised(TriangleAttention(6, 4, 3, starting=False))
    _, _, z, _ = make()
    out = layer(z.requires_grad_(), residual=True)
    assert out.is_contiguous()
    assert torch.autograd.grad(out.sum(), z)[0].is_contiguous()


def test_autocast_reaches_the_recomputation(in_groups, monkeypatch):
    """And casts of weights made without a gradient are not found by what comes after."""
    layer = randomised(TriangleAttention(6, 4, 3, starting=True), torch.float32)
    _, _, z, _ = make(dtype=torch.float32)

    def gradients():
        with torch.autocast("cpu", torch.bfloat16):
            out = layer(z, residual=True)
        assert out.dtype == torch.float32
        return [out, *torch.autograd.grad(out.square().sum(), list(layer.parameters()))]

    found = gradients()
    monkeypatch.undo()
    close(found, gradients(), HALF)
    monkeypatch.setattr(row_groups, "SMALL", z.numel() * 2)
    with torch.autocast("cpu", torch.bfloat16):
        layer(z)
        small = layer(z[:1])
    assert all(
        grad.abs().max() > 0 for grad in torch.autograd.grad(small.sum(), list(layer.parameters())[2:])
    )


def test_in_place_is_for_inference():
    block, m, z, masks = make()
    with pytest.raises(ValueError, match=r"inplace is True where m or a parameter requires a gradient"):
        block(m, z, *masks, inplace=True)
    with torch.no_grad(), pytest.raises(ValueError, match=r"z \[2, 7, 7, 6\] is an expanded view"):
        block(m, z[:1].expand(2, -1, -1, -1), *masks, inplace=True)
    with pytest.raises(ValueError, match=r"inplace is True where x or a parameter requires a gradient"):
        block.pair_stack.tri_att_start(z, inplace=True)
