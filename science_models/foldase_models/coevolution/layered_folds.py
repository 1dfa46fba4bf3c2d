"""Made-up folds of ideal helices and strands in layers: C-alpha traces whose contact maps look natural.

Strands lie 4.8 A apart in sheets, helices 10 A apart, layers 10 A above one another, and the whole is twisted
about the axis across the strands; the chain visits the elements near by first and mostly turns back at each
end. That helices and strands in layers describe most domains: Taylor, Nature 416:657 (2002); the measures
are those of textbooks (Branden and Tooze 1999, chapters 2 to 5). No natural structure is read.

Shapes: N residues, E elements (helices and strands). Lengths in A; x runs across the strands of a sheet, y
from layer to layer, z along the elements.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["helix", "strand"]

RISE = {"helix": 1.5, "strand": 3.3}
"""Along the element, A a residue."""
RESIDUES = {"helix": (8, 21), "strand": (4, 10)}
"""Fewest residues of an element, and one more than the most."""
SPACING = {"helix": 10.0, "strand": 4.8}
"""Neighbouring elements of a layer, A."""
LAYER = 10.0
HELIX_RADIUS, HELIX_TURN = 2.3, 100.0
PLEAT = 0.9
"""C-alpha atoms of a strand lie this far above and below its axis in turn, A."""
BETA_BOND = 1.53
"""From C-alpha to C-beta, A."""
BETA_OUTWARD, BETA_SIDEWAYS = 0.8, -0.6
"""Direction of that bond, against the middle of both neighbours and along the normal of the three: between
those of an ideal helix (0.60, -0.77) and an ideal strand (0.94, -0.34)."""
LOOP_STEP = 3.3
"""Of one residue of a loop, A; less than 3.8, since loops are not stretched."""
REACH = 6.0
"""Places this much farther away are chosen e times less often for the next element, A."""
TURNS_BACK = 0.92
"""Share of elements that run against the one before."""
JITTER = 0.35
"""Standard deviation of every coordinate, A."""

Points = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Element:
    """A helix or strand: its middle (x, y), shift along z, direction (1 or -1) and number of residues."""

    kind: Kind
    x: float
    y: float
    shift: float
    direction: int
    residues: int


def layered_chain(length: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """One chain of helices and strands: all helices, all strands, alternating, or mixed.

    Loops may pass through one another and consecutive residues are only about 3.8 A apart; it is a contact
    map that is wanted, not a structure to be refined.

    Returns:
        float32 (N, 3), centred, A.

    Raises:
        ValueError: ``length`` is below 1.
    """
    if length < 1:
        raise ValueError(f"a chain needs at least 1 residue, got {length}")
    kinds = _kinds(length, rng)
    elements = _place(kinds, rng)
    parts: list[Points] = []
    for element in elements:
        trace = _trace(element, rng)
        if parts:
            parts.append(_loop(parts[-1], trace, rng))
        parts.append(trace)
    chain = np.concatenate(parts)
    while len(chain) < length:
        # What is missing at the end becomes a tail that leads away from the middle.
        away = chain[-1] - chain.mean(axis=0) + rng.normal(scale=2.0, size=3)
        chain = np.concatenate([chain, chain[-1:] + 3.8 * away / np.linalg.norm(away)])
    chain = _twist(chain[:length], rng)
    chain = chain + rng.normal(scale=JITTER, size=chain.shape)
    return np.ascontiguousarray(chain - chain.mean(axis=0), dtype=np.float32)


def beta_points(chain: NDArray[np.floating]) -> Points:
    """C-beta atoms of L-amino acids from the C-alpha trace alone, (N, 3), A; ends stay where they are.

    Contacts of natural proteins are told by C-beta atoms, which know which side of a strand they are on.
    """
    points = np.array(chain, dtype=np.float64)
    if len(points) < 3:
        return points
    before, after = points[1:-1] - points[:-2], points[2:] - points[1:-1]
    outward = _unit(_unit(before) - _unit(after))
    sideways = _unit(np.cross(before, after))
    placed = points.copy()
    placed[1:-1] += BETA_BOND * _unit(BETA_OUTWARD * outward + BETA_SIDEWAYS * sideways)
    return placed


def _kinds(length: int, rng: np.random.Generator) -> list[tuple[Kind, int]]:
    """Kinds and residues of elements that, with loops of about 4, fill about ``length`` residues."""
    family = rng.choice(["helices", "strands", "alternating", "mixed"], p=[0.2, 0.35, 0.25, 0.2])
    found: list[tuple[Kind, int]] = []
    filled = 0
    while filled < length:
        kind: Kind = "helix" if family == "helices" else "strand"
        if family == "alternating" and len(found) % 2 == 1:
            kind = "helix"
        if family == "mixed" and rng.random() < 0.4:
            kind = "helix"
        residues = int(rng.integers(*RESIDUES[kind]))
        found.append((kind, residues))
        filled += residues + 4
    return found


def _place(kinds: list[tuple[Kind, int]], rng: np.random.Generator) -> list[_Element]:
    """A place for every element, near to that of the one before where one is free."""
    all_kinds = [kind for kind, _ in kinds]
    free: dict[Kind, list[tuple[float, float]]] = {
        "helix": _places("helix", all_kinds, rng),
        "strand": _places("strand", all_kinds, rng),
    }
    elements: list[_Element] = []
    direction = 1
    for kind, residues in kinds:
        places = free[kind]
        if elements:
            last = np.array([elements[-1].x, elements[-1].y])
            distance = np.linalg.norm(np.array(places) - last, axis=1)
            weight = np.exp(-(distance - distance.min()) / REACH)
        else:
            weight = np.ones(len(places))
        x, y = places.pop(int(rng.choice(len(places), p=weight / weight.sum())))
        elements.append(_Element(kind, x, y, float(rng.normal(scale=2.0)), direction, residues))
        if rng.random() < TURNS_BACK:
            direction = -direction
    return elements


def _places(kind: Kind, kinds: list[Kind], rng: np.random.Generator) -> list[tuple[float, float]]:
    """Middles (x, y) of all elements of one kind: sheets in the middle, helices above and below them."""
    count = kinds.count(kind)
    strands = kinds.count("strand")
    sheets = 2 if strands > 4 and len(kinds) == strands and rng.random() < 0.85 else 1
    if kind == "strand":
        layers = [LAYER * k for k in range(sheets)]
    elif strands:
        layers = [-LAYER, LAYER] if count > 1 and rng.random() < 0.7 else [LAYER]
    else:
        layers = [LAYER * k for k in range(2 if count < 7 else 3)]
    share = np.array_split(np.arange(count), len(layers))
    places: list[tuple[float, float]] = []
    for layer, own in zip(layers, share, strict=True):
        offset = float(rng.normal(scale=1.5))
        middle = (len(own) - 1) / 2
        places += [(SPACING[kind] * (k - middle) + offset, layer) for k in range(len(own))]
    return places


def _trace(element: _Element, rng: np.random.Generator) -> Points:
    """C-alpha atoms of an element, (residues, 3)."""
    k = np.arange(element.residues)
    along = RISE[element.kind] * (k - (element.residues - 1) / 2) * element.direction + element.shift
    if element.kind == "strand":
        side = PLEAT * (1 - 2 * ((k + int(rng.integers(2))) % 2))
        return np.stack([np.full(len(k), element.x), element.y + side, along], axis=1)
    # Right-handed whichever way it runs: the angle turns with z.
    angle = np.radians(HELIX_TURN * k * element.direction + rng.uniform(0, 360))
    return np.stack(
        [element.x + HELIX_RADIUS * np.cos(angle), element.y + HELIX_RADIUS * np.sin(angle), along], axis=1
    )


def _loop(before: Points, after: Points, rng: np.random.Generator) -> Points:
    """Residues between two elements, (n, 3), on a curve that leaves along the first and enters the second."""
    start, end = before[-1], after[0]
    count = max(int(rng.integers(2, 6)), int(np.ceil(np.linalg.norm(end - start) / LOOP_STEP)) - 1)
    out, into = _unit(before[-1] - before[-3]), _unit(after[0] - after[2])
    t = np.linspace(0, 1, 64)[:, None]
    curve = (1 - t) * start + t * end
    for pull in np.linspace(0, 5.0 * (count + 1), 40):
        first, second = start + pull * out, end + pull * into
        curve = (1 - t) ** 3 * start + 3 * (1 - t) ** 2 * t * first + 3 * (1 - t) * t**2 * second + t**3 * end
        run = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(curve, axis=0), axis=1))])
        if run[-1] >= LOOP_STEP * (count + 1):
            break
    where = np.linspace(0, run[-1], count + 2)[1:-1]
    return np.stack([np.interp(where, run, curve[:, axis]) for axis in range(3)], axis=1)


def _twist(chain: Points, rng: np.random.Generator) -> Points:
    """Turn every plane across x a little more than the one before, as neighbouring strands are turned."""
    angle = np.radians(rng.uniform(-25.0, -10.0)) * chain[:, 0] / SPACING["strand"]
    middle = chain[:, 1].mean()
    y, z = chain[:, 1] - middle, chain[:, 2]
    return np.stack(
        [chain[:, 0], np.cos(angle) * y - np.sin(angle) * z, np.sin(angle) * y + np.cos(angle) * z], axis=1
    )


def _unit(vectors: Points) -> Points:
    unit: Points = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-6)
    return unit
