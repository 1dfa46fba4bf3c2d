"""What is read off the encoder: tokens, and contacts of residues.

Shapes: B sequences, L tokens, N = L - 2 residues, D channels, H heads of W channels.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from foldase_kernels.scratch import scaled
from foldase_models.folding.esm2.config import Esm2Config

GROUP = 32 * 2**20
"""Bytes of attention that the contact head looks at together, scaled as ``row_groups.working_set`` says."""


class LanguageHead(nn.Module):
    """Keys: ``dense``, ``layer_norm``, ``decoder.weight``, ``bias``."""

    def __init__(self, config: Esm2Config) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.layer_norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits ``[..., vocab_size]`` from ``[..., D]``."""
        logits: torch.Tensor = self.decoder(self.layer_norm(functional.gelu(self.dense(x))))
        return logits + self.bias


class ContactHead(nn.Module):
    """Logistic regression on all attention maps (Rao et al. 2021). Key: ``regression``."""

    def __init__(self, layers: int, heads: int) -> None:
        super().__init__()
        self.regression = nn.Linear(layers * heads, 1)


class ContactSum:
    """The regression of a contact head, summed while the encoder runs; inference only.

    A map enters symmetrised and less its average product (Dunn et al. 2008), both linear but for sums over
    its rows. So each map is computed in groups of rows, added to one matrix of logits and forgotten: no more
    than that matrix, its transpose and a few times :data:`GROUP` bytes exist at a time, whatever the numbers
    of layers and heads.
    """

    def __init__(self, head: ContactHead, seen: torch.Tensor, keys: torch.Tensor | None) -> None:
        """``seen``, boolean ``[B, L]``, says which tokens are residues; ``keys`` which may be attended to."""
        self._weights = head.regression.weight.detach()[0]
        self._bias = head.regression.bias.detach()
        self._seen = seen[:, 1:-1]
        self._keys = None if keys is None else keys[:, None, None, :]
        batch, length = self._seen.shape
        self._logits = self._weights.new_zeros(batch, length, length)

    def add(self, layer: int, q: torch.Tensor, k: torch.Tensor) -> None:
        """The maps of one layer from its queries and keys ``[B, L, H, W]``."""
        heads = q.shape[2]
        weights = self._weights[layer * heads : (layer + 1) * heads]
        size = q.shape[0] * q.shape[1] ** 2 * self._logits.element_size()
        step = max(1, scaled(GROUP) // size)
        for first in range(0, heads, step):
            part = slice(first, first + step)
            self._add_heads(weights[part], q[:, :, part], k[:, :, part])

    def _add_heads(self, weights: torch.Tensor, q: torch.Tensor, k: torch.Tensor) -> None:
        """Maps of a few heads, rows in groups: ``of_rows`` and ``of_columns`` gather their sums."""
        batch, length, heads, width = q.shape
        q = q[:, 1:-1].transpose(1, 2) * width**-0.5
        keys = k.permute(0, 2, 3, 1)
        of_rows = self._logits.new_zeros(batch, heads, length - 2)
        of_columns = torch.zeros_like(of_rows)
        row = batch * heads * length * self._logits.element_size()
        step = max(1, scaled(GROUP) // row)
        for first in range(0, length - 2, step):
            rows = slice(first, min(first + step, length - 2))
            scores = q[:, :, rows] @ keys
            if self._keys is not None:
                scores.masked_fill_(~self._keys, -torch.inf)
            maps = torch.softmax(scores, -1, dtype=self._logits.dtype)[..., 1:-1]
            maps = maps * (self._seen[:, None, rows, None] & self._seen[:, None, None, :])
            self._logits[:, rows] += torch.einsum("h,bhij->bij", weights, maps)
            of_rows[:, :, rows] = maps.sum(-1)
            of_columns += maps.sum(-2)
        sums = of_rows + of_columns
        # Half of the product: it is symmetric, and the sum of maps is symmetrised at the end.
        shares = sums * (weights[:, None] / (2 * sums.sum(-1, keepdim=True)))
        self._logits.baddbmm_(shares.mT, sums, alpha=-1)

    def probabilities(self) -> torch.Tensor:
        """Of contact, ``[B, N, N]``, symmetric."""
        logits = self._logits + self._logits.mT
        return logits.add_(self._bias).sigmoid_()
