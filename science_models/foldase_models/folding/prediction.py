"""What a folding model is given and what it answers, as plain arrays: numpy only.

Shapes: N residues of all chains together, S rows of an alignment, R recycles. Lengths in A.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Extra = Literal["distogram", "frames"]
"""What a model tells only when it is asked, because it is large or seldom wanted."""

DISTANCE_EDGES = np.linspace(2.3125, 21.6875, 63)
"""Between the 64 bins of a distogram, A, float64 ``[63]``; the first and the last bin are open."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alignment:
    """The alignment of one chain, query first, in the columns of the query.

    Attributes:
        letters: rows of one-letter codes with ``-`` for gaps, each as long as the chain.
        deletions: residues left out before each column, int32 ``[S, N]``.
    """

    letters: tuple[str, ...]
    deletions: NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A known structure laid on the residues of one chain.

    Attributes:
        name: of the entry.
        sequence: one letter a residue of the chain, ``-`` where the template has none.
        positions: ``[N, 37, 3]``, A.
        mask: boolean ``[N, 37]``.
    """

    name: str
    sequence: str
    positions: NDArray[np.float32]
    mask: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldInput:
    """One record: chains, and what is known of each (``alignments`` and ``templates`` one entry a chain)."""

    name: str
    chains: tuple[str, ...]
    alignments: tuple[Alignment | None, ...] = ()
    templates: tuple[Sequence[Template], ...] = ()

    @property
    def residues(self) -> int:
        """Of all chains."""
        return sum(len(chain) for chain in self.chains)


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldPrediction:
    """One structure, with how sure the model is.

    Attributes:
        sequence: of all chains, joined.
        chain_index: int16 ``[N]``, from 0.
        residue_index: int32 ``[N]``, from 1 in each chain.
        positions: float32 ``[N, 37, 3]``, A, atoms in the order of ``residues.ATOM37``.
        atom_mask: boolean ``[N, 37]``.
        plddt: float32 ``[N]``, 0 to 100.
        pae: float32 ``[N, N]``, A, expected error of j where i is aligned, or None.
        ptm: 0 to 1, or None.
        iptm: 0 to 1, or None (one chain).
        contact_probability: float32 ``[N, N]``, or None.
        recycle_alpha: C-alpha after each pass, float32 ``[R, N, 3]``, A.
        recycles: passes that were made before the last one.
        converged: whether the passes ended early, below the tolerance.
        numbers: further figures of the model, by name.
        distogram: probabilities of C-beta distances between :data:`DISTANCE_EDGES`, float16 ``[N, N, 64]``,
            the same for ij and ji; None where it was not asked for.
        frames: from the frame of each backbone (origin at C-alpha, x to C, N in the plane of x and y with
            y > 0) to the whole, float32 ``[N, 4, 4]``, homogeneous, A; None where it was not asked for.
    """

    sequence: str
    chain_index: NDArray[np.int16]
    residue_index: NDArray[np.int32]
    positions: NDArray[np.float32]
    atom_mask: NDArray[np.bool_]
    plddt: NDArray[np.float32]
    pae: NDArray[np.float32] | None
    ptm: float | None
    iptm: float | None
    contact_probability: NDArray[np.float32] | None
    recycle_alpha: NDArray[np.float32]
    recycles: int
    converged: bool = False
    numbers: dict[str, float] = field(default_factory=dict)
    distogram: NDArray[np.float16] | None = None
    frames: NDArray[np.float32] | None = None


class Folder(Protocol):
    """A model ready to fold.

    Attributes:
        kind: of the model, ``esmfold`` or ``alphafold``.
        digest: of its weights, sha256 in hex.
        max_recycles: passes before the last one, as the model was trained.
    """

    kind: str
    digest: str
    max_recycles: int

    def fold(
        self,
        record: FoldInput,
        *,
        seed: int,
        recycles: int | None = None,
        tolerance: float | None = None,
        progress: Callable[[float, str], None] | None = None,
        extras: Collection[Extra] = (),
    ) -> FoldPrediction:
        """Fold one record.

        Args:
            record: what to fold.
            seed: of all that is drawn at random; the same seed gives the same bits.
            recycles: passes before the last one; None means ``max_recycles``.
            tolerance: stop recycling when C-alpha distances change by less, A, root mean square.
            progress: called with the share done and a few words; what it raises ends the work.
            extras: what else is wanted of the answer.

        Raises:
            ModelError: a letter, a length or an alignment that the model cannot take.
        """
        ...
