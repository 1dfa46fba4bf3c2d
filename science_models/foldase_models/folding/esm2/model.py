"""ESM-2: a pre-norm transformer over residues (Lin et al. 2023), with Hugging Face's key names.

Shapes: B sequences, L tokens, D channels, H heads of W channels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from foldase_kernels import evoformer_attention
from foldase_models.errors import ModelError
from foldase_models.folding.esm2.config import Esm2Config
from foldase_models.folding.esm2.heads import ContactHead, LanguageHead
from foldase_models.folding.options import ForwardOptions

TRAINED_MASK_RATE = 0.15 * 0.8
"""Share of tokens that were masks in training, for which ``token_dropout`` makes up (Lin et al. 2023)."""
FEWEST_POSITIONS = 256
"""Taken through a transition together at least: fewer would read its weights too often."""

Watch = Callable[[int, torch.Tensor, torch.Tensor], None]
"""Shown the layer's number, its queries and keys ``[B, L, H, W]``, scaled by nothing, rotated if rotary."""


class Esm2States(NamedTuple):
    """What the encoder gives.

    Attributes:
        last: ``[B, L, D]``, after the last layer norm.
        all: of the embeddings and every layer, the last one normed, where they were asked for.
        combined: ``[B, L, D]``, their sum under the weights that were given.
    """

    last: torch.Tensor
    all: tuple[torch.Tensor, ...] | None = None
    combined: torch.Tensor | None = None


class _Embeddings(nn.Module):
    """Keys: ``word_embeddings``, and as configured ``position_embeddings`` and ``layer_norm``."""

    def __init__(self, config: Esm2Config) -> None:
        super().__init__()
        self.config = config
        width, pad = config.hidden_size, config.pad_token_id
        self.word_embeddings = nn.Embedding(config.vocab_size, width, padding_idx=pad)
        absolute = config.position_embedding_type == "absolute"
        self.position_embeddings = (
            nn.Embedding(config.max_position_embeddings, width, padding_idx=pad) if absolute else None
        )
        self.layer_norm = nn.LayerNorm(width, config.layer_norm_eps) if config.emb_layer_norm_before else None

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """``[B, L, D]`` from tokens int64 ``[B, L]``; 0 where ``mask``, boolean ``[B, L]``, is False."""
        x: torch.Tensor = self.word_embeddings(tokens)
        if self.config.token_dropout:
            masked = tokens == self.config.mask_token_id
            share = masked.sum(-1).to(torch.promote_types(x.dtype, torch.float32)) / mask.sum(-1)
            factor = ((1 - TRAINED_MASK_RATE) / (1 - share))[:, None] * ~masked
            x = (x * factor.unsqueeze(-1)).to(x.dtype)
        if self.position_embeddings is not None:
            real = tokens != self.config.pad_token_id
            x = x + self.position_embeddings(real.cumsum(-1) * real + self.config.pad_token_id)
        if self.layer_norm is not None:
            x = self.layer_norm(x)
        return x * mask.unsqueeze(-1)


