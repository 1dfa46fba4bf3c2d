"""From predicted distances to a C-alpha trace, and its lDDT against the truth.

Distances fix a trace up to its mirror image. The start is classical multidimensional scaling (Torgerson
1952); the refinement is stress majorisation with weights (SMACOF; de Leeuw 1977), which lowers
``sum_ij w_ij (|x_i - x_j| - d_ij)^2`` at every step; at the end consecutive residues are set 3.8 A apart.

Shapes: B proteins, N residues. Lengths in A.
"""

from __future__ import annotations

import torch

BOND = 3.8
"""Consecutive C-alpha atoms, A (trans peptide bond)."""
CLASH = 4.0
"""No two other C-alpha atoms come nearer, A."""
BOND_WEIGHT = 20.0
STEPS = 60
LDDT_RADIUS = 15.0
LDDT_THRESHOLDS = (0.5, 1.0, 2.0, 4.0)


@torch.no_grad()
def trace_from_distances(distance: torch.Tensor, spread: torch.Tensor, *, steps: int = STEPS) -> torch.Tensor:
    """Coordinates whose distances agree with the predicted ones as well as three dimensions allow.

    Args:
        distance: expected distances ``[B, N, N]``, symmetric, A.
        spread: their standard deviations ``[B, N, N]``, A; certain distances weigh more.
        steps: refinement steps.

    Returns:
        float32 ``[B, N, 3]``, centred, consecutive residues 3.8 A apart, handedness arbitrary.
    """
    batch, residues, _ = distance.shape
    if residues == 1:
        return distance.new_zeros(batch, 1, 3)
    index = torch.arange(residues, device=distance.device)
    apart = (index[:, None] - index[None]).abs()
    target = torch.where(apart > 1, distance.clamp(min=CLASH), BOND)
    target = torch.where(apart == 0, 0.0, target)
    weight = torch.where(apart == 1, BOND_WEIGHT, 1.0 / (1.0 + spread.square()))
    weight = torch.where(apart == 0, 0.0, weight)
    coords = _refine(_classical_scaling(target), target, weight, steps)
    return _set_bonds(coords)


def _classical_scaling(distance: torch.Tensor) -> torch.Tensor:
    square = distance.double().square()
    centred = square - square.mean(-1, keepdim=True)
    gram = -0.5 * (centred - centred.mean(-2, keepdim=True))
    values, vectors = torch.linalg.eigh(0.5 * (gram + gram.mT))
    count = min(3, distance.shape[-1])
    coords = vectors[..., -count:] * values[..., -count:].clamp(min=1e-3).sqrt().unsqueeze(-2)
    # The sign of an eigenvector is arbitrary; make its largest entry positive.
    largest = coords.abs().argmax(-2, keepdim=True)
    coords = coords * torch.sign(coords.gather(-2, largest))
    return torch.nn.functional.pad(coords, (0, 3 - count)).to(distance.dtype)


def _refine(coords: torch.Tensor, target: torch.Tensor, weight: torch.Tensor, steps: int) -> torch.Tensor:
    residues = coords.shape[-2]
    laplacian = torch.diag_embed(weight.sum(-1)) - weight
    # The all-ones vector spans the null space (moving the whole trace); filling it makes it invertible.
    inverse = torch.linalg.inv(laplacian.double() + 1.0 / residues).to(coords.dtype)
    pull = weight * target
    for number in range(steps):
        current = torch.cdist(coords, coords).clamp(min=1e-3)
        ratio = pull / current
        majorised = inverse @ (ratio.sum(-1, keepdim=True) * coords - ratio @ coords)
        # Twice the step converges in about half the steps (de Leeuw and Heiser 1980); the last one is plain.
        coords = majorised if number == steps - 1 else 2.0 * majorised - coords
    return coords


def _set_bonds(coords: torch.Tensor) -> torch.Tensor:
    """Scale each step of the chain to 3.8 A and centre the result."""
    step = coords.diff(dim=-2)
    step = BOND * step / step.norm(dim=-1, keepdim=True).clamp(min=1e-3)
    chain = torch.nn.functional.pad(step.cumsum(-2), (0, 0, 1, 0))
    return chain - chain.mean(-2, keepdim=True)


@torch.no_grad()
def lddt_ca(coords: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Per-residue lDDT of C-alpha atoms (Mariani et al. 2013), without stereochemistry checks.

    Args:
        coords: predicted ``[B, N, 3]``, A.
        truth: true ``[B, N, 3]``, A.

    Returns:
        ``[B, N]`` in 0 to 1; 1 for a residue without another one within 15 A.
    """
    true = torch.cdist(truth, truth)
    residues = truth.shape[-2]
    counted = (true < LDDT_RADIUS) & ~torch.eye(residues, dtype=torch.bool, device=truth.device)
    error = (torch.cdist(coords, coords) - true).abs()
    kept = sum((error < threshold).to(true.dtype) for threshold in LDDT_THRESHOLDS)
    assert isinstance(kept, torch.Tensor)
    total = counted.sum(-1)
    score = (kept * counted).sum(-1) / (len(LDDT_THRESHOLDS) * total.clamp(min=1))
    return torch.where(total > 0, score, 1.0)
