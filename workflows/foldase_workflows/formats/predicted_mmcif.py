"""Predicted structures as mmCIF with the categories of ModelCIF, written by Biopython.

The confidence of a residue, 0 to 100, stands in the B column and in ``_ma_qa_metric_local``: Mol* reads the
local metric, other programs the B column. Source of the categories: the mmCIF dictionary extension for
modelled structures (ModelCIF 1.4.6), as the AlphaFold database uses it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foldase_workflows.formats.atom_names import ATOM37, THREE_LETTERS
from foldase_workflows.formats.predicted import PredictedStructure, Provenance, chain_name

_LINE = 80
_PLDDT, _MEAN, _PTM, _IPTM = "1", "2", "3", "4"
_MODEL = "1"

Category = dict[str, "str | list[str]"]


def write_mmcif(path: Path, structure: PredictedStructure, *, title: str | None = None) -> None:
    """Write one structure.

    Args:
        path: the file to write.
        structure: with at least one atom.
        title: a line for people.

    Raises:
        ValueError: there are no atoms.
    """
    from Bio.PDB.mmcifio import MMCIFIO

    rows, columns = np.nonzero(structure.atom_mask)
    if not len(rows):
        raise ValueError(f"{structure.name}: there are no atoms to write")
    name = _entry(structure.name)
    categories: dict[str, Any] = {"data_": name, "_entry.id": name}
    parts: dict[str, Category] = {
        "struct": {"entry_id": name, "title": title or f"structure predicted for {structure.name}"},
        "audit_conform": {"dict_name": "mmcif_ma.dic", "dict_version": "1.4.6"},
        **_molecules(structure),
        **_how(structure),
        **_qualities(structure),
        "atom_type": {"symbol": sorted({ATOM37[column][0] for column in columns})},
        "atom_site": _atoms(structure, rows, columns),
    }
    for category, items in parts.items():
        categories |= {f"_{category}.{item}": values for item, values in items.items()}
    writer: Any = MMCIFIO()  # type: ignore[no-untyped-call]
    writer.set_dict(categories)
    writer.save(os.fspath(path))


def _entry(name: str) -> str:
    return "".join(c if c.isalnum() and c.isascii() else "_" for c in name) or "model"


def _residues(sequence: str) -> list[str]:
    return [THREE_LETTERS.get(letter, "UNK") for letter in sequence]


def _numbers(count: int) -> list[str]:
    return [str(number) for number in range(1, count + 1)]


def _molecules(structure: PredictedStructure) -> dict[str, Category]:
    """Entities, their sequences and the chains that are copies of them."""
    entities = structure.entities
    names = [chain_name(index) for index in range(len(entities))]
    sequences = list(dict.fromkeys(structure.chains))
    ids = _numbers(len(sequences))
    strands = [
        ",".join(name for name, entity in zip(names, entities, strict=True) if entity == number)
        for number in range(len(sequences))
    ]
    kinds = sorted(set(_residues(structure.sequence)))
    return {
        "chem_comp": {
            "id": kinds,
            "type": ["peptide linking" if kind == "GLY" else "L-peptide linking" for kind in kinds],
        },
        "entity": {
            "id": ids,
            "type": ["polymer"] * len(ids),
            "pdbx_description": [structure.name] * len(ids),
            "pdbx_number_of_molecules": [str(entities.count(number)) for number in range(len(ids))],
        },
        "entity_poly": {
            "entity_id": ids,
            "type": ["polypeptide(L)"] * len(ids),
            "nstd_monomer": ["no"] * len(ids),
            "pdbx_seq_one_letter_code": [_folded(sequence.replace("X", "(UNK)")) for sequence in sequences],
            "pdbx_seq_one_letter_code_can": [_folded(sequence) for sequence in sequences],
            "pdbx_strand_id": strands,
        },
        "entity_poly_seq": {
            "entity_id": [ids[k] for k, sequence in enumerate(sequences) for _ in sequence],
            "num": [number for sequence in sequences for number in _numbers(len(sequence))],
            "mon_id": _residues("".join(sequences)),
            "hetero": ["n"] * sum(map(len, sequences)),
        },
        "struct_asym": {"id": names, "entity_id": [ids[entity] for entity in entities]},
        "pdbx_poly_seq_scheme": _places(structure),
        # Of two origins that there are, the other one is an entry of a database.
        "ma_target_entity": {
            "entity_id": ids,
            "data_id": ["1"] * len(ids),
            "origin": ["designed"] * len(ids),
        },
        "ma_target_entity_instance": {
            "asym_id": names,
            "entity_id": [ids[entity] for entity in entities],
            "details": ["."] * len(names),
        },
    }


def _places(structure: PredictedStructure) -> Category:
    """Every residue of every chain, by which atoms find theirs; all are modelled."""
    chains = [chain_name(int(index)) for index in structure.chain_index]
    numbers = [str(number) for number in structure.residue_index]
    residues = _residues(structure.sequence)
    return {
        "asym_id": chains,
        "entity_id": [str(structure.entities[index] + 1) for index in structure.chain_index],
        "seq_id": numbers,
        "mon_id": residues,
        "ndb_seq_num": numbers,
        "pdb_seq_num": numbers,
        "auth_seq_num": numbers,
        "pdb_mon_id": residues,
        "auth_mon_id": residues,
        "pdb_strand_id": chains,
        "pdb_ins_code": ["."] * structure.length,
        "hetero": ["n"] * structure.length,
    }


def _folded(sequence: str) -> str:
    return "\n".join(sequence[start : start + _LINE] for start in range(0, len(sequence), _LINE))


def _how(structure: PredictedStructure) -> dict[str, Category]:
    """The software with its parameters, the data and the steps."""
    how = structure.provenance
    versions = {"foldase": how.versions.get("foldase", "?")} | dict(sorted(how.versions.items()))
    ids = _numbers(len(versions))
    parameters = _parameters(how)
    said = ", ".join(f"{name} {value}" for name, (_, value) in parameters.items())
    return {
        "software": {
            "pdbx_ordinal": ids,
            "name": list(versions),
            "version": [value or "?" for value in versions.values()],
            "type": ["package"] * len(ids),
            "classification": ["model building" if name == "foldase" else "other" for name in versions],
            "description": ["structure prediction" if name == "foldase" else "library" for name in versions],
        },
        "ma_software_group": {
            "ordinal_id": ids,
            "group_id": ["1"] * len(ids),
            "software_id": ids,
            "parameter_group_id": ["1"] * len(ids),
        },
        "ma_software_parameter": {
            "parameter_id": _numbers(len(parameters)),
            "group_id": ["1"] * len(parameters),
            "data_type": [kind for kind, _ in parameters.values()],
            "name": list(parameters),
            "value": [value for _, value in parameters.values()],
            "description": ["."] * len(parameters),
        },
        "ma_data": {
            "id": ["1", "2"],
            "name": ["sequence", "predicted structure"],
            "content_type": ["target", "model coordinates"],
        },
        "ma_model_list": {
            "ordinal_id": _MODEL,
            "model_id": _MODEL,
            "model_group_id": "1",
            "model_group_name": "predictions",
            "model_name": f"{how.model}, seed {how.seed}, sample {how.sample}",
            "data_id": "2",
            "model_type": "Ab initio model",
        },
        "ma_protocol_step": {
            "ordinal_id": "1",
            "protocol_id": "1",
            "step_id": "1",
            "method_type": "modeling",
            "step_name": how.model,
            "details": said,
            "software_group_id": "1",
            "input_data_group_id": "1",
            "output_data_group_id": "2",
        },
        "ma_data_group": {"ordinal_id": ["1", "2"], "group_id": ["1", "2"], "data_id": ["1", "2"]},
    }


def _parameters(how: Provenance) -> dict[str, tuple[str, str]]:
    """Type and value of each parameter of the run that a file tells."""
    parameters = {
        "model": ("string", how.model),
        "weights": ("string", f"sha256:{how.weights}"),
        "seed": ("integer", str(how.seed)),
        "sample": ("integer", str(how.sample)),
        "recycles": ("integer", str(how.recycles)),
        "converged": ("boolean", "true" if how.converged else "false"),
    }
    parameters |= {
        str(name): (_kind(value), str(value).lower() if isinstance(value, bool) else str(value))
        for name, value in sorted(how.options.items())
        if isinstance(value, bool | int | float | str)
    }
    return parameters


def _kind(value: object) -> str:
    names = {bool: "boolean", int: "integer", float: "float"}
    return names.get(type(value), "string")


def _qualities(structure: PredictedStructure) -> dict[str, Category]:
    """Confidence of residues and of the whole."""
    overall = [(_MEAN, "global", "mean pLDDT", "pLDDT", f"{structure.mean_plddt:.2f}")]
    if structure.ptm is not None:
        overall.append((_PTM, "global", "pTM", "pTM", f"{structure.ptm:.4f}"))
    if structure.iptm is not None:
        overall.append((_IPTM, "global", "ipTM", "ipTM", f"{structure.iptm:.4f}"))
    metrics = [(_PLDDT, "local", "pLDDT", "pLDDT", ""), *overall]
    return {
        "ma_qa_metric": {
            "id": [row[0] for row in metrics],
            "mode": [row[1] for row in metrics],
            "name": [row[2] for row in metrics],
            "type": [row[3] for row in metrics],
            "software_group_id": ["1"] * len(metrics),
        },
        "ma_qa_metric_global": {
            "ordinal_id": _numbers(len(overall)),
            "model_id": [_MODEL] * len(overall),
            "metric_id": [row[0] for row in overall],
            "metric_value": [row[4] for row in overall],
        },
        "ma_qa_metric_local": {
            "ordinal_id": _numbers(structure.length),
            "model_id": [_MODEL] * structure.length,
            "label_asym_id": [chain_name(int(index)) for index in structure.chain_index],
            "label_seq_id": [str(number) for number in structure.residue_index],
            "label_comp_id": _residues(structure.sequence),
            "metric_id": [_PLDDT] * structure.length,
            "metric_value": [f"{value:.2f}" for value in structure.plddt],
        },
    }


def _atoms(structure: PredictedStructure, rows: NDArray[np.int_], columns: NDArray[np.int_]) -> Category:
    count = len(rows)
    residues = _residues(structure.sequence)
    chains = [chain_name(int(index)) for index in structure.chain_index]
    entities = [str(structure.entities[index] + 1) for index in structure.chain_index]
    numbers = [str(number) for number in structure.residue_index]
    b_factors = [f"{value:.2f}" for value in structure.plddt]
    atoms = [ATOM37[column] for column in columns]
    xyz = structure.positions[rows, columns].astype(np.float64)
    return {
        "group_PDB": ["ATOM"] * count,
        "id": _numbers(count),
        "type_symbol": [atom[0] for atom in atoms],
        "label_atom_id": atoms,
        "label_alt_id": ["."] * count,
        "label_comp_id": [residues[row] for row in rows],
        "label_asym_id": [chains[row] for row in rows],
        "label_entity_id": [entities[row] for row in rows],
        "label_seq_id": [numbers[row] for row in rows],
        "pdbx_PDB_ins_code": ["?"] * count,
        "Cartn_x": [f"{value:.3f}" for value in xyz[:, 0]],
        "Cartn_y": [f"{value:.3f}" for value in xyz[:, 1]],
        "Cartn_z": [f"{value:.3f}" for value in xyz[:, 2]],
        "occupancy": ["1.00"] * count,
        "B_iso_or_equiv": [b_factors[row] for row in rows],
        "auth_seq_id": [numbers[row] for row in rows],
        "auth_comp_id": [residues[row] for row in rows],
        "auth_asym_id": [chains[row] for row in rows],
        "auth_atom_id": atoms,
        "pdbx_PDB_model_num": [_MODEL] * count,
    }
