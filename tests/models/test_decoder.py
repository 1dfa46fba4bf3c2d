"""The decoder against a naive float64 form, its tokenisers, its blocks of packed sequences, and its files."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foldase_models.errors import ModelError
from foldase_models.language.decoder import (
    Decoder,
    DecoderConfig,
    PackedBlocks,
    decode,
    encode,
    load_decoder,
    save_decoder,
)
from foldase_models.language.decoder.features import IGNORED, padded, windows
from foldase_models.language.decoder.heads import next_token_loss, token_losses
from foldase_models.metrics import perplexity

CLOSE = 2e-5
"""float32 against float64, of logits of order 1."""
SMALL = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
    "initializer_range": 0.3,
}


def small(**changed) -> Decoder:
    torch.manual_seed(1)
    model = Decoder(DecoderConfig(**{**SMALL, **changed}))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def naive(model: Decoder, tokens: torch.Tensor) -> torch.Tensor:
    """Logits in float64, one position and one head after the other, straight from the papers."""
    config, state = model.config, {k: v.double() for k, v in model.state_dict().items()}
    width, shared = config.head_width, config.num_attention_heads // config.num_key_value_heads

    def norm(x, key):
        return x / (x.square().mean(-1, keepdim=True) + config.rms_norm_eps).sqrt() * state[key]

    def turned(x, place):
        out = x.clone()
        for j in range(width // 2):
            angle = place * config.rope_theta ** (-2 * j / width)
            a, b = x[j], x[j + width // 2]
            out[j] = a * math.cos(angle) - b * math.sin(angle)
            out[j + width // 2] = b * math.cos(angle) + a * math.sin(angle)
        return out

    rows = []
    for sequence in tokens:
        x = state["model.embed_tokens.weight"][sequence]
        for number in range(config.num_hidden_layers):
            layer = f"model.layers.{number}."
            y = norm(x, layer + "input_layernorm.weight")
            q, k, v = (y @ state[f"{layer}self_attn.{name}_proj.weight"].T for name in "qkv")
            out = torch.zeros(len(sequence), config.num_attention_heads * width, dtype=torch.float64)
            for head in range(config.num_attention_heads):
                own, other = (slice(h * width, (h + 1) * width) for h in (head, head // shared))
                for i in range(len(sequence)):
                    scores = torch.stack(
                        [turned(q[i, own], i) @ turned(k[j, other], j) for j in range(i + 1)]
                    )
                    out[i, own] = torch.softmax(scores / math.sqrt(width), 0) @ v[: i + 1, other]
            x = x + out @ state[layer + "self_attn.o_proj.weight"].T
            y = norm(x, layer + "post_attention_layernorm.weight")
            gate, up = (y @ state[f"{layer}mlp.{name}_proj.weight"].T for name in ("gate", "up"))
            x = x + (gate * torch.sigmoid(gate) * up) @ state[layer + "mlp.down_proj.weight"].T
        rows.append(norm(x, "model.norm.weight") @ state["lm_head.weight"].T)
    return torch.stack(rows)


@pytest.mark.parametrize("changed", [{}, {"num_key_value_heads": 4, "tie_word_embeddings": True}])
@torch.no_grad()
def test_logits_are_those_of_the_naive_form(changed):
    model = small(**changed)
    tokens = torch.randint(0, 27, (2, 9), generator=torch.Generator().manual_seed(0))
    wanted = naive(model, tokens)
    assert wanted.std() > 0.5
    torch.testing.assert_close(model(tokens).double(), wanted, atol=CLOSE, rtol=CLOSE)


def test_gradients_are_those_of_the_naive_form():
    model = small(num_hidden_layers=1)
    tokens = torch.tensor([[0, 3, 5, 7, 0]])
    loss = next_token_loss(model(tokens[:, :-1]), tokens[:, 1:])
    loss.backward()
    found = model.model.layers[0].self_attn.k_proj.weight.grad
    step = 1e-4
    for place in [(0, 0), (5, 7), (11, 23)]:
        losses = []
        for sign in (1, -1):
            with torch.no_grad():
                model.model.layers[0].self_attn.k_proj.weight[place] += sign * step
                logits = naive(model, tokens[:, :-1])
                losses.append(float(next_token_loss(logits, tokens[:, 1:])))
                model.model.layers[0].self_attn.k_proj.weight[place] -= sign * step
        assert float(found[place]) == pytest.approx((losses[0] - losses[1]) / (2 * step), rel=2e-2, abs=1e-4)


@torch.no_grad()
def test_no_token_sees_those_behind_it():
    model = small()
    tokens = torch.arange(12)[None] % 27
    changed = tokens.clone()
    changed[0, 8:] = 20
    before, after = model(tokens), model(changed)
    assert torch.equal(before[:, :8], after[:, :8])
    assert not torch.allclose(before[:, 8:], after[:, 8:])


@torch.no_grad()
def test_losses_leave_out_what_is_padding():
    model = small()
    pieces = [piece for text in ("MKTAY", "GS") for piece in windows(encode(text), 16)]
    inputs, targets = padded(pieces)
    assert inputs.shape == (2, 6)
    assert (targets != IGNORED).sum() == 6 + 3
    losses = token_losses(model(torch.from_numpy(inputs)), torch.from_numpy(targets))
    assert (losses[1, 3:] == 0).all()
    alone = token_losses(model(torch.from_numpy(inputs[1:, :3])), torch.from_numpy(targets[1:, :3]))
    torch.testing.assert_close(losses[1:, :3], alone, atol=CLOSE, rtol=CLOSE)


def test_perplexity_of_a_guess_is_the_vocabulary():
    logits, targets = torch.zeros(1, 7, 27), torch.zeros(1, 7, dtype=torch.int64)
    assert perplexity(float(token_losses(logits, targets).sum()), 7) == pytest.approx(27)
    assert perplexity(1e9, 1) == math.inf
    with pytest.raises(ModelError, match="no_tokens"):
        perplexity(0.0, 0)


@given(st.text(max_size=50))
@settings(max_examples=50, deadline=None)
def test_any_text_comes_back_from_its_bytes(text):
    ids = encode(text, "bytes")
    assert ((ids >= 1) & (ids <= 256)).all()
    assert decode(ids, "bytes") == text


def test_letters_of_proteins_come_back_and_others_are_named():
    assert decode(encode("MKTAYXBZ")) == "MKTAYXBZ"
    for text, place in (("MK1", 3), ("mk", 1), ("MKé", 3)):
        with pytest.raises(ModelError, match=f"position {place}") as caught:
            encode(text)
        assert caught.value.code == "unknown_residue"
    with pytest.raises(ModelError, match="unknown_token"):
        decode(np.array([0]))
    with pytest.raises(ModelError, match="tokeniser"):
        encode("MK", "foreign")


@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(any),
    length=st.integers(1, 12),
    seed=st.integers(0, 5),
)
@settings(max_examples=60, deadline=None)
def test_blocks_hold_every_sequence_once_a_round_and_nothing_else(lengths, length, seed):
    sequences = [np.arange(1, n + 1) + 10 * number for number, n in enumerate(lengths)]
    packed = PackedBlocks(sequences, length, seed)
    wanted = 2 * packed.tokens
    blocks = packed.batch(0, -(-wanted // length))
    assert (blocks[1:, 0] == blocks[:-1, -1]).all(), (
        "the last target of a block is the next one's first input"
    )
    stream = blocks[:, :-1].ravel()[:wanted]
    for lap in stream.reshape(2, -1):
        starts = np.flatnonzero(lap == 0)
        found = [tuple(piece[1:]) for piece in np.split(lap, starts[1:])]
        assert sorted(found) == sorted(tuple(ids) for ids in sequences)
    again = PackedBlocks(sequences, length, seed)
    assert (again.block(len(blocks) - 1) == blocks[-1]).all(), "whatever was asked for before"


def test_rounds_and_seeds_have_orders_of_their_own():
    sequences = [np.full(1, number + 1) for number in range(20)]
    first, second = PackedBlocks(sequences, 40, 0).batch(0, 2)
    assert (first != second).any()
    assert (PackedBlocks(sequences, 40, 1).block(0) != first).any()
    with pytest.raises(ModelError, match="no_sequences"):
        PackedBlocks([np.zeros(0, dtype=np.int64)], 4, 0)


def test_long_sequences_are_scored_in_windows_that_predict_each_token_once():
    ids = np.arange(1, 11)
    pieces = windows(ids, 4)
    assert [len(piece) for piece in pieces] == [5, 5, 4]
    assert np.concatenate([piece[1:] for piece in pieces]).tolist() == [*range(1, 11), 0]


@torch.no_grad()
def test_a_model_comes_back_from_its_folder(tmp_path):
    model = small(tie_word_embeddings=True)
    save_decoder(tmp_path, model, {"steps": 3})
    assert {path.name for path in tmp_path.iterdir()} == {
        "config.json",
        "model.safetensors",
        "training.json",
    }
    again = load_decoder(tmp_path)
    assert again.config == DecoderConfig(**SMALL, tie_word_embeddings=True, head_dim=6)
    assert again.lm_head.weight is again.model.embed_tokens.weight
    tokens = torch.arange(7)[None]
    assert torch.equal(again(tokens), model(tokens))


def test_other_models_are_refused_by_name(tmp_path):
    save_decoder(tmp_path, small())
    described = json.loads((tmp_path / "config.json").read_text())

    def fault(**changed: object) -> ModelError:
        (tmp_path / "config.json").write_text(json.dumps(described | changed))
        with pytest.raises(ModelError) as caught:
            load_decoder(tmp_path)
        return caught.value

    assert fault(model_type="gpt2").code == "wrong_model"
    assert "attention_bias" in fault(attention_bias=True).message
    assert "llama3" in fault(rope_parameters={"rope_type": "llama3"}).message
    assert "lm_head.weight" in fault(vocab_size=40).message
    assert fault(num_hidden_layers=3).code == "wrong_weights"
    assert "num_key_value_heads" in fault(num_key_value_heads=3).message
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    assert fault().code == "pickle_refused"


def test_sequences_beyond_what_the_model_is_meant_for_are_refused():
    with pytest.raises(ModelError, match="too_long"):
        small()(torch.zeros(1, 33, dtype=torch.int64))
