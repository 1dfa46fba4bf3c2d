"""The decoder against transformers' Llama on random small weights, both ways through files."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from foldase_models.language.decoder import Decoder, DecoderConfig, load_decoder, save_decoder

pytestmark = pytest.mark.xdist_group("transformers")

CLOSE = 1e-5
"""float32 against float32, relative to the largest."""
SMALL = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
}


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    assert found.shape == wanted.shape
    found, wanted = found.detach(), wanted.detach()
    assert float((found - wanted).abs().max()) <= CLOSE * max(1.0, float(wanted.abs().max()))


@pytest.mark.parametrize(
    "changed",
    [
        {"num_key_value_heads": 2, "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
        {"num_key_value_heads": 4, "tie_word_embeddings": True, "head_dim": 16},
    ],
)
def test_a_llama_checkpoint_gives_the_same_logits_and_gradients(tmp_path, changed):
    torch.manual_seed(0)
    theirs = LlamaForCausalLM(LlamaConfig(**{**SMALL, "initializer_range": 0.2, **changed})).eval()
    theirs.save_pretrained(tmp_path)
    ours = load_decoder(tmp_path)
    tokens = torch.randint(0, 40, (2, 17))
    found, wanted = ours(tokens), theirs(tokens).logits
    assert wanted.std() > 0.1
    close(found, wanted)
    found.square().mean().backward()
    wanted.square().mean().backward()
    gradients = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        close(parameter.grad, gradients[name].grad)


@torch.no_grad()
def test_our_folder_is_read_by_their_library(tmp_path):
    torch.manual_seed(0)
    config = DecoderConfig(**SMALL, num_key_value_heads=2, rope_theta=700.0, tokens="foreign")
    ours = Decoder(config).eval()
    save_decoder(tmp_path, ours)
    theirs = LlamaForCausalLM.from_pretrained(tmp_path).eval()
    tokens = torch.randint(0, 40, (2, 17))
    close(ours(tokens), theirs(tokens).logits)


@torch.no_grad()
def test_a_bare_trunk_is_read_where_the_head_is_tied(tmp_path):
    torch.manual_seed(0)
    theirs = LlamaForCausalLM(LlamaConfig(**SMALL, num_key_value_heads=4, tie_word_embeddings=True)).eval()
    theirs.model.save_pretrained(tmp_path)
    tokens = torch.randint(0, 40, (1, 9))
    close(load_decoder(tmp_path)(tokens), theirs(tokens).logits)
