"""What is read off the pair representation: contacts, distances, confidence.

Shapes: B proteins, N residues, c channels, D distance bins.
"""

from __future__ import annotations

import torch
from torch import nn

from foldase_kernels.operators import no_autocast
from foldase_models.folding.contacts.config import ContactModelConfig
from foldase_models.folding.contacts.trace import LDDT_RADIUS, LDDT_THRESHOLDS
from foldase_models.layers.primitives import Linear

_TINY = 1e-3
_LEAST_SPREAD = 0.02
"""Of a predicted lDDT: the loss stays finite where a prediction happens to be exact."""


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
    """Predicts the lDDT of each residue of the trace: its mean and how far off that mean may be.

    The start is what the distogram itself expects of the trace, residue by residue; a network over the pair
    representation and the agreement of trace and distogram corrects it. Gradients stop at the inputs:
    confidence never changes what it judges.
    """

    def __init__(self, config: ContactModelConfig) -> None:
        super().__init__()
        width = config.width
        self.layer_norm = nn.LayerNorm(width)
        self.linear_z = Linear(width, width)
        self.linear_geometry = Linear(4, width)
        self.linear_1 = Linear(2 * width + 4, width, init="relu")
        self.linear_2 = Linear(width, width, init="relu")
        self.linear_3 = Linear(width, 2, init="final")
        self.gain = nn.Parameter(torch.ones(1))

    def forward(
        self, z: torch.Tensor, distogram: torch.Tensor, coords: torch.Tensor, bins: DistanceBins
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of lDDT, 0 to 1, both ``[B, N]``.

        Args:
            z: pair representation ``[B, N, N, c_z]``.
            distogram: its logits ``[B, N, N, D]``.
            coords: the trace ``[B, N, 3]``, A.
            bins: of the distogram.
        """
        # Distances do not survive half precision, in which an autocast region would multiply them.
        with no_autocast(z.device):
            share, expected, residue, geometry = _agreement(distogram.detach(), coords, bins)
        z = z.detach()
        pairs = torch.relu(self.linear_z(self.layer_norm(z)) + self.linear_geometry(geometry))
        pooled = (pairs.mean(-2), torch.einsum("bij,bijc->bic", share, pairs), residue)
        hidden = torch.relu(self.linear_1(torch.cat(pooled, -1)))
        shift, width = self.linear_3(torch.relu(self.linear_2(hidden))).unbind(-1)
        centre = torch.sigmoid(self.gain * torch.logit(expected.clamp(0.02, 0.98)) + shift)
        return centre, nn.functional.softplus(width - 2.2) + _LEAST_SPREAD


def _agreement(
    distogram: torch.Tensor, coords: torch.Tensor, bins: DistanceBins
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weights of pairs ``[B, N, N]`` and what trace and distogram say of each other.

    That is the lDDT that the distogram expects of each residue ``[B, N]``, and features of residues and of
    pairs, ``[B, N, 4]`` and ``[B, N, N, 4]``.
    """
    built = torch.cdist(coords, coords)
    mean, spread = bins.moments(distogram)
    kept, counted = bins.expected_kept(distogram, built)
    index = torch.arange(built.shape[-1], device=built.device)
    # Bonds have their length in every trace.
    counted = counted * ((index[:, None] - index[None]).abs() > 1)
    share = counted / counted.sum(-1, keepdim=True).clamp(min=_TINY)
    expected = (share * kept).sum(-1)
    # Each feature brought near to mean 0 and variance 1 on the demonstration's families.
    residue = torch.stack(
        (
            15.0 * (expected - 0.6),
            2.0 * ((share * spread).sum(-1) - 1.5),
            3.0 * ((share * (built - mean).abs()).sum(-1) - 0.7),
            (counted.sum(-1) - 15.0) / 5.0,
        ),
        -1,
    )
    geometry = torch.stack((3.0 * (kept - 0.6), counted, 1.5 * (spread - 1.5), (built - 10.0) / 5.0), -1)
    return share, expected, residue, geometry
