"""ESM-2 against transformers on random small weights: states, logits, contacts and scores, from its files."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from transformers import EsmConfig, EsmForMaskedLM, EsmModel
from transformers.models.esm import modeling_esm

from foldase_models.folding.esm2 import (
    Esm2Config,
    Esm2Encoder,
    load_esm2,
    masked_log_probabilities,
    predict_contacts,
    pseudo_perplexity,
    score_mutations,
    wild_type_log_probabilities,
)
from foldase_models.folding.esm2.features import letter_ids, tokenize
from foldase_models.folding.esm2.predict import contact_probabilities
from foldase_models.folding.esm2.weights import encoder_renames, is_left_over

pytestmark = pytest.mark.xdist_group("transformers")

CLOSE = 1e-5
"""float32 against float32."""
EXACT = 1e-9
"""float64 against float64."""
PROTEINS = ["MKTAYIAKQRQISFVK", "GSHMLE", "ACDWXYUZOB"]
MASK = 32


def peer(**changed):
    torch.manual_seed(0)
    settings = {
        "vocab_size": 33,
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 40,
        "mask_token_id": MASK,
        "pad_token_id": 1,
        "layer_norm_eps": 1e-5,
        "position_embedding_type": "rotary",
        "token_dropout": True,
        "attn_implementation": "eager",
    }
    model = EsmForMaskedLM(EsmConfig(**{**settings, **changed})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def theirs():
    return peer()


@pytest.fixture(scope="module")
def ours(theirs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("esm2")
    theirs.save_pretrained(folder)
    return load_esm2(folder)


def as_ours(theirs, folder):
    theirs.save_pretrained(folder)
    return load_esm2(folder)


def batch(model, *, masked):
    """Padded proteins; with ``masked`` an eighth of the tokens of one are masks."""
    tokens = tokenize(PROTEINS, model.config)
    ids = torch.from_numpy(tokens.ids)
    if masked:
        ids[0, [2, 9]] = MASK
        ids[2, 4] = MASK
    return ids, torch.from_numpy(tokens.mask)


def close(found, wanted, tolerance=CLOSE):
    found, wanted = torch.as_tensor(found), torch.as_tensor(wanted)
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() <= tolerance * max(1.0, float(wanted.abs().max()))


@pytest.mark.parametrize("masked", [False, True])
@torch.no_grad()
def test_states_and_logits(ours, theirs, masked):
    ids, mask = batch(ours, masked=masked)
    wanted = theirs(ids, attention_mask=mask.long(), output_hidden_states=True)
    found = ours.esm(ids, mask, keep_all=True)
    assert len(found.all) == len(wanted.hidden_states) == 4
    for state, expected in zip(found.all, wanted.hidden_states, strict=True):
        close(state, expected)
    assert torch.equal(found.last, found.all[-1])
    close(ours(ids, mask), wanted.logits)


@pytest.mark.parametrize(
    "changed",
    [
        {"position_embedding_type": "absolute", "token_dropout": False, "emb_layer_norm_before": True},
        {"token_dropout": False, "tie_word_embeddings": False, "rope_theta": 500.0},
    ],
)
@torch.no_grad()
def test_other_kinds_of_the_model(tmp_path, changed):
    theirs = peer(**changed)
    ours = as_ours(theirs, tmp_path)
    ids, mask = batch(ours, masked=True)
    close(ours(ids, mask), theirs(ids, attention_mask=mask.long()).logits)
    close(
        contact_probabilities(ours.esm, ids, mask),
        theirs.predict_contacts(ids, mask.long()),
    )


@torch.no_grad()
def test_float64(tmp_path, monkeypatch):
    """Their rotation is float32 whatever the model is; here it is written out for this one comparison."""

    def rotate(q, k, cos, sin, unsqueeze_dim):
        cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
        return tuple(x * cos + modeling_esm.rotate_half(x) * sin for x in (q, k))

    monkeypatch.setattr(modeling_esm, "apply_rotary_pos_emb", rotate)
    theirs = peer(hidden_size=16).double()
    ours = as_ours(theirs, tmp_path)
    ids = torch.from_numpy(tokenize(["MKTAYIAKQRQISF"], ours.config).ids)
    ids[0, [3, 7]] = MASK  # 2 of 16: their share of masks is float32, which has 1/8
    wanted = theirs(ids, output_hidden_states=True)
    found = ours.esm(ids, keep_all=True)
    assert found.last.dtype == torch.float64
    for state, expected in zip(found.all, wanted.hidden_states, strict=True):
        close(state, expected, EXACT)
    close(ours(ids), wanted.logits, EXACT)
    close(contact_probabilities(ours.esm, ids), theirs.predict_contacts(ids, torch.ones_like(ids)), EXACT)


@torch.no_grad()
def test_weighted_sums_of_states_as_esmfold_takes_them(ours):
    ids, mask = batch(ours, masked=False)
    weights = torch.softmax(torch.randn(4), 0)
    states = ours.esm(ids, mask, keep_all=True).all
    found = ours.esm(ids, mask, layer_weights=weights)
    assert found.all is None
    close(found.combined, sum(weight * state for weight, state in zip(weights, states, strict=True)))


@pytest.mark.parametrize("group", [1, 2000, 2**20])
def test_contacts_of_a_padded_batch(ours, theirs, group, monkeypatch):
    """Whatever the groups of heads and rows."""
    monkeypatch.setattr("foldase_models.folding.esm2.heads.GROUP", group)
    ids, mask = batch(ours, masked=False)
    with torch.no_grad():
        close(contact_probabilities(ours.esm, ids, mask), theirs.predict_contacts(ids, mask.long()))


def test_contacts_of_a_sequence(ours, theirs):
    found = predict_contacts(ours, PROTEINS[0])
    ids = torch.from_numpy(tokenize(PROTEINS[:1], ours.config).ids)
    with torch.no_grad():
        close(found, theirs.predict_contacts(ids, torch.ones_like(ids))[0])
    assert found.dtype == np.float32
    assert np.array_equal(found, found.T)


def their_log_probabilities(theirs, config, sequence, hidden):
    """At the hidden residues, ``[len(hidden), V]``."""
    ids = torch.from_numpy(tokenize([sequence], config).ids)
    places = torch.tensor(hidden) + 1
    ids[0, places] = MASK
    with torch.no_grad():
        return torch.log_softmax(theirs(ids).logits[0, places], -1)


def test_masked_log_probabilities(ours, theirs):
    sequence = PROTEINS[0]
    found = masked_log_probabilities(ours, sequence)
    wanted = torch.cat([their_log_probabilities(theirs, ours.config, sequence, [i]) for i in range(16)])
    close(found, wanted)
    own = [float(wanted[i, token]) for i, token in enumerate(letter_ids(sequence))]
    assert math.isclose(pseudo_perplexity(found, sequence), math.exp(-sum(own) / 16), rel_tol=CLOSE)


def test_several_residues_masked_together(ours, theirs):
    sequence, shares = PROTEINS[0][:11], []
    found = masked_log_probabilities(ours, sequence, together=3, progress=shares.append)
    # Eleven residues, three a pass: four passes, every fourth residue.
    for hidden in ([0, 4, 8], [1, 5, 9], [2, 6, 10], [3, 7]):
        close(found[hidden], their_log_probabilities(theirs, ours.config, sequence, hidden))
    assert shares[-1] == 1.0


def test_batches_of_passes_change_nothing(ours, monkeypatch):
    wanted = masked_log_probabilities(ours, PROTEINS[0])
    monkeypatch.setattr("foldase_models.folding.esm2.scoring.TOKENS_PER_BATCH", 40)
    close(masked_log_probabilities(ours, PROTEINS[0]), wanted)


def test_scores_of_mutations(ours, theirs):
    sequence = PROTEINS[0]
    mutations = ["M1A", "K8E", "M1A:K8E", "K8W"]
    found = score_mutations(ours, sequence, mutations)
    for text, score in zip(mutations, found, strict=True):
        parts = text.split(":")
        hidden = [int(part[1:-1]) - 1 for part in parts]
        seen = their_log_probabilities(theirs, ours.config, sequence, hidden)
        wanted = sum(
            float(seen[row, letter_ids(part[-1])[0]] - seen[row, letter_ids(part[0])[0]])
            for row, part in enumerate(parts)
        )
        assert math.isclose(score, wanted, abs_tol=CLOSE * 10), text
    quick = score_mutations(ours, sequence, mutations, method="wild-type")
    assert math.isclose(quick[2], quick[0] + quick[1], abs_tol=CLOSE)
    ids = torch.from_numpy(tokenize([sequence], ours.config).ids)
    with torch.no_grad():
        seen = torch.log_softmax(theirs(ids).logits[0, 1:-1], -1)
    close(wild_type_log_probabilities(ours, sequence), seen)
    assert math.isclose(
        quick[1], float(seen[7, letter_ids("E")[0]] - seen[7, letter_ids("K")[0]]), abs_tol=CLOSE * 10
    )


def test_the_parts_of_a_large_checkpoint(ours, theirs, tmp_path):
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    read = load_esm2(tmp_path)
    assert all(torch.equal(tensor, read.state_dict()[key]) for key, tensor in ours.state_dict().items())


def test_an_encoder_without_language_head(ours, theirs, tmp_path):
    EsmModel.from_pretrained(_saved(theirs, tmp_path / "whole")).save_pretrained(tmp_path / "encoder")
    read = load_esm2(tmp_path / "encoder")
    assert read.lm_head is None
    assert np.array_equal(predict_contacts(read, PROTEINS[0]), predict_contacts(ours, PROTEINS[0]))


def _saved(theirs, folder):
    theirs.save_pretrained(folder)
    return folder


def test_keys_are_theirs(ours, theirs):
    assert set(ours.state_dict()) == set(theirs.state_dict())


def test_keys_of_older_checkpoints():
    config = Esm2Config(hidden_size=8, num_attention_heads=1, position_embedding_type="rotary")
    encoder = Esm2Encoder(config)
    old = {f"esm.encoder.layer.{i}.attention.self.rotary_embeddings.inv_freq": None for i in range(3)}
    assert encoder_renames(old) == {"esm.rotary_embeddings.inv_freq": next(iter(old))}
    assert all(is_left_over(key, config) for key in [*old, "esm.embeddings.position_embeddings.weight"])
    assert not any(is_left_over(f"esm.{key}", config) for key in encoder.state_dict())


def test_gradients_are_theirs(ours, theirs):
    ids, mask = batch(ours, masked=True)
    for model, logits in ((ours, ours(ids, mask)), (theirs, theirs(ids, attention_mask=mask.long()).logits)):
        model.zero_grad()
        logits.square().mean().backward()
    wanted = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        if "contact_head" not in name:
            close(parameter.grad, wanted[name].grad, 10 * CLOSE)
