"""Random compact chains: C-alpha traces of made-up folds.

Shapes: N residues, K candidate places. Lengths in A.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BOND = 3.8
"""Distance of consecutive C-alpha atoms with a trans peptide bond, A."""
CLASH = 4.0
"""Closest approach of residues that are not neighbours in the chain, A."""
SECOND_NEIGHBOUR = (5.0, 7.2)
"""Distance of residues i and i + 2, A: virtual bond angles of 82 to 143 degrees, as in proteins."""
CANDIDATES = 24
"""Places tried for each next residue."""
RESTARTS = 1000
"""Dead ends before a chain is given up; one in a few dozen chains meets even one."""


def random_chain(
    length: int, rng: np.random.Generator, *, attraction: float = 2.0, contact_cutoff: float = 7.0
) -> NDArray[np.float32]:
    """Grow one compact, self-avoiding chain (Rosenbluth growth with an attractive weight).

    Each next residue is drawn from random places that do not clash, with weight
    exp(attraction * residues within ``contact_cutoff``). A chain is reversed half of the time, so that
    neither end is the denser one. Chains have no preferred handedness.

    Returns:
        float32 (N, 3), centred, A.

    Raises:
        ValueError: ``length`` is below 1, or no chain was found (cannot happen with sane settings).
    """
    if length < 1:
        raise ValueError(f"a chain needs at least 1 residue, got {length}")
    for _ in range(RESTARTS):
        chain = _grow(length, rng, attraction, contact_cutoff)
        if chain is not None:
            ordered = chain[::-1] if rng.random() < 0.5 else chain
            return np.ascontiguousarray(ordered - ordered.mean(axis=0), dtype=np.float32)
    raise ValueError(f"no self-avoiding chain of {length} residues in {RESTARTS} tries")


def contact_map(
    coords: NDArray[np.floating], *, cutoff: float = 7.0, min_separation: int = 4
) -> NDArray[np.uint8]:
    """Pairs nearer than ``cutoff`` (A) and at least ``min_separation`` apart in the chain.

    Args:
        coords: (N, 3), A.
        cutoff: A.
        min_separation: |i - j| of the nearest pairs that count.

    Returns:
        uint8 (N, N), symmetric, 1 = contact.
    """
    points = np.asarray(coords, dtype=np.float64)
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1)
    index = np.arange(len(points))
    apart = np.abs(index[:, None] - index[None]) >= min_separation
    contacts: NDArray[np.uint8] = ((distance < cutoff) & apart).astype(np.uint8)
    return contacts


def _grow(
    length: int, rng: np.random.Generator, attraction: float, contact_cutoff: float
) -> NDArray[np.float64] | None:
    """One attempt; None at a dead end."""
    chain = np.zeros((length, 3))
    directions = rng.normal(size=(length, CANDIDATES, 3))
    directions *= BOND / np.linalg.norm(directions, axis=-1, keepdims=True)
    draws = rng.random(length)
    for i in range(1, length):
        places = chain[i - 1] + directions[i]
        if i == 1:
            chain[i] = places[0]
            continue
        distance = np.linalg.norm(places[:, None] - chain[None, : i - 1], axis=-1)
        second = distance[:, -1]
        allowed = (
            (distance.min(axis=1) >= CLASH)
            & (second >= SECOND_NEIGHBOUR[0])
            & (second <= SECOND_NEIGHBOUR[1])
        )
        if not allowed.any():
            return None
        near = (distance[:, : max(i - 3, 0)] < contact_cutoff).sum(axis=1)
        weight = np.where(allowed, np.exp(attraction * (near - near[allowed].max())), 0.0)
        cumulative = np.cumsum(weight)
        chosen = int(np.searchsorted(cumulative, draws[i] * cumulative[-1], side="right"))
        chain[i] = places[min(chosen, CANDIDATES - 1)]
    return chain
