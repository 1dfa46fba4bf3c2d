"""Linear layers with the initialisations of AlphaFold 2, and dropout shared along rows or columns."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

Init = Literal["default", "relu", "glorot", "gating", "final", "normal"]

_TRUNCATED_STD = 0.87962566103423978
"""Standard deviation of a unit normal cut at two standard deviations, as scaled in AlphaFold 2."""


class Linear(nn.Linear):
    """A linear layer with a named initialisation (Jumper et al. 2021, supplement 1.11.4).

    ``default`` is a truncated normal of variance 1/fan_in, ``relu`` of 2/fan_in, ``glorot`` uniform,
    ``gating`` zeros with bias 1 (open), ``final`` zeros so that a residual branch starts as nothing,
    ``normal`` a normal of variance 1/fan_in. Biases start at 0 but for gates.
    """

    def __init__(self, width_in: int, width_out: int, *, bias: bool = True, init: Init = "default") -> None:
        self.init = init
        super().__init__(width_in, width_out, bias=bias)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise anew."""
        if self.bias is not None:
            nn.init.constant_(self.bias, 1.0 if self.init == "gating" else 0.0)
        if self.init in ("gating", "final"):
            nn.init.zeros_(self.weight)
        elif self.init == "glorot":
            nn.init.xavier_uniform_(self.weight)
        elif self.init == "normal":
            nn.init.normal_(self.weight, std=self.in_features**-0.5)
        else:
            std = ((2.0 if self.init == "relu" else 1.0) / self.in_features) ** 0.5 / _TRUNCATED_STD
            nn.init.trunc_normal_(self.weight, std=std, a=-2 * std, b=2 * std)


class _SharedDropout(nn.Module):
    """Dropout whose mask is one along ``shared``, a dimension counted from the end."""

    shared: int

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def factor(self, x: torch.Tensor) -> torch.Tensor | None:
        """On an update shaped like ``x``: 0 or ``1 / (1 - rate)``; None where nothing is dropped.

        It has one element along the shared dimension, so that an operation may take it in on the way.
        """
        if not self.training or self.rate == 0.0:
            return None
        shape = list(x.shape)
        shape[self.shared] = 1
        return nn.functional.dropout(x.new_ones(shape), self.rate)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Drop and rescale while training, else hand on ``x``."""
        factor = self.factor(x)
        return x if factor is None else x * factor


class DropoutRowwise(_SharedDropout):
    """One mask for all rows: the mask is shared along dimension -3 of ``[..., rows, columns, channels]``."""

    shared = -3


class DropoutColumnwise(_SharedDropout):
    """One mask for all columns: shared along dimension -2 of ``[..., rows, columns, channels]``."""

    shared = -2
