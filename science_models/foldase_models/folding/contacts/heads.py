"""What is read off the pair representation: contacts, distances, confidence.

Shapes: B proteins, S sequences, N residues, c channels, D distance bins, K confidence bins.
"""

from __future__ import annotations

import torch
from torch import nn

from foldase_models.folding.contacts.config import ContactModelConfig
from foldase_models.folding.contacts.trace import LDDT_RADIUS, LDDT_THRESHOLDS
from foldase_models.layers.primitives import Linear


class DistanceBins(nn.Module):
    """The bins of the distogram: ``edges`` between them and their ``centres``, A."""

    edges: torch.Tensor
    centres: torch.Tensor

    def __init__(self, first: float, last: float, count: int) -> None:
        super().__init__()
        edges = torch.linspace(first, last, count - 1)
        width = (last - first) / (count - 2)
        centres = torch.cat((edges[:1] - width / 2, edges + width / 2))
        self.register_buffer("edges", edges, persistent=False)
        self.register_buffer("centres", centres, persistent=False)

    def index(self, distance: torch.Tensor) -> torch.Tensor:
        """The bin of each distance, int64."""
        return torch.bucketize(distance, self.edges)

    def moments(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation, A, of a distogram ``[..., D]``."""
        share = torch.softmax(logits, -1)
        mean = share @ self.centres
        square = share @ self.centres.square()
        return mean, (square - mean.square()).clamp(min=0).sqrt()

    def expected_kept(
        self, logits: torch.Tensor, distance: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What a distogram expects of the lDDT of given distances.

        Args:
            logits: ``[..., D]``.
            distance: ``[...]`` of the trace, A.

        Returns:
            The expected share of the lDDT thresholds that each distance keeps, and the probability that the
            true distance counts, both ``[...]`` in 0 to 1. Inside a bin distances are taken as even.
        """
        share = torch.softmax(logits, -1)
        width = float(self.centres[1] - self.centres[0])
        low, high = self.centres - width / 2, self.centres + width / 2
        distance = distance.unsqueeze(-1)
        kept = torch.zeros_like(distance)
        for threshold in LDDT_THRESHOLDS:
            overlap = torch.minimum(high, distance + threshold) - torch.maximum(low, distance - threshold)
            kept = kept + overlap.clamp(min=0) / width
        counted = ((LDDT_RADIUS - low) / width).clamp(0, 1)
        return (share * kept).sum(-1) / len(LDDT_THRESHOLDS), share @ counted


class PairHead(nn.Module):
    """Symmetric logits of every pair: contact or distogram. Key: ``linear``."""

    def __init__(self, c_z: int, count: int) -> None:
        super().__init__()
        self.linear = Linear(c_z, count, init="final")

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """``[B, N, N, count]`` from ``[B, N, N, c_z]``."""
        logits: torch.Tensor = self.linear(z)
        return logits + logits.transpose(-3, -2)


class ConfidenceHead(nn.Module):
    """Predicts the lDDT of each residue of the trace, as in AlphaFold 2 (algorithm 29) but from pairs.

    It sees the pair representation and how well the trace agrees with the distogram. Gradients stop here:
    confidence never changes what it judges.
    """

    def __init__(self, config: ContactModelConfig) -> None:
        super().__init__()
        width = config.width
        self.bins = config.confidence_bins
        self.layer_norm = nn.LayerNorm(width)
        self.linear_z = Linear(width, width)
        self.linear_geometry = Linear(4, width)
        self.linear_1 = Linear(2 * width + 1, width, init="relu")
        self.linear_2 = Linear(width, width, init="relu")
        self.linear_3 = Linear(width, self.bins, init="final")

    def forward(
        self, z: torch.Tensor, distogram: torch.Tensor, coords: torch.Tensor, bins: DistanceBins
    ) -> torch.Tensor:
        """Logits over lDDT.

        Args:
            z: pair representation ``[B, N, N, c_z]``.
            distogram: its logits ``[B, N, N, D]``.
            coords: the trace ``[B, N, 3]``, A.
            bins: of the distogram.

        Returns:
            ``[B, N, K]``.
        """
        z, distogram = z.detach(), distogram.detach()
        built = torch.cdist(coords, coords)
        _, spread = bins.moments(distogram)
        kept, counted = bins.expected_kept(distogram, built)
        counted = counted * (1.0 - torch.eye(built.shape[-1], device=built.device))
        share = counted / counted.sum(-1, keepdim=True).clamp(min=1e-3)
        geometry = self.linear_geometry(torch.stack((kept, counted, spread / 4, built / 10), -1))
        pairs = torch.relu(self.linear_z(self.layer_norm(z)) + geometry)
        expected = (share * kept).sum(-1, keepdim=True)
        pooled = (pairs.mean(-2), torch.einsum("bij,bijc->bic", share, pairs), expected)
        hidden = torch.relu(self.linear_1(torch.cat(pooled, -1)))
        hidden = torch.relu(self.linear_2(hidden))
        out: torch.Tensor = self.linear_3(hidden)
        return out

    def expected(self, logits: torch.Tensor) -> torch.Tensor:
        """Expected lDDT ``[B, N]``, 0 to 1."""
        centres = (torch.arange(self.bins, device=logits.device) + 0.5) / self.bins
        return torch.softmax(logits, -1) @ centres
