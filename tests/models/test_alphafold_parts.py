"""Embedders, templates, extra rows and heads in float64 against the features and loops of the supplement."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from counted_memory import peak_of
from torch.nn import functional

from foldase_models.folding.alphafold import heads, templates
from foldase_models.folding.alphafold.embedders import (
    ExtraMSAEmbedder,
    InputEmbedder,
    RecyclingEmbedder,
    embed_pairs,
)
from foldase_models.folding.alphafold.extra_msa import ExtraMSABlock, MSAColumnGlobalAttention
from foldase_models.folding.options import ForwardOptions
from foldase_models.layers import EvoformerDims, working_set

EXACT = 1e-9
"""float64 against float64."""
TINY = 256
"""Bytes of a group: one row at a time."""
WIDTHS = EvoformerDims(c_z=6, c_hidden_mul=5, c_hidden_pair_att=8, no_heads_pair=2, transition_n=2)


def randomised(module, seed=0):
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


def distance_bins(points, first, last, count):
    """One-hot ``[N, N, count]``, nothing below the first edge."""
    square = (points[:, None] - points[None]).square().sum(-1, keepdim=True)
    lower = torch.linspace(first, last, count, dtype=torch.float64).square()
    upper = torch.cat([lower[1:], lower.new_tensor([1e8])])
    return ((square > lower) & (square < upper)).double()


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("group_bytes", [TINY, 2**20])
def test_first_pairs(inplace, group_bytes):
    inputs = randomised(InputEmbedder(10, 6, 3))
    recycling = randomised(RecyclingEmbedder(10, 6, first=3.25, last=20.75, bins=15), seed=1)
    target, before, beta = draw(7, 22), draw(7, 7, 6, seed=2), 6 * draw(7, 3, seed=3)
    index = torch.tensor([0, 1, 2, 3, 4, 204, 205])
    with torch.no_grad():
        offset = functional.one_hot((index[:, None] - index[None]).clamp(-3, 3) + 3, 7).double()
        wanted = (
            inputs.linear_tf_z_i(target)[:, None]
            + inputs.linear_tf_z_j(target)[None]
            + inputs.linear_relpos(offset)
            + recycling.layer_norm_z(before)
            + recycling.linear(distance_bins(beta, 3.25, 20.75, 15))
        )
        with working_set(group_bytes):
            found = embed_pairs(inputs, recycling, target, index, before, beta, inplace=inplace)
    close(found, wanted)
    assert (found.data_ptr() == before.data_ptr()) == inplace


def test_first_pairs_have_the_gradients_of_whole_tensors():
    inputs = randomised(InputEmbedder(10, 6, 3))
    recycling = randomised(RecyclingEmbedder(10, 6, first=3.25, last=20.75, bins=15), seed=1)
    target, index, beta = draw(6, 22), torch.arange(6), 6 * draw(6, 3, seed=3)
    parameters = [*inputs.parameters(), *recycling.parameters()]
    found = []
    for group_bytes in (TINY, 2**20):
        with working_set(group_bytes):
            z = embed_pairs(inputs, recycling, target, index, draw(6, 6, 6, seed=2), beta)
            grads = torch.autograd.grad((z * draw(6, 6, 6)).sum(), parameters, allow_unused=True)
        found.append([grad for grad in grads if grad is not None])
    assert len(found[0]) == 10
    for one, other in zip(*found, strict=True):
        close(one, other)


def test_extra_rows():
    layer = randomised(ExtraMSAEmbedder(6))
    letters = torch.tensor([[0, 20, 21], [22, 5, 19]], dtype=torch.uint8)
    has, value = draw(2, 3), draw(2, 3, seed=2)
    features = torch.cat(
        [functional.one_hot(letters.long(), 23).double(), has[..., None], value[..., None]], -1
    )
    close(layer(letters, has, value), layer.linear(features))


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_global_attention_of_columns(masked, inplace):
    layer = randomised(MSAColumnGlobalAttention(6, 4, 3))
    m = draw(5, 4, 6)
    mask = draw(5, 4, seed=3) > -0.3
    mask[0], mask[:, 2] = True, torch.tensor([True, False, False, False, False])
    normed, attention = layer.layer_norm_m(m), layer.global_attention
    wanted = torch.zeros_like(m)
    for i in range(4):
        rows = [s for s in range(5) if bool(mask[s, i]) or not masked]
        q = attention.linear_q(torch.stack([normed[s, i] for s in rows]).mean(0)).view(3, 4) / 2
        k, v = (
            torch.stack([linear(normed[s, i]) for s in rows])
            for linear in (attention.linear_k, attention.linear_v)
        )
        gathered = torch.softmax(q @ k.T, -1) @ v
        for s in range(5):
            gate = torch.sigmoid(attention.linear_g(normed[s, i]))
            wanted[s, i] = attention.linear_o(gate * gathered.flatten())
    with torch.no_grad(), working_set(TINY):
        given = m.clone()
        found = layer(given, mask if masked else None, residual=True, inplace=inplace)
    close(found, m + wanted.detach())
    assert (found.data_ptr() == given.data_ptr()) == inplace


def test_a_block_of_extra_rows():
    """Row attention, global attention of columns, transition, outer product mean, then pairs alone."""
    block = randomised(
        ExtraMSABlock(replace(WIDTHS, c_m=5, c_hidden_msa_att=4, no_heads_msa=2, c_hidden_opm=3))
    )
    start, z = draw(3, 4, 5), draw(4, 4, 6, seed=2)
    mask, pair_mask = draw(3, 4, seed=3) > -1, draw(4, 4, seed=4) > -1
    m = start + block.msa_att_row(start, z, mask)
    m = m + block.msa_att_col(m, mask)
    m = m + block.msa_transition(m, mask)
    pairs = block.pair_stack(z + block.outer_product_mean(m, mask), pair_mask)
    found_m, found_z = block(start, z, mask, pair_mask)
    close(found_m, m)
    close(found_z, pairs)


def made_templates(count=3, residues=5):
    """Templates with unknown atoms, and one that is padding."""
    torsion_mask = draw(count, residues, 7, seed=6) > -0.5
    torsions = functional.normalize(draw(count, residues, 7, 2, seed=4), dim=-1) * torsion_mask[..., None]
    mask = torch.ones(count, dtype=torch.bool)
    mask[-1] = count == 1
    return templates.Templates(
        aatype=torch.randint(0, 22, (count, residues), generator=torch.Generator().manual_seed(3)),
        pseudo_beta=12 * draw(count, residues, 3, seed=5),
        pseudo_beta_mask=draw(count, residues, seed=7) > -0.8,
        backbone_mask=draw(count, residues, seed=8) > -0.8,
        torsions=torsions,
        other_torsions=-torsions,
        torsion_mask=torsion_mask,
        mask=mask,
    )


@pytest.mark.parametrize("group_bytes", [TINY, 2**20])
def test_pairs_of_templates(group_bytes):
    own, layer = made_templates(), randomised(templates.TemplatePairEmbedder(6))
    for number in range(3):
        known, backbone, kinds = (
            values[number] for values in (own.pseudo_beta_mask, own.backbone_mask, own.aatype)
        )
        one_hot = functional.one_hot(kinds, 22).double()
        seen = (backbone[:, None] & backbone[None])[..., None].double()
        features = torch.cat(
            [
                distance_bins(own.pseudo_beta[number], 3.25, 50.75, 39),
                (known[:, None] & known[None])[..., None].double(),
                one_hot[None].expand(5, 5, 22),
                one_hot[:, None].expand(5, 5, 22),
                torch.zeros(5, 5, 3, dtype=torch.float64),
                seen,
            ],
            -1,
        )
        with working_set(group_bytes):
            close(layer(own, number), layer.linear(features * seen))


def test_torsions_of_templates_are_rows():
    own, layer = made_templates(), randomised(templates.TemplateSingleEmbedder(10))
    features = torch.cat(
        [
            functional.one_hot(own.aatype, 22).double(),
            own.torsions.flatten(-2),
            own.other_torsions.flatten(-2),
            own.torsion_mask.double(),
        ],
        -1,
    )
    assert features.shape[-1] == templates.ANGLE_FEATURES
    close(layer(own), layer.linear_2(torch.relu(layer.linear_1(features))))


def test_pairs_of_templates_attend_before_they_multiply():
    stack = randomised(templates.TemplatePairStack(WIDTHS, 2))
    z, mask = draw(5, 5, 6), draw(5, 5, seed=2) > -1
    wanted = z
    for block in stack.blocks:
        for layer in (block.tri_att_start, block.tri_att_end, block.tri_mul_out, block.tri_mul_in):
            wanted = wanted + layer(wanted, mask)
        wanted = wanted + block.pair_transition(wanted, mask)
    wanted = stack.layer_norm(wanted)
    close(stack(z, mask, options=ForwardOptions(checkpoint=True)), wanted)
    with torch.no_grad():
        close(stack(z.clone(), mask, options=ForwardOptions()), wanted.detach())


@pytest.mark.parametrize("mask", [[True, True, False], [False, False, False], [False, True, False]])
def test_each_pair_attends_to_templates(mask):
    layer = randomised(templates.TemplatePointwiseAttention(7, 6, 4, 2))
    z, pairs, mask = draw(5, 5, 7), [draw(5, 5, 6, seed=n) for n in range(3)], torch.tensor(mask)
    mha = layer.mha
    q = mha.linear_q(z).view(5, 5, 2, 4)
    k, v = (
        torch.stack([linear(t).view(5, 5, 2, 4) for t in pairs]) for linear in (mha.linear_k, mha.linear_v)
    )
    logits = (q * k).sum(-1) / 2 + torch.where(mask, 0.0, -1e9)[:, None, None, None]
    gathered = (torch.softmax(logits, 0)[..., None] * v).sum(0).flatten(-2)
    wanted = z + mha.linear_o(gathered) * mask.any()
    with working_set(TINY):
        close(layer(pairs, z, mask), wanted)
        with torch.no_grad():
            state = layer.state(z)
            for number, t in enumerate(pairs):
                layer.see(state, t, z, mask[number])
            close(layer.add(state, z.clone(), mask), wanted.detach())


def test_one_template_at_a_time():
    """In inference memory does not grow with templates."""
    embedder = templates.TemplateEmbedder(WIDTHS, no_blocks=1, c_m=8, c_z=7, c_hidden=4, no_heads=2).float()
    residues = 24
    peaks = []
    for count in (1, 4):
        own = made_templates(count, residues)
        own = replace(own, mask=torch.ones(count, dtype=torch.bool))
        z = torch.randn(residues, residues, 7)
        with torch.no_grad(), working_set(2**14):
            peaks.append(peak_of(lambda own=own, z=z: embedder(z, own, options=ForwardOptions())))
    assert peaks[1] <= 1.02 * peaks[0]


def test_plddt_is_in_0_to_100():
    certain = torch.full((2, 50), -1e4)
    certain[0, 0], certain[1, 49] = 0.0, 0.0
    assert torch.allclose(heads.plddt_of(certain), torch.tensor([1.0, 99.0]))
    assert abs(float(heads.plddt_of(torch.zeros(50))) - 50.0) < 1e-4


def test_aligned_errors_and_tm_score():
    """With certain errors of one bin everywhere, the TM-score is that bin's share."""
    centres = heads.error_centres(torch.zeros(1))
    assert torch.allclose(centres[[0, 1, -1]], torch.tensor([0.25, 0.75, 31.75]))
    residues = 30
    logits = torch.full((residues, residues, 64), -1e4)
    logits[..., 10] = 0.0
    scale = 1.24 * (residues - 15) ** (1 / 3) - 1.8
    terms = heads.tm_terms(logits, residues)
    assert torch.allclose(terms, torch.tensor(1 / (1 + (5.25 / scale) ** 2)))
    short = heads.tm_terms(logits[:3, :3], 3)
    assert torch.allclose(short, heads.tm_terms(logits[:3, :3], 19))


