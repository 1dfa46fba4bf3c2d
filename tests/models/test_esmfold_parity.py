"""ESMFold against Hugging Face's with the same small random weights."""

from __future__ import annotations

import pytest
import torch
from esmfold_peer import peer_in_float64, peer_model

from foldase_models.folding.esmfold.config import EsmFoldConfig
from foldase_models.folding.esmfold.heads import pair_confidence, symmetric_logits
from foldase_models.folding.esmfold.model import EsmFold
from foldase_models.folding.options import ForwardOptions

pytestmark = pytest.mark.xdist_group("transformers")

RELATIVE = 1e-5
POSITIONS = 1e-3
"""A."""
CONFIDENCE = 1e-4
ERRORS = 1e-3
"""A."""
EXACT = 1e-9
LIMITS_IN_FLOAT32 = 1e-5
"""The peer's limits of bins of errors are float32 in a model of float64; A of 31."""


def ours_like(peer):
    model = EsmFold(EsmFoldConfig.from_json(peer.config.to_dict()))
    model.load_state_dict(peer.state_dict(), strict=True)
    return model.to(peer.esm_s_combine.dtype).eval()


@pytest.fixture(scope="module")
def models():
    peer = peer_model()
    return peer, ours_like(peer)


@pytest.fixture(scope="module")
def wide_models():
    """In float64; apart from the others, for the peer keeps tables in the dtype of its first call."""
    peer = peer_model(seed=1).double()
    return peer, ours_like(peer)


def proteins(lengths, seed=0):
    """Residue types, and the mask where lengths differ."""
    generator = torch.Generator().manual_seed(seed)
    longest = max(lengths)
    aatype = torch.randint(0, 21, (len(lengths), longest), generator=generator)
    mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
    return aatype.masked_fill(~mask, 0), mask


def relative(found, wanted):
    return float((found - wanted).norm() / wanted.norm())


def largest(found, wanted):
    assert found.shape == wanted.shape
    return float((found - wanted).detach().abs().max())


@torch.no_grad()
def run(models, lengths, recycles):
    peer, ours = models
    aatype, mask = proteins(lengths)
    wanted = peer(aatype, mask.long(), num_recycles=recycles)
    found = ours(aatype, None if bool(mask.all()) else mask, recycles=recycles)
    return aatype, mask, found, wanted


@pytest.mark.parametrize("recycles", [0, 1, 3])
@pytest.mark.parametrize("lengths", [(1,), (9,), (26,), (12, 12), (7, 13, 4)])
def test_representations_and_atoms(models, lengths, recycles):
    _, mask, found, wanted = run(models, lengths, recycles)
    pairs = mask[:, :, None] & mask[:, None]
    blocks = mask.expand(2, *mask.shape)
    assert relative(found.s[mask], wanted.s_s[mask]) <= RELATIVE
    assert relative(found.z[pairs], wanted.s_z[pairs]) <= RELATIVE
    assert largest(found.structure.positions[blocks], wanted.positions[blocks]) <= POSITIONS
    assert relative(found.structure.states[blocks], wanted.states[blocks]) <= RELATIVE
    assert largest(found.plddt[mask], wanted.plddt[mask]) <= CONFIDENCE
    assert found.alpha.shape == (recycles + 1, *mask.shape, 3)


@pytest.mark.parametrize("length", [1, 9, 26])
def test_heads(models, length):
    """One protein without padding: the peer takes pTM over the batch and its padding."""
    _, ours = models
    _, mask, found, wanted = run(models, (length,), 1)
    with torch.no_grad():
        confidence = pair_confidence(found.z, ours.ptm_head, mask)
        assert largest(confidence.pae, wanted.predicted_aligned_error) <= ERRORS
        assert largest(confidence.ptm, wanted.ptm.reshape(1)) <= CONFIDENCE
        assert (confidence.iptm == 0).all()
        assert relative(symmetric_logits(found.z, ours.distogram_head), wanted.distogram_logits) <= RELATIVE
        assert relative(ours.ptm_head(found.z), wanted.ptm_logits) <= RELATIVE
        assert relative(ours.lm_head(found.s), wanted.lm_logits) <= RELATIVE
        assert relative(found.lddt_logits, wanted.lddt_head[-1]) <= RELATIVE


