"""Arrays in, arrays out: what the model is shown of an alignment, and of a training family.

Shapes: S rows of the alignment, E and R rows shown, N residues.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foldase_models.errors import ModelError


@dataclass(frozen=True, slots=True)
class TrainingFamily:
    """An alignment with its structure.

    Attributes:
        name: of the family.
        msa: uint8 (S, N), letter indices.
        coords: float32 (N, 3), C-alpha trace, A.
        contacts: uint8 (N, N).
        pairs: float32 (N, N, F), features of pairs, for models whose inputs are couplings.
    """

    name: str
    msa: NDArray[np.uint8]
    coords: NDArray[np.float32]
    contacts: NDArray[np.uint8]
    pairs: NDArray[np.float32] | None = None

    @property
    def length(self) -> int:
        """Residues."""
        return int(self.msa.shape[1])


@dataclass(frozen=True, slots=True)
class Cropping:
    """How training examples are cut from families.

    Where families come with features of pairs, crops are cut from these; depths and shuffling count for
    nothing then, since the features are those of the whole alignment.

    Attributes:
        smallest: residues of the shortest crop; lengths between it and the whole are drawn evenly.
        whole: share of steps that see whole families.
        largest: residues of the longest crop, whole families included; no limit where not given.
        fewest_rows: rows of the shallowest alignment; depths between it and ``rows`` are drawn evenly.
        rows: rows of the deepest alignment, and of ``whole_depth`` of the steps.
        whole_depth: share of steps that see the deepest alignment.
        shuffled: share of examples whose columns are shuffled independently, which leaves no coevolution;
            their target is the structure of another family, so that all there is to learn from them is how
            often pairs at a given separation touch.
        reverse: whether chains are read backwards half of the time; right for simulated chains, which have
            no direction, wrong for proteins.
    """

    smallest: int = 16
    whole: float = 0.5
    fewest_rows: int = 24
    rows: int = 192
    whole_depth: float = 0.5
    shuffled: float = 0.125
    reverse: bool = True
    largest: int | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Examples of one step, stacked.

    Attributes:
        rows: uint8 (B, R, N), rows for the Evoformer.
        extra: uint8 (B, E, N), all rows.
        coords: float32 (B, N, 3), A.
        contacts: uint8 (B, N, N).
        pairs: float32 (B, N, N, F), where the families have them.
    """

    rows: NDArray[np.uint8]
    extra: NDArray[np.uint8]
    coords: NDArray[np.float32]
    contacts: NDArray[np.uint8]
    pairs: NDArray[np.float32] | None = None


def shuffle_columns(msa: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Permute every column on its own: composition stays, coevolution goes. Shape (S, N)."""
    return rng.permuted(msa, axis=0)


def choose_rows(
    rows: int, wanted: int, rng: np.random.Generator, *, keep_first: bool = False
) -> NDArray[np.intp]:
    """Indices of at most ``wanted`` of ``rows`` rows, without repetition, in random order.

    With ``keep_first`` row 0 (the query) comes first.
    """
    if keep_first:
        others = 1 + rng.permutation(rows - 1)[: max(0, wanted - 1)]
        return np.concatenate((np.zeros(1, dtype=np.intp), others.astype(np.intp)))
    return rng.permutation(rows)[:wanted].astype(np.intp)


def make_batch(
    families: Sequence[TrainingFamily],
    size: int,
    evoformer_rows: int,
    cropping: Cropping,
    rng: np.random.Generator,
) -> Batch:
    """Draw the examples of one step: families, one crop length and one depth for all of them.

    Raises:
        ModelError: there are no families.
    """
    if not families:
        raise ModelError("there are no families to train on", code="no_families")
    chosen = [families[index] for index in rng.integers(len(families), size=size)]
    shortest = min(family.length for family in chosen)
    length, depth = _extent(shortest, min(len(family.msa) for family in chosen), cropping, rng)
    examples = [_example(family, families, length, depth, cropping, rng) for family in chosen]
    extra = np.stack([example.msa for example in examples])
    pairs = [example.pairs for example in examples if example.pairs is not None]
    return Batch(
        rows=extra[:, :evoformer_rows],
        extra=extra,
        coords=np.stack([example.coords for example in examples]),
        contacts=np.stack([example.contacts for example in examples]),
        pairs=np.stack(pairs) if len(pairs) == len(examples) else None,
    )


def _extent(length: int, rows: int, cropping: Cropping, rng: np.random.Generator) -> tuple[int, int]:
    """Residues and rows of the examples of a step."""
    length = length if cropping.largest is None else min(length, cropping.largest)
    smallest = min(cropping.smallest, length)
    deepest = min(cropping.rows, rows)
    shallowest = min(cropping.fewest_rows, deepest)
    cropped = length if rng.random() < cropping.whole else int(rng.integers(smallest, length + 1))
    depth = deepest if rng.random() < cropping.whole_depth else int(rng.integers(shallowest, deepest + 1))
    return cropped, depth


def _example(
    family: TrainingFamily,
    families: Sequence[TrainingFamily],
    length: int,
    depth: int,
    cropping: Cropping,
    rng: np.random.Generator,
) -> TrainingFamily:
    """One crop."""
    span = _span(family.length, length, rng)
    msa = family.msa[choose_rows(len(family.msa), depth, rng), span]
    target, target_span = family, span
    if family.pairs is None and rng.random() < cropping.shuffled:
        msa = shuffle_columns(msa, rng)
        target = families[int(rng.integers(len(families)))]
        target_span = _span(target.length, min(length, target.length), rng)
        if target.length < length:
            target, target_span = family, span
    coords, contacts = target.coords[target_span], target.contacts[target_span, target_span]
    pairs = None if family.pairs is None else family.pairs[span, span]
    if cropping.reverse and rng.random() < 0.5:
        msa, coords, contacts = msa[:, ::-1], coords[::-1], contacts[::-1, ::-1]
        pairs = None if pairs is None else pairs[::-1, ::-1]
    return TrainingFamily(family.name, msa, coords, contacts, pairs)


def _span(whole: int, length: int, rng: np.random.Generator) -> slice:
    start = int(rng.integers(0, whole - length + 1))
    return slice(start, start + length)
