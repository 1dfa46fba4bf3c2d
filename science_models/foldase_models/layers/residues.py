"""The twenty residue types and the unknown one, as arrays by type: atoms, rigid groups, torsions; no torch.

Axes: 21 residue types in the order of :data:`RESTYPES` and then the unknown one; 37 places for atoms by name
(``atom37``), or 14 by residue (``atom14``, the atoms of a residue in order, then nothing); 8 rigid groups; 4
torsions of the side chain. Lengths in A. Source: Jumper et al. 2021, supplement 1.2.1, 1.8.4 and tables 2-3.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from foldase_models.errors import ModelError
from foldase_models.layers.residue_tables import (
    ATOM37_NAMES,
    CHI_PATHS,
    IDEAL_ATOMS,
    NEXT_ALPHA,
    PEPTIDE_ANGLE_COSINES,
    PEPTIDE_BOND,
    RADII,
    SWAPS,
    THREE_LETTERS,
    TURNED_BY_HALF,
)

RESTYPES = "ARNDCQEGHILKMFPSTWYV"
"""One-letter codes by residue type."""

UNKNOWN = len(RESTYPES)
"""The type of a residue that is none of the twenty, written X."""

TYPES = len(RESTYPES) + 1
ATOMS = 14
GROUPS = 8
CHIS = 4

ONE_TO_THREE = dict(THREE_LETTERS)
THREE_TO_ONE = {three: one for one, three in THREE_LETTERS.items()}
RESIDUE_NAMES = (*(THREE_LETTERS[letter] for letter in RESTYPES), "UNK")
"""Three-letter names by residue type."""

ATOM37 = tuple(ATOM37_NAMES.split())
"""Names of the 37 places."""

ATOM37_INDEX = {name: place for place, name in enumerate(ATOM37)}

VAN_DER_WAALS = dict(RADII)
"""Radii by element, A."""

BOND_C_N = PEPTIDE_BOND["length"]
"""Mean and standard deviation of C to N of the next residue, A."""
BOND_C_N_PROLINE = PEPTIDE_BOND["length_before_proline"]
COS_CA_C_N = PEPTIDE_ANGLE_COSINES["CA-C-N"]
"""Mean and standard deviation of the cosine of the angle at C."""
COS_C_N_CA = PEPTIDE_ANGLE_COSINES["C-N-CA"]
CA_CA = NEXT_ALPHA
"""From one C-alpha to the next in trans, A."""


class IdealAtom(NamedTuple):
    """One heavy atom of a residue, where the tables have it."""

    name: str
    group: int
    position: tuple[float, float, float]


def _ideal_atoms() -> dict[str, tuple[IdealAtom, ...]]:
    found = {}
    for residue, rows in IDEAL_ATOMS.items():
        fields = [row.split() for row in rows.strip().splitlines()]
        found[residue] = tuple(
            IdealAtom(name, int(group), (float(x), float(y), float(z))) for name, group, x, y, z in fields
        )
    return found


IDEAL = _ideal_atoms()
"""Atoms of each of the twenty, by three-letter name, in the order of ``atom14``."""

ATOM14 = tuple(
    tuple(atom.name for atom in IDEAL.get(name, ())) + ("",) * (ATOMS - len(IDEAL.get(name, ())))
    for name in RESIDUE_NAMES
)
"""Names of the 14 places by residue type; the empty name where there is no atom."""


def encode(sequence: str, *, location: str | None = None) -> NDArray[np.int64]:
    """Residue types, int64 ``[N]``, of a sequence of N of the twenty letters and X.

    Raises:
        ModelError: ``unknown_residue`` for any other letter, saying where it stands.
    """
    index = {letter: kind for kind, letter in enumerate(RESTYPES + "X")}
    for place, letter in enumerate(sequence, start=1):
        if letter not in index:
            raise ModelError(
                f"residue {place} is {letter!r}, which is none of the twenty",
                code="unknown_residue",
                location=location,
                hint="write X for a residue that the model does not know, in capitals",
            )
    return np.array([index[letter] for letter in sequence], dtype=np.int64)


def decode(types: NDArray[np.int64]) -> str:
    """The letters of residue types ``[N]``, each 0 to 20."""
    return "".join((RESTYPES + "X")[kind] for kind in types)


def _atom_maps() -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_]]:
    to_37 = np.zeros((TYPES, ATOMS), dtype=np.int64)
    to_14 = np.zeros((TYPES, len(ATOM37)), dtype=np.int64)
    mask_14 = np.zeros((TYPES, ATOMS), dtype=np.bool_)
    mask_37 = np.zeros((TYPES, len(ATOM37)), dtype=np.bool_)
    for kind, names in enumerate(ATOM14):
        for place, name in enumerate(names):
            if name:
                wide = ATOM37_INDEX[name]
                to_37[kind, place], to_14[kind, wide] = wide, place
                mask_14[kind, place] = mask_37[kind, wide] = True
    return to_37, to_14, mask_14, mask_37


ATOM14_TO_ATOM37, ATOM37_TO_ATOM14, ATOM14_MASK, ATOM37_MASK = _atom_maps()
"""Places of ``atom14`` in ``atom37`` ``[21, 14]`` and the other way ``[21, 37]`` (0 where there is no atom),
and which atoms a residue has, boolean of the same shapes. The unknown type has none, no type has OXT."""


def _chis() -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_]]:
    atoms = np.zeros((TYPES, CHIS, 4), dtype=np.int64)
    exists = np.zeros((TYPES, CHIS), dtype=np.bool_)
    periodic = np.zeros((TYPES, CHIS), dtype=np.bool_)
    for residue, path in CHI_PATHS.items():
        kind = RESIDUE_NAMES.index(residue)
        places = [ATOM37_INDEX[name] for name in path.split()]
        for chi in range(len(places) - 3):
            atoms[kind, chi] = places[chi : chi + 4]
            exists[kind, chi] = True
    for residue, chi in TURNED_BY_HALF.items():
        periodic[RESIDUE_NAMES.index(residue), chi - 1] = True
    return atoms, exists, periodic


CHI_ATOMS, CHI_MASK, CHI_PI_PERIODIC = _chis()
"""The four atoms of each torsion of the side chain as places of ``atom37`` ``[21, 4, 4]``, which of them a
residue has, and which of those half a turn leaves as they were; boolean ``[21, 4]``."""


def _ideal_positions() -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    groups = np.zeros((TYPES, ATOMS), dtype=np.int64)
    positions = np.zeros((TYPES, ATOMS, 3))
    for residue, atoms in IDEAL.items():
        kind = RESIDUE_NAMES.index(residue)
        for place, atom in enumerate(atoms):
            groups[kind, place], positions[kind, place] = atom.group, atom.position
    return groups, positions


ATOM14_GROUP, ATOM14_POSITIONS = _ideal_positions()
"""The rigid group of each atom ``[21, 14]``, and its place in the frame of that group, A, ``[21, 14, 3]``."""


def _in_atom37(values: NDArray[np.generic]) -> NDArray[np.generic]:
    """What is known of the 14 places, at the 37; zeros where there is no atom."""
    kinds = np.arange(TYPES)[:, None]
    mask = ATOM37_MASK.reshape(ATOM37_MASK.shape + (1,) * (values.ndim - 2))
    return np.where(mask, values[kinds, ATOM37_TO_ATOM14], np.zeros((), dtype=values.dtype))


ATOM37_GROUP: NDArray[np.int64] = _in_atom37(ATOM14_GROUP).astype(np.int64)
ATOM37_POSITIONS: NDArray[np.float64] = _in_atom37(ATOM14_POSITIONS).astype(np.float64)


def _frame(
    x: NDArray[np.float64], y: NDArray[np.float64], origin: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The 4x4 matrix of a frame with this origin, x axis, and y axis near this one."""
    first = x / np.linalg.norm(x)
    second = y - (y @ first) * first
    second = second / np.linalg.norm(second)
    matrix = np.eye(4)
    matrix[:3] = np.stack([first, second, np.cross(first, second), origin], axis=1)
    return matrix


