"""Known structures laid on the sequence: their pairs, and their torsions as further rows (algorithms 16, 17).

Shapes: T templates, N residues, c_t, c_z and c_m channels, H heads of C channels. Lengths in A.

In inference one template is worked on at a time, and pairs attend to it before the next one comes: memory
does not grow with the number of templates.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from foldase_models.folding.alphafold.embedders import bins_of_rows, squared_edges, table
from foldase_models.folding.options import ForwardOptions
from foldase_models.layers.attention import Attention
from foldase_models.layers.dims import EvoformerDims
from foldase_models.layers.evoformer import PairStack
from foldase_models.layers.primitives import Linear
from foldase_models.layers.row_groups import by_rows, by_rows_in_place, rows_of

TYPES = 22
"""20 residue types, unknown, gap."""
ANGLE_FEATURES = 57
"""Residue type, sine and cosine of 7 torsions, the same by the other names, which of them are known."""
DISTANCE_BINS = 39
FIRST_DISTANCE, LAST_DISTANCE = 3.25, 50.75
PAIR_FEATURES = DISTANCE_BINS + 1 + 2 * TYPES + 4
"""Distance bin, both C-beta known, type of j and of i, a direction (never set), both backbones known."""
_UNSEEN = -1e30
"""A logit below all others."""
_PSI = 2


@dataclass(frozen=True, slots=True)
class Templates:
    """Features of templates; residues that a template lacks are of type 21 and masked.

    Attributes:
        aatype: int64 ``[..., T, N]``.
        pseudo_beta: C-beta, or C-alpha of glycine, ``[..., T, N, 3]``, A.
        pseudo_beta_mask: boolean ``[..., T, N]``.
        backbone_mask: boolean ``[..., T, N]``, N, C-alpha and C known.
        torsions: sine and cosine of omega, phi, psi, chi 1 to 4, ``[..., T, N, 7, 2]``; 0 where not known.
        other_torsions: the same where atoms that symmetry makes equal are named the other way.
        torsion_mask: boolean ``[..., T, N, 7]``.
        mask: boolean ``[..., T]``, False for padding.
    """

    aatype: torch.Tensor
    pseudo_beta: torch.Tensor
    pseudo_beta_mask: torch.Tensor
    backbone_mask: torch.Tensor
    torsions: torch.Tensor
    other_torsions: torch.Tensor
    torsion_mask: torch.Tensor
    mask: torch.Tensor

    @property
    def count(self) -> int:
        """Templates."""
        return self.aatype.shape[-2]

    def rows_mask(self) -> torch.Tensor:
        """Which of their torsion rows count, ``[..., T, N]``."""
        return self.torsion_mask[..., _PSI]


class TemplateSingleEmbedder(nn.Module):
    """Torsions of templates as rows of the alignment. Keys: ``linear_1``, ``linear_2``."""

    def __init__(self, c_m: int) -> None:
        super().__init__()
        self.linear_1 = Linear(ANGLE_FEATURES, c_m, init="relu")
        self.linear_2 = Linear(c_m, c_m, init="relu")

    def forward(self, templates: Templates) -> torch.Tensor:
        """``[..., T, N, c_m]``."""
        dtype = self.linear_1.weight.dtype
        features = (
            functional.one_hot(templates.aatype, TYPES),
            templates.torsions.flatten(-2),
            templates.other_torsions.flatten(-2),
            templates.torsion_mask,
        )
        hidden = torch.relu(self.linear_1(torch.cat([feature.to(dtype) for feature in features], -1)))
        out: torch.Tensor = self.linear_2(hidden)
        return out


class TemplatePairEmbedder(nn.Module):
    """A linear layer of 88 features of a pair, of which only the columns that are set are read.

    Key: ``linear``. The three columns of a direction are there for the published weights: the models for
    single chains were trained without that feature.
    """

    def __init__(self, c_t: int) -> None:
        super().__init__()
        self.linear = Linear(PAIR_FEATURES, c_t, init="relu")

    def forward(self, templates: Templates, number: int) -> torch.Tensor:
        """Pairs of one template, ``[..., N, N, c_t]``."""
        beta = templates.pseudo_beta[..., number, :, :]
        aatype = templates.aatype[..., number, :]
        known, backbone = (
            mask[..., number, :] for mask in (templates.pseudo_beta_mask, templates.backbone_mask)
        )
        edges = squared_edges(FIRST_DISTANCE, LAST_DISTANCE, DISTANCE_BINS, beta)

        def compute(
            _like: torch.Tensor, rows: slice, columns: torch.Tensor, bias: torch.Tensor
        ) -> torch.Tensor:
            distances, both, type_j, type_i, _, last = torch.split(
                columns, [DISTANCE_BINS, 1, TYPES, TYPES, 3, 1]
            )
            t = functional.embedding(bins_of_rows(beta, rows, edges), functional.pad(distances, (0, 0, 1, 0)))
            pairs = (known[..., rows, None] & known[..., None, :]).unsqueeze(-1)
            t = t + torch.where(pairs, both + last, last)
            t = t + functional.embedding(aatype[..., None, :], type_j)
            t = t + functional.embedding(aatype[..., rows, None], type_i)
            seen = (backbone[..., rows, None] & backbone[..., None, :]).unsqueeze(-1)
            return torch.where(seen, t + bias, bias)

        columns, bias = table(self.linear), self.linear.bias
        # Only shape and dtype of it are looked at.
        like = columns.new_zeros(()).expand(*aatype.shape, aatype.shape[-1], columns.shape[-1])
        return by_rows(compute, like, (columns, bias))


class TemplatePairStack(nn.Module):
    """Algorithm 16. Keys: ``blocks``, ``layer_norm``."""

    def __init__(self, dims: EvoformerDims, no_blocks: int) -> None:
        """``dims``: those of pairs, with c_t for c_z."""
        super().__init__()
        self.blocks = nn.ModuleList(PairStack(dims, attention_first=True) for _ in range(no_blocks))
        self.layer_norm = nn.LayerNorm(dims.c_z)

    def forward(
        self, t: torch.Tensor, pair_mask: torch.Tensor | None, *, options: ForwardOptions
    ) -> torch.Tensor:
        """New pairs of one template ``[..., N, N, c_t]``, over the given ones in inference."""
        training = torch.is_grad_enabled()
        for block in self.blocks:
            t = block(t, pair_mask, inplace=not training, checkpoint=options.checkpoint and training)
        norm = self.layer_norm
        shape, eps = norm.normalized_shape, norm.eps

        def compute(part: torch.Tensor, _: slice, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
            return functional.layer_norm(part, shape, weight, bias, eps)

        return (by_rows if training else by_rows_in_place)(compute, t, (norm.weight, norm.bias))


def _heads(x: torch.Tensor, no_heads: int) -> torch.Tensor:
    return torch.unflatten(x, -1, (no_heads, -1))


class TemplatePointwiseAttention(nn.Module):
    """Each pair attends to the same pair of all templates (algorithm 17). Key: ``mha``."""

    def __init__(self, c_z: int, c_t: int, c_hidden: int, no_heads: int) -> None:
        super().__init__()
        self.no_heads = no_heads
        self.mha = Attention(c_z, c_t, c_t, c_hidden, no_heads, gating=False)

    def forward(self, pairs: list[torch.Tensor], z: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """New ``z`` from all templates at once; differentiable.

        Args:
            pairs: ``[..., N, N, c_t]`` each.
            z: ``[..., N, N, c_z]``.
            mask: boolean ``[..., T]``, True = a template.
        """
        no_heads, c_z, count = self.no_heads, z.shape[-1], len(pairs)
        seen = mask[..., None, None, None, :]

        def compute(part: torch.Tensor, _: slice, *tensors: torch.Tensor) -> torch.Tensor:
            q_weight, k_weight, v_weight, o_weight, o_bias = tensors
            own, theirs = part[..., :c_z], torch.unflatten(part[..., c_z:], -1, (count, -1))
            q = _heads(functional.linear(own, q_weight), no_heads)
            k, v = (_heads(functional.linear(theirs, weight), no_heads) for weight in (k_weight, v_weight))
            logits = torch.einsum("...hc,...thc->...ht", q, k) * q.shape[-1] ** -0.5
            share = torch.softmax(logits.masked_fill(~seen, _UNSEEN), -1)
            update = functional.linear(torch.einsum("...ht,...thc->...hc", share, v).flatten(-2), o_weight)
            return own + (update + o_bias) * seen.any(-1)

        tensors = [tensor for tensor in self.mha.weights() if tensor is not None]
        # What differs from row to row goes in side by side.
        return by_rows(compute, torch.cat([z, *pairs], -1), tensors)[..., :c_z]

    def state(self, z: torch.Tensor) -> torch.Tensor:
        """What :meth:`see` gathers, of no template yet: ``[..., N, N, H * (C + 2)]``, float32 at least.

        Sums of weighted values, sums of weights, and the largest logit.
        """
        inner = self.mha.linear_q.out_features
        wide = torch.promote_types(z.dtype, torch.float32)
        state = z.new_zeros(*z.shape[:-1], inner + 2 * self.no_heads, dtype=wide)
        state[..., -self.no_heads :] = _UNSEEN
        return state

    def see(self, state: torch.Tensor, t: torch.Tensor, z: torch.Tensor, mask: torch.Tensor) -> None:
        """Take in one template ``t`` ``[..., N, N, c_t]``, in place; ``mask`` boolean ``[...]``."""
        no_heads, mha, inner = self.no_heads, self.mha, self.mha.linear_q.out_features
        scale = (inner // no_heads) ** -0.5
        seen = mask[..., None, None, None]

        def compute(part: torch.Tensor, rows: slice) -> torch.Tensor:
            theirs = rows_of(t, rows)
            q, k, v = (
                _heads(linear(x), no_heads).to(part.dtype)
                for linear, x in (
                    (mha.linear_q, rows_of(z, rows)),
                    (mha.linear_k, theirs),
                    (mha.linear_v, theirs),
                )
            )
            sums, totals, top = torch.split(part, [inner, no_heads, no_heads], -1)
            logits = torch.where(seen, (q * k).sum(-1) * scale, _UNSEEN)
            new_top = torch.maximum(top, logits)
            kept, weight = torch.exp(top - new_top), torch.exp(logits - new_top) * seen
            sums = _heads(sums, no_heads) * kept.unsqueeze(-1) + v * weight.unsqueeze(-1)
            return torch.cat([sums.flatten(-2), totals * kept + weight, new_top], -1)

        by_rows_in_place(compute, state, ())

    def add(self, state: torch.Tensor, z: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Write what was gathered into ``z``; ``mask`` boolean ``[..., T]``."""
        no_heads, linear = self.no_heads, self.mha.linear_o
        inner = linear.in_features
        seen = mask.any(-1)[..., None, None, None]

        def compute(part: torch.Tensor, rows: slice) -> torch.Tensor:
            own = rows_of(state, rows)
            totals = own[..., inner : inner + no_heads].unsqueeze(-1).clamp(min=1e-20)
            mean = (_heads(own[..., :inner], no_heads) / totals).flatten(-2)
            update: torch.Tensor = linear(mean.to(part.dtype)) * seen
            return part + update

        return by_rows_in_place(compute, z, ())