class _Rotary(nn.Module):
    """Rotates each pair of channels of queries and keys by an angle that grows with the position.

    Su et al. 2021, channels j and j + W / 2 a pair. Key: ``inv_freq``, which old checkpoints have rounded.
    """

    inv_freq: torch.Tensor

    def __init__(self, config: Esm2Config) -> None:
        super().__init__()
        powers = torch.arange(0, config.head_width, 2, dtype=torch.float32) / config.head_width
        self.register_buffer("inv_freq", 1.0 / config.rope_theta**powers)

    def angles(self, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosine and sine, float32 ``[L, 1, W / 2]``."""
        positions = torch.arange(length, device=self.inv_freq.device, dtype=torch.float32)
        angles = (positions[:, None] * self.inv_freq.float()).unsqueeze(-2)
        return angles.cos(), angles.sin()


def _rotated(x: torch.Tensor, angles: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """``[B, L, H, W]``; half precision is left for the time of it."""
    cosine, sine = angles
    wide = x if x.dtype == torch.float64 else x.float()
    first, second = wide.chunk(2, -1)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), -1).to(x.dtype)


class _SelfAttention(nn.Module):
    """Keys: ``query``, ``key``, ``value``."""

    def __init__(self, config: Esm2Config) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self,
        x: torch.Tensor,
        mask: torch.Tensor | None,
        angles: tuple[torch.Tensor, torch.Tensor] | None,
        watch: Callable[[torch.Tensor, torch.Tensor], None] | None,
        backend: str,
    ) -> torch.Tensor:
        """What tokens gather, ``[B, L, D]``; ``mask`` boolean ``[B, L]``; ``angles`` of :class:`_Rotary`."""
        shape = (*x.shape[:-1], self.heads, -1)
        q, k = self.query(x).view(shape), self.key(x).view(shape)
        if angles is not None:
            q, k = _rotated(q, angles), _rotated(k, angles)
        if watch is not None:
            watch(q, k)
        keys = None if mask is None else mask[:, None, None, :]
        out = evoformer_attention(q, k, self.value(x).view(shape), mask=keys, backend=backend)
        return out.flatten(-2)


class _Dense(nn.Module):
    """One linear layer under the key ``dense``."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width_in, width_out)


class _Attention(nn.Module):
    """Keys: ``self``, ``output.dense``, ``LayerNorm``."""

    def __init__(self, config: Esm2Config) -> None:
        super().__init__()
        self.self = _SelfAttention(config)
        self.output = _Dense(config.hidden_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)


class _Layer(nn.Module):
    """Attention and transition.

    Keys: ``attention``, ``intermediate.dense``, ``output.dense``, ``LayerNorm``.
    """

    def __init__(self, config: Esm2Config) -> None:
        super().__init__()
        self.attention = _Attention(config)
        self.intermediate = _Dense(config.hidden_size, config.intermediate_size)
        self.output = _Dense(config.intermediate_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)

    def _transition(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.output.dense(functional.gelu(self.intermediate.dense(self.LayerNorm(x))))
        return out

    def forward(
        self,
        x: torch.Tensor,
        mask: torch.Tensor | None,
        angles: tuple[torch.Tensor, torch.Tensor] | None,
        watch: Callable[[torch.Tensor, torch.Tensor], None] | None,
        options: ForwardOptions,
    ) -> torch.Tensor:
        """New ``x`` ``[B, L, D]``; ``mask`` boolean ``[B, L]``, True = real."""
        attention = self.attention
        attended = attention.self(attention.LayerNorm(x), mask, angles, watch, options.backend)
        x = x + attention.output.dense(attended)
        if torch.is_grad_enabled():
            return x + self._transition(x)
        # The hidden layer, four times as wide, is there for some positions at a time.
        positions = max(FEWEST_POSITIONS, options.group_bytes // (x.shape[-1] * x.element_size()))
        for part in torch.split(x, max(1, positions // x.shape[0]), dim=1):
            part.add_(self._transition(part))
        return x


class _Layers(nn.Module):
    """Keys: ``layer``, ``emb_layer_norm_after``."""

    def __init__(self, config: Esm2Config) -> None:
        super().__init__()
        self.layer = nn.ModuleList(_Layer(config) for _ in range(config.num_hidden_layers))
        self.emb_layer_norm_after = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)


class Esm2Encoder(nn.Module):
    """Keys as in Hugging Face's ``EsmModel`` without its pooler, as ``EsmForProteinFolding`` holds it too."""

    def __init__(self, config: Esm2Config) -> None:
        super().__init__()
        self.config = config
        self.embeddings = _Embeddings(config)
        self.rotary_embeddings = _Rotary(config) if config.position_embedding_type == "rotary" else None
        self.encoder = _Layers(config)
        self.contact_head = ContactHead(config.num_hidden_layers, config.num_attention_heads)

    def forward(
        self,
        tokens: torch.Tensor,
        mask: torch.Tensor | None = None,
        *,
        layer_weights: torch.Tensor | None = None,
        keep_all: bool = False,
        watch: Watch | None = None,
        options: ForwardOptions | None = None,
    ) -> Esm2States:
        """Hidden states of sequences.

        Dropout is none: the published models have none.

        Args:
            tokens: int64 ``[B, L]``, cls first, eos behind each sequence.
            mask: boolean ``[B, L]``, True = real; None means all.
            layer_weights: ``[layers + 1]``; gives ``combined``, in its dtype, holding one state at a time.
            keep_all: give ``all``.
            watch: shown queries and keys of every layer.
            options: kernel backend, and how many bytes of the representation a transition takes at a time.
        """
        options = options or ForwardOptions()
        x = self.embeddings(tokens, torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask)
        angles = None if self.rotary_embeddings is None else self.rotary_embeddings.angles(tokens.shape[1])
        states: list[torch.Tensor] = []
        combined: torch.Tensor | None = None
        last = len(self.encoder.layer)
        for number in range(last + 1):
            if number:
                shown = None if watch is None else _with_number(watch, number - 1)
                x = self.encoder.layer[number - 1](x, mask, angles, shown, options)
            if number == last:
                x = self.encoder.emb_layer_norm_after(x)
            if keep_all:
                states.append(x)
            if layer_weights is not None:
                share = layer_weights[number] * x.to(layer_weights.dtype)
                combined = share if combined is None else combined + share
        return Esm2States(x, tuple(states) if keep_all else None, combined)


def _with_number(watch: Watch, number: int) -> Callable[[torch.Tensor, torch.Tensor], None]:
    return lambda q, k: watch(number, q, k)


class Esm2(nn.Module):
    """Encoder and language head; keys as in Hugging Face's ``EsmForMaskedLM``."""

    def __init__(self, config: Esm2Config, *, language_head: bool = True) -> None:
        """Without ``language_head`` an encoder under the key ``esm``."""
        super().__init__()
        self.config = config
        self.esm = Esm2Encoder(config)
        self.lm_head = LanguageHead(config) if language_head else None
        if self.lm_head is not None and config.tie_word_embeddings:
            self.lm_head.decoder.weight = self.esm.embeddings.word_embeddings.weight

    def forward(
        self,
        tokens: torch.Tensor,
        mask: torch.Tensor | None = None,
        *,
        options: ForwardOptions | None = None,
    ) -> torch.Tensor:
        """Logits of the token at each position, ``[B, L, vocab_size]``; arguments as for the encoder.

        Raises:
            ModelError: ``wrong_model`` without a language head.
        """
        if self.lm_head is None:
            raise ModelError(
                "the checkpoint has no language head", code="wrong_model", hint="give one of EsmForMaskedLM"
            )
        logits: torch.Tensor = self.lm_head(self.esm(tokens, mask, options=options).last)
        return logits
