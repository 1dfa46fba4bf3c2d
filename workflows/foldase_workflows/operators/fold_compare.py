"""Predicted structures beside known ones: how much of them is right, and whether their geometry can be."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from foldase_workflows.contracts import (
    BadInput,
    Estimate,
    Hardware,
    Location,
    Operator,
    Ports,
    Resources,
    StepContext,
)
from foldase_workflows.contracts.ports import File, Json, Structure, Structures, Table
from foldase_workflows.operators._record_failures import may_fail
from foldase_workflows.operators._structure_files import structure_files

SCHEMA_VERSION = 1
COLUMNS = (
    "residues",
    "matched",
    "identical",
    "tm_score",
    "lddt",
    "lddt_alpha",
    "gdt_ts",
    "gdt_ha",
    "rmsd_alpha",
    "rmsd_backbone",
    "rmsd_all",
    "clashes",
    "clash_score",
    "ramachandran_favoured",
    "ramachandran_outliers",
)
"""Numbers of the table, in its order."""
_SEPARATORS = "_-."


class CompareInputs(Ports):
    """Predictions, and one reference for all of them or one for each."""

    structures: Annotated[
        Structures, Field(description="Predicted structures, a folder of mmCIF or PDB files")
    ]
    reference: Annotated[
        Structure | None,
        Field(description="A structure that all predictions are compared with; or references"),
    ] = None
    references: Annotated[
        Structures | None,
        Field(description="A folder with a reference for each: the one whose name its own begins with"),
    ] = None
    match: Annotated[
        Literal["alignment", "numbering"],
        Field(description="Which residues correspond: by aligned sequences, or by chain and number"),
    ] = "alignment"
    allow_failures: Annotated[
        float,
        Field(ge=0, le=1, description="Share of the predictions that may fail without failing the step"),
    ] = 0.0


class CompareOutputs(Ports):
    """Scores of each prediction, and their means."""

    scores: Annotated[Table, Field(description="Everything as JSON: a row a prediction, lDDT by residue")]
    table: Annotated[File, Field(description="The same rows as tab-separated text")]
    summary: Annotated[Json, Field(description="How many predictions were compared, and their mean scores")]


@dataclass(frozen=True, slots=True)
class _Job:
    """One prediction, the reference it has, and the names people know both by."""

    record: str
    file: Path
    shown: str
    reference: Path | None
    reference_shown: str


class CompareStructures(Operator[CompareInputs, CompareOutputs]):
    """TM-score, lDDT, GDT, RMSD, clashes and Ramachandran regions."""

    name = "fold.compare"
    version = 1
    help = "Compare predicted structures with known ones"
    resources = Resources(cpu=1.0, memory_bytes=2**30)
    Inputs = CompareInputs
    Outputs = CompareOutputs

    def run(self, inputs: CompareInputs, context: StepContext) -> CompareOutputs:
        """Compare one after the other; a file that cannot be read fails its own row only.

        Raises:
            BadInput: no or two kinds of references, a folder without structures, or more rows failed than
                may; the message names them all.
        """
        jobs = list(_jobs(inputs, context))
        rows = []
        for number, job in enumerate(jobs, 1):
            context.check_cancelled()
            rows.append(_row(job, inputs.match))
            if rows[-1]["status"] == "failed":
                context.log(f"{job.record}: {rows[-1]['error']['message']}", level="warning")
            context.progress(0.99 * number / len(jobs), f"{number} of {len(jobs)} compared")
        _check(rows, inputs.allow_failures)
        summary = _summary(rows)
        scores, table = context.new_file("scores.json"), context.new_file("scores.tsv")
        document = {
            "kind": "fold.comparison",
            "schema_version": SCHEMA_VERSION,
            "match": inputs.match,
            "summary": summary,
            "rows": rows,
        }
        scores.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        table.write_text(_tabbed(rows), encoding="utf-8")
        means = summary["mean"]
        context.metrics({name: means[name] for name in ("tm_score", "lddt", "gdt_ts", "rmsd_alpha")})
        context.log(", ".join(f"{name} {value:.3f}" for name, value in means.items()))
        context.progress(1.0, "done")
        return CompareOutputs(scores=scores, table=table, summary=summary)

    def estimate(self, known: Mapping[str, Any], hardware: Hardware) -> Estimate | None:
        """A few seconds a structure of 300 residues; the search for the best superposition is quadratic."""
        return Estimate(
            seconds=(2.0, 600.0),
            memory_bytes=500_000_000,
            disk_bytes=1_000_000,
            basis="up to a hundred structures of 300 residues",
        )


def _jobs(inputs: CompareInputs, context: StepContext) -> Iterator[_Job]:
    """Predictions with their references.

    Raises:
        BadInput: see :meth:`CompareStructures.run`.
    """
    if (inputs.reference is None) == (inputs.references is None):
        raise BadInput(
            "give either one reference for all predictions or a folder with one for each",
            code="bad_references",
            location=Location(path="with.reference"),
        )
    predictions = structure_files(inputs.structures, "structures")
    if inputs.reference is not None:
        shown = context.artifact("reference").name
        for name, file in predictions.items():
            yield _Job(name, file, file.name, inputs.reference, shown)
        return
    assert inputs.references is not None
    references = structure_files(inputs.references, "references")
    for name, file in predictions.items():
        fitting = [known for known in references if _begins_with(name, known)]
        chosen = max(fitting, key=len, default=None)
        reference = None if chosen is None else references[chosen]
        yield _Job(name, file, file.name, reference, "" if reference is None else reference.name)


def _begins_with(name: str, reference: str) -> bool:
    rest = name[len(reference) :]
    return name.startswith(reference) and (not rest or rest[0] in _SEPARATORS)


def _row(job: _Job, match: Literal["alignment", "numbering"]) -> dict[str, Any]:
    """Scores of one prediction, or why there are none."""
    try:
        scores = _compared(job, match)
    except BadInput as error:
        return {
            "record": job.record,
            "file": job.shown,
            "reference": job.reference_shown,
            "status": "failed",
            "error": error.to_json(),
        }
    return {
        "record": job.record,
        "file": job.shown,
        "reference": job.reference_shown,
        "status": "ok",
        **scores,
    }


def _compared(job: _Job, match: Literal["alignment", "numbering"]) -> dict[str, Any]:
    from foldase_models.metrics import compare_structures
    from foldase_workflows.formats.all_atoms import read_all_atoms
    from foldase_workflows.operators._structure_matching import joined, matched_residues

    if job.reference is None:
        raise BadInput(
            "there is no reference for this prediction",
            code="no_reference",
            location=Location(file=job.shown, record=job.record),
            hint="name its file as the reference's, or with more behind it: 1abc.cif for 1abc_model_1.cif",
        )
    predicted = read_all_atoms(job.file, name=job.shown)
    reference = read_all_atoms(job.reference, name=job.reference_shown)
    try:
        pairs = matched_residues(predicted, reference, match)
        scores, lddt = compare_structures(joined(predicted), joined(reference), pairs)
    except BadInput as error:
        error.location = error.location or Location(file=job.shown, record=job.record)
        raise
    except ValueError as error:
        raise BadInput(
            str(error), code="structures_differ", location=Location(file=job.shown, record=job.record)
        ) from error
    by_residue = [None if math.isnan(value) else round(value, 4) for value in lddt.per_residue.tolist()]
    return {**{name: scores[name] for name in COLUMNS}, "lddt_by_residue": by_residue}


def _check(rows: Sequence[dict[str, Any]], allowed: float) -> None:
    failed = [row for row in rows if row["status"] == "failed"]
    if not failed or (may_fail(len(failed), len(rows), allowed) and len(failed) < len(rows)):
        return
    first, names = failed[0]["error"], ", ".join(row["record"] for row in failed[:10])
    raise BadInput(
        f"{len(failed)} of {len(rows)} predictions could not be compared ({names}); the first: "
        f"{first['message']}",
        code=first["code"],
        location=Location(**first.get("location", {})),
        hint=first.get("hint"),
    )


def _summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Counts, and means over the rows that were compared."""
    done = [row for row in rows if row["status"] == "ok"]
    means = {}
    for name in COLUMNS:
        values = [row[name] for row in done if row[name] is not None]
        if values:
            means[name] = sum(values) / len(values)
    return {"compared": len(done), "failed": len(rows) - len(done), "mean": means}


def _tabbed(rows: Sequence[dict[str, Any]]) -> str:
    lines = ["\t".join(("record", "reference", "status", *COLUMNS))]
    for row in rows:
        values = [row.get(name) for name in COLUMNS]
        numbers = ["" if value is None else f"{value:.4f}".rstrip("0").rstrip(".") for value in values]
        lines.append("\t".join((row["record"], row["reference"], row["status"], *numbers)))
    return "\n".join(lines) + "\n"


OPERATOR = CompareStructures()
