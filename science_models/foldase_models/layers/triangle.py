"""Updates of the pair representation along triangles of residues (supplement, algorithms 11 to 14).

Shapes: N residues, c_z channels, C hidden channels, H heads.
"""

from __future__ import annotations

import torch
from torch import nn

from foldase_kernels.triangle_multiplication import TriangleMultiplicationParameters, triangle_multiplication
from foldase_models.layers.attention import Attention, attend_within_rows, pair_bias
from foldase_models.layers.primitives import Linear


class TriangleMultiplication(nn.Module):
    """Edge ij from edges ik and jk (outgoing), or ki and kj (incoming).

    Keys: ``layer_norm_in``, ``linear_a_p``, ``linear_a_g``, ``linear_b_p``, ``linear_b_g``,
    ``layer_norm_out``, ``linear_z``, ``linear_g``.
    """

    def __init__(self, c_z: int, c_hidden: int, *, outgoing: bool) -> None:
        super().__init__()
        self.outgoing = outgoing
        self.layer_norm_in = nn.LayerNorm(c_z)
        self.linear_a_p = Linear(c_z, c_hidden)
        self.linear_a_g = Linear(c_z, c_hidden, init="gating")
        self.linear_b_p = Linear(c_z, c_hidden)
        self.linear_b_g = Linear(c_z, c_hidden, init="gating")
        self.layer_norm_out = nn.LayerNorm(c_hidden)
        self.linear_z = Linear(c_hidden, c_z, init="final")
        self.linear_g = Linear(c_z, c_z, init="gating")

    def parameters_of_update(self) -> TriangleMultiplicationParameters:
        """Weights and biases as the operation takes them."""
        layers = (
            self.layer_norm_in,
            self.linear_a_p,
            self.linear_a_g,
            self.linear_b_p,
            self.linear_b_g,
            self.layer_norm_out,
            self.linear_z,
            self.linear_g,
        )
        tensors = (tensor for layer in layers for tensor in (layer.weight, layer.bias))
        return TriangleMultiplicationParameters(*tensors)

    def forward(
        self,
        z: torch.Tensor,
        mask: torch.Tensor | None = None,
        *,
        residual: bool = False,
        factor: torch.Tensor | None = None,
        inplace: bool = False,
    ) -> torch.Tensor:
        """Update of ``z`` ``[..., N, N, c_z]``; ``mask`` boolean ``[..., N, N]``, True = real.

        ``factor``, broadcastable to ``z``, multiplies the update: a dropout mask. With ``residual`` the new
        ``z``; with ``inplace``, for inference only, this is written into ``z``.
        """
        return triangle_multiplication(
            z,
            self.parameters_of_update(),
            mask=mask,
            outgoing=self.outgoing,
            residual=residual,
            factor=factor,
            inplace=inplace,
        )


class TriangleAttention(nn.Module):
    """Edge ij attends to edges ik (starting node) or kj (ending node), biased by the third edge.

    Keys: ``layer_norm``, ``linear``, ``mha``. The ending form is the starting form on the transposed pair
    representation; it takes transposed views and copies nothing. Beyond a small size rows are taken in
    groups (:func:`foldase_models.layers.attention.attend_within_rows`).
    """

    def __init__(self, c_z: int, c_hidden: int, no_heads: int, *, starting: bool) -> None:
        super().__init__()
        self.starting = starting
        self.layer_norm = nn.LayerNorm(c_z)
        self.linear = Linear(c_z, no_heads, bias=False, init="normal")
        self.mha = Attention(c_z, c_z, c_z, c_hidden, no_heads)

    def forward(
        self,
        z: torch.Tensor,
        mask: torch.Tensor | None = None,
        *,
        residual: bool = False,
        factor: torch.Tensor | None = None,
        inplace: bool = False,
    ) -> torch.Tensor:
        """Update of ``z`` ``[..., N, N, c_z]``; ``mask`` boolean ``[..., N, N]``, True = real.

        ``factor``, ``residual`` and ``inplace`` as in :class:`TriangleMultiplication`.
        """
        pairs = z if self.starting else z.transpose(-3, -2)
        if not self.starting:
            mask = None if mask is None else mask.mT
            factor = None if factor is None else factor.transpose(-3, -2)
        out = attend_within_rows(
            pairs,
            self.layer_norm,
            self.mha,
            [pair_bias(pairs, self.layer_norm, self.linear)],
            mask,
            residual=residual,
            factor=factor,
            inplace=inplace,
        )
        if inplace:
            return z
        return out if self.starting else out.transpose(-3, -2)