def test_the_best_aligned_residue_counts():
    terms = torch.tensor([[0.5, 0.5, 0.9], [0.2, 0.8, 0.1], [0.0, 0.0, 1.0]])
    real = torch.tensor([True, True, False])
    counted = real[:, None] & real[None]
    assert float(heads.best_alignment(terms, counted)) == 0.5
    assert abs(float(heads.best_alignment(terms, torch.ones(3, 3, dtype=torch.bool))) - 1.9 / 3) < 1e-6


@pytest.mark.parametrize("group_bytes", [TINY, 2**20])
def test_confidence_is_what_logits_mean(group_bytes):
    layer = randomised(heads.AuxiliaryHeads(c_m=5, c_z=6, c_s=7, plddt_hidden=4, tm=True)).float()
    m, z, s = draw(2, 8, 5).float(), draw(2, 8, 8, 6).float(), draw(2, 8, 7).float()
    mask = torch.ones(2, 8, dtype=torch.bool)
    mask[1, 6:] = False
    chains = torch.tensor([0, 0, 0, 1, 1, 1, 1, 1]).expand(2, 8)
    logits = layer(m[:, None], z, s, s)
    with working_set(group_bytes):
        found = layer.confidence(z, s, mask=mask, chains=chains)
    edges = torch.linspace(heads.FIRST_DISTANCE, heads.LAST_DISTANCE, 63)
    within = int((edges <= heads.CONTACT).sum())
    share = torch.softmax(logits.distogram, -1)
    assert torch.equal(logits.distogram, logits.distogram.transpose(1, 2))
    assert torch.allclose(found.contact_probability, share[..., :within].sum(-1), atol=1e-5)
    assert torch.allclose(found.plddt, heads.plddt_of(logits.plddt))
    error = torch.softmax(logits.aligned_error, -1) @ heads.error_centres(z)
    assert torch.allclose(found.aligned_error, error, atol=1e-4)
    alone = layer.confidence(z[1:, :6, :6], s[1:, :6], chains=chains[1:, :6])
    assert np.allclose([found.ptm[1], found.iptm[1]], [alone.ptm[0], alone.iptm[0]], atol=1e-6)
    assert layer.confidence(z, s).iptm is None
