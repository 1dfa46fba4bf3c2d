"""How probable ESM-2 finds the residues of a sequence, and their mutations.

Shapes: N residues, V tokens of the vocabulary, P masked passes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from foldase_models.errors import ModelError
from foldase_models.folding.esm2.features import AMINO_ACIDS, letter_ids, tokenize
from foldase_models.folding.esm2.model import Esm2
from foldase_models.folding.options import ForwardOptions
from foldase_models.layers.row_groups import working_set

Method = Literal["masked", "wild-type"]
TOKENS_PER_BATCH = 4096
"""Of all sequences of one forward pass; a longer sequence is passed alone."""


class Mutation(NamedTuple):
    """``wild`` at ``position``, from 1, becomes ``mutant``."""

    wild: str
    position: int
    mutant: str


def parse_mutations(text: str, sequence: str) -> tuple[Mutation, ...]:
    """Mutations that occur together, such as ``A24G`` or ``A24G:L31K``.

    Raises:
        ModelError: not of this form, another residue at that position, or a position twice.
    """
    found = []
    for word in text.split(":"):
        wild, number, mutant = word[:1], word[1:-1], word[-1:]
        if not (number.isdecimal() and mutant in AMINO_ACIDS and len(word) > 2):
            raise ModelError(
                f"{word!r} is no mutation",
                code="bad_mutation",
                location=text,
                hint="write them like A24G:L31K",
            )
        position = int(number)
        if not 1 <= position <= len(sequence) or sequence[position - 1] != wild:
            seen = sequence[position - 1] if 1 <= position <= len(sequence) else "no residue"
            raise ModelError(
                f"{word}: the sequence has {seen} at position {position}", code="bad_mutation", location=text
            )
        found.append(Mutation(wild, position, mutant))
    if len({mutation.position for mutation in found}) < len(found):
        raise ModelError("a position is mutated twice", code="bad_mutation", location=text)
    return tuple(found)


def masked_log_probabilities(
    model: Esm2,
    sequence: str,
    *,
    together: int = 1,
    options: ForwardOptions | None = None,
    progress: Callable[[float], None] | None = None,
) -> NDArray[np.float32]:
    """What the model expects at each residue when it does not see it: log-probabilities, float32 ``[N, V]``.

    Args:
        model: with a language head, in evaluation mode.
        sequence: of residues.
        together: residues masked in one pass, spread evenly over the sequence; more need fewer passes and see
            less.
        options: of the forward pass.
        progress: called with the share done; what it raises ends the work.

    Raises:
        ModelError: an empty sequence, a letter that the vocabulary lacks, or a model without language head.
    """
    if together < 1:
        raise ModelError(f"together must be at least 1, got {together}", code="bad_argument")
    passes = math.ceil(len(sequence) / together)
    masked = [np.arange(first, len(sequence), passes) for first in range(passes)]
    result = np.empty((len(sequence), model.config.vocab_size), dtype=np.float32)
    for places, values in _masked_passes(model, sequence, masked, options, progress):
        result[places] = values
    return result


def wild_type_log_probabilities(
    model: Esm2, sequence: str, *, options: ForwardOptions | None = None
) -> NDArray[np.float32]:
    """Log-probabilities at each residue when the model sees all of them, float32 ``[N, V]``: one pass.

    Raises:
        ModelError: as for :func:`masked_log_probabilities`.
    """
    for _, values in _masked_passes(model, sequence, [np.arange(0)], options, None, everywhere=True):
        return values
    raise AssertionError


def pseudo_perplexity(log_probabilities: NDArray[np.float32], sequence: str) -> float:
    """``exp(-mean log p)`` of N residues under :func:`masked_log_probabilities` (Salazar et al. 2020).

    Args:
        log_probabilities: float32 ``[N, V]``.
        sequence: the N residues.
    """
    own = log_probabilities[np.arange(len(sequence)), letter_ids(sequence)]
    return float(np.exp(-own.astype(np.float64).mean()))


def score_mutations(
    model: Esm2,
    sequence: str,
    mutations: Sequence[str],
    *,
    method: Method = "masked",
    options: ForwardOptions | None = None,
    progress: Callable[[float], None] | None = None,
) -> NDArray[np.float64]:
    """Log-odds of mutant against wild type, summed over mutations that occur together (Meier et al. 2021).

    Args:
        model: with a language head, in evaluation mode.
        sequence: the wild type.
        mutations: each such as ``A24G`` or ``A24G:L31K``.
        method: ``masked`` hides all residues that a mutant changes, one pass for each set of positions;
            ``wild-type`` hides none, one pass for all.
        options: of the forward pass.
        progress: called with the share done; what it raises ends the work.

    Returns:
        float64 ``[len(mutations)]``; negative where the model likes the wild type better.

    Raises:
        ModelError: a mutation that does not fit the sequence, and as for :func:`masked_log_probabilities`.
    """
    parsed = [parse_mutations(text, sequence) for text in mutations]
    if not parsed:
        return np.zeros(0)
    if method == "wild-type":
        seen = wild_type_log_probabilities(model, sequence, options=options)
        return np.array([_log_odds(group, seen[[m.position - 1 for m in group]]) for group in parsed])
    sets = {tuple(m.position - 1 for m in group) for group in parsed}
    masked = [np.array(places) for places in sorted(sets)]
    found = {
        tuple(places.tolist()): values
        for places, values in _masked_passes(model, sequence, masked, options, progress)
    }
    return np.array([_log_odds(group, found[tuple(m.position - 1 for m in group)]) for group in parsed])


def _log_odds(group: Sequence[Mutation], log_probabilities: NDArray[np.float32]) -> float:
    """``log_probabilities`` ``[len(group), V]``."""
    places = np.arange(len(group))
    wild = log_probabilities[places, letter_ids("".join(m.wild for m in group))]
    mutant = log_probabilities[places, letter_ids("".join(m.mutant for m in group))]
    return float((mutant.astype(np.float64) - wild).sum())


@torch.no_grad()
def _masked_passes(
    model: Esm2,
    sequence: str,
    masked: Sequence[NDArray[np.intp]],
    options: ForwardOptions | None,
    progress: Callable[[float], None] | None,
    *,
    everywhere: bool = False,
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.float32]]]:
    """For each set of masked residues, log-probabilities there; ``everywhere``: of all residues."""
    if model.lm_head is None:
        raise ModelError(
            "the checkpoint has no language head", code="wrong_model", hint="give one of EsmForMaskedLM"
        )
    options = options or ForwardOptions()
    device = model.lm_head.bias.device
    ids = torch.from_numpy(tokenize([sequence], model.config).ids[0])
    size = max(1, TOKENS_PER_BATCH // len(ids))
    for first in range(0, len(masked), size):
        group = masked[first : first + size]
        tokens = ids.repeat(len(group), 1)
        for row, places in enumerate(group):
            tokens[row, torch.from_numpy(places) + 1] = model.config.mask_token_id
        with working_set(options.group_bytes):
            states = model.esm(tokens.to(device), options=options).last
        for row, places in enumerate(group):
            asked = np.arange(len(sequence)) if everywhere else places
            logits = model.lm_head(states[row, torch.from_numpy(asked).to(device) + 1])
            yield asked, torch.log_softmax(logits.float(), -1).cpu().numpy()
        if progress is not None:
            progress(min(1.0, (first + size) / len(masked)))
