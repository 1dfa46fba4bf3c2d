"""What the representations say of the structure and how sure they are (Lin et al. 2023, supplement A.3).

Shapes: B proteins, N residues, c_s and c_z channels of sequence (s) and pair (z) representation. Lengths in
A. Formulas of pTM and ipTM: Jumper et al. 2021, supplement 1.9.7; Evans et al. 2021, section 2.2.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from foldase_models.layers.row_groups import rows_at_once

PLACES = 37
LDDT_BINS = 50
PAIR_BINS = 64
ERROR_LAST = 31.0
"""Lower limit of the last bin of the expected error, A; the first starts at 0."""
DISTANCE_FIRST, DISTANCE_LAST = 2.3125, 21.6875
"""Upper limit of the first and lower limit of the last bin of distances between C-beta, A."""
CONTACT = 8.0
"""Distance between C-beta below which two residues are in contact, A."""


@dataclass(frozen=True, slots=True)
class PairConfidence:
    """Expected errors of pairs, and what they make of the whole.

    Attributes:
        pae: ``[B, N, N]``, A: error of residue j expected where the frame of i is laid on the truth.
        ptm: ``[B]``, 0 to 1.
        iptm: ``[B]``, 0 to 1; 0 where there is one chain only.
    """

    pae: torch.Tensor
    ptm: torch.Tensor
    iptm: torch.Tensor


class LddtHead(nn.Sequential):
    """Confidence of every atom. Keys: ``0`` to ``3``; there is nothing between its linear layers."""

    def __init__(self, c_s: int, width: int) -> None:
        layers = (nn.Linear(c_s, width), nn.Linear(width, width), nn.Linear(width, PLACES * LDDT_BINS))
        super().__init__(nn.LayerNorm(c_s), *layers)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Logits ``[..., N, 37, 50]`` from states of the structure module ``[..., N, c_s]``."""
        logits = states
        for layer in self:
            logits = layer(logits)
        return logits.reshape(*states.shape[:-1], PLACES, LDDT_BINS)


def expected_lddt(logits: torch.Tensor) -> torch.Tensor:
    """The mean of 50 equal bins of 0 to 1: ``[...]`` from ``[..., 50]``."""
    edges = torch.linspace(0, 1, LDDT_BINS + 1, device=logits.device, dtype=logits.dtype)
    return logits.softmax(-1) @ ((edges[:-1] + edges[1:]) / 2)


def error_centres(like: torch.Tensor) -> torch.Tensor:
    """Centres of the 64 bins of the expected error, A; the open last bin counts as wide as the others."""
    step = ERROR_LAST / (PAIR_BINS - 2)
    return (torch.arange(PAIR_BINS, device=like.device, dtype=like.dtype) + 0.5) * step


def tm_scale(residues: torch.Tensor) -> torch.Tensor:
    """d0 of the TM-score, A, of chains of ``[...]`` residues (Zhang and Skolnick 2004); 19 at least."""
    return 1.24 * (residues.clamp(min=19) - 15) ** (1 / 3) - 1.8


@torch.no_grad()
def pair_confidence(
    z: torch.Tensor, head: nn.Linear, mask: torch.Tensor, chain_index: torch.Tensor | None = None
) -> PairConfidence:
    """Expected errors, by groups of rows; of 64 logits a pair none outlives its group.

    Args:
        z: ``[B, N, N, c_z]``.
        head: to the 64 bins.
        mask: of residues that count, boolean ``[B, N]``.
        chain_index: integers ``[B, N]``; None means one chain.
    """
    batch, length = mask.shape
    dtype = torch.promote_types(z.dtype, torch.float32)
    pae = z.new_zeros(batch, length, length, dtype=dtype)
    best = z.new_zeros(2, batch, dtype=dtype)
    centres = error_centres(pae)
    scale = tm_scale(mask.sum(-1).to(dtype))
    worth = 1 / (1 + (centres / scale[:, None]).square())
    for rows in _row_groups(z):
        shares = head(z[:, rows]).to(dtype).softmax(-1)
        pae[:, rows] = shares @ centres
        tm = torch.einsum("brnk,bk->brn", shares, worth)
        others = mask[:, None, :].expand_as(tm)
        apart = torch.zeros_like(others)
        if chain_index is not None:
            apart = others & (chain_index[:, rows, None] != chain_index[:, None])
        for place, counted in enumerate((others, apart)):
            mean = (tm * counted).sum(-1) / counted.sum(-1).clamp(min=1)
            best[place] = torch.maximum(best[place], (mean * mask[:, rows]).amax(-1))
    return PairConfidence(pae, best[0], best[1])


@torch.no_grad()
def contact_probability(z: torch.Tensor, head: nn.Linear) -> torch.Tensor:
    """That C-beta lie within 8 A, ``[B, N, N]``, by groups of rows."""
    dtype = torch.promote_types(z.dtype, torch.float32)
    found = z.new_zeros(z.shape[:-1], dtype=dtype)
    limits = torch.linspace(DISTANCE_FIRST, DISTANCE_LAST, PAIR_BINS - 1)
    near = int((limits <= CONTACT).sum())
    for rows in _row_groups(z):
        both = (z[:, rows] + z[:, :, rows].transpose(1, 2)) / 2
        found[:, rows] = head(both).to(dtype).softmax(-1)[..., :near].sum(-1)
    return found


@torch.no_grad()
def distance_shares(z: torch.Tensor, head: nn.Linear, kept: torch.Tensor) -> torch.Tensor:
    """Probabilities of C-beta distances, float16 ``[B, K, K, 64]`` in main memory, by groups of rows.

    Args:
        z: ``[B, N, N, c_z]``.
        head: to the 64 bins.
        kept: residues that are wanted, int64 ``[K]``.
    """
    size, dtype = len(kept), torch.promote_types(z.dtype, torch.float32)
    found = torch.empty(z.shape[0], size, size, PAIR_BINS, dtype=torch.float16)
    step = rows_at_once(size, z.shape[0] * z.shape[1] * max(z.shape[-1], PAIR_BINS) * 4)
    for start in range(0, size, step):
        rows = kept[start : start + step]
        both = (z[:, rows][:, :, kept] + z[:, :, rows][:, kept].transpose(1, 2)) / 2
        found[:, start : start + step] = head(both).to(dtype).softmax(-1)
    return found


def symmetric_logits(z: torch.Tensor, head: nn.Linear) -> torch.Tensor:
    """Logits of distances ``[B, N, N, 64]``, the same for ij and ji; for training."""
    logits = functional.linear(z, head.weight, head.bias)
    return (logits + logits.transpose(1, 2)) / 2


def _row_groups(z: torch.Tensor) -> Iterator[slice]:
    batch, length, _, width = z.shape
    step = rows_at_once(length, batch * length * max(width, PAIR_BINS) * 4)
    return (slice(start, min(start + step, length)) for start in range(0, length, step))
