"""What every rank of a training of a language model does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from foldase_workflows.contracts.gangs import RankContext, check_cancelled
from foldase_workflows.operators._models import model_errors, use_cores
from foldase_workflows.operators._training_run import disk_of, first_says, joined, watcher_of
from foldase_workflows.operators.language_train import TrainInputs, config_of, recipe_of

if TYPE_CHECKING:
    from foldase_models.language.decoder.config import Tokens
    from foldase_workflows.formats.zarr_families import FamilySet


def train(
    context: RankContext, *, inputs: Mapping[str, Any], model: str, name: str | None = None
) -> dict[str, float]:
    """Read the sequences, train, and on rank 0 write the model; the numbers on the sequences held back.

    Args:
        context: of this rank.
        inputs: of ``language.train@1``, as JSON.
        model: an existing folder.
        name: what people call the file of sequences.

    Raises:
        BadInput: no sequences, letters that are no residues, weights that cannot be read, or a training that
            diverged.
        Cancelled: someone asked to stop.
    """
    use_cores(context)
    from foldase_models.language.decoder.weights import save_decoder
    from foldase_models.recipes.language import train_language

    given = TrainInputs.model_validate(inputs)
    config, recipe = config_of(given), recipe_of(given, disk_of(given, context))
    sequences = read_sequences(given, config.tokens, context, name=name)
    residues = sum(map(len, sequences))
    first_says(context, f"{len(sequences):,} sequences, {residues:,} tokens")
    with joined(recipe.training) as ranks, model_errors("sequences"):
        trained, record = train_language(
            sequences,
            config,
            recipe,
            start=given.weights,
            ranks=ranks,
            checkpoints=context.checkpoints,
            watcher=watcher_of(context),
        )
    first_says(context, f"attention ran on the {record['attention_backend']!r} backend")
    if context.rank == 0:
        save_decoder(Path(model), trained, record)
    return dict(record["validation"])


def read_sequences(
    given: TrainInputs, tokens: Tokens, context: RankContext, *, name: str | None = None
) -> list[NDArray[np.int64]]:
    """Token ids of every sequence: those of the file, then the rows of the families.

    Raises:
        BadInput: a file that cannot be read, letters that are no residues, or nothing at all.
    """
    from foldase_models.language.decoder.features import encode
    from foldase_workflows.formats.sequences import read_fasta
    from foldase_workflows.formats.zarr_families import FamilySet

    found: list[NDArray[np.int64]] = []
    if given.sequences is not None and tokens == "bytes":
        found += [encode(text, tokens) for text in _paragraphs(given.sequences, name)]
    elif given.sequences is not None:
        found += [encode(one.sequence) for one in read_fasta(given.sequences, name=name)]
    if given.families is not None:
        found += _rows(FamilySet(given.families), tokens, context)
    return found


def _paragraphs(path: Path, name: str | None) -> Iterator[str]:
    """Lines between empty ones, joined."""
    from foldase_workflows.formats.text import LineReader

    lines: list[str] = []
    with LineReader(path, name=name) as reader:
        for line in reader:
            if line.strip():
                lines.append(line)
            elif lines:
                yield "\n".join(lines)
                lines = []
    if lines:
        yield "\n".join(lines)


def _rows(stored: FamilySet, tokens: Tokens, context: RankContext) -> list[NDArray[np.int64]]:
    """The rows of all alignments without their gaps."""
    from foldase_models.language.decoder.features import encode

    with model_errors("families"):
        table = np.concatenate([[0] if one == "-" else encode(one, tokens) for one in stored.letters])
    found = []
    for family in stored:
        check_cancelled(context)
        rows = table[family.msa]
        found += [row[row > 0] for row in rows if row.any()]
    return found
