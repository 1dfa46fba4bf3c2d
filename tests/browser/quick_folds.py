"""Folding in moments: made-up structures, written by the real formats and ranked by the real operator."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from foldase_workflows.contracts import BadInput, StepContext
from foldase_workflows.formats.atom_names import ATOM37_INDEX
from foldase_workflows.formats.predicted import PredictedStructure, Provenance
from foldase_workflows.formats.zarr_folds import FoldsWriter
from foldase_workflows.formats.zarr_predictions import PredictionsWriter
from foldase_workflows.operators import _folding_outputs as out
from foldase_workflows.operators._folding_ports import FoldInputs, FoldOutputs
from foldase_workflows.operators.fold_predict import PredictFold

RECORDS = {"mono": ("ACDEFGHIKLMNPQRSTVWYACDEFGHI",), "pair": ("MKVWAALC", "GSTPMKVWHE")}
"""Chains by record."""
FAILED = BadInput(
    "J is none of the twenty residues", code="unknown_residue", hint="set unknown_residues to x"
)
WEIGHTS = "a" * 64
PASSES = 3


def make_structure(record: str, seed: int) -> PredictedStructure:
    """A helix of backbone atoms; errors grow with the distance along the chains."""
    chains = RECORDS[record]
    length = sum(map(len, chains))
    place = np.arange(length)
    positions = np.zeros((length, 37, 3), dtype=np.float32)
    mask = np.zeros((length, 37), dtype=bool)
    for part, atom in enumerate(("N", "CA", "C", "O")):
        turn = np.deg2rad(100.0) * (place + part / 3)
        atoms = np.stack([2.3 * np.cos(turn), 2.3 * np.sin(turn), 1.5 * (place + part / 3)], axis=1)
        positions[:, ATOM37_INDEX[atom]] = atoms
        mask[:, ATOM37_INDEX[atom]] = True
    apart = np.subtract.outer(place, place)
    pae = np.abs(apart) * 0.2 + (apart > 0) * 1.0
    several = len(chains) > 1
    return PredictedStructure(
        name=record,
        chains=chains,
        positions=positions,
        atom_mask=mask,
        plddt=np.linspace(40, 95, length).astype(np.float32) - seed,
        pae=pae.astype(np.float32),
        ptm=0.75 - seed / 100,
        iptm=0.5 - seed / 100 if several else None,
        provenance=Provenance(model="esmfold", weights=WEIGHTS, seed=seed, recycles=PASSES),
    )


class QuickFold(PredictFold):
    """Folds the records above whatever it is given, and fails one more."""

    def run(self, inputs: FoldInputs, context: StepContext) -> FoldOutputs:
        trees = {name: context.new_tree(name) for name in ("structures", "predictions", "folds")}
        folds, predictions = FoldsWriter(trees["folds"]), PredictionsWriter(trees["predictions"])
        records: list[dict[str, Any]] = [
            {"record": "bad", "key": "bad", "state": "failed", "structures": [], "error": FAILED.to_json()}
        ]
        for record, chains in RECORDS.items():
            folds.add_record(record, record, chains)
            rows = []
            for seed in inputs.seeds:
                structure = make_structure(record, seed)
                entry = folds.add(record, structure, out.confidence_of(structure))
                target = out.target_of(record, seed, 0, only=len(inputs.seeds) == 1)
                out.write_structure(trees["structures"], target, structure, context, pdb=False)
                predictions.add(out.shown(target, structure, out.scores_of(structure)))
                rows.append({"target": target, "path": entry.path, "recycles": PASSES, "converged": False})
            records.append({"record": record, "key": record, "state": "succeeded", "structures": rows})
        folds.complete({"weights": WEIGHTS, "rule": out.RULE})
        predictions.complete(
            method="esmfold", contact_cutoff=out.CONTACT_CUTOFF, min_separation=out.MIN_SEPARATION
        )
        status = context.new_file("status.json")
        status.write_text(json.dumps({"kind": "fold.status", "version": 1, "records": records}))
        return FoldOutputs(**trees, status=status, succeeded=len(RECORDS), failed=1)
