"""What structure module and losses of a folding model hold in training, after the code of both.

Everything counts float32 numbers, an index two of them. Shapes: N residues, P pairs of them, B passes of the
structure module, H heads.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from foldase_models.layers.structure_dims import StructureDims
from foldase_models.planning.forms import WIDE, Forms
from foldase_models.planning.stages import Segment, Stage, block
from foldase_models.planning.structure import ATOMS, GROUPS, said

PLACES, PAIR_BINS, LDDT_BINS, LETTERS = 37, 64, 50, 23
USUAL_LOSSES = frozenset({"backbone", "sidechain", "chi", "angle_norm", "distogram", "plddt", "masked_msa"})
"""Of ``LossWeights`` those that count where nothing else is said."""
FRAMES_AND_ATOMS = 564
"""Numbers of a residue that one pass keeps to place frames and atoms, whatever its widths; counted."""
TRUTH = 500
"""Numbers of a residue of what losses compare with, and of its masks; counted."""
ERROR_KEPT, ERROR_FORWARD, ERROR_BACKWARD = 7, 13, 17
"""Numbers that frame aligned point error holds of a frame and a point; counted."""
SCORED = 7.5
"""Numbers that lDDT holds of an atom and a residue, as often as atoms are scored; counted."""


def structure_module(dims: StructureDims, forms: Forms, residues: int) -> tuple[Segment, Segment]:
    """``StructureModule``, a block that may be computed anew, and what it gives, which losses keep."""
    N, P = residues, residues * residues
    own = _attention(dims) + FRAMES_AND_ATOMS + 3 * dims.no_transition_layers * dims.c_s
    own += (2 * dims.no_resnet_blocks + 1) * dims.c_resnet
    own += 5 * dims.c_s + 4 + (2 * dims.c_s if dims.dropout_rate else 0)
    taken = forms.rows(N, WIDE * N * max(dims.c_z, dims.no_heads_ipa))
    of_rows = taken * N * (dims.c_z + 2 + dims.no_heads_ipa)
    if taken == N:
        shares = 2 * P * dims.no_heads_ipa
        one = Stage(kept=N * own + of_rows, forward=shares, backward=2 * P * dims.c_z + shares)
    else:
        # The gradient of some rows comes as one of all pairs, beside the sum of those before.
        one = Stage(kept=N * own, forward=of_rows, backward=3 * P * dims.c_z + 2 * of_rows)
    arguments = P * dims.c_z + N * dims.c_s
    first = Stage(kept=arguments + N * (2 * dims.c_s + 2), backward=P * dims.c_z)
    result = N * said(dims) * dims.no_blocks
    given = Stage(kept=result, forward=result, backward=2 * result)
    return block(arguments, (first, *dims.no_blocks * (one,))), Segment((given,))


def _attention(dims: StructureDims) -> float:
    """Numbers of a residue that invariant point attention keeps, pairs apart."""
    heads, keys, values = dims.no_heads_ipa, dims.no_qk_points, dims.no_v_points
    gathered = dims.c_z + dims.c_ipa + 4 * values
    sides = 2 * (dims.c_ipa + 3 * keys) + dims.c_ipa + 3 * values
    return heads * (gathered + sides + 6 * keys + 4 * values + 1.125)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """What losses see of one example.

    Attributes:
        residues: of it.
        blocks: passes of the structure module.
        rated: atoms of a residue that confidence is given for.
        rows: of the alignment whose letters are told; 0 for none.
        errors: whether there are logits of aligned errors.
        resolved: whether there are logits of which atoms are seen.
    """

    residues: int
    blocks: int
    rated: int
    rows: int
    errors: bool
    resolved: bool


def losses(counted: Collection[str], seen: Compared, forms: Forms) -> tuple[Stage, ...]:
    """``folding_losses``, of those that are counted; gradients of logits wait for those of all losses."""
    N, P = seen.residues, seen.residues**2
    frames = ("backbone" in counted and seen.blocks) or 0
    found = [Stage(shown=TRUTH * N)]
    found += frames * [_frame_error(forms, frames=N, points=N)]
    if "sidechain" in counted:
        found.append(_frame_error(forms, frames=GROUPS * N, points=ATOMS * N))
    if "violation" in counted:
        found.append(_overlap(forms, N))
    found.append(Stage(forward=SCORED * PLACES * N * forms.rows(N, 4 * WIDE * PLACES * 3 * N)))
    heads: list[tuple[float, Stage]] = []
    if "distogram" in counted:
        heads.append((PAIR_BINS * P, _classified(forms, N)))
    if "plddt" in counted:
        rated = seen.rated * LDDT_BINS * N
        heads.append((rated, Stage(kept=rated, forward=rated, backward=2 * rated)))
    if "resolved" in counted and seen.resolved:
        heads.append((PLACES * N, Stage(kept=4 * PLACES * N, backward=2 * PLACES * N)))
    if "aligned_error" in counted and seen.errors:
        heads.append((PAIR_BINS * P, _classified(forms, N)))
    if "masked_msa" in counted and seen.rows:
        told = seen.rows * LETTERS * N
        heads.append((told, Stage(kept=told, forward=told, backward=2 * told)))
    waiting = sum(size for size, _ in heads)
    found = [stage.beside(waiting) for stage in found]
    for size, stage in heads:
        waiting -= size
        found.append(stage.beside(waiting))
    return tuple(found)


def gradients_of_pairs(counted: Collection[str], seen: Compared) -> int:
    """Numbers of a pair that gradients of logits have: those that wait when their head's turn has come."""
    return PAIR_BINS * (("distogram" in counted) + ("aligned_error" in counted and seen.errors))


def _frame_error(forms: Forms, *, frames: int, points: int) -> Stage:
    """Of points in frames, in groups of frames where they are many."""
    taken = forms.rows(frames, 4 * WIDE * 3 * points)
    seen = taken * points
    if taken == frames:
        return Stage(kept=ERROR_KEPT * seen, forward=ERROR_FORWARD * seen, backward=ERROR_BACKWARD * seen)
    within = ERROR_KEPT * seen
    return Stage(forward=within + ERROR_FORWARD * seen, backward=within + ERROR_BACKWARD * seen)


def _overlap(forms: Forms, residues: int) -> Stage:
    """Of atoms with those of other residues, in groups of residues."""
    taken = forms.rows(residues, 4 * WIDE * ATOMS * 3 * ATOMS * residues)
    seen = taken * ATOMS * ATOMS * residues
    inside = 9 * ATOMS * ATOMS / 2 * residues
    if taken == residues:
        return Stage(kept=5 * seen + inside, forward=8 * seen, backward=12 * seen)
    return Stage(kept=inside, forward=13 * seen, backward=17 * seen)


def _classified(forms: Forms, residues: int) -> Stage:
    """Of logits of pairs; those of some rows give a gradient of all, beside the sum of those before."""
    logits = PAIR_BINS * residues * residues
    taken = forms.rows(residues, 2 * WIDE * PAIR_BINS * residues)
    if taken == residues:
        return Stage(kept=logits, forward=logits, backward=2 * logits)
    group = PAIR_BINS * taken * residues
    # What computes the groups anew holds the logits that were only shown before.
    return Stage(kept=logits, shown=-logits, forward=2 * group, backward=3 * logits + group)
