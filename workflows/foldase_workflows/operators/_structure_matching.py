"""Which residue of one structure is which of another: by sequence alignment, or by chain and number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from foldase_workflows.contracts import BadInput

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from foldase_models.metrics import AllAtoms
    from foldase_workflows.formats.all_atoms import AllAtomChain

Match = Literal["alignment", "numbering"]
LEAST_IDENTITY = 0.2
"""Share of aligned residues that must be equal for two chains to count as the same protein."""


def joined(chains: Sequence[AllAtomChain]) -> AllAtoms:
    """All chains of a file as one structure for the metrics."""
    import numpy as np

    from foldase_models.metrics import AllAtoms

    return AllAtoms(
        sequence="".join(chain.sequence for chain in chains),
        positions=np.concatenate([chain.positions for chain in chains]),
        mask=np.concatenate([chain.mask for chain in chains]),
        chain_index=np.repeat(np.arange(len(chains)), [len(chain.sequence) for chain in chains]),
        residue_index=np.concatenate([chain.numbers for chain in chains]),
    )


def matched_residues(
    predicted: Sequence[AllAtomChain], reference: Sequence[AllAtomChain], how: Match
) -> NDArray[np.int64]:
    """Pairs ``(P, 2)`` of residues, counted through all chains of each file.

    With ``alignment`` every chain of the reference takes the chain of the prediction that it has most equal
    residues with, each chain once, the first of equals; equal chains are taken in the order of the files.

    Raises:
        BadInput: ``structures_differ``: nothing is in common.
    """
    import numpy as np

    pairs = _by_number(predicted, reference) if how == "numbering" else _by_alignment(predicted, reference)
    if not pairs:
        hint = (
            "match by alignment instead" if how == "numbering" else "match by numbering, if they correspond"
        )
        raise BadInput(
            f"no residue of the prediction is one of the reference, by {how}",
            code="structures_differ",
            hint=hint,
        )
    return np.array(sorted(pairs, key=lambda pair: pair[1]), dtype=np.int64)


def _starts(chains: Sequence[AllAtomChain]) -> list[int]:
    starts = [0]
    for chain in chains:
        starts.append(starts[-1] + len(chain.sequence))
    return starts


def _by_number(predicted: Sequence[AllAtomChain], reference: Sequence[AllAtomChain]) -> list[tuple[int, int]]:
    """Residues of the same chain name, number and insertion code; a single chain may have any name."""
    single = len(predicted) == len(reference) == 1

    def named(chains: Sequence[AllAtomChain]) -> dict[tuple[str, int, str], int]:
        found: dict[tuple[str, int, str], int] = {}
        for start, chain in zip(_starts(chains), chains, strict=False):
            keys = zip(chain.numbers.tolist(), chain.insertion_codes, strict=True)
            for place, (number, code) in enumerate(keys):
                found.setdefault(("" if single else chain.name, number, code), start + place)
        return found

    ours, theirs = named(predicted), named(reference)
    return [(ours[key], theirs[key]) for key in ours.keys() & theirs.keys()]


def _by_alignment(
    predicted: Sequence[AllAtomChain], reference: Sequence[AllAtomChain]
) -> list[tuple[int, int]]:
    from foldase_workflows.formats.residue_pairs import aligned_residues

    ours, theirs = _starts(predicted), _starts(reference)
    offers = []
    for k, chain in enumerate(reference):
        for m, candidate in enumerate(predicted):
            pairs = aligned_residues(candidate.sequence, chain.sequence).tolist()
            equal = sum(candidate.sequence[i] == chain.sequence[j] for i, j in pairs)
            if pairs and equal >= LEAST_IDENTITY * len(pairs):
                offers.append((-equal, k, m, pairs))
    found: list[tuple[int, int]] = []
    taken: tuple[set[int], set[int]] = (set(), set())
    for _, k, m, pairs in sorted(offers, key=lambda offer: offer[:3]):
        if k in taken[0] or m in taken[1]:
            continue
        taken[0].add(k)
        taken[1].add(m)
        found += [(ours[m] + i, theirs[k] + j) for i, j in pairs]
    return found
