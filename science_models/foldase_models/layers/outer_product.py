"""From the alignment to pairs of residues: the mean over sequences of outer products.

Shapes: S sequences, N residues, C hidden channels, c_m and c_z channels.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from foldase_kernels.outer_product_mean import outer_product_mean
from foldase_models.layers.primitives import Linear
from foldase_models.layers.row_groups import by_rows

EPSILON = 1e-3
"""Added to the number of sequences seen by a pair (supplement, algorithm 10)."""


class OuterProductMean(nn.Module):
    """Keys: ``layer_norm``, ``linear_1``, ``linear_2``, ``linear_out``.

    ``centred`` takes the mean of each column off both factors first, so that the result is a covariance:
    without coevolution it then vanishes, whatever the columns' own composition. The public models do
    without.
    """

    def __init__(self, c_m: int, c_z: int, c_hidden: int, *, centred: bool = False) -> None:
        super().__init__()
        self.centred = centred
        self.layer_norm = nn.LayerNorm(c_m)
        self.linear_1 = Linear(c_m, c_hidden)
        self.linear_2 = Linear(c_m, c_hidden)
        self.linear_out = Linear(c_hidden * c_hidden, c_z, init="final")

    def forward(
        self,
        m: torch.Tensor,
        weights: torch.Tensor | None = None,
        *,
        residual: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Update of the pair representation ``[..., N, N, c_z]``.

        Args:
            m: ``[..., S, N, c_m]``.
            weights: ``[..., S, N]``, how much each position counts: 0 or 1 for a mask, or the weight of a
                sequence, where two is as good as two copies. A pair counts with the geometric mean.
            residual: the pair representation, to which the update is added in place; inference only.
        """
        a, b = self._factor(m, self.linear_1), self._factor(m, self.linear_2)
        if self.centred:
            a, b = _centred(a, weights), _centred(b, weights)
        return outer_product_mean(
            a,
            b,
            self.linear_out.weight,
            self.linear_out.bias,
            weights=weights,
            epsilon=EPSILON,
            residual=residual,
        )

    def _factor(self, m: torch.Tensor, linear: Linear) -> torch.Tensor:
        """``[..., S, N, C]``; normed anew for each factor, so that the normed alignment is never whole."""
        shape, eps = self.layer_norm.normalized_shape, self.layer_norm.eps

        def compute(part: torch.Tensor, _: slice, *tensors: torch.Tensor) -> torch.Tensor:
            weight, bias, *projection = tensors
            return functional.linear(functional.layer_norm(part, shape, weight, bias, eps), *projection)

        return by_rows(compute, m, (self.layer_norm.weight, self.layer_norm.bias, linear.weight, linear.bias))


def _centred(factor: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    """``[..., S, N, C]`` less the mean of each column over sequences."""
    if weights is None:
        return factor - factor.mean(-3, keepdim=True)
    weights = weights.to(factor.dtype)
    share = (weights / weights.sum(-2, keepdim=True).clamp(min=EPSILON)).unsqueeze(-1)
    return factor - (factor * share).sum(-3, keepdim=True)
