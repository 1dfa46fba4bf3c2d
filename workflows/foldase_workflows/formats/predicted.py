"""A predicted structure and how it was made, as the writers of this package take it.

Shapes: N residues of all chains together, R passes. Lengths in A; confidence of a residue (pLDDT) 0 to 100.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foldase_workflows.formats.atom_names import ATOM37, RESTYPES
from foldase_workflows.formats.pair_tiles import DISTANCE_BINS

FARTHEST = 100_000.0
"""Coordinates beyond this, A, are no structure but a model that ran away."""

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """How a structure came about. Nothing here depends on when or where, so equal runs give equal files.

    Attributes:
        model: kind of the model, for example ``esmfold``.
        weights: sha256 of its weights, in hex.
        seed: given by the person.
        sample: number of the sample of that seed, from 0.
        recycles: passes made before the last one.
        converged: whether the passes ended early, below the tolerance.
        options: what the plan allowed: dtype, kernel, chunk, in-place forms, offload.
        plan: the plan itself, where there was one.
        predicted_peak_bytes: of the plan.
        versions: of the software, by name.
    """

    model: str
    weights: str
    seed: int
    sample: int = 0
    recycles: int = 0
    converged: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    plan: Mapping[str, Any] = field(default_factory=dict)
    predicted_peak_bytes: int | None = None
    versions: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "model": self.model,
            "weights": self.weights,
            "seed": self.seed,
            "sample": self.sample,
            "recycles": self.recycles,
            "converged": self.converged,
            "options": dict(self.options),
            "plan": dict(self.plan),
            "predicted_peak_bytes": self.predicted_peak_bytes,
            "versions": dict(self.versions),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Provenance:
        """The inverse of :meth:`to_json`."""
        return cls(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictedStructure:
    """One structure of one record.

    Attributes:
        name: of the record, for people.
        chains: the sequence of each chain, the twenty letters and X.
        positions: float32 (N, 37, 3), A, atoms in the order of ``atom_names.ATOM37``.
        atom_mask: bool (N, 37).
        plddt: float32 (N,), 0 to 100.
        pae: float32 (N, N), A, expected error of residue j (column) where residue i (row) is aligned.
        ptm: 0 to 1.
        iptm: 0 to 1; None for one chain.
        contact_probability: float32 (N, N).
        recycle_alpha: float32 (R, N, 3), C-alpha after each pass, A.
        provenance: how it was made.
        numbers: further figures of the model, by name.
        distogram: float16 (N, N, 64), probabilities of C-beta distances between
            ``pair_tiles.DISTANCE_EDGES``; None where it was not asked for.
        frames: float32 (N, 4, 4), from the frame of each backbone to the whole, homogeneous, A; None where
            it was not asked for.
    """

    name: str
    chains: tuple[str, ...]
    positions: NDArray[np.float32]
    atom_mask: NDArray[np.bool_]
    plddt: NDArray[np.float32]
    provenance: Provenance
    pae: NDArray[np.float32] | None = None
    ptm: float | None = None
    iptm: float | None = None
    contact_probability: NDArray[np.float32] | None = None
    recycle_alpha: NDArray[np.float32] | None = None
    numbers: Mapping[str, float] = field(default_factory=dict)
    distogram: NDArray[np.float16] | None = None
    frames: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        """Check that the parts fit together.

        Raises:
            ValueError: shapes that do not fit, numbers that are not finite, a confidence on another scale.
        """
        length = self.length
        if not self.chains or not all(self.chains):
            raise ValueError(f"{self.name}: a structure has at least one chain, and no chain is empty")
        strange = sorted(set(self.sequence) - {*RESTYPES, "X"})
        if strange:
            raise ValueError(f"{self.name}: {strange[0]!r} is none of the twenty residues and not X")
        shapes = {
            "positions": (length, len(ATOM37), 3),
            "atom_mask": (length, len(ATOM37)),
            "plddt": (length,),
            "pae": (length, length),
            "contact_probability": (length, length),
            "distogram": (length, length, DISTANCE_BINS),
            "frames": (length, 4, 4),
        }
        for field_name, shape in shapes.items():
            self._check(field_name, shape)
        if self.recycle_alpha is not None:
            self._check("recycle_alpha", (len(self.recycle_alpha), length, 3))
        self._check_scales()

    def _check(self, field_name: str, shape: tuple[int, ...]) -> None:
        values = getattr(self, field_name)
        if values is None:
            return
        if values.shape != shape:
            raise ValueError(f"{self.name}: {field_name} has the shape {values.shape}, not {shape}")
        # Row by row: of a distogram, a mask of all of it would be half as large again.
        if not all(np.isfinite(row).all() for row in values):
            raise ValueError(f"{self.name}: {field_name} holds values that are not finite")

    def _check_scales(self) -> None:
        if self.plddt.min() < 0 or self.plddt.max() > 100:
            raise ValueError(f"{self.name}: a confidence lies outside 0 to 100")
        if 0 < self.plddt.max() <= 1:
            raise ValueError(f"{self.name}: all confidences are at most 1; they are wanted from 0 to 100")
        if np.abs(self.positions[self.atom_mask]).max(initial=0.0) >= FARTHEST:
            raise ValueError(f"{self.name}: an atom lies {FARTHEST:,.0f} A or more from the origin")
        for field_name in ("ptm", "iptm"):
            value = getattr(self, field_name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{self.name}: {field_name} is {value}, not between 0 and 1")

    @property
    def sequence(self) -> str:
        """Of all chains, joined."""
        return "".join(self.chains)

    @property
    def length(self) -> int:
        """Residues of all chains, N."""
        return sum(len(chain) for chain in self.chains)

    @property
    def chain_index(self) -> NDArray[np.int16]:
        """(N,), from 0."""
        lengths = [len(chain) for chain in self.chains]
        return np.repeat(np.arange(len(lengths), dtype=np.int16), lengths)

    @property
    def residue_index(self) -> NDArray[np.int32]:
        """(N,), from 1 in each chain."""
        return np.concatenate([np.arange(1, len(chain) + 1, dtype=np.int32) for chain in self.chains])

    @property
    def entities(self) -> tuple[int, ...]:
        """The molecule that each chain is a copy of, from 0: chains of one sequence are one molecule."""
        known: dict[str, int] = {}
        return tuple(known.setdefault(chain, len(known)) for chain in self.chains)

    @property
    def mean_plddt(self) -> float:
        """Over all residues."""
        return float(self.plddt.mean(dtype=np.float64))


def chain_name(index: int) -> str:
    """Name of a chain by its number from 0, as the wwPDB names them: A to Z, then AA, BA, CA and so on."""
    name = _LETTERS[index % 26]
    rest = index // 26
    while rest:
        rest -= 1
        name += _LETTERS[rest % 26]
        rest //= 26
    return name


def file_name(record: str, taken: Iterable[str] = ()) -> str:
    """A record's name as a name of files, of zarr groups and in URLs; unlike all in ``taken``, whatever case.

    zarr keeps its chunks below ``c``, so no group has that name.
    """
    safe = re.sub(r"[^A-Za-z0-9_.-]+", "_", record).lstrip(".-")[:80] or "record"
    safe = f"{safe}_" if safe == "c" else safe
    lower = {name.lower() for name in taken}
    unique, number = safe, 2
    while unique.lower() in lower:
        unique, number = f"{safe}-{number}", number + 1
    return unique
