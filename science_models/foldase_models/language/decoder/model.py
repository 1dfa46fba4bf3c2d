"""A pre-norm causal decoder (Touvron et al. 2023, arXiv:2302.13971), with Hugging Face's key names of Llama.

Shapes: B sequences, L tokens, D channels, H heads of queries and G of keys, W channels each, V tokens.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from foldase_kernels import evoformer_attention
from foldase_models.errors import ModelError
from foldase_models.language.decoder.config import DecoderConfig

Angles = tuple[torch.Tensor, torch.Tensor]
"""Cosine and sine, float32 ``[L, 1, W / 2]``."""


class _Rotary(nn.Module):
    """Angles that grow with the position (Su et al. 2021, arXiv:2104.09864).

    A buffer that is no part of the state: it follows from the configuration.
    """

    inv_freq: torch.Tensor

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        powers = torch.arange(0, config.head_width, 2, dtype=torch.float32) / config.head_width
        self.register_buffer("inv_freq", 1.0 / config.rope_theta**powers, persistent=False)

    def forward(self, length: int) -> Angles:
        """Of the positions 0 to ``length - 1``."""
        positions = torch.arange(length, device=self.inv_freq.device, dtype=torch.float32)
        angles = (positions[:, None] * self.inv_freq.float()).unsqueeze(-2)
        return angles.cos(), angles.sin()


def _rotated(x: torch.Tensor, angles: Angles) -> torch.Tensor:
    """``[B, L, H, W]``, channels j and j + W / 2 a pair; half precision is left for the time of it."""
    cosine, sine = angles
    wide = x if x.dtype == torch.float64 else x.float()
    first, second = wide.chunk(2, -1)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), -1).to(x.dtype)


class _Attention(nn.Module):
    """Keys: ``q_proj``, ``k_proj``, ``v_proj``, ``o_proj``."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.heads, self.groups = config.num_attention_heads, config.num_key_value_heads
        self.width = config.head_width
        own, shared = self.heads * self.width, self.groups * self.width
        self.q_proj = nn.Linear(config.hidden_size, own, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, shared, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, shared, bias=False)
        self.o_proj = nn.Linear(own, config.hidden_size, bias=False)

    def forward(self, x: torch.Tensor, angles: Angles, backend: str) -> torch.Tensor:
        """What tokens gather from those up to their own, ``[B, L, D]``."""
        ends = x.shape[:-1]
        q = _rotated(self.q_proj(x).view(*ends, self.heads, self.width), angles)
        k = _rotated(self.k_proj(x).view(*ends, self.groups, self.width), angles)
        v = self.v_proj(x).view(*ends, self.groups, self.width)
        if self.groups < self.heads:
            shared = self.heads // self.groups
            k, v = k.repeat_interleave(shared, -2), v.repeat_interleave(shared, -2)
        out = evoformer_attention(q, k, v, causal=True, backend=backend)
        gathered: torch.Tensor = self.o_proj(out.flatten(-2))
        return gathered


class _Transition(nn.Module):
    """SwiGLU (Shazeer 2020, arXiv:2002.05202). Keys: ``gate_proj``, ``up_proj``, ``down_proj``."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[B, L, D]``."""
        out: torch.Tensor = self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class DecoderBlock(nn.Module):
    """Keys: ``self_attn``, ``mlp``, ``input_layernorm``, ``post_attention_layernorm``."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.self_attn = _Attention(config)
        self.mlp = _Transition(config)
        self.input_layernorm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: torch.Tensor, angles: Angles, backend: str) -> torch.Tensor:
        """``[B, L, D]``."""
        x = x + self.self_attn(self.input_layernorm(x), angles, backend)
        out: torch.Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class _Trunk(nn.Module):
    """Keys: ``embed_tokens``, ``layers``, ``norm``."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderBlock(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary = _Rotary(config)

    def forward(self, tokens: torch.Tensor, backend: str) -> torch.Tensor:
        """States after the last norm, ``[B, L, D]``."""
        x: torch.Tensor = self.embed_tokens(tokens)
        angles = self.rotary(tokens.shape[1])
        for block in self.layers:
            x = block(x, angles, backend)
        out: torch.Tensor = self.norm(x)
        return out


class Decoder(nn.Module):
    """Keys: ``model`` and ``lm_head``, one matrix with ``model.embed_tokens`` where the head is tied."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.model = _Trunk(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self._initialise()
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def forward(self, tokens: torch.Tensor, *, backend: str = "auto") -> torch.Tensor:
        """Logits of the token after each, ``[B, L, V]``, from tokens int64 ``[B, L]``.

        Raises:
            ModelError: ``too_long``: more tokens than ``max_position_embeddings``.
        """
        longest = self.config.max_position_embeddings
        if tokens.shape[1] > longest:
            raise ModelError(
                f"{tokens.shape[1]} tokens are more than the {longest} that the model is meant for",
                code="too_long",
            )
        logits: torch.Tensor = self.lm_head(self.model(tokens, backend))
        return logits

    @torch.no_grad()
    def _initialise(self) -> None:
        spread = self.config.initializer_range
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1 and not parameter.is_meta:
                ends = name.endswith(("o_proj.weight", "down_proj.weight"))
                scale = (2 * self.config.num_hidden_layers) ** -0.5 if ends else 1.0
                nn.init.normal_(parameter, std=spread * scale)
