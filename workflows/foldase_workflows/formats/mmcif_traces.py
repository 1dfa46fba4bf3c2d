"""Predicted C-alpha traces as mmCIF, with confidence where viewers look for it; written by Biopython.

The confidence of a residue, 0 to 100, stands in the B column and in ``_ma_qa_metric_local``, the mean in
``_ma_qa_metric_global`` (ModelCIF extension): Mol* reads the local metric, others the B column.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

_ENTITY = "1"
_MODEL = "1"
_METRIC_LOCAL = "1"
_METRIC_GLOBAL = "2"
_KNOWN_LETTERS = frozenset("ACDEFGHIKLMNPQRSTVWYX")
_LINE = 80


def write_trace(
    path: Path,
    *,
    identifier: str,
    sequence: str,
    alpha: ArrayLike,
    confidence: ArrayLike | None = None,
    chain: str = "A",
    title: str | None = None,
) -> None:
    """Write one chain of C-alpha atoms.

    Args:
        path: the file to write.
        identifier: name of the entry, for example the target's.
        sequence: N one-letter residues; other letters, ``X`` among them, become ``UNK``.
        alpha: (N, 3) coordinates in A.
        confidence: (N,) 0 to 100; without it the B column is 0 and no metric is written.
        chain: name of the chain.
        title: a line for people.

    Raises:
        ValueError: shapes do not fit, a number is not finite, or a confidence is outside 0 to 100.
    """
    from Bio.PDB.mmcifio import MMCIFIO

    coords = np.asarray(alpha, dtype=np.float64)
    if not sequence or coords.shape != (len(sequence), 3):
        raise ValueError(f"{len(sequence)} residues, but coordinates of shape {coords.shape}")
    if not np.isfinite(coords).all():
        residue = int(np.argwhere(~np.isfinite(coords))[0, 0]) + 1
        raise ValueError(f"a coordinate of residue {residue} is not finite")
    scores = None if confidence is None else _checked_confidence(confidence, len(sequence))
    name, chain = _safe_name(identifier), _safe_name(chain)
    sequence = "".join(letter if letter in _KNOWN_LETTERS else "X" for letter in sequence.upper())
    categories: dict[str, Any] = {"data_": name, "_entry.id": name}
    categories |= _entity(name, sequence, chain, title)
    if scores is not None:
        categories |= _metrics(sequence, chain, scores)
    categories |= _atoms(sequence, coords, chain, scores)
    io: Any = MMCIFIO
    writer = io()
    writer.set_dict(categories)
    writer.save(os.fspath(path))


def _checked_confidence(confidence: ArrayLike, length: int) -> NDArray[np.float64]:
    scores = np.asarray(confidence, dtype=np.float64)
    if scores.shape != (length,):
        raise ValueError(f"{length} residues, but confidence of shape {scores.shape}")
    if not ((scores >= 0) & (scores <= 100)).all():
        raise ValueError("a confidence lies outside 0 to 100")
    return scores


def _safe_name(identifier: str) -> str:
    safe = "".join(letter if letter.isalnum() and letter.isascii() else "_" for letter in identifier)
    return safe or "model"


def _residues(sequence: str) -> list[str]:
    from Bio.Data.PDBData import protein_letters_1to3

    return [protein_letters_1to3.get(letter, "Unk").upper() for letter in sequence]


def _entity(name: str, sequence: str, chain: str, title: str | None) -> dict[str, Any]:
    length = len(sequence)
    return {
        "_struct.entry_id": name,
        "_struct.title": title or f"predicted C-alpha trace of {name}",
        "_audit_conform.dict_name": "mmcif_ma.dic",
        "_audit_conform.dict_version": "1.4.6",
        "_entity.id": _ENTITY,
        "_entity.type": "polymer",
        "_entity.pdbx_description": name,
        "_entity_poly.entity_id": _ENTITY,
        "_entity_poly.type": "polypeptide(L)",
        "_entity_poly.pdbx_seq_one_letter_code_can": "\n".join(
            sequence[start : start + _LINE] for start in range(0, length, _LINE)
        ),
        "_entity_poly.pdbx_strand_id": chain,
        "_entity_poly_seq.entity_id": [_ENTITY] * length,
        "_entity_poly_seq.num": [str(number) for number in range(1, length + 1)],
        "_entity_poly_seq.mon_id": _residues(sequence),
        "_entity_poly_seq.hetero": ["n"] * length,
        "_struct_asym.id": chain,
        "_struct_asym.entity_id": _ENTITY,
        "_atom_type.symbol": "C",
        "_ma_model_list.ordinal_id": "1",
        "_ma_model_list.model_id": _MODEL,
        "_ma_model_list.model_group_id": "1",
        "_ma_model_list.model_name": "predicted trace",
        "_ma_model_list.model_type": "Ab initio model",
    }


def _metrics(sequence: str, chain: str, scores: NDArray[np.float64]) -> dict[str, Any]:
    length = len(sequence)
    return {
        "_ma_qa_metric.id": [_METRIC_LOCAL, _METRIC_GLOBAL],
        "_ma_qa_metric.mode": ["local", "global"],
        "_ma_qa_metric.name": ["pLDDT", "mean pLDDT"],
        "_ma_qa_metric.type": ["pLDDT", "pLDDT"],
        "_ma_qa_metric.software_group_id": [".", "."],
        "_ma_qa_metric_global.ordinal_id": "1",
        "_ma_qa_metric_global.model_id": _MODEL,
        "_ma_qa_metric_global.metric_id": _METRIC_GLOBAL,
        "_ma_qa_metric_global.metric_value": f"{scores.mean():.2f}",
        "_ma_qa_metric_local.ordinal_id": [str(number) for number in range(1, length + 1)],
        "_ma_qa_metric_local.model_id": [_MODEL] * length,
        "_ma_qa_metric_local.label_asym_id": [chain] * length,
        "_ma_qa_metric_local.label_seq_id": [str(number) for number in range(1, length + 1)],
        "_ma_qa_metric_local.label_comp_id": _residues(sequence),
        "_ma_qa_metric_local.metric_id": [_METRIC_LOCAL] * length,
        "_ma_qa_metric_local.metric_value": [f"{score:.2f}" for score in scores],
    }


def _atoms(
    sequence: str, coords: NDArray[np.float64], chain: str, scores: NDArray[np.float64] | None
) -> dict[str, Any]:
    length = len(sequence)
    numbers = [str(number) for number in range(1, length + 1)]
    b_factors = np.zeros(length) if scores is None else scores
    columns: dict[str, list[str]] = {
        "group_PDB": ["ATOM"] * length,
        "id": numbers,
        "type_symbol": ["C"] * length,
        "label_atom_id": ["CA"] * length,
        "label_alt_id": ["."] * length,
        "label_comp_id": _residues(sequence),
        "label_asym_id": [chain] * length,
        "label_entity_id": [_ENTITY] * length,
        "label_seq_id": numbers,
        "pdbx_PDB_ins_code": ["?"] * length,
        "Cartn_x": [f"{value:.3f}" for value in coords[:, 0]],
        "Cartn_y": [f"{value:.3f}" for value in coords[:, 1]],
        "Cartn_z": [f"{value:.3f}" for value in coords[:, 2]],
        "occupancy": ["1.00"] * length,
        "B_iso_or_equiv": [f"{value:.2f}" for value in b_factors],
        "auth_seq_id": numbers,
        "auth_asym_id": [chain] * length,
        "pdbx_PDB_model_num": [_MODEL] * length,
    }
    return {f"_atom_site.{key}": column for key, column in columns.items()}
