"""Attention of residues that does not see how the whole is turned or shifted (algorithm 22).

Shapes: N residues, c_s and c_z channels of single and pair representation, H heads of C channels, P points of
a head as queries and keys, V as values. Source: Jumper et al. 2021, supplement 1.8.2; biases of the linear
layers as in its published code.

Written out, the squared distance of a query's point to a key's is a product, a term of the key and a term of
the query. The last changes no softmax over keys. So points are further channels of queries and keys, and
nothing of ``[N, N, H, P, 3]`` is ever made.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from foldase_models.layers.primitives import Linear
from foldase_models.layers.rigid import Rigid
from foldase_models.layers.row_groups import rows_at_once
from foldase_models.layers.structure_dims import StructureDims

SOFTPLUS_OF_ONE = math.log(math.e - 1.0)
"""What softplus takes to 1, where weights of heads start."""


class _Sides(NamedTuple):
    """What rows of pairs meet.

    Attributes:
        queries, keys: channels and points ``[..., H, N, C + 3P]``.
        values: channels and points ``[..., H, N, C + 3V]``.
        of_key: added to the scores of each key, ``[..., H, 1, N]``.
    """

    queries: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    of_key: torch.Tensor


class InvariantPointAttention(nn.Module):
    """See the module's text.

    Keys: ``head_weights``, ``linear_q``, ``linear_kv``, ``linear_q_points``, ``linear_kv_points``,
    ``linear_b``, ``linear_out``.
    """

    def __init__(self, dims: StructureDims) -> None:
        super().__init__()
        self.dims = dims
        heads, width = dims.no_heads_ipa, dims.no_heads_ipa * dims.c_ipa
        self.linear_q = Linear(dims.c_s, width)
        self.linear_kv = Linear(dims.c_s, 2 * width)
        self.linear_q_points = Linear(dims.c_s, heads * dims.no_qk_points * 3)
        self.linear_kv_points = Linear(dims.c_s, heads * (dims.no_qk_points + dims.no_v_points) * 3)
        self.linear_b = Linear(dims.c_z, heads)
        self.head_weights = nn.Parameter(torch.full((heads,), SOFTPLUS_OF_ONE))
        features = heads * (dims.c_z + dims.c_ipa + 4 * dims.no_v_points)
        self.linear_out = Linear(features, dims.c_s, init="final")

    def forward(
        self,
        single: torch.Tensor,
        pair: torch.Tensor,
        frames: Rigid,
        mask: torch.Tensor | None = None,
        *,
        pair_norm: nn.LayerNorm | None = None,
    ) -> torch.Tensor:
        """Update of ``single``.

        Pairs are taken in groups of query rows (:mod:`foldase_models.layers.row_groups`), backward too;
        beyond its arguments it never holds anything of the size of ``pair``.

        Args:
            single: ``[..., N, c_s]``.
            pair: ``[..., N, N, c_z]``; of a narrower dtype than the layer, rows are widened as they come.
            frames: ``[..., N]``, in the unit of the module's translations.
            mask: of residues, boolean ``[..., N]``, True = real; others are never attended to.
            pair_norm: taken of rows of ``pair`` as they come.

        Returns:
            ``[..., N, c_s]``.
        """
        sides = self._sides(single, frames, mask)
        length, dtype = single.shape[-2], single.dtype
        row = max(pair.shape[-1], self.dims.no_heads_ipa) * pair[..., 0, :, 0].numel()
        step = rows_at_once(length, row * dtype.itemsize)
        keep_little = torch.is_grad_enabled() and step < length

        def attend(rows: slice) -> torch.Tensor:
            part = pair[..., rows, :, :]
            if keep_little:
                found: torch.Tensor = checkpoint(
                    self._rows, part, rows, sides, pair_norm, use_reentrant=False
                )
                return found
            return self._rows(part, rows, sides, pair_norm)

        starts = range(0, length, step)
        parts = [attend(slice(start, min(start + step, length))) for start in starts]
        features = self._features(torch.cat(parts, -2), frames)
        out: torch.Tensor = self.linear_out(features)
        return out

    def _sides(self, single: torch.Tensor, frames: Rigid, mask: torch.Tensor | None) -> _Sides:
        dims = self.dims
        heads, points = dims.no_heads_ipa, dims.no_qk_points
        q = _apart(self.linear_q(single), heads)
        k, v = torch.split(_apart(self.linear_kv(single), heads), dims.c_ipa, -1)
        own = frames.unsqueeze(-1).unsqueeze(-1)
        q_points = own.apply(_points(self.linear_q_points(single), heads))
        kv_points = own.apply(_points(self.linear_kv_points(single), heads))
        k_points, v_points = torch.split(kv_points, [points, dims.no_v_points], -2)
        # Any one shift of all points leaves distances as they are; near 0 their squares round least.
        centre = k_points.detach().mean((-4, -3, -2), keepdim=True)
        q_points, k_points = q_points - centre, k_points - centre
        # Weights of channels and distances such that each term of the score has variance 1, then of three.
        weight = functional.softplus(self.head_weights) * math.sqrt(1.0 / (3.0 * points * 4.5))
        q = torch.cat([q * math.sqrt(1.0 / (3.0 * dims.c_ipa)), q_points.flatten(-2) * weight[:, None]], -1)
        k = torch.cat([k, k_points.flatten(-2)], -1)
        of_key = -0.5 * weight * k_points.square().sum((-2, -1))
        if mask is not None:
            of_key = of_key.masked_fill(~mask[..., None], torch.finfo(of_key.dtype).min / 2)
        values = torch.cat([v, v_points.flatten(-2)], -1)
        return _Sides(
            q.transpose(-3, -2), k.transpose(-3, -2), values.transpose(-3, -2), of_key.mT.unsqueeze(-2)
        )

    def _rows(
        self, part: torch.Tensor, rows: slice, sides: _Sides, pair_norm: nn.LayerNorm | None
    ) -> torch.Tensor:
        """What some query rows gather, ``[..., rows, H * (C + 3V + c_z)]``."""
        part = part.to(sides.queries.dtype)
        if pair_norm is not None:
            part = pair_norm(part)
        scores = sides.queries[..., rows, :] @ sides.keys.mT
        scores = scores + sides.of_key + math.sqrt(1.0 / 3.0) * self.linear_b(part).movedim(-1, -3)
        shares = scores.softmax(-1)
        gathered = (shares @ sides.values).transpose(-3, -2)
        pairs = shares.transpose(-3, -2) @ part
        return torch.cat([gathered, pairs], -1).flatten(-2)

    def _features(self, gathered: torch.Tensor, frames: Rigid) -> torch.Tensor:
        dims = self.dims
        widths = [dims.c_ipa, 3 * dims.no_v_points, dims.c_z]
        channels, flat, pairs = torch.split(_apart(gathered, dims.no_heads_ipa), widths, -1)
        points = frames.unsqueeze(-1).apply_inverse(flat.reshape(*flat.shape[:-2], -1, 3))
        lengths = (points.square().sum(-1) + dims.epsilon).sqrt()
        return torch.cat([channels.flatten(-2), *points.unbind(-1), lengths, pairs.flatten(-2)], -1)


def _apart(x: torch.Tensor, heads: int) -> torch.Tensor:
    """Heads as a dimension of their own: ``[..., heads, channels]``."""
    return x.reshape(*x.shape[:-1], heads, -1)


def _points(flat: torch.Tensor, heads: int) -> torch.Tensor:
    """``[..., 3 n]``, all x before all y before all z, as points ``[..., heads, n / heads, 3]``."""
    return _apart(flat, 3).mT.reshape(*flat.shape[:-1], heads, -1, 3)
