"""ESM-2 on its own: what it refuses, long sequences, and the memory that contacts take."""

from __future__ import annotations

import json

import pytest
import torch
from counted_memory import peak_of

from foldase_models.errors import ModelError
from foldase_models.folding.esm2 import (
    Esm2,
    Esm2Config,
    load_esm2,
    masked_log_probabilities,
    predict_contacts,
    score_mutations,
)
from foldase_models.folding.esm2 import heads as esm2_heads
from foldase_models.folding.esm2.features import tokenize
from foldase_models.folding.esm2.predict import contact_probabilities

SMALL = Esm2Config(
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=32,
    position_embedding_type="rotary",
    token_dropout=True,
)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Esm2(SMALL).eval()


def code(work):
    with pytest.raises(ModelError) as caught:
        work()
    return caught.value.code


def test_tokens_are_those_of_the_published_vocabulary():
    tokens = tokenize(["LAGX", "W"], SMALL)
    assert tokens.ids.tolist() == [[0, 4, 5, 6, 24, 2], [0, 22, 2, 1, 1, 1]]
    assert tokens.mask.tolist() == [[True] * 6, [True] * 3 + [False] * 3]


@pytest.mark.parametrize(
    ("sequences", "fault", "location"),
    [
        (["MK", "MkT"], "unknown_residue", "2"),
        (["M*"], "unknown_residue", "1"),
        (["M", ""], "empty_sequence", "2"),
        ([], "no_sequences", None),
    ],
)
def test_sequences_that_are_refused(sequences, fault, location):
    with pytest.raises(ModelError) as caught:
        tokenize(sequences, SMALL)
    assert (caught.value.code, caught.value.location) == (fault, location)


@pytest.mark.parametrize("text", ["A1G", "M1", "1G", "M0A", "M9A", "M1b", "M1A:M1C", "M1A:", ""])
def test_mutations_that_are_refused(model, text):
    with pytest.raises(ModelError) as caught:
        score_mutations(model, "MKT", [text])
    assert (caught.value.code, caught.value.location) == ("bad_mutation", text)


def test_no_mutations_have_no_scores(model):
    assert score_mutations(model, "MKT", []).shape == (0,)


@pytest.mark.parametrize(
    "changed",
    [
        {"position_embedding_type": "relative_key"},
        {"is_decoder": True},
        {"vocab_list": ["a", "b"]},
        {"hidden_size": 15},
        {"num_hidden_layers": 0},
        {"hidden_size": 6, "num_attention_heads": 2},
    ],
)
def test_configurations_that_are_refused(changed):
    values = {"model_type": "esm", "position_embedding_type": "rotary"} | changed
    assert code(lambda: Esm2Config.from_json(values)) == "bad_config"


@pytest.mark.parametrize("values", [{"model_type": "bert"}, {"model_type": "esm", "is_folding_model": True}])
def test_other_models_are_refused(tmp_path, values, model):
    from safetensors.torch import save_file

    save_file({"esm.x": torch.ones(1)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert code(lambda: load_esm2(tmp_path)) == "wrong_model"


def test_scores_need_a_language_head():
    encoder = Esm2(SMALL, language_head=False).eval()
    assert code(lambda: masked_log_probabilities(encoder, "MKT")) == "wrong_model"
    assert predict_contacts(encoder, "MKT").shape == (3, 3)


def test_one_residue(model):
    assert predict_contacts(model, "M").shape == (1, 1)
    assert masked_log_probabilities(model, "M").shape == (1, 33)


def test_padding_changes_nothing(model):
    alone = tokenize(["MKTAY"], SMALL)
    padded = tokenize(["MKTAY", "GSHMLEACDW"], SMALL)
    with torch.no_grad():
        wanted = model(torch.from_numpy(alone.ids))
        found = model(torch.from_numpy(padded.ids), torch.from_numpy(padded.mask))
        pairs = contact_probabilities(model.esm, torch.from_numpy(alone.ids))
        of_padded = contact_probabilities(
            model.esm, torch.from_numpy(padded.ids), torch.from_numpy(padded.mask)
        )
    assert torch.allclose(found[:1, :7], wanted, atol=1e-6)
    assert torch.allclose(of_padded[:1, :5, :5], pairs, atol=1e-6)


def test_contacts_hold_two_matrices_whatever_layers_and_heads(model, monkeypatch):
    """All maps together would be four such matrices, and their products more."""
    monkeypatch.setattr(esm2_heads, "GROUP", 2**16)
    length = 1200  # beyond what attention computes in one go
    tokens = torch.from_numpy(tokenize(["MKTAYIAKQR" * (length // 10)], SMALL).ids)
    matrix = 4 * length**2
    assert peak_of(lambda: contact_probabilities(model.esm, tokens)) < 2.5 * matrix
