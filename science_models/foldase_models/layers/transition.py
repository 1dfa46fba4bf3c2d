"""The two-layer network applied to every position of the alignment or pair representation."""

from __future__ import annotations

import torch
from torch import nn

from foldase_models.layers.primitives import Linear


class Transition(nn.Module):
    """Layer norm, ``linear_1`` to ``n`` times the width, ReLU, ``linear_2`` back (algorithms 9 and 15)."""

    def __init__(self, c: int, n: int) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(c)
        self.linear_1 = Linear(c, n * c, init="relu")
        self.linear_2 = Linear(n * c, c, init="final")

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Update of ``x`` ``[..., c]``; ``mask`` boolean, of the shape of ``x`` without channels."""
        hidden = torch.relu_(self.linear_1(self.layer_norm(x)))
        out: torch.Tensor = self.linear_2(hidden)
        return out if mask is None else out * mask.unsqueeze(-1)
