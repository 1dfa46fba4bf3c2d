"""The two-layer network applied to every position of the alignment or pair representation."""

from __future__ import annotations

import torch
from torch import nn

from foldase_kernels.transition import TransitionParameters, transition
from foldase_models.layers.primitives import Linear


class Transition(nn.Module):
    """Layer norm, ``linear_1`` to ``n`` times the width, ReLU, ``linear_2`` back (algorithms 9 and 15)."""

    def __init__(self, c: int, n: int) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(c)
        self.linear_1 = Linear(c, n * c, init="relu")
        self.linear_2 = Linear(n * c, c, init="final")

    def forward(
        self,
        x: torch.Tensor,
        mask: torch.Tensor | None = None,
        *,
        residual: bool = False,
        inplace: bool = False,
    ) -> torch.Tensor:
        """Update of ``x`` ``[..., c]``; ``mask`` boolean, of the shape of ``x`` without channels.

        With ``residual`` the new ``x``; with ``inplace``, for inference only, this is written into ``x``.
        """
        parameters = TransitionParameters(
            self.layer_norm.weight,
            self.layer_norm.bias,
            self.linear_1.weight,
            self.linear_1.bias,
            self.linear_2.weight,
            self.linear_2.bias,
        )
        return transition(
            x, parameters, mask=mask, residual=residual, inplace=inplace, epsilon=self.layer_norm.eps
        )
