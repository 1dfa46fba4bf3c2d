"""The outputs of ``fold.predict``: structures, arrays, and what became of each record."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from foldase_workflows.contracts import BadInput
from foldase_workflows.operators import _folding_outputs as out
from foldase_workflows.operators._folding_ports import FoldOutputs
from foldase_workflows.operators._folding_work import FoldingWork, Made


def write_results(work: FoldingWork) -> FoldOutputs:
    """Write everything, in the order of the file.

    Structures are read back from where they are kept, so that a resumed step writes the same bytes as one
    that ran through.
    """
    from foldase_workflows.formats.fold_alignments import rows_side_by_side
    from foldase_workflows.formats.zarr_folds import FoldsWriter
    from foldase_workflows.formats.zarr_predictions import PredictionsWriter

    context = work.context
    trees = {name: context.new_tree(name) for name in ("structures", "predictions", "folds")}
    folds, predictions = FoldsWriter(trees["folds"]), PredictionsWriter(trees["predictions"])
    rows: dict[str, list[dict[str, Any]]] = {}
    method = ""
    for job in work.jobs:
        made_of_job = sorted(
            (made for made in work.made if made.job is job and job.error is None),
            key=lambda made: (work.inputs.seeds.index(made.seed), made.sample),
        )
        for made in made_of_job:
            context.check_cancelled()
            kept = work.finished.read(made.key)
            if kept is None:
                raise RuntimeError(f"the kept structure of {job.name} has vanished")
            structure = out.structure_of(job.name, job.chains, kept.prediction, kept.made["provenance"])
            if job.key not in rows:
                aligned = rows_side_by_side(job.chains, job.rows) if work.sees_alignments else None
                folds.add_record(job.key, job.name, job.chains, aligned)
            target = out.target_of(job.key, made.seed, made.sample, only=len(made_of_job) == 1)
            entry = folds.add(job.key, structure, out.confidence_of(structure))
            out.write_structure(trees["structures"], target, structure, context, pdb=work.inputs.pdb)
            predictions.add(out.shown(target, structure, out.scores_of(structure)))
            rows.setdefault(job.key, []).append(_row(made, target, entry.path, structure))
            method = structure.provenance.model
            if structure.contact_probability is None:
                method += f"; {out.CONTACTS_OF_STRUCTURE}"
    folds.complete({"weights": work.weights, "rule": out.RULE})
    predictions.complete(method=method, contact_cutoff=out.CONTACT_CUTOFF, min_separation=out.MIN_SEPARATION)
    status = context.new_file("status.json")
    failed = sum(job.error is not None for job in work.jobs)
    status.write_text(json.dumps(_status(work, rows), indent=1, allow_nan=False), encoding="utf-8")
    context.progress(1.0, "done")
    return FoldOutputs(**trees, status=status, succeeded=len(work.jobs) - failed, failed=failed)


def _row(made: Made, target: str, path: str, structure: Any) -> dict[str, Any]:
    how = structure.provenance
    return {
        "target": target,
        "path": path,
        "seed": made.seed,
        "sample": made.sample,
        "reused": made.reused,
        "recycles": how.recycles,
        "converged": how.converged,
        **made.took,
        "scores": out.scores_of(structure),
    }


def _status(work: FoldingWork, rows: Mapping[str, list[dict[str, Any]]]) -> dict[str, Any]:
    records = []
    for job in work.jobs:
        record: dict[str, Any] = {
            "record": job.name,
            "key": job.key,
            "line": job.line,
            "chains": len(job.chains),
            "residues": job.residues,
            "state": "succeeded" if job.error is None else "failed",
            "structures": rows.get(job.key, []),
        }
        if isinstance(job.error, BadInput):
            record["error"] = job.error.to_json()
        elif job.error is not None:
            record["error"] = {"code": "out_of_memory", "message": str(job.error)[:500]}
        records.append(record)
    return {
        "kind": "fold.status",
        "version": 1,
        "model": work.kind,
        "weights": work.weights,
        "records": records,
    }
