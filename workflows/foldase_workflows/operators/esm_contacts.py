"""Contacts, masked scores and effects of mutations by the language model ESM-2, from single sequences."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from foldase_models.errors import ModelError
from foldase_workflows.contracts import (
    Artifact,
    BadInput,
    Estimate,
    Hardware,
    Location,
    Operator,
    Ports,
    Resources,
    StepContext,
)
from foldase_workflows.contracts.ports import Fasta, Predictions, Table, Weights
from foldase_workflows.operators._models import model_errors, use_cores
from foldase_workflows.operators._record_failures import (
    check_failures,
    is_lack_of_memory,
    let_go,
    without_frames,
)

if TYPE_CHECKING:
    from foldase_models.folding.esm2 import Esm2
    from foldase_workflows.formats.fold_records import FoldRecord
    from foldase_workflows.formats.zarr_predictions import PredictionsWriter

CONTACT_CUTOFF = 8.0
"""C-beta atoms nearer than this are in contact, A: what the contact head was fitted to."""
MIN_SEPARATION = 6
PROCESS_BYTES = 500 * 2**20


class ContactsInputs(Ports):
    """Sequences and weights; what to compute beside contacts."""

    sequences: Annotated[Fasta, Field(description="FASTA, one chain a record")]
    weights: Annotated[Weights, Field(description="Folder of an ESM-2 checkpoint")]
    masked_scores: Annotated[
        bool, Field(description="Mask each residue in turn and tell how expected it is; a pass a residue")
    ] = False
    together: Annotated[
        int, Field(ge=1, le=100, description="Residues masked in one pass: more are faster and see less")
    ] = 1
    mutations: list[str] = Field(
        default_factory=list,
        max_length=100_000,
        description="To score: A24G, A24G:L31K for both at once, name/A24G where there are several records",
    )
    scoring: Annotated[
        Literal["masked", "wild-type"],
        Field(description="masked hides the mutated residues; wild-type takes one pass for all"),
    ] = "masked"
    unknown_residues: Annotated[
        Literal["refuse", "x"], Field(description="X and B, J, O, U, Z: refused, or read as unknown")
    ] = "refuse"
    allow_failures: Annotated[
        float, Field(ge=0, lt=1, description="Share of records that may fail; the scores tell which")
    ] = 0.0


class ContactsOutputs(Ports):
    """Maps, scores, and what became of each record."""

    predictions: Annotated[Predictions, Field(description="Contact maps")]
    scores: Annotated[
        Table, Field(description="Of each record: perplexity, residues, mutations; or its error")
    ]
    succeeded: Annotated[int, Field(description="Records with contacts")]
    failed: Annotated[int, Field(description="Records without; the scores tell why")]


@dataclass(slots=True)
class _Result:
    """One record: what was found, or why nothing was."""

    name: str
    line: int
    key: str
    record: FoldRecord | None
    mutations: list[str] = field(default_factory=list)
    error: BaseException | None = None
    scores: dict[str, Any] = field(default_factory=dict)


class EsmContacts(Operator[ContactsInputs, ContactsOutputs]):
    """One pass of ESM-2 over each sequence, and more where scores are asked for."""

    name = "esm.contacts"
    version = 1
    help = "Predict contacts and score mutations with ESM-2"
    family = "torch"
    resources = Resources(cpu=2.0)
    Inputs = ContactsInputs
    Outputs = ContactsOutputs

    def run(self, inputs: ContactsInputs, context: StepContext) -> ContactsOutputs:
        """Read, predict record by record, write.

        Raises:
            BadInput: files or weights that cannot be worked with, or more records failed than may.
        """
        use_cores(context)
        import torch

        from foldase_models.folding.esm2 import load_esm2
        from foldase_workflows.formats.zarr_predictions import PredictionsWriter

        results = _read(inputs, context)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        with model_errors("weights"):
            model = load_esm2(inputs.weights, dtype=torch.float32, device=device)
        tree = context.new_tree("predictions")
        writer = PredictionsWriter(tree)
        good = [result for result in results if result.error is None]
        for number, result in enumerate(good):
            _predict(model, result, inputs, context, writer, (number, len(good)))
            if result.error is not None:
                let_go()
        failed = [(result.name, result.error) for result in results if result.error is not None]
        check_failures(failed, len(results), context, allowed=inputs.allow_failures, may_try_again=False)
        writer.complete(
            method="ESM-2 attention",
            contact_cutoff=CONTACT_CUTOFF,
            min_separation=MIN_SEPARATION,
            attributes={"weights": context.artifact("weights").digest},
        )
        scores = context.new_file("scores.json")
        document = {"kind": "esm.scores", "version": 1, "records": [_told(result) for result in results]}
        scores.write_text(json.dumps(document, allow_nan=False), encoding="utf-8")
        context.progress(1.0, "done")
        return ContactsOutputs(
            predictions=tree, scores=scores, succeeded=len(results) - len(failed), failed=len(failed)
        )

    def estimate(self, known: Mapping[str, Any], hardware: Hardware) -> Estimate | None:
        """From the sizes of weights and sequences: about two operations a weight and residue."""
        weights, sequences = known.get("weights"), known.get("sequences")
        if not isinstance(weights, Artifact) or not isinstance(sequences, Artifact):
            return None
        longest = min(sequences.size, 4096)
        passes = 1 + (longest if known.get("masked_scores") is True else 0)
        seconds = 0.5 * weights.size * sequences.size * passes / (2e10 * max(hardware.cpus, 1.0))
        needed = weights.size + 48 * longest**2
        return Estimate(
            seconds=(1.0 + weights.size / 1e9, 20.0 + weights.size / 2e8 + 3 * seconds),
            memory_bytes=PROCESS_BYTES + needed,
            gpu_memory_bytes=needed if hardware.gpus else 0,
            disk_bytes=4 * longest**2,
            basis=f"sequences of {sequences.size:,} bytes",
        )


def _read(inputs: ContactsInputs, context: StepContext) -> list[_Result]:
    """All records in the order of the file, with the mutations that are of them."""
    from foldase_workflows.formats.fold_records import read_fold_records
    from foldase_workflows.formats.predicted import file_name

    file = context.artifact("sequences").name
    found = read_fold_records(inputs.sequences, name=file, unknown=inputs.unknown_residues)
    results = [_Result(one.name, one.line, "", one) for one in found.records]
    results += [_Result(fault.name, fault.line, "", None, error=fault.error) for fault in found.faults]
    results.sort(key=lambda result: result.line)
    keys: list[str] = []
    for result in results:
        result.key = file_name(result.name, keys)
        keys.append(result.key)
        if result.record is not None and len(result.record.chains) > 1:
            result.error = BadInput(
                f"{result.name!r} has {len(result.record.chains)} chains, ESM-2 takes one",
                code="several_chains",
                location=Location(file=file, line=result.line, record=result.name),
                hint="give each chain as a record of its own",
            )
    _deal_mutations(inputs.mutations, results)
    return results


def _deal_mutations(mutations: Sequence[str], results: Sequence[_Result]) -> None:
    """Give each mutation to its record.

    Raises:
        BadInput: ``bad_mutation``: it names no record, or none where there are several.
    """
    by_name: dict[str, _Result] = {}
    for result in results:  # of records of one name the first is kept, the others are at fault
        by_name.setdefault(result.name, result)
    for text in mutations:
        name, slash, mutation = text.rpartition("/")
        if slash and name in by_name:
            by_name[name].mutations.append(mutation)
        elif not slash and len(results) == 1:
            results[0].mutations.append(text)
        else:
            raise BadInput(
                f"the mutation {text!r} names no record",
                code="bad_mutation",
                location=Location(path="with.mutations", record=text),
                hint=f"write name/A24G; the first record is {results[0].name!r}",
            )


def _predict(
    model: Esm2,
    result: _Result,
    inputs: ContactsInputs,
    context: StepContext,
    writer: PredictionsWriter,
    place: tuple[int, int],
) -> None:
    """Compute and write one record; a fault is noted with it."""
    from foldase_models.folding.esm2 import predict_contacts
    from foldase_workflows.formats.zarr_predictions import Prediction

    assert result.record is not None
    sequence = result.record.chains[0]
    number, total = place

    def progress(fraction: float) -> None:
        context.check_cancelled()
        context.progress(0.98 * (number + fraction) / total, f"{result.name}")

    progress(0.0)
    try:
        contacts = predict_contacts(model, sequence)
        result.scores = {"residues": len(sequence), **_scores(model, sequence, result, inputs, progress)}
    except ModelError as error:
        result.error = BadInput(
            error.message,
            code=error.code,
            location=Location(record=result.name, path=error.location),
            hint=error.hint,
        )
        return
    except (MemoryError, RuntimeError) as error:
        if not is_lack_of_memory(error):
            raise
        result.error = without_frames(error)
        return
    shown = {name: value for name, value in result.scores.items() if isinstance(value, float)}
    writer.add(Prediction(result.key, contacts, sequence=sequence, scores=shown))
    progress(1.0)


def _scores(
    model: Esm2, sequence: str, result: _Result, inputs: ContactsInputs, progress: Any
) -> dict[str, Any]:
    """Perplexity, log-probabilities of residues and log-odds of mutations, as they were asked for."""
    from foldase_models.folding.esm2 import masked_log_probabilities, pseudo_perplexity, score_mutations
    from foldase_models.folding.esm2.config import VOCABULARY
    from foldase_workflows.formats.atom_names import RESTYPES

    found: dict[str, Any] = {}
    parts = int(inputs.masked_scores) + bool(result.mutations)

    def of_mutations(share: float) -> None:
        progress((parts - 1 + share) / parts)

    if inputs.masked_scores:
        values = masked_log_probabilities(
            model, sequence, together=inputs.together, progress=lambda share: progress(share / parts)
        )
        columns = [VOCABULARY.index(letter) for letter in RESTYPES]
        found["pseudo_perplexity"] = pseudo_perplexity(values, sequence)
        found["letters"] = RESTYPES
        found["log_probabilities"] = [[round(float(v), 4) for v in row] for row in values[:, columns]]
    if result.mutations:
        odds = score_mutations(
            model, sequence, result.mutations, method=inputs.scoring, progress=of_mutations
        )
        found["mutations"] = [
            {"mutation": mutation, "log_odds": float(value)}
            for mutation, value in zip(result.mutations, odds, strict=True)
        ]
    return found


def _told(result: _Result) -> dict[str, Any]:
    told: dict[str, Any] = {"record": result.name, "target": result.key, "line": result.line}
    if result.error is None:
        return {**told, "state": "succeeded", **result.scores}
    error = result.error
    described = (
        error.to_json()
        if isinstance(error, BadInput)
        else {"code": "out_of_memory", "message": str(error)[:500]}
    )
    return {**told, "state": "failed", "error": described}


OPERATOR = EsmContacts()
