"""First representations of alignment and pairs, and what the pass before adds to them.

Shapes: S rows of the alignment, E extra rows, N residues, c_m, c_z and c_e channels. Lengths in A.

One-hot features of pairs (offsets, distances in bins) never exist: a linear layer of a one-hot vector is a
column of its weight. Pairs are embedded in groups of rows (:mod:`foldase_models.layers.row_groups`), over the
pair representation of the pass before where that is no longer needed.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from foldase_models.layers.primitives import Linear
from foldase_models.layers.row_groups import by_rows, by_rows_in_place, check_in_place, rows_of

TARGET_FEATURES = 22
"""A break in the chain (never set), and 21 residue types."""
MSA_FEATURES = 49
"""23 letters, deletion or not, deletions; profile of the cluster over 23 letters, its mean deletions."""
EXTRA_FEATURES = 25
"""23 letters, deletion or not, deletions."""
LETTERS = 23
"""20 residue types, unknown, gap, masked."""


def squared_edges(first: float, last: float, count: int, like: torch.Tensor) -> torch.Tensor:
    """Squares of the lower edges of distance bins, float32 ``[count]``, A^2; the last bin is open."""
    return torch.linspace(first, last, count, dtype=torch.float32, device=like.device).square()


def bins_of_rows(positions: torch.Tensor, rows: slice, edges: torch.Tensor) -> torch.Tensor:
    """Bins of the distances from some residues to all, int64 ``[..., rows, N]``; 0 below the first edge.

    Args:
        positions: ``[..., N, 3]``, A.
        rows: residues.
        edges: squared lower edges, rising, A^2.
    """
    apart = positions[..., rows, None, :] - positions[..., None, :, :]
    return torch.bucketize(apart.square().sum(-1), edges)


def table(linear: nn.Linear) -> torch.Tensor:
    """What a linear layer makes of one-hot vectors, one row a place, without its bias."""
    return linear.weight.mT


class InputEmbedder(nn.Module):
    """Algorithms 3 and 4.

    Keys: ``linear_tf_z_i``, ``linear_tf_z_j``, ``linear_tf_m``, ``linear_msa_m``, ``linear_relpos``.
    """

    def __init__(self, c_m: int, c_z: int, max_offset: int) -> None:
        """``max_offset``: sequence offsets beyond it are seen as equal."""
        super().__init__()
        self.max_offset = max_offset
        self.linear_tf_z_i = Linear(TARGET_FEATURES, c_z)
        self.linear_tf_z_j = Linear(TARGET_FEATURES, c_z)
        self.linear_tf_m = Linear(TARGET_FEATURES, c_m)
        self.linear_msa_m = Linear(MSA_FEATURES, c_m)
        self.linear_relpos = Linear(2 * max_offset + 1, c_z)

    def alignment(self, target_feat: torch.Tensor, msa_feat: torch.Tensor) -> torch.Tensor:
        """``m`` ``[..., S, N, c_m]`` from ``[..., N, 22]`` and ``[..., S, N, 49]``."""
        m: torch.Tensor = self.linear_msa_m(msa_feat)
        return m.add_(self.linear_tf_m(target_feat).unsqueeze(-3))

    def offsets(self, residue_index: torch.Tensor, rows: slice) -> torch.Tensor:
        """Sequence offsets of some residues from all, as places of ``linear_relpos`` ``[..., rows, N]``."""
        apart = residue_index[..., rows, None] - residue_index[..., None, :]
        return apart.clamp(-self.max_offset, self.max_offset) + self.max_offset


class RecyclingEmbedder(nn.Module):
    """Algorithm 32: the first row and the pairs of the last pass, and its C-beta distances.

    Keys: ``linear``, ``layer_norm_m``, ``layer_norm_z``.
    """

    def __init__(self, c_m: int, c_z: int, *, first: float, last: float, bins: int) -> None:
        """``first`` and ``last`` are lower edges of ``bins`` bins, A."""
        super().__init__()
        self.first, self.last, self.bins = first, last, bins
        self.linear = Linear(bins, c_z)
        self.layer_norm_m = nn.LayerNorm(c_m)
        self.layer_norm_z = nn.LayerNorm(c_z)


def embed_pairs(
    inputs: InputEmbedder,
    recycling: RecyclingEmbedder,
    target_feat: torch.Tensor,
    residue_index: torch.Tensor,
    before: torch.Tensor,
    beta: torch.Tensor,
    *,
    inplace: bool = False,
) -> torch.Tensor:
    """The first pair representation of a pass, ``[..., N, N, c_z]``.

    Args:
        inputs: embeds residue types and offsets.
        recycling: embeds what follows.
        target_feat: ``[..., N, 22]``.
        residue_index: int64 ``[..., N]``.
        before: pair representation of the last pass ``[..., N, N, c_z]``; zeros in the first one.
        beta: C-beta of the last pass ``[..., N, 3]``, A; zeros in the first one.
        inplace: write the result over ``before``; inference only.
    """
    edges = squared_edges(recycling.first, recycling.last, recycling.bins, beta)
    norm = recycling.layer_norm_z
    shape, eps = norm.normalized_shape, norm.eps

    def compute(
        part: torch.Tensor,
        rows: slice,
        left: torch.Tensor,
        right: torch.Tensor,
        offsets: torch.Tensor,
        distances: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
    ) -> torch.Tensor:
        z = functional.layer_norm(part, shape, weight, bias, eps)
        z = z + (rows_of(left, rows) + right)
        z = z + functional.embedding(inputs.offsets(residue_index, rows), offsets)
        return z + functional.embedding(bins_of_rows(beta, rows, edges), distances)

    constant = inputs.linear_relpos.bias + recycling.linear.bias
    distances = functional.pad(table(recycling.linear), (0, 0, 1, 0))
    tensors = (
        (inputs.linear_tf_z_i(target_feat) + constant).unsqueeze(-2),
        inputs.linear_tf_z_j(target_feat).unsqueeze(-3),
        table(inputs.linear_relpos),
        distances,
        norm.weight,
        norm.bias,
    )
    if not inplace:
        return by_rows(compute, before, tensors)
    check_in_place("before", before, iter(tensors))
    return by_rows_in_place(compute, before, tensors)


class ExtraMSAEmbedder(nn.Module):
    """Embeds the rows that were not chosen as clusters (algorithm 2, line 15). Key: ``linear``."""

    def __init__(self, c_e: int) -> None:
        super().__init__()
        self.linear = Linear(EXTRA_FEATURES, c_e)

    def forward(
        self, letters: torch.Tensor, has_deletion: torch.Tensor, deletions: torch.Tensor
    ) -> torch.Tensor:
        """``[..., E, N, c_e]`` from letters (integers) and two features of deletions, ``[..., E, N]``."""
        weight = table(self.linear)
        a = functional.embedding(letters.long(), weight[:LETTERS] + self.linear.bias)
        # Thousands of rows: in inference there is no second tensor of them.
        add = torch.addcmul if torch.is_grad_enabled() else torch.Tensor.addcmul_
        a = add(a, has_deletion.to(a.dtype).unsqueeze(-1), weight[LETTERS])
        return add(a, deletions.to(a.dtype).unsqueeze(-1), weight[LETTERS + 1])
