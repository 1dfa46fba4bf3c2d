"""Predicted structures as PDB files: fixed columns, so chains, residues and atoms are limited."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from foldase_workflows.contracts.errors import BadInput, Location
from foldase_workflows.formats.atom_names import ATOM37, THREE_LETTERS
from foldase_workflows.formats.predicted import PredictedStructure

CHAIN_NAMES = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
MOST_ATOMS = 99_999
MOST_RESIDUES = 9_999
LOWEST, HIGHEST = -999.999, 9999.999
"""What fits the eight columns of a coordinate, A."""
_RESIDUES_A_LINE = 13


def write_pdb(path: Path, structure: PredictedStructure) -> None:
    """Write one structure, its confidence (0 to 100) in the B column; coordinates have three decimals.

    Raises:
        BadInput: ``pdb_too_large``: more than 62 chains, 9,999 residues of one chain or 99,999 lines of
            atoms and chain ends, or coordinates beyond the columns. Nothing is written.
        ValueError: there are no atoms.
    """
    check_fits(structure)
    text = "\n".join(line.rstrip().ljust(80) for line in _lines(structure)) + "\n"
    path.write_text(text, encoding="ascii", errors="replace", newline="\n")


def check_fits(structure: PredictedStructure) -> None:
    """Whether the format can hold a structure; raises as :func:`write_pdb`."""
    atoms = int(structure.atom_mask.sum())
    if not atoms:
        raise ValueError(f"{structure.name}: there are no atoms to write")
    longest = max(map(len, structure.chains))
    xyz = structure.positions[structure.atom_mask]
    reason = None
    if len(structure.chains) > len(CHAIN_NAMES):
        reason = f"{len(structure.chains)} chains are more than the {len(CHAIN_NAMES)} that have a name"
    elif longest > MOST_RESIDUES:
        reason = f"a chain of {longest:,} residues has more than {MOST_RESIDUES:,}"
    elif atoms + len(structure.chains) > MOST_ATOMS:
        reason = f"{atoms:,} atoms and {len(structure.chains)} chain ends are more than {MOST_ATOMS:,}"
    elif xyz.min() < LOWEST or xyz.max() > HIGHEST:
        reason = f"a coordinate lies outside {LOWEST} to {HIGHEST} A"
    if reason is not None:
        raise BadInput(
            f"a PDB file cannot hold this structure: {reason}",
            code="pdb_too_large",
            location=Location(record=structure.name),
            hint="take the mmCIF file, which has no such limit",
        )


def _lines(structure: PredictedStructure) -> Iterator[str]:
    how = structure.provenance
    yield from _title(f"STRUCTURE PREDICTED FOR {structure.name}")
    remarks = [
        f"MODEL {how.model}, SEED {how.seed}, SAMPLE {how.sample}, RECYCLES {how.recycles}",
        f"WEIGHTS SHA256 {how.weights}",
        *(f"SOFTWARE {name} {version}" for name, version in how.versions.items()),
        "B COLUMN: PREDICTED LDDT, 0 TO 100",
        f"MEAN PLDDT {structure.mean_plddt:.2f}",
    ]
    scores = {"PTM": structure.ptm, "IPTM": structure.iptm}
    remarks += [f"{name} {score:.4f}" for name, score in scores.items() if score is not None]
    for remark in remarks:
        for line in textwrap.wrap(remark, 68):
            yield f"REMARK   3  {line}"
    for chain, sequence in zip(CHAIN_NAMES, structure.chains, strict=False):
        names = [THREE_LETTERS.get(letter, "UNK") for letter in sequence]
        for number, start in enumerate(range(0, len(names), _RESIDUES_A_LINE), 1):
            row = " ".join(names[start : start + _RESIDUES_A_LINE])
            yield f"SEQRES {number:3d} {chain} {len(names):4d}  {row}"
    yield from _atom_lines(structure)
    yield "END"


def _title(text: str) -> Iterator[str]:
    for number, line in enumerate(textwrap.wrap(text, 68), 1):
        yield f"TITLE     {line}" if number == 1 else f"TITLE   {number:2d} {line}"


def _atom_lines(structure: PredictedStructure) -> Iterator[str]:
    rows, columns = np.nonzero(structure.atom_mask)
    chain_index, numbers = structure.chain_index, structure.residue_index
    names = [THREE_LETTERS.get(letter, "UNK") for letter in structure.sequence]
    serial = 0
    for place, (row, column) in enumerate(zip(rows, columns, strict=True)):
        serial += 1
        atom, chain = ATOM37[column], CHAIN_NAMES[chain_index[row]]
        x, y, z = structure.positions[row, column].astype(np.float64)
        b_factor = float(structure.plddt[row])
        yield (
            f"ATOM  {serial:5d}  {atom:<3s} {names[row]} {chain}{numbers[row]:4d}    "
            f"{x:8.3f}{y:8.3f}{z:8.3f}{1.0:6.2f}{b_factor:6.2f}          {atom[0]:>2s}"
        )
        if place + 1 == len(rows) or chain_index[rows[place + 1]] != chain_index[row]:
            serial += 1
            yield f"TER   {serial:5d}      {names[row]} {chain}{numbers[row]:4d}"
