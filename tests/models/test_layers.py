"""Layers in float64 against loops over the published algorithms, with the public key names."""

from __future__ import annotations

import math

import pytest
import torch

from foldase_models.layers import (
    DropoutColumnwise,
    DropoutRowwise,
    Evoformer,
    EvoformerBlock,
    EvoformerDims,
    Linear,
    MSAColumnAttention,
    MSARowAttentionWithPairBias,
    OuterProductMean,
    Transition,
    TriangleAttention,
    TriangleMultiplication,
)

EXACT = 1e-9
SMALL = EvoformerDims(
    c_m=10,
    c_z=6,
    c_hidden_msa_att=4,
    c_hidden_opm=3,
    c_hidden_mul=5,
    c_hidden_pair_att=4,
    no_heads_msa=2,
    no_heads_pair=3,
    transition_n=2,
)


def randomised(module, seed=0):
    """The module in float64 with every parameter drawn anew: fresh ones start many branches at zero."""
    generator = torch.Generator().manual_seed(seed)
    module = module.double().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.5)
    return module


def draw(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def close(found, wanted):
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() <= EXACT * max(1.0, float(wanted.detach().abs().max()))


def naive_attention(mha, x, heads, bias, mask):
    """Gated attention of one row ``[N, c]`` by loops; ``bias`` ``[H, N, N]``, ``mask`` ``[N]``."""
    length = x.shape[0]
    q, k, v = (linear(x).reshape(length, heads, -1) for linear in (mha.linear_q, mha.linear_k, mha.linear_v))
    gate = torch.sigmoid(mha.linear_g(x)).reshape(length, heads, -1)
    out = torch.zeros_like(q)
    for h in range(heads):
        for i in range(length):
            allowed = [j for j in range(length) if mask is None or bool(mask[j])]
            if not allowed:
                continue
            scores = torch.stack(
                [q[i, h] @ k[j, h] / math.sqrt(q.shape[-1]) + bias[h, i, j] for j in allowed]
            )
            share = torch.softmax(scores, 0)
            out[i, h] = gate[i, h] * sum(s * v[j, h] for s, j in zip(share, allowed, strict=True))
    return mha.linear_o(out.reshape(length, -1))


@pytest.mark.parametrize("masked", [False, True])
def test_msa_row_attention(masked):
    layer = randomised(MSARowAttentionWithPairBias(10, 6, 4, 2))
    m, z = draw(3, 5, 10), draw(5, 5, 6, seed=2)
    mask = torch.tensor([[1, 1, 0, 1, 1], [1, 1, 1, 1, 1], [0, 1, 1, 1, 0]], dtype=torch.bool)
    found = layer(m, z, mask if masked else None)
    bias = layer.linear_z(layer.layer_norm_z(z)).permute(2, 0, 1)
    rows = [
        naive_attention(layer.mha, layer.layer_norm_m(m)[s], 2, bias, mask[s] if masked else None)
        for s in range(3)
    ]
    close(found, torch.stack(rows))


@pytest.mark.parametrize("masked", [False, True])
def test_msa_column_attention(masked):
    layer = randomised(MSAColumnAttention(10, 4, 2))
    m = draw(4, 3, 10)
    mask = torch.tensor([[1, 1, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], dtype=torch.bool)
    found = layer(m, mask if masked else None)
    normed = layer._msa_att.layer_norm_m(m)
    bias = torch.zeros(2, 4, 4, dtype=torch.float64)
    columns = [
        naive_attention(layer._msa_att.mha, normed[:, i], 2, bias, mask[:, i] if masked else None)
        for i in range(3)
    ]
    close(found, torch.stack(columns, 1))


@pytest.mark.parametrize("starting", [True, False])
@pytest.mark.parametrize("masked", [False, True])
def test_triangle_attention(starting, masked):
    layer = randomised(TriangleAttention(6, 4, 3, starting=starting))
    z = draw(4, 4, 6)
    mask = draw(4, 4, seed=3) > -0.5
    found = layer(z, mask if masked else None)
    seen, seen_mask = (z, mask) if starting else (z.transpose(0, 1), mask.T)
    normed = layer.layer_norm(seen)
    bias = layer.linear(normed).permute(2, 0, 1)
    rows = [
        naive_attention(layer.mha, normed[i], 3, bias, seen_mask[i] if masked else None) for i in range(4)
    ]
    wanted = torch.stack(rows)
    close(found, wanted if starting else wanted.transpose(0, 1))


@pytest.mark.parametrize("outgoing", [True, False])
@pytest.mark.parametrize("masked", [False, True])
def test_triangle_multiplication(outgoing, masked):
    layer = randomised(TriangleMultiplication(6, 5, outgoing=outgoing))
    z = draw(4, 4, 6)
    mask = draw(4, 4, seed=3) > -0.5
    found = layer(z, mask if masked else None)
    normed = layer.layer_norm_in(z)
    a = torch.sigmoid(layer.linear_a_g(normed)) * layer.linear_a_p(normed)
    b = torch.sigmoid(layer.linear_b_g(normed)) * layer.linear_b_p(normed)
    if masked:
        a, b = a * mask[..., None], b * mask[..., None]
    product = torch.zeros(4, 4, 5, dtype=torch.float64)
    for i in range(4):
        for j in range(4):
            for k in range(4):
                product[i, j] += a[i, k] * b[j, k] if outgoing else a[k, i] * b[k, j]
    wanted = torch.sigmoid(layer.linear_g(normed)) * layer.linear_z(layer.layer_norm_out(product))
    close(found, wanted)


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_outer_product_mean(centred, weighted):
    layer = randomised(OuterProductMean(10, 6, 3, centred=centred))
    m = draw(5, 4, 10)
    weights = draw(5, 4, seed=4).abs() if weighted else None
    found = layer(m, weights)
    normed = layer.layer_norm(m)
    a, b = layer.linear_1(normed), layer.linear_2(normed)
    w = torch.ones(5, 4, dtype=torch.float64) if weights is None else weights
    if centred:
        a = a - (a * w[..., None]).sum(0) / w.sum(0)[:, None]
        b = b - (b * w[..., None]).sum(0) / w.sum(0)[:, None]
    wanted = torch.zeros(4, 4, 6, dtype=torch.float64)
    for i in range(4):
        for j in range(4):
            pair = (w[:, i] * w[:, j]).sqrt()
            outer = sum(pair[s] * torch.outer(a[s, i], b[s, j]) for s in range(5))
            wanted[i, j] = layer.linear_out(outer.flatten()) / (pair.sum() + 1e-3)
    close(found, wanted)


def test_centred_outer_product_sees_covariance_only():
    """Independent columns give nothing, whatever their composition."""
    layer = randomised(OuterProductMean(4, 3, 2, centred=True))
    with torch.no_grad():
        layer.linear_out.bias.zero_()
    letters = torch.cartesian_prod(torch.arange(3), torch.arange(2))
    table = draw(3, 4)
    update = layer(table[letters])
    assert update[0, 1].abs().max() < EXACT
    assert update[0, 0].abs().max() > 1e-3


def test_transition():
    layer = randomised(Transition(6, 3))
    x = draw(2, 4, 6)
    wanted = layer.linear_2(torch.relu(layer.linear_1(layer.layer_norm(x))))
    close(layer(x), wanted)
    mask = torch.tensor([[True, False, True, True]] * 2)
    close(layer(x, mask), wanted * mask[..., None])


def test_parameters_of_an_evoformer_block_are_the_published_number():
    block = EvoformerBlock(EvoformerDims())
    counts = {
        "msa_att_row": 329_984,
        "msa_att_col": 328_704,
        "msa_transition": 526_080,
        "outer_product_mean": 148_160,
        "pair_stack.tri_mul_out": 99_584,
        "pair_stack.tri_mul_in": 99_584,
        "pair_stack.tri_att_start": 82_944,
        "pair_stack.tri_att_end": 82_944,
        "pair_stack.pair_transition": 131_968,
    }
    for name, count in counts.items():
        assert sum(p.numel() for p in block.get_submodule(name).parameters()) == count, name
    assert sum(p.numel() for p in block.parameters()) == 1_829_952


def test_keys_are_those_of_the_public_checkpoints():
    keys = set(Evoformer(SMALL, 1).state_dict())
    for key in (
        "blocks.0.msa_att_row.layer_norm_m.weight",
        "blocks.0.msa_att_row.layer_norm_z.weight",
        "blocks.0.msa_att_row.linear_z.weight",
        "blocks.0.msa_att_row.mha.linear_q.weight",
        "blocks.0.msa_att_row.mha.linear_o.bias",
        "blocks.0.msa_att_row.mha.linear_g.bias",
        "blocks.0.msa_att_col._msa_att.mha.linear_k.weight",
        "blocks.0.msa_transition.linear_1.weight",
        "blocks.0.outer_product_mean.linear_out.bias",
        "blocks.0.pair_stack.tri_mul_out.linear_a_p.weight",
        "blocks.0.pair_stack.tri_mul_in.layer_norm_out.weight",
        "blocks.0.pair_stack.tri_att_start.linear.weight",
        "blocks.0.pair_stack.tri_att_end.mha.linear_v.weight",
        "blocks.0.pair_stack.pair_transition.layer_norm.bias",
    ):
        assert key in keys, key
    assert "blocks.0.msa_att_row.mha.linear_q.bias" not in keys


@pytest.mark.parametrize("opm_first", [False, True])
def test_padding_changes_nothing(opm_first):
    """Sequences and residues added beyond the masks leave the real ones as they were."""
    dims = EvoformerDims(**{**{f: getattr(SMALL, f) for f in SMALL.__slots__}, "opm_first": opm_first})
    stack = randomised(Evoformer(dims, 2))
    m, z = draw(3, 5, 10), draw(5, 5, 6, seed=2)
    # The same masked route, so that the small constant in the outer product's mean is the same too.
    wanted_m, wanted_z = stack(m, z, torch.ones(3, 5, dtype=torch.bool), torch.ones(5, 5, dtype=torch.bool))
    padded_m, padded_z = draw(4, 7, 10, seed=5), draw(7, 7, 6, seed=6)
    padded_m[:3, :5], padded_z[:5, :5] = m, z
    msa_mask = torch.zeros(4, 7, dtype=torch.bool)
    msa_mask[:3, :5] = True
    pair_mask = torch.zeros(7, 7, dtype=torch.bool)
    pair_mask[:5, :5] = True
    found_m, found_z = stack(padded_m, padded_z, msa_mask, pair_mask)
    close(found_m[:3, :5], wanted_m)
    close(found_z[:5, :5], wanted_z)


def test_order_of_sequences_carries_no_meaning():
    stack = randomised(Evoformer(SMALL, 1))
    m, z = draw(2, 4, 5, 10), draw(2, 5, 5, 6, seed=2)
    order = torch.tensor([2, 0, 3, 1])
    found_m, found_z = stack(m[:, order], z)
    wanted_m, wanted_z = stack(m, z)
    close(found_m, wanted_m[:, order])
    close(found_z, wanted_z)


def test_gradients_reach_every_parameter():
    stack = randomised(Evoformer(SMALL, 1))
    m, z = stack(draw(3, 4, 10), draw(4, 4, 6, seed=2))
    (m.square().sum() + z.square().sum()).backward()
    # What is added to all keys of a softmax alike has no gradient: the bias of the pair norm's bias.
    for name, parameter in stack.named_parameters():
        assert parameter.grad is not None, name
        if not name.endswith("layer_norm_z.bias"):
            assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize(("kind", "shared"), [(DropoutRowwise, -3), (DropoutColumnwise, -2)])
def test_dropout_is_shared(kind, shared):
    torch.manual_seed(0)
    layer = kind(0.4)
    x = torch.ones(2, 50, 40, 6)
    dropped = layer.train()(x)
    first = dropped.select(shared, 0).unsqueeze(shared)
    assert torch.equal(dropped, first.expand_as(dropped))
    kept = dropped[dropped != 0]
    assert torch.allclose(kept, torch.full_like(kept, 1 / 0.6))
    assert abs(float((dropped == 0).float().mean()) - 0.4) < 0.1
    assert layer.eval()(x) is x


@pytest.mark.parametrize("init", ["default", "relu", "glorot", "gating", "final", "normal"])
def test_initialisations(init):
    torch.manual_seed(0)
    layer = Linear(400, 300, init=init)
    variance = {
        "default": 1 / 400,
        "relu": 2 / 400,
        "glorot": 2 / 700,
        "gating": 0.0,
        "final": 0.0,
        "normal": 1 / 400,
    }[init]
    assert abs(float(layer.weight.detach().var()) - variance) <= 0.05 * variance
    assert torch.equal(layer.bias, torch.full((300,), 1.0 if init == "gating" else 0.0))
