"""Protein chains built exactly from torsions: ideal helices, hairpins and bundles; numpy only.

Bond lengths and angles are those of the residue tables, so that what is built is what frames and torsions can
express. Source of the placing of atoms one by one: Parsons et al., J. Comput. Chem. 26:1063 (2005).

Shapes: K chains built side by side, N residues. Lengths in A, torsions in degrees.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foldase_models.errors import ModelError
from foldase_models.layers import residues

HELIX = (-57.0, -47.0)
STRAND = (-120.0, 130.0)
LOOP_TORSIONS = ((-57.0, -47.0), (-75.0, 145.0), (-120.0, 130.0), (55.0, 45.0), (85.0, 5.0), (-95.0, 0.0))
"""Phi and psi that loops are made of."""
HELIX_LETTERS = "AELKRQMIVFDSTNYWH"
LOOP_LETTERS = "GNSD"
CANDIDATES = 400
"""Loops tried between two helices."""
_TOUCHING, _TOO_NEAR = 4.5, 7.5
"""Nearest C-alpha atoms of any two residues, and of residues of two helices, A."""
_LOOP_SHARE = 7
"""Residues after a helix that may lie nearer to it: the loop and the first turn."""

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class IdealStructure:
    """One chain: letters, ``positions`` float32 ``(N, 37, 3)`` and ``mask`` boolean ``(N, 37)``."""

    name: str
    sequence: str
    positions: NDArray[np.float32]
    mask: NDArray[np.bool_]


def build_chain(
    name: str, sequence: str, torsions: NDArray[np.floating], chi: NDArray[np.floating] | None = None
) -> IdealStructure:
    """All heavy atoms of a chain.

    Args:
        name: of the structure.
        sequence: N of the twenty letters.
        torsions: phi and psi, degrees ``(N, 2)``; peptide bonds are trans. The first phi has no effect.
        chi: torsions of the side chains, degrees ``(N, 4)``; -65, 180, 180, 180 where not given, with 90 for
            the second one of rings and acids.

    Raises:
        ModelError: ``unknown_residue``, X among them, which has no atoms to place.
    """
    kinds = residues.encode(sequence, location=name)
    if residues.UNKNOWN in kinds:
        raise ModelError(
            f"residue {sequence.index('X') + 1} is X, which has no atoms",
            code="unknown_residue",
            location=name,
        )
    backbone = trace_backbone(sequence, np.asarray(torsions, dtype=np.float64)[None])[0]
    frames = np.tile(np.eye(4), (len(sequence), 1, 1))
    frames[:, :3, :3] = np.stack([_axes(residue) for residue in backbone])
    frames[:, :3, 3] = backbone[:, 1]
    # Omega and phi move no heavy atom of the residue itself.
    angles = np.zeros((len(sequence), 7))
    angles[:, 2] = np.radians(np.asarray(torsions)[:, 1])
    angles[:, 3:] = np.radians(_usual_chi(sequence) if chi is None else chi)
    groups = _group_frames(kinds, frames, angles)
    index = np.arange(len(sequence))[:, None]
    own = groups[index, residues.ATOM37_GROUP[kinds]]
    local = residues.ATOM37_POSITIONS[kinds]
    positions = np.einsum("naij,naj->nai", own[..., :3, :3], local) + own[..., :3, 3]
    mask = residues.ATOM37_MASK[kinds]
    return IdealStructure(
        name, sequence, np.where(mask[..., None], positions, 0.0).astype(np.float32), mask.copy()
    )


def helix_bundle(helices: int, length: int, *, seed: int, loop: int = 4, name: str = "") -> IdealStructure:
    """Ideal helices packed against each other, joined by loops: one chain without touching backbones.

    Args:
        helices: how many.
        length: residues of each.
        seed: of letters and loops; the same seed builds the same chain.
        loop: residues between two helices.
        name: of the structure.
    """
    rng = np.random.default_rng(seed)
    letters = "".join(
        ("" if k == 0 else _letters(rng, LOOP_LETTERS, loop)) + _letters(rng, HELIX_LETTERS, length)
        for k in range(helices)
    )
    torsions = np.tile(np.array(HELIX), (length, 1))
    for _ in range(1, helices):
        choice = rng.integers(len(LOOP_TORSIONS), size=(CANDIDATES, loop))
        loops = np.array(LOOP_TORSIONS)[choice] + rng.normal(scale=8.0, size=(CANDIDATES, loop, 2))
        # The last residue there is, the loop, the next helix: all that differs between candidates.
        added = np.concatenate(
            [_repeated(torsions[-1:]), loops, _repeated(np.tile(HELIX, (length, 1)))], axis=1
        )
        best = int(np.argmax(_packing(letters, torsions, added)))
        torsions = np.concatenate([torsions[:-1], added[best]])
    return build_chain(name or f"bundle-{helices}x{length}-{seed}", letters, torsions)


def _repeated(torsions: Array) -> Array:
    return np.broadcast_to(torsions, (CANDIDATES, *torsions.shape))


def trace_backbone(sequence: str, torsions: Array) -> Array:
    """N, C-alpha and C ``(K, N, 3, 3)`` of chains with phi and psi ``(K, N, 2)``, degrees."""
    kinds = residues.encode(sequence)
    ideal = np.array([residues.ATOM37_POSITIONS[kind, :3] for kind in kinds])
    n, alpha, c = ideal[:, 0], ideal[:, 1], ideal[:, 2]
    placed = np.empty((len(torsions), len(sequence), 3, 3))
    placed[:, 0] = ideal[0]
    angles = np.radians(torsions)
    for i in range(1, len(sequence)):
        before = placed[:, i - 1]
        bond = residues.BOND_C_N_PROLINE if sequence[i] == "P" else residues.BOND_C_N
        at_n = _next_atom(
            before[:, 0], before[:, 1], before[:, 2], bond[0], residues.COS_CA_C_N[0], angles[:, i - 1, 1]
        )
        to_alpha = float(np.linalg.norm(n[i] - alpha[i]))
        trans = np.full(len(torsions), np.pi)
        at_alpha = _next_atom(before[:, 1], before[:, 2], at_n, to_alpha, residues.COS_C_N_CA[0], trans)
        to_c = float(np.linalg.norm(c[i] - alpha[i]))
        cosine = float((n[i] - alpha[i]) @ (c[i] - alpha[i]) / (to_alpha * to_c))
        at_c = _next_atom(before[:, 2], at_n, at_alpha, to_c, cosine, angles[:, i, 0])
        placed[:, i] = np.stack([at_n, at_alpha, at_c], axis=1)
    return placed


def _next_atom(a: Array, b: Array, c: Array, length: float, cosine: float, torsion: Array) -> Array:
    """The atom bonded to ``c`` (K, 3), at an angle to ``b`` of this cosine, with the torsion from ``a``."""
    along = _unit(c - b)
    normal = _unit(np.cross(b - a, along))
    across = np.cross(normal, along)
    sine = np.sqrt(1.0 - cosine**2)
    placed: Array = c + length * (
        -cosine * along + sine * (np.cos(torsion)[:, None] * across + np.sin(torsion)[:, None] * normal)
    )
    return placed


def _group_frames(kinds: NDArray[np.int64], frames: Array, angles: Array) -> Array:
    """Frames of the eight rigid groups ``(N, 8, 4, 4)`` from that of the backbone and seven torsions."""
    turn = np.tile(np.eye(4), (*angles.shape, 1, 1))
    turn[..., 1, 1] = turn[..., 2, 2] = np.cos(angles)
    turn[..., 2, 1] = np.sin(angles)
    turn[..., 1, 2] = -turn[..., 2, 1]
    local = residues.GROUP_FRAMES[kinds][:, 1:] @ turn
    groups = [frames, *(frames @ local[:, k] for k in range(4))]
    for k in range(4, 7):
        groups.append(groups[-1] @ local[:, k])
    return np.stack(groups, axis=1)


def _usual_chi(sequence: str) -> Array:
    chi = np.tile([-65.0, 180.0, 180.0, 180.0], (len(sequence), 1))
    for i, letter in enumerate(sequence):
        if letter in "FYWHDN":
            chi[i, 1] = 90.0
        elif letter == "P":
            chi[i, :2] = 27.0, -23.0  # closes the ring
        elif letter == "E":
            chi[i, 2] = 0.0
    return chi


def _packing(letters: str, torsions: Array, added: Array) -> Array:
    """How near the added residues (K, M, 2) come to those before without touching them, higher is better."""
    last = len(torsions) - 1
    before = trace_backbone(letters[: last + 1], torsions[None])[0]
    after = trace_backbone(letters[last : last + added.shape[1]], added)
    # Both in the frame of the residue that they share.
    origin, ideal = before[last, 1], after[0, 0]
    rotation = _axes(ideal) @ _axes(before[last]).T
    old = (before[:-1, 1] - origin) @ rotation.T + ideal[1]
    new = after[:, 1:, 1]
    distance = np.linalg.norm(new[:, :, None] - old[None, None], axis=-1)
    apart = np.arange(1, new.shape[1] + 1)[:, None] + np.arange(len(old), 0, -1)[None]
    far = np.where(apart > 3, distance, np.inf)
    touching = (far < _TOUCHING).sum(axis=(1, 2)) + (far[:, _LOOP_SHARE:] < _TOO_NEAR).sum(axis=(1, 2))
    nearest: Array = -far.min(axis=2).mean(axis=1) - 100.0 * touching
    return nearest


def _axes(residue: Array) -> Array:
    """The axes of the frame of N, C-alpha and C (3, 3), as columns."""
    x = _unit(residue[2] - residue[1])
    y = residue[0] - residue[1]
    y = _unit(y - (x @ y) * x)
    return np.stack([x, y, np.cross(x, y)], axis=-1)


def _letters(rng: np.random.Generator, alphabet: str, count: int) -> str:
    return "".join(alphabet[i] for i in rng.integers(len(alphabet), size=count))


def _unit(vectors: Array) -> Array:
    unit: Array = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return unit