def _group_frames() -> NDArray[np.float64]:
    frames = np.tile(np.eye(4), (TYPES, GROUPS, 1, 1))
    for residue, atoms in IDEAL.items():
        kind = RESIDUE_NAMES.index(residue)
        at = {atom.name: np.array(atom.position) for atom in atoms}
        frames[kind, 2] = _frame(at["N"] - at["CA"], np.array([1.0, 0.0, 0.0]), at["N"])
        frames[kind, 3] = _frame(at["C"] - at["CA"], at["CA"] - at["N"], at["C"])
        path = CHI_PATHS.get(residue, "").split()
        for chi in range(len(path) - 3):
            end = at[path[chi + 2]]
            if chi == 0:
                frames[kind, 4] = _frame(end - at["CA"], at["N"] - at["CA"], end)
            else:
                # The axis of each further torsion starts at the origin of the group before it.
                frames[kind, 4 + chi] = _frame(end, np.array([-1.0, 0.0, 0.0]), end)
    return frames


GROUP_FRAMES = _group_frames()
"""Where each group lies when its torsion is 0, as 4x4 matrices ``[21, 8, 4, 4]``: groups 1 to 4 in the frame
of the backbone, 5 to 7 each in that of the group before it."""


def _group_bases() -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    atoms = np.zeros((TYPES, GROUPS, 3), dtype=np.int64)
    exists = np.zeros((TYPES, GROUPS), dtype=np.bool_)
    atoms[:, 0] = [ATOM37_INDEX[name] for name in ("C", "CA", "N")]
    atoms[:, 3] = [ATOM37_INDEX[name] for name in ("CA", "C", "O")]
    exists[:, [0, 3]] = True
    atoms[:, 4:] = CHI_ATOMS[:, :, 1:]
    exists[:, 4:] = CHI_MASK
    return atoms, exists


GROUP_BASE_ATOMS, GROUP_MASK = _group_bases()
"""Three atoms that fix each group, as places of ``atom37`` ``[21, 8, 3]`` (on the negative x axis, at the
origin, in the xy plane; the backbone's first lies on the positive x axis), and which groups hold atoms,
boolean ``[21, 8]``."""


def _swaps() -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    ambiguous = np.zeros((TYPES, ATOMS), dtype=np.bool_)
    swapped = np.tile(np.arange(ATOMS), (TYPES, 1))
    for residue, names in SWAPS.items():
        kind = RESIDUE_NAMES.index(residue)
        places = [ATOM14[kind].index(name) for name in names.split()]
        for one, other in zip(places[::2], places[1::2], strict=True):
            ambiguous[kind, [one, other]] = True
            swapped[kind, [one, other]] = other, one
    return ambiguous, swapped


ATOM14_AMBIGUOUS, ATOM14_SWAPPED = _swaps()
"""Atoms whose names symmetry leaves open, boolean ``[21, 14]``, and the place that each atom has when all
such pairs of its residue are renamed, ``[21, 14]``."""

ATOM14_RADII = np.array([[VAN_DER_WAALS[name[0]] if name else 0.0 for name in names] for names in ATOM14])
"""Van der Waals radii, A, ``[21, 14]``; 0 where there is no atom."""