class TemplateEmbedder(nn.Module):
    """What pairs learn from templates.

    Keys: ``template_single_embedder``, ``template_pair_embedder``, ``template_pair_stack``,
    ``template_pointwise_att``.
    """

    def __init__(
        self, dims: EvoformerDims, *, no_blocks: int, c_m: int, c_z: int, c_hidden: int, no_heads: int
    ) -> None:
        """``dims`` of the pair stack; ``c_hidden`` and ``no_heads`` of the attention to templates."""
        super().__init__()
        self.template_single_embedder = TemplateSingleEmbedder(c_m)
        self.template_pair_embedder = TemplatePairEmbedder(dims.c_z)
        self.template_pair_stack = TemplatePairStack(dims, no_blocks)
        self.template_pointwise_att = TemplatePointwiseAttention(c_z, dims.c_z, c_hidden, no_heads)

    def forward(
        self,
        z: torch.Tensor,
        templates: Templates,
        pair_mask: torch.Tensor | None = None,
        *,
        options: ForwardOptions,
    ) -> torch.Tensor:
        """New ``z`` ``[..., N, N, c_z]``, over the given one with ``options.inplace`` in inference."""
        attention = self.template_pointwise_att
        if torch.is_grad_enabled():
            pairs = [self._pairs(templates, number, pair_mask, options) for number in range(templates.count)]
            out: torch.Tensor = attention(pairs, z, templates.mask)
            return out
        state = attention.state(z)
        for number in range(templates.count):
            t = self._pairs(templates, number, pair_mask, options)
            attention.see(state, t, z, templates.mask[..., number])
            del t
        return attention.add(state, z if options.inplace else z.clone(), templates.mask)

    def _pairs(
        self, templates: Templates, number: int, pair_mask: torch.Tensor | None, options: ForwardOptions
    ) -> torch.Tensor:
        embedded = self.template_pair_embedder(templates, number)
        out: torch.Tensor = self.template_pair_stack(embedded, pair_mask, options=options)
        return out
