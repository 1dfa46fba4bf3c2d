"""What is read off the representations: confidence, distances, aligned errors, letters, resolved atoms.

Shapes: S rows, N residues, c_m, c_z and c_s channels, D bins. Errors and distances in A.

Training wants logits. Inference wants what they mean, and takes pairs in groups of rows, so that no logits of
all pairs exist. Sources: Jumper et al. 2021, supplement 1.9.6 to 1.9.10.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from foldase_models.layers.primitives import Linear
from foldase_models.layers.row_groups import by_rows, rows_at_once

PLDDT_BINS = 50
DISTANCE_BINS = 64
FIRST_DISTANCE, LAST_DISTANCE = 2.3125, 21.6875
"""First and last edge between bins of the distogram."""
ERROR_BINS = 64
LAST_ERROR = 31.0
"""Last edge between bins of the aligned error; the first is 0."""
MASKED_LETTERS = 23
ATOMS = 37
CONTACT = 8.0
"""C-beta atoms nearer than this touch; bins that reach beyond it are not counted."""
SMALLEST_TM_LENGTH = 19
"""Shorter chains are scaled as if they had so many residues."""


@dataclass(frozen=True, slots=True)
class HeadLogits:
    """Logits of all heads.

    Attributes:
        plddt: of the lDDT of C-alpha, ``[..., N, 50]``.
        distogram: of C-beta distances, symmetric, ``[..., N, N, 64]``.
        masked_msa: of the letters, ``[..., S, N, 23]``.
        experimentally_resolved: whether atoms are seen, ``[..., N, 37]``.
        aligned_error: of the error of j in the frame of i, ``[..., N, N, 64]``, or None.
    """

    plddt: torch.Tensor
    distogram: torch.Tensor
    masked_msa: torch.Tensor
    experimentally_resolved: torch.Tensor
    aligned_error: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class Confidence:
    """How sure the model is; float32.

    Attributes:
        plddt: ``[..., N]``, 0 to 100.
        contact_probability: of C-beta atoms within 8 A, ``[..., N, N]``.
        aligned_error: expected error of j where i is aligned, ``[..., N, N]``, A, or None.
        ptm: expected TM-score ``[...]``, or None.
        iptm: the same over pairs of residues of different chains, or None.
    """

    plddt: torch.Tensor
    contact_probability: torch.Tensor
    aligned_error: torch.Tensor | None
    ptm: torch.Tensor | None
    iptm: torch.Tensor | None


def error_centres(like: torch.Tensor) -> torch.Tensor:
    """Centres of the bins of the aligned error, A, float32 ``[64]``; the last bin is open."""
    width = LAST_ERROR / (ERROR_BINS - 2)
    return (torch.arange(ERROR_BINS, dtype=torch.float32, device=like.device) + 0.5) * width


def plddt_of(logits: torch.Tensor) -> torch.Tensor:
    """Expected lDDT, 0 to 100, from logits ``[..., 50]``."""
    bins = logits.shape[-1]
    centres = (torch.arange(bins, dtype=torch.float32, device=logits.device) + 0.5) * (100.0 / bins)
    return torch.softmax(logits.float(), -1) @ centres


def tm_terms(logits: torch.Tensor, residues: torch.Tensor | int) -> torch.Tensor:
    """Expected share that each pair adds to the TM-score, ``[..., N, N]`` (Zhang and Skolnick 2004).

    Args:
        logits: of aligned errors ``[..., N, N, 64]``.
        residues: of the whole structure ``[...]``; sets the scale.
    """
    count = torch.as_tensor(residues, dtype=torch.float32, device=logits.device).clamp(min=SMALLEST_TM_LENGTH)
    scale = 1.24 * (count - 15).pow(1 / 3) - 1.8
    per_bin = 1 / (1 + (error_centres(logits)[:, None] / scale[..., None, None, None]).square())
    return (torch.softmax(logits.float(), -1) @ per_bin).squeeze(-1)


def best_alignment(terms: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """The largest mean over scored residues of any aligned residue, ``[...]``.

    Args:
        terms: of pairs ``[..., N, N]``, row = aligned residue.
        counted: which pairs count, boolean and broadcastable.
    """
    weights = counted.to(terms.dtype).expand_as(terms)
    mean = (terms * weights).sum(-1) / weights.sum(-1).clamp(min=1e-8)
    return mean.amax(-1)


class PerResidueLDDTCaPredictor(nn.Module):
    """Keys: ``layer_norm``, ``linear_1``, ``linear_2``, ``linear_3``."""

    def __init__(self, c_s: int, c_hidden: int) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(c_s)
        self.linear_1 = Linear(c_s, c_hidden, init="relu")
        self.linear_2 = Linear(c_hidden, c_hidden, init="relu")
        self.linear_3 = Linear(c_hidden, PLDDT_BINS, init="final")

    def forward(self, s: torch.Tensor) -> torch.Tensor:
        """Logits ``[..., N, 50]`` from the single representation of the structure module."""
        hidden = torch.relu(self.linear_1(self.layer_norm(s)))
        out: torch.Tensor = self.linear_3(torch.relu(self.linear_2(hidden)))
        return out


class LinearHead(nn.Module):
    """One linear layer under the key ``linear``."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.linear = Linear(c_in, c_out, init="final")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of ``x``."""
        out: torch.Tensor = self.linear(x.to(self.linear.weight.dtype))
        return out


