"""One block of the folding trunk: sequence and pairs inform one another (Lin et al. 2023, supplement A.3).

Shapes: B proteins, N residues, c_s and c_z channels of sequence (s) and pair (z) representation, H heads, K
the inner width of pairs made from residues, half of c_z.

Memory is told in U, the bytes of z. :class:`TrunkBlock` says what a block holds.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from foldase_kernels import evoformer_attention
from foldase_kernels.transition import TransitionParameters, transition
from foldase_models.folding.esmfold.config import TrunkDims
from foldase_models.layers.attention import pair_bias
from foldase_models.layers.primitives import DropoutColumnwise, DropoutRowwise, Linear
from foldase_models.layers.row_groups import by_rows, by_rows_in_place, check_in_place
from foldase_models.layers.triangle import TriangleAttention, TriangleMultiplication


class SequenceAttention(nn.Module):
    """Gated self-attention along the sequence. Keys: ``proj``, ``o_proj``, ``g_proj``."""

    def __init__(self, c_s: int, no_heads: int) -> None:
        super().__init__()
        self.no_heads = no_heads
        self.proj = Linear(c_s, 3 * c_s, bias=False, init="glorot")
        self.o_proj = Linear(c_s, c_s, init="final")
        self.g_proj = Linear(c_s, c_s, init="gating")

    def forward(self, s: torch.Tensor, bias: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Update of ``s`` ``[B, N, c_s]``; ``bias`` ``[B, H, N, N]``; ``mask`` boolean ``[B, N]``."""
        heads = (*s.shape[:-1], self.no_heads, -1)
        # Queries, keys and values of one head lie side by side.
        q, k, v = self.proj(s).view(heads).chunk(3, -1)
        keys = None if mask is None else mask[:, None, None, :]
        out = evoformer_attention(q, k, v, [bias], mask=keys, gate=self.g_proj(s).view(heads))
        update: torch.Tensor = self.o_proj(out.flatten(-2))
        return update


class SequenceToPair(nn.Module):
    """Pairs from products and differences of residues. Keys: ``layernorm``, ``proj``, ``o_proj``."""

    def __init__(self, c_s: int, inner: int, c_z: int) -> None:
        super().__init__()
        self.inner = inner
        self.layernorm = nn.LayerNorm(c_s)
        self.proj = Linear(c_s, 2 * inner)
        self.o_proj = Linear(2 * inner, c_z, init="final")

    def forward(self, s: torch.Tensor, z: torch.Tensor, *, inplace: bool = False) -> torch.Tensor:
        """``z`` ``[B, N, N, c_z]`` and what ``s`` ``[B, N, c_s]`` adds to it.

        The difference is projected before it is taken, so that it costs a row and a column; the product is
        part of the weights of each row. Nothing of ``[B, N, N, K]`` is made.
        """
        column, row = self.proj(self.layernorm(s)).chunk(2, -1)
        of_product, of_difference = torch.split(self.o_proj.weight, self.inner, -1)
        column_share = functional.linear(column, of_difference, self.o_proj.bias)
        row_share = functional.linear(row, of_difference)
        tensors = (row, column, of_product, row_share, column_share)

        def compute(part: torch.Tensor, rows: slice, *given: torch.Tensor) -> torch.Tensor:
            own, others, weight, own_share, other_share = given
            weights = (weight * own[:, rows, None, :]).flatten(1, 2)  # [B, rows * c_z, K]
            product = (others @ weights.mT).view(*others.shape[:2], -1, weight.shape[0]).transpose(1, 2)
            return part + product.add_(other_share[:, None]).sub_(own_share[:, rows, None])

        return by_rows_in_place(compute, z, tensors) if inplace else by_rows(compute, z, tensors)


class PairToSequence(nn.Module):
    """Biases of attention along the sequence. Keys: ``layernorm``, ``linear``."""

    def __init__(self, c_z: int, no_heads: int) -> None:
        super().__init__()
        self.layernorm = nn.LayerNorm(c_z)
        self.linear = Linear(c_z, no_heads, bias=False, init="normal")

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """``[B, H, N, N]`` from ``z`` ``[B, N, N, c_z]``."""
        return pair_bias(z, self.layernorm, self.linear).squeeze(-4)