def test_as_many_passes_as_trained_by_default(models):
    peer, ours = models
    aatype, _ = proteins((8,))
    with torch.no_grad():
        found, wanted = ours(aatype), peer(aatype)
    assert len(found.alpha) == peer.config.esmfold_config.trunk.max_recycles
    assert largest(found.structure.positions, wanted.positions) <= POSITIONS


def test_residue_numbers_and_hidden_residues(models):
    peer, ours = models
    aatype, mask = proteins((12,))
    index = torch.cat([torch.arange(5), torch.arange(7) + 40])[None]
    hidden = torch.arange(12)[None] % 4 == 1
    with torch.no_grad():
        # The peer trips over its own record of what was hidden; what it hides is what it looks up here.
        peer_types, peer_tokens, _ = peer.bert_mask(
            aatype, peer.af2_idx_to_esm_idx(aatype, mask.long()), mask.long(), hidden.long()
        )
        states = peer.compute_language_model_representations(peer_tokens)
        states = (peer.esm_s_combine.softmax(0).unsqueeze(0) @ states).squeeze(2)
        first = peer.esm_s_mlp(states) + peer.embedding(peer_types)
        empty = first.new_zeros(1, 12, 12, peer.config.esmfold_config.trunk.pairwise_state_dim)
        wanted = peer.trunk(first, empty, aatype, index, mask.long(), no_recycles=1)
        found = ours(aatype, residue_index=index, hidden=hidden, recycles=1)
    assert relative(found.s, wanted["s_s"]) <= RELATIVE
    assert largest(found.structure.positions, wanted["positions"]) <= POSITIONS


@pytest.mark.parametrize("lengths", [(11,), (6, 10)])
def test_in_float64(wide_models, lengths):
    with peer_in_float64():
        _, mask, found, wanted = run(wide_models, lengths, 2)
    pairs = mask[:, :, None] & mask[:, None]
    blocks = mask.expand(2, *mask.shape)
    assert relative(found.s[mask], wanted.s_s[mask]) <= EXACT
    assert relative(found.z[pairs], wanted.s_z[pairs]) <= EXACT
    assert largest(found.structure.positions[blocks], wanted.positions[blocks]) <= EXACT
    assert largest(found.plddt[mask], wanted.plddt[mask]) <= EXACT
    confidence = pair_confidence(found.z, wide_models[1].ptm_head, mask)
    assert largest(confidence.pae[pairs], wanted.predicted_aligned_error[pairs]) <= LIMITS_IN_FLOAT32


def test_gradients_equal_the_peers(wide_models):
    """Of the last pass, with respect to every weight but the language model's, which stays as it is."""
    peer, ours = wide_models
    aatype, _ = proteins((9,))

    def gradients(model, s, z, positions):
        model.zero_grad()
        (s.square().sum() + z.square().sum() + positions.square().mean()).backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    with peer_in_float64():
        wanted = peer(aatype, num_recycles=1)
        theirs = gradients(peer, wanted.s_s, wanted.s_z, wanted.positions)
    for checkpoint in (False, True):
        found = ours(aatype, recycles=1, options=ForwardOptions(checkpoint=checkpoint))
        mine = gradients(ours, found.s, found.z, found.structure.positions)
        assert mine.keys() == theirs.keys()
        for name, gradient in theirs.items():
            assert largest(mine[name], gradient) <= EXACT * max(1.0, float(gradient.abs().max())), name


def test_training_draws_dropout_and_still_has_gradients():
    peer = peer_model(dropout=0.2)
    ours = ours_like(peer).train()
    aatype, _ = proteins((9,))
    torch.manual_seed(0)
    first, second = ours(aatype, recycles=0), ours(aatype, recycles=0)
    assert largest(first.z, second.z) > 0
    first.z.sum().backward()
    assert all(
        p.grad is not None and p.grad.isfinite().all()
        for p in ours.trunk.blocks.parameters()
        if p.requires_grad
    )
