"""The contact model: letters in, contacts, distances, a trace and its confidence out.

Shapes: B proteins, S rows for the Evoformer, E rows for the outer product, N residues, Q letters,
c channels, D distance bins. Lengths in A.

The pair representation starts from sequence offsets, column compositions and the covariance of all E rows;
Evoformer blocks (:mod:`foldase_models.layers`) refine it together with S of the rows; the result is fed
back ``recycles`` times without gradient (Jumper et al. 2021, supplement 1.10).

With ``config.inputs == "couplings"`` the pairs start from couplings and mutual information instead, a trunk
of pairs alone refines them (:mod:`foldase_models.folding.contacts.pair_trunk`), and no letter is ever seen.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from foldase_kernels.operators import no_autocast
from foldase_models.folding.contacts.config import ContactModelConfig
from foldase_models.folding.contacts.heads import ConfidenceHead, DistanceBins, PairHead
from foldase_models.folding.contacts.pair_trunk import PairEmbedder, PairTrunk
from foldase_models.folding.contacts.trace import trace_from_distances
from foldase_models.layers.evoformer import Evoformer
from foldase_models.layers.outer_product import OuterProductMean
from foldase_models.layers.primitives import Linear


@dataclass(frozen=True, slots=True)
class ContactOutput:
    """What one call predicts.

    Attributes:
        contact_logits: ``[B, N, N]``, symmetric.
        distogram_logits: ``[B, N, N, D]``, symmetric.
        distance: expected distances ``[B, N, N]``, A.
        coords: C-alpha trace ``[B, N, 3]``, A; its handedness is arbitrary.
        confidence: expected lDDT of the trace ``[B, N]``, 0 to 1.
        confidence_spread: its standard deviation ``[B, N]``.
    """

    contact_logits: torch.Tensor
    distogram_logits: torch.Tensor
    distance: torch.Tensor
    coords: torch.Tensor
    confidence: torch.Tensor
    confidence_spread: torch.Tensor


class InputEmbedder(nn.Module):
    """First representations of alignment and pairs."""

    def __init__(self, config: ContactModelConfig) -> None:
        super().__init__()
        letters, width = len(config.letters), config.width
        self.letters = letters
        self.max_offset = config.max_offset
        self.linear_m = nn.Embedding(letters, width)
        self.linear_profile_m = Linear(letters, width)
        self.linear_profile_i = Linear(letters, width)
        self.linear_profile_j = Linear(letters, width)
        self.linear_relpos = nn.Embedding(2 * config.max_offset + 1, width)
        self.linear_extra = nn.Embedding(letters, width)
        self.outer_product_mean = OuterProductMean(width, width, config.outer_width, centred=True)

    def forward(
        self, rows: torch.Tensor, extra: torch.Tensor, weights: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """``m`` ``[B, S, N, c]`` and ``z`` ``[B, N, N, c]``; arguments as in :class:`ContactModel`."""
        one_hot = nn.functional.one_hot(extra.long(), self.letters).to(self.linear_profile_m.weight.dtype)
        if weights is None:
            profile = one_hot.mean(-3)
        else:
            profile = torch.einsum("bs,bsnq->bnq", weights / weights.sum(-1, keepdim=True), one_hot)
        m = self.linear_m(rows.long()) + self.linear_profile_m(profile).unsqueeze(-3)
        index = torch.arange(rows.shape[-1], device=rows.device)
        offset = (index[:, None] - index[None]).clamp(-self.max_offset, self.max_offset) + self.max_offset
        z = self.linear_relpos(offset)
        z = z + self.linear_profile_i(profile).unsqueeze(-2) + self.linear_profile_j(profile).unsqueeze(-3)
        spread = None if weights is None else weights.unsqueeze(-1).expand(extra.shape)
        return m, z + self.outer_product_mean(self.linear_extra(extra.long()), spread)


class RecyclingEmbedder(nn.Module):
    """Feeds the last pair representation and its distances back in (algorithm 32)."""

    def __init__(self, config: ContactModelConfig) -> None:
        super().__init__()
        self.layer_norm_z = nn.LayerNorm(config.width)
        self.linear = nn.Embedding(config.distance_bins, config.width)
        nn.init.zeros_(self.linear.weight)

    def forward(self, z: torch.Tensor, bins: torch.Tensor) -> torch.Tensor:
        """Addition to ``z``; ``bins`` are those of the expected distances, int64 ``[B, N, N]``."""
        out: torch.Tensor = self.layer_norm_z(z) + self.linear(bins)
        return out


class ContactModel(nn.Module):
    """See the module's text. ``config`` is kept for saving."""

    def __init__(self, config: ContactModelConfig) -> None:
        super().__init__()
        self.config = config
        if config.inputs == "couplings":
            self.pair_embedder = PairEmbedder(config)
            self.pair_trunk = PairTrunk(config)
        else:
            self.input_embedder = InputEmbedder(config)
            self.evoformer = Evoformer(config.evoformer, config.blocks)
        self.recycling_embedder = RecyclingEmbedder(config)
        self.layer_norm_z = nn.LayerNorm(config.width)
        self.contact_head = PairHead(config.width, 1)
        self.distogram_head = PairHead(config.width, config.distance_bins)
        self.confidence_head = ConfidenceHead(config)
        self.distance_bins = DistanceBins(config.distance_first, config.distance_last, config.distance_bins)

    def forward(
        self,
        rows: torch.Tensor,
        extra: torch.Tensor,
        weights: torch.Tensor | None = None,
        *,
        recycles: int | None = None,
    ) -> ContactOutput:
        """Predict.

        Args:
            rows: letter indices ``[B, S, N]``, any integer dtype, seen row by row.
            extra: letter indices ``[B, E, N]`` of all rows, seen by their covariance.
            weights: of the rows of ``extra``, ``[B, E]``; None means equal.
            recycles: passes before the last one; None means as configured.
        """
        return self._passes(self.input_embedder(rows, extra, weights), recycles)

    def from_pairs(self, pairs: torch.Tensor, *, recycles: int | None = None) -> ContactOutput:
        """Predict from features ``[B, N, N, F]`` of pairs; for models whose inputs are couplings."""
        return self._passes((None, self.pair_embedder(pairs)), recycles)

    def _passes(
        self, embedded: tuple[torch.Tensor | None, torch.Tensor], recycles: int | None
    ) -> ContactOutput:
        m, z_first = embedded
        z = torch.zeros_like(z_first)
        bins = torch.zeros(z.shape[:-1], dtype=torch.long, device=z.device)
        passes = (self.config.recycles if recycles is None else recycles) + 1
        for number in range(passes):
            last = number == passes - 1
            with torch.set_grad_enabled(last and torch.is_grad_enabled()):
                start = z_first if number == 0 else z_first + self.recycling_embedder(z, bins)
                z = self.pair_trunk(start) if m is None else self.evoformer(m, start)[1]
                if not last:
                    bins = self.distance_bins.index(self._distances(self.layer_norm_z(z))[1])
        return self._heads(self.layer_norm_z(z))

    def _distances(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits of the distogram, mean and spread, at least in float32: distances need it."""
        logits = self.distogram_head(z)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        with no_autocast(z.device):
            mean, spread = self.distance_bins.moments(logits)
        return logits, mean, spread

    def _heads(self, z: torch.Tensor) -> ContactOutput:
        distogram, mean, spread = self._distances(z)
        with no_autocast(z.device):
            coords = trace_from_distances(mean.detach(), spread.detach())
        confidence, doubt = self.confidence_head(z, distogram, coords, self.distance_bins)
        return ContactOutput(
            contact_logits=self.contact_head(z).squeeze(-1),
            distogram_logits=distogram,
            distance=mean,
            coords=coords,
            confidence=confidence,
            confidence_spread=doubt,
        )