class ResidueMLP(nn.Module):
    """Layer norm, four times the width, ReLU, and back. Keys: ``mlp.0``, ``mlp.1``, ``mlp.3``."""

    def __init__(self, c: int, n: int, dropout: float) -> None:
        super().__init__()
        layers = (nn.LayerNorm(c), Linear(c, n * c, init="relu"), nn.ReLU(), Linear(n * c, c, init="final"))
        self.mlp = nn.Sequential(*layers, nn.Dropout(dropout))

    def forward(self, x: torch.Tensor, *, inplace: bool = False) -> torch.Tensor:
        """New ``x`` ``[..., c]``."""
        norm, first, _, last, dropout = self.mlp
        assert isinstance(norm, nn.LayerNorm)
        assert isinstance(first, Linear)
        assert isinstance(last, Linear)
        weights = (norm.weight, norm.bias, first.weight, first.bias, last.weight, last.bias)
        parameters = TransitionParameters(*weights)
        if self.training and isinstance(dropout, nn.Dropout) and dropout.p > 0:
            dropped: torch.Tensor = dropout(transition(x, parameters, epsilon=norm.eps))
            return x + dropped
        return transition(x, parameters, residual=True, inplace=inplace, epsilon=norm.eps)


class TrunkBlock(nn.Module):
    """One block; keys as in Hugging Face's ESMFold.

    In place on the CPU a block holds, beyond its arguments, the hidden products of a triangle multiplication
    (1 U) and scratch: 1.32 U at N = 512 with the published widths. Otherwise it holds a new z as well, or
    what a gradient needs.
    """

    def __init__(self, dims: TrunkDims) -> None:
        super().__init__()
        c_s, c_z = dims.c_s, dims.c_z
        self.layernorm_1 = nn.LayerNorm(c_s)
        self.sequence_to_pair = SequenceToPair(c_s, c_z // 2, c_z)
        self.pair_to_sequence = PairToSequence(c_z, dims.sequence_heads)
        self.seq_attention = SequenceAttention(c_s, dims.sequence_heads)
        self.tri_mul_out = TriangleMultiplication(c_z, c_z, outgoing=True)
        self.tri_mul_in = TriangleMultiplication(c_z, c_z, outgoing=False)
        self.tri_att_start = TriangleAttention(c_z, dims.pair_head_width, dims.pair_heads, starting=True)
        self.tri_att_end = TriangleAttention(c_z, dims.pair_head_width, dims.pair_heads, starting=False)
        self.mlp_seq = ResidueMLP(c_s, 4, dims.dropout)
        self.mlp_pair = ResidueMLP(c_z, 4, dims.dropout)
        self.drop = nn.Dropout(dims.dropout)
        self.row_drop = DropoutColumnwise(2 * dims.dropout)  # one mask along each row
        self.col_drop = DropoutRowwise(2 * dims.dropout)

    def forward(
        self,
        s: torch.Tensor,
        z: torch.Tensor,
        mask: torch.Tensor | None = None,
        *,
        inplace: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """New ``s`` ``[B, N, c_s]`` and ``z`` ``[B, N, N, c_z]``.

        Args:
            s: sequence representation.
            z: pair representation; with ``inplace``, for inference only, it is overwritten and returned.
            mask: of residues, boolean ``[B, N]``, True = real.
            inplace: whether ``z`` may be overwritten.

        Raises:
            ValueError: ``inplace`` where a gradient is needed, or on an expanded view.
        """
        if inplace:
            check_in_place("z", z, self.parameters())
        elif not torch.is_grad_enabled():
            z, inplace = z.clone(), True
        attended = self.seq_attention(self.layernorm_1(s), self.pair_to_sequence(z), mask)
        s = self.mlp_seq(s + self.drop(attended))
        z = self.sequence_to_pair(s, z, inplace=inplace)
        pairs = None if mask is None else mask[:, :, None] & mask[:, None, :]
        layers = (
            (self.tri_mul_out, self.row_drop),
            (self.tri_mul_in, self.col_drop),
            (self.tri_att_start, self.row_drop),
            (self.tri_att_end, self.col_drop),
        )
        for layer, dropout in layers:
            z = layer(z, pairs, residual=True, factor=dropout.factor(z), inplace=inplace)
        z = self.mlp_pair(z, inplace=inplace)
        return s, z
