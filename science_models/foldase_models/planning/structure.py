"""What the structure module holds, after ``layers/structure_module.py`` and ``invariant_point_attention.py``.

Shapes: N residues, B blocks, H heads. It is short of pairs: beyond a group of them all grows with N alone.
"""

from __future__ import annotations

from foldase_models.layers.structure_dims import StructureDims
from foldase_models.planning.forms import WIDE, Forms
from foldase_models.planning.ledger import Ledger

GROUPS, ATOMS, MOTION = 8, 14, 12
"""Rigid groups and atoms of a residue, and numbers of a motion."""


def said(dims: StructureDims) -> int:
    """Numbers of a residue that each block gives to the output."""
    return MOTION * (1 + GROUPS) + 4 * dims.no_angles + 3 * ATOMS + dims.c_s


def structure_module(ledger: Ledger, dims: StructureDims, forms: Forms, N: int) -> None:
    """``StructureModule``; weights and all within are float32. Its output is the caller's to make."""
    residue = WIDE * N
    with ledger.frame("structure module"):
        ledger.make(residue * 2 * dims.c_s)
        ledger.make(residue * said(dims) * (dims.no_blocks - 1))
        _attend(ledger, dims, forms, N)
        ledger.make(residue * said(dims) * (dims.no_blocks + 1))


def _attend(ledger: Ledger, dims: StructureDims, forms: Forms, N: int) -> None:
    heads, residue = dims.no_heads_ipa, WIDE * N
    keys, values = dims.c_ipa + 3 * dims.no_qk_points, dims.c_ipa + 3 * dims.no_v_points
    taken = forms.rows(N, max(dims.c_z, heads) * N * WIDE)
    gathered = heads * (values + dims.c_z)
    with ledger.frame():
        points = 3 * (2 * dims.no_qk_points + dims.no_v_points)
        ledger.flash(residue * heads * (5 * dims.c_ipa + 6 * points))
        ledger.make(residue * heads * (2 * keys + values + 1))
        with ledger.frame():
            ledger.make(residue * gathered)
            ledger.make(WIDE * taken * N * (dims.c_z + 5 * heads))
        ledger.make(residue * 2 * gathered)
        lengths_and_points = heads * 4 * dims.no_v_points
        ledger.make(residue * (lengths_and_points + 2 * heads * (dims.c_z + dims.c_ipa) + lengths_and_points))


def output_bytes(dims: StructureDims, N: int) -> int:
    """What the module gives."""
    return WIDE * N * said(dims) * dims.no_blocks
