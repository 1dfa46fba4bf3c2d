"""What ``fold.predict`` is given, record by record, and what is wrong with each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foldase_workflows.contracts import BadInput, StepContext
from foldase_workflows.operators._folding_ports import FoldInputs

if TYPE_CHECKING:
    from foldase_models.folding.prediction import FoldInput
    from foldase_workflows.formats.fold_alignments import ChainRows, GivenAlignment
    from foldase_workflows.formats.templates import LaidTemplate

MOST_TEMPLATES = 4
"""Of one chain, as AlphaFold takes them."""


@dataclass(slots=True)
class Job:
    """One record: ``key`` is its name in files and trees, ``error`` why it is not or was not folded."""

    name: str
    line: int
    key: str
    chains: tuple[str, ...] = ()
    rows: list[ChainRows | None] = field(default_factory=list)
    templates: list[list[LaidTemplate]] = field(default_factory=list)
    error: BaseException | None = None
    plan: Any = None

    @property
    def residues(self) -> int:
        """Of all chains."""
        return sum(map(len, self.chains))

    @property
    def depth(self) -> int:
        """Rows of the alignments of all chains together, the query included."""
        return 1 + sum(len(rows.letters) - 1 for rows in self.rows if rows is not None)

    @property
    def template_count(self) -> int:
        """The most templates of any chain."""
        return max((len(found) for found in self.templates), default=0)

    def digest(self) -> str:
        """Of all that the model is shown, sha256 in hex; names are no part of it."""
        total = hashlib.sha256(json.dumps(self.chains).encode())
        for rows in self.rows:
            total.update(b"none" if rows is None else rows.letters.tobytes() + rows.deletions.tobytes())
        for found in self.templates:
            for laid in found:
                total.update(laid.sequence.encode() + laid.positions.tobytes() + laid.mask.tobytes())
            total.update(b"|")
        return total.hexdigest()

    def fold_input(self) -> FoldInput:
        """As models take it."""
        from foldase_models.folding.prediction import Alignment, FoldInput, Template

        alignments = []
        for chain, rows in zip(self.chains, self.rows, strict=True):
            # An unknown residue of the chain is a gap in the alphabet of alignments: the query is the chain.
            found = None
            if rows is not None:
                found = Alignment(letters=(chain, *rows.texts()[1:]), deletions=rows.deletions)
            alignments.append(found)
        templates = tuple(
            [
                Template(name=laid.name, sequence=laid.sequence, positions=laid.positions, mask=laid.mask)
                for laid in found
            ]
            for found in self.templates
        )
        return FoldInput(
            name=self.name, chains=self.chains, alignments=tuple(alignments), templates=templates
        )


def read_jobs(inputs: FoldInputs, context: StepContext) -> list[Job]:
    """All records in the order of the file, those that are at fault with their error.

    Raises:
        BadInput: the FASTA file as a whole, an alignment or a template that cannot be read, or a template
            that is like no chain of any record.
    """
    from foldase_workflows.formats.fold_alignments import read_given_alignment
    from foldase_workflows.formats.fold_records import read_fold_records
    from foldase_workflows.formats.predicted import file_name

    found = read_fold_records(
        inputs.sequences, name=context.artifact("sequences").name, unknown=inputs.unknown_residues
    )
    jobs = [Job(one.name, one.line, "", one.chains) for one in found.records]
    jobs += [Job(fault.name, fault.line, "", error=fault.error) for fault in found.faults]
    jobs.sort(key=lambda job: job.line)
    taken: list[str] = []
    for job in jobs:
        job.key = file_name(job.name, taken)
        taken.append(job.key)
    given = [read_given_alignment(path) for path in inputs.alignments or []]
    good = [job for job in jobs if job.error is None]
    _lay_alignments(context, good, given, inputs.missing_alignment)
    _lay_templates(good, inputs.templates or [])
    return jobs


def _lay_alignments(
    context: StepContext, jobs: Sequence[Job], given: Sequence[GivenAlignment], missing: str
) -> None:
    from foldase_workflows.formats.fold_alignments import alignments_of_record, missing_alignment

    used: set[str] = set()
    for job in jobs:
        job.rows = [None] * len(job.chains)
        if not given:
            continue
        try:
            job.rows, files = alignments_of_record(job.name, job.chains, given)
            used |= files
            for number, rows in enumerate(job.rows):
                if rows is None and missing == "refuse":
                    raise missing_alignment(job.name, number + 1, job.chains[number], given)
        except BadInput as error:
            job.error = error
    for alignment in given:
        if alignment.file not in used:
            context.log(f"the alignment {alignment.file} is of no record and was not used", level="warning")


def _lay_templates(jobs: Sequence[Job], templates: Sequence[Path]) -> None:
    from foldase_workflows.formats.templates import read_templates, templates_of_chain, unused_template

    files = read_templates([(path, path.name) for path in templates])
    used: set[str] = set()
    for job in jobs:
        laid = [templates_of_chain(chain, files, most=len(files)) for chain in job.chains]
        used |= {one.name.rpartition(":")[0] for found in laid for one in found}
        job.templates = [found[:MOST_TEMPLATES] for found in laid]
    for name, _ in files if jobs else ():
        if name not in used:
            raise unused_template(name)
