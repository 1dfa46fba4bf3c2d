"""A person's alignment, read, filtered and weighted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from foldase_workflows.contracts import (
    Artifact,
    BadInput,
    Estimate,
    Hardware,
    Location,
    Operator,
    Ports,
    StepContext,
)
from foldase_workflows.contracts.ports import Alignment, Msa

FormatName = Literal["auto", "fasta", "a3m", "stockholm", "clustal"]


class ReadInputs(Ports):
    """The file and how to read it."""

    alignment: Annotated[Alignment, Field(description="FASTA, A3M, Stockholm or Clustal")]
    format: Annotated[FormatName, Field(description="auto looks at the content")] = "auto"
    query: Annotated[
        str,
        Field(max_length=200, description="Name of the row that gives the columns; else the first"),
    ] = ""
    max_gaps: Annotated[
        float, Field(gt=0, le=1, description="Rows with this share of gaps or more are left out")
    ] = 0.5
    identity: Annotated[
        float, Field(gt=0, le=1, description="Sequences this much alike share their weight")
    ] = 0.8


class ReadOutputs(Ports):
    """The alignment as arrays, and its size."""

    msa: Annotated[Msa, Field(description="Letters, deletions and weights")]
    rows: Annotated[int, Field(description="Sequences kept")]
    columns: Annotated[int, Field(description="Residues of the query")]
    neff: Annotated[float, Field(description="Effective number of sequences: the sum of the weights")]


class ReadAlignment(Operator[ReadInputs, ReadOutputs]):
    """Reads an alignment, leaves out rows that are mostly gaps, and weighs the others."""

    name = "alignment.read"
    version = 1
    help = "Read an alignment in FASTA, A3M, Stockholm or Clustal"
    Inputs = ReadInputs
    Outputs = ReadOutputs

    def run(self, inputs: ReadInputs, context: StepContext) -> ReadOutputs:
        """Read, filter, weigh, write.

        Raises:
            BadInput: the file is no alignment (line and record are named), or no row but the query is left.
        """
        import numpy as np

        from foldase_models.coevolution import sequence_weights
        from foldase_workflows.formats.alignments import read_alignment
        from foldase_workflows.formats.letters import GAP, LETTERS
        from foldase_workflows.formats.zarr_msa import write_msa

        name = context.artifact("alignment").name
        read = read_alignment(
            inputs.alignment,
            name=name,
            format=None if inputs.format == "auto" else inputs.format,
            query=inputs.query or None,
        )
        context.progress(0.2, f"{len(read.names)} rows read")
        gaps = (read.letters == GAP).mean(axis=1)
        kept = gaps < inputs.max_gaps
        kept[0] = True
        rows = np.flatnonzero(kept)
        dropped = len(read.names) - len(rows)
        if len(rows) < 2:
            raise BadInput(
                f"only the query is left of {len(read.names)} rows",
                code="alignment_too_few_rows",
                location=Location(file=name, record=read.names[0]),
                hint="give an alignment of several sequences, or raise max_gaps",
            )

        def check(share: float) -> None:
            context.check_cancelled()
            context.progress(0.2 + 0.7 * share, "weighing sequences")

        letters = read.letters[rows]
        weights = sequence_weights(letters, inputs.identity, check=check)
        tree = context.new_tree("msa")
        write_msa(
            tree,
            msa=letters,
            deletions=read.deletions[rows],
            weights=weights,
            letters=LETTERS,
            names=[read.names[row] for row in rows],
            identity=inputs.identity,
            attributes={"format": read.format, "dropped": dropped, "max_gaps": inputs.max_gaps},
        )
        neff = float(weights.sum(dtype=np.float64))
        context.metrics({"rows": len(rows), "neff": neff})
        context.log(
            f"{read.format}: {len(rows)} rows of {letters.shape[1]} columns kept, {dropped} with "
            f"{inputs.max_gaps:.0%} gaps or more left out, {neff:.0f} effective at "
            f"{inputs.identity:.0%} identity"
        )
        context.progress(1.0, "done")
        return ReadOutputs(msa=tree, rows=len(rows), columns=letters.shape[1], neff=neff)

    def estimate(self, known: Mapping[str, Any], hardware: Hardware) -> Estimate | None:
        """From the size of the file; how many rows share it is not known before it is read."""
        alignment = known.get("alignment")
        if not isinstance(alignment, Artifact):
            return None
        megabytes = alignment.size / 1e6
        return Estimate(
            seconds=(1.0, 3.0 + megabytes + 0.1 * megabytes**2),
            memory_bytes=int(300e6 + 8 * alignment.size),
            disk_bytes=alignment.size,
            basis="size of the file",
        )


OPERATOR = ReadAlignment()
