"""Known structures laid on a chain that is to be folded, by an alignment of the two sequences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from foldase_workflows.contracts.errors import BadInput, Location
from foldase_workflows.formats.all_atoms import AllAtomChain, read_all_atoms
from foldase_workflows.formats.residue_pairs import aligned_residues

LEAST_IDENTITY = 0.1
"""Of the residues that are laid on each other; AlphaFold leaves out templates that cover less than this."""
LEAST_COVERAGE = 0.1
LEAST_RESIDUES = 10
"""Fewer residues than this are no template (as in AlphaFold's filter of hits)."""


@dataclass(frozen=True, slots=True)
class LaidTemplate:
    """A structure on the N residues of a chain.

    Attributes:
        name: file and chain.
        sequence: N letters, ``-`` where the template has no residue.
        positions: float32 (N, 37, 3), A, 0 where there is no atom.
        mask: bool (N, 37).
        identity: share of the laid residues that are equal.
        coverage: share of the chain that has a residue of the template.
    """

    name: str
    sequence: str
    positions: NDArray[np.float32]
    mask: NDArray[np.bool_]
    identity: float
    coverage: float


def lay_on_chain(chain: str, template: AllAtomChain, *, name: str) -> LaidTemplate:
    """Lay a structure on a chain: residues that the alignment puts together share a place.

    Args:
        chain: N letters.
        template: the structure.
        name: what it is called.

    Returns:
        The template, however little it covers.
    """
    columns, residues = aligned_residues(chain, template.sequence).T
    positions = np.zeros((len(chain), *template.positions.shape[1:]), dtype=np.float32)
    mask = np.zeros((len(chain), template.mask.shape[1]), dtype=bool)
    positions[columns], mask[columns] = template.positions[residues], template.mask[residues]
    letters = ["-"] * len(chain)
    for column, residue in zip(columns, residues, strict=True):
        letters[column] = template.sequence[residue]
    same = sum(chain[c] == template.sequence[r] for c, r in zip(columns, residues, strict=True))
    return LaidTemplate(
        name=name,
        sequence="".join(letters),
        positions=positions,
        mask=mask,
        identity=same / max(len(columns), 1),
        coverage=len(columns) / len(chain),
    )


def is_alike(laid: LaidTemplate) -> bool:
    """Whether a laid structure says anything of the chain."""
    residues = round(laid.coverage * len(laid.sequence))
    enough = residues >= min(LEAST_RESIDUES, len(laid.sequence))
    return enough and laid.coverage >= LEAST_COVERAGE and laid.identity >= LEAST_IDENTITY


def read_templates(paths: Sequence[tuple[Path, str]]) -> list[tuple[str, list[AllAtomChain]]]:
    """The chains of each file; ``paths`` are files with what errors and templates call them.

    Raises:
        BadInput: as ``read_all_atoms``.
    """
    return [(name, read_all_atoms(path, name=name)) for path, name in paths]


def templates_of_chain(
    chain: str, files: Sequence[tuple[str, list[AllAtomChain]]], *, most: int
) -> list[LaidTemplate]:
    """The best chain of each file that says anything of ``chain``.

    At most ``most``, those with the most equal residues, best first.
    """
    laid = []
    for name, chains in files:
        each = [lay_on_chain(chain, one, name=f"{name}:{one.name}") for one in chains]
        laid.append(max(each, key=lambda one: one.identity * one.coverage))
    laid = [one for one in laid if is_alike(one)]
    return sorted(laid, key=lambda one: -one.identity * one.coverage)[:most]


def unused_template(name: str) -> BadInput:
    """What to say of a file that fits no chain."""
    return BadInput(
        f"no chain of {name} is like a chain that is to be folded (at least {LEAST_IDENTITY:.0%} equal "
        f"residues over {LEAST_COVERAGE:.0%} of it)",
        code="template_not_alike",
        location=Location(file=name),
        hint="leave it out, or give the structure of a relative",
    )