class DistogramHead(LinearHead):
    """Symmetric logits of C-beta distances."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[..., N, N, 64]``."""
        logits = super().forward(x)
        out: torch.Tensor = logits + logits.transpose(-2, -3)
        return out


class AuxiliaryHeads(nn.Module):
    """Keys: ``plddt``, ``distogram``, ``masked_msa``, ``experimentally_resolved``; ``tm`` where wanted."""

    def __init__(self, *, c_m: int, c_z: int, c_s: int, plddt_hidden: int, tm: bool) -> None:
        super().__init__()
        self.plddt = PerResidueLDDTCaPredictor(c_s, plddt_hidden)
        self.distogram = DistogramHead(c_z, DISTANCE_BINS)
        self.masked_msa = LinearHead(c_m, MASKED_LETTERS)
        self.experimentally_resolved = LinearHead(c_s, ATOMS)
        self.tm = LinearHead(c_z, ERROR_BINS) if tm else None

    def forward(
        self, m: torch.Tensor, z: torch.Tensor, s: torch.Tensor, structure_single: torch.Tensor
    ) -> HeadLogits:
        """Logits of all heads.

        Args:
            m: ``[..., S, N, c_m]``.
            z: ``[..., N, N, c_z]``.
            s: single representation of the Evoformer ``[..., N, c_s]``.
            structure_single: that of the structure module ``[..., N, c_s]``.
        """
        return HeadLogits(
            plddt=self.plddt(structure_single),
            distogram=self.distogram(z),
            masked_msa=self.masked_msa(m),
            experimentally_resolved=self.experimentally_resolved(s),
            aligned_error=None if self.tm is None else self.tm(z),
        )

    @torch.no_grad()
    def confidence(
        self,
        z: torch.Tensor,
        structure_single: torch.Tensor,
        *,
        mask: torch.Tensor | None = None,
        chains: torch.Tensor | None = None,
    ) -> Confidence:
        """What the logits mean; pairs in groups of rows.

        Args:
            z: ``[..., N, N, c_z]``.
            structure_single: ``[..., N, c_s]``.
            mask: boolean ``[..., N]``, True = real.
            chains: number of the chain of each residue ``[..., N]``; None means one chain.
        """
        error = ptm = iptm = None
        if self.tm is not None:
            residues = z.shape[-2] if mask is None else mask.sum(-1)
            both = self._of_rows(z, lambda logits: _error_and_term(logits, residues), self.tm)
            error, terms = both.unbind(-1)
            real = z.new_ones(z.shape[:-2], dtype=torch.bool) if mask is None else mask
            counted = real[..., :, None] & real[..., None, :]
            ptm = best_alignment(terms, counted)
            if chains is not None:
                apart = chains[..., :, None] != chains[..., None, :]
                iptm = best_alignment(terms, counted & apart) if bool(apart.any()) else None
        return Confidence(
            plddt=plddt_of(self.plddt(structure_single)),
            contact_probability=self._contacts(z),
            aligned_error=error,
            ptm=ptm,
            iptm=iptm,
        )

    @torch.no_grad()
    def distance_shares(self, z: torch.Tensor) -> torch.Tensor:
        """Probabilities of C-beta distances, float16 ``[N, N, 64]`` in main memory, by groups of rows.

        Args:
            z: ``[N, N, c_z]``.
        """
        length = len(z)
        found = torch.empty(length, length, DISTANCE_BINS, dtype=torch.float16)
        step = rows_at_once(length, 4 * length * max(z.shape[-1], DISTANCE_BINS))
        for start in range(0, length, step):
            rows = slice(start, min(start + step, length))
            found[rows] = torch.softmax(self._symmetric_logits(z[rows], z, rows).float(), -1)
        return found

    def _of_rows(
        self, z: torch.Tensor, meaning: Callable[[torch.Tensor], torch.Tensor], head: LinearHead
    ) -> torch.Tensor:
        return by_rows(lambda part, _: meaning(head(part)), z, ())

    def _contacts(self, z: torch.Tensor) -> torch.Tensor:
        width = (LAST_DISTANCE - FIRST_DISTANCE) / (DISTANCE_BINS - 2)
        near = int((CONTACT - FIRST_DISTANCE) / width) + 1

        def compute(part: torch.Tensor, rows: slice) -> torch.Tensor:
            logits = self._symmetric_logits(part, z, rows)
            return torch.softmax(logits.float(), -1)[..., :near].sum(-1, keepdim=True)

        return by_rows(compute, z, ()).squeeze(-1)

    def _symmetric_logits(self, part: torch.Tensor, z: torch.Tensor, rows: slice) -> torch.Tensor:
        """Logits of distances of some rows, ``part``, of all pairs ``z``."""
        linear = self.distogram.linear
        dtype = linear.weight.dtype
        out: torch.Tensor = linear(part.to(dtype)) + linear(z[..., rows, :].to(dtype)).transpose(-2, -3)
        return out


def _error_and_term(logits: torch.Tensor, residues: torch.Tensor | int) -> torch.Tensor:
    share = torch.softmax(logits.float(), -1)
    return torch.stack([share @ error_centres(logits), tm_terms(logits, residues)], -1)
