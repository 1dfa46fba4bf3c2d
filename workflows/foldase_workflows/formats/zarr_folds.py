"""The ``folds`` tree: all that was predicted of some records, in tiles that a page can read one by one.

Shapes: N residues of all chains, S rows of an alignment, R passes, K structures::

    /inputs/<record>/    sequence u1 (N) in atom_names.RESTYPES, 20 for X; chain_index i2, residue_index i4
                         and entity i2 (N)
    /features/<record>/  where the model saw an alignment: msa u1 (S, N) in letters.LETTERS, deletion u1
                         (S, N), and msa_mask u1 (S, ceil(N / 8)), a bit a place, the highest first: 1 where
                         the row says something of the residue's chain
    /models/<record>/<model>/<seed>/<sample>/
                         coords f4 (N, 37, 3) A, atom_mask bool (N, 37), plddt f4 (N) 0 to 100,
                         pae u1 (N, N) in steps of 0.125 A, 255 missing, with pae_lod1 and pae_lod2, the means
                         of 4 by 4 and 16 by 16; contact_prob u1 (N, N) over 255; recycles f4 (R, N, 3) A;
                         where asked for, distogram f2 (N, N, 64) and frames f4 (N, 4, 4)
    /tables/summary/     plddt, ptm, iptm, confidence f4 (K), NaN where there is none

Maps lie in tiles of 256 by 256, distograms of 64 by 64, up to 64 of them a file: one is read by two requests.
Files are written whole, one after the other. Attributes of a model's group are its scores and its provenance;
the root names every structure. Metadata are consolidated, and ``complete`` is written last.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foldase_workflows.contracts import BadInput, Location
from foldase_workflows.formats.atom_names import RESTYPES
from foldase_workflows.formats.fold_alignments import SideBySide
from foldase_workflows.formats.pair_tiles import (
    DISTANCE_EDGES,
    LODS,
    block_means,
    deep_tile_shapes,
    pae_bytes,
    pae_of_bytes,
    probability_bytes,
    tile_shapes,
)
from foldase_workflows.formats.predicted import PredictedStructure, Provenance, file_name
from foldase_workflows.formats.zarr_tree import TreeReader, TreeWriter

KIND = "folds"
SCALES = {"pae_step": 0.125, "pae_missing": 255, "contact_prob_scale": 255}
_ROWS, _DEPTH = 1024, 256
"""Residues and rows of an alignment in a chunk."""
_SCORES = ("plddt", "ptm", "iptm", "confidence")
_LETTERS = RESTYPES + "X"


@dataclass(frozen=True, slots=True)
class FoldEntry:
    """Where one structure lies, and its scores; ``title`` is the record's name for people."""

    record: str
    title: str
    model: str
    seed: int
    sample: int
    scores: Mapping[str, float]

    @property
    def path(self) -> str:
        """Of its group."""
        return f"models/{self.record}/{self.model}/{self.seed}/{self.sample}"


class FoldsWriter:
    """Writes structures one by one; :meth:`complete` ends the tree."""

    def __init__(self, path: Path) -> None:
        self._tree = TreeWriter(path, KIND, consolidate=True)
        self._records: dict[str, tuple[str, tuple[str, ...]]] = {}
        self._entries: list[FoldEntry] = []

    def add_record(
        self,
        key: str,
        title: str,
        chains: tuple[str, ...],
        aligned: SideBySide | None = None,
    ) -> None:
        """Write what is predicted from.

        Args:
            key: the name of the record in the tree (``predicted.file_name``).
            title: its name for people.
            chains: the sequence of each.
            aligned: what the model sees beside them; more than 255 deletions count as 255.

        Raises:
            ValueError: a name that is taken or unfit, or arrays that do not fit the chains.
        """
        if key in self._records or key != file_name(key):
            raise ValueError(f"{key!r} is no name for a record, or is taken")
        shape = PredictedChains(chains)
        self._records[key] = (title, chains)
        group = f"inputs/{key}"
        self._tree.group(group, {"name": title, "chains": list(chains), "letters": _LETTERS})
        for leaf, values in shape.arrays().items():
            self._tree.array(f"{group}/{leaf}", values)
        if aligned is None:
            return
        depth = len(aligned.letters)
        if any(own.shape != (depth, shape.length) for own in aligned):
            shapes = [own.shape for own in aligned]
            raise ValueError(f"{title}: an alignment of shapes {shapes} for {shape.length} residues")
        chunks = (min(_DEPTH, depth), min(_ROWS, shape.length))
        counts = np.minimum(aligned.deletions, 255).astype(np.uint8)
        packed = np.packbits(aligned.mask, axis=1)
        self._tree.array(f"features/{key}/msa", aligned.letters, chunks=chunks)
        self._tree.array(f"features/{key}/deletion", counts, chunks=chunks)
        self._tree.array(f"features/{key}/msa_mask", packed, chunks=(chunks[0], packed.shape[1]))

    def add(self, key: str, structure: PredictedStructure, confidence: float) -> FoldEntry:
        """Write one structure of a record that was added before.

        Args:
            key: of the record.
            structure: what was predicted.
            confidence: what it is ranked by, greater is better.

        Raises:
            ValueError: another record's chains, or a model, seed and sample that were written before.
        """
        if key not in self._records or self._records[key][1] != structure.chains:
            raise ValueError(f"{key!r} was not added with these chains")
        how = structure.provenance
        scores = {"plddt": structure.mean_plddt, "confidence": confidence, **structure.numbers}
        scores |= {"ptm": structure.ptm} if structure.ptm is not None else {}
        scores |= {"iptm": structure.iptm} if structure.iptm is not None else {}
        title = self._records[key][0]
        entry = FoldEntry(key, title, file_name(how.model), how.seed, how.sample, scores)
        if entry.path in {other.path for other in self._entries}:
            raise ValueError(f"{entry.path} was written before")
        attributes = {"metrics": scores, "provenance": how.to_json(), **SCALES}
        if structure.distogram is not None:
            attributes["distogram_edges"] = list(DISTANCE_EDGES)
        self._tree.group(entry.path, attributes)
        self._write_structure(entry.path, structure)
        if structure.pae is not None:
            packed = pae_bytes(structure.pae)
            self._write_map(f"{entry.path}/pae", packed)
            for name, size in LODS.items():
                self._write_map(f"{entry.path}/pae_{name}", block_means(packed, size))
        if structure.contact_probability is not None:
            self._write_map(f"{entry.path}/contact_prob", probability_bytes(structure.contact_probability))
        if structure.distogram is not None:
            chunks, shards = deep_tile_shapes(structure.length, structure.distogram.shape[-1])
            distogram = structure.distogram.astype(np.float16, copy=False)
            self._tree.array(f"{entry.path}/distogram", distogram, chunks=chunks, shards=shards)
        self._entries.append(entry)
        return entry

    def complete(self, attributes: Mapping[str, Any] | None = None) -> None:
        """Write the summary and the root attributes.

        Raises:
            ValueError: no structure was added.
        """
        if not self._entries:
            raise ValueError("a folds tree holds at least one structure")
        self._tree.group("tables/summary", {"rows": [entry.path for entry in self._entries]})
        for name in _SCORES:
            column = [entry.scores.get(name, np.nan) for entry in self._entries]
            self._tree.array(f"tables/summary/{name}", np.array(column, dtype=np.float32))
        listed = [
            {
                "record": entry.record,
                "title": entry.title,
                "model": entry.model,
                "seed": entry.seed,
                "sample": entry.sample,
                "scores": dict(entry.scores),
            }
            for entry in self._entries
        ]
        self._tree.complete({**(attributes or {}), "structures": listed})

    def _write_structure(self, path: str, structure: PredictedStructure) -> None:
        rows = min(_ROWS, structure.length)
        coords = structure.positions.astype(np.float32)
        self._tree.array(f"{path}/coords", coords, chunks=(rows, 37, 3))
        self._tree.array(f"{path}/atom_mask", structure.atom_mask.astype(bool), chunks=(rows, 37))
        self._tree.array(f"{path}/plddt", structure.plddt.astype(np.float32))
        if structure.frames is not None:
            frames = structure.frames.astype(np.float32)
            self._tree.array(f"{path}/frames", frames, chunks=(rows, 4, 4))
        if structure.recycle_alpha is not None and structure.recycle_alpha.size:
            self._tree.array(f"{path}/recycles", structure.recycle_alpha.astype(np.float32))

    def _write_map(self, name: str, packed: NDArray[np.uint8]) -> None:
        chunks, shards = tile_shapes(len(packed))
        self._tree.array(name, packed, chunks=chunks, shards=shards)


@dataclass(frozen=True, slots=True)
class StoredAlignment:
    """``msa`` and ``deletion`` uint8 (S, N), ``mask`` bool (S, N), as in the module's docstring."""

    msa: NDArray[np.uint8]
    deletion: NDArray[np.uint8]
    mask: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class PredictedChains:
    """Chains as arrays over all their residues."""

    chains: tuple[str, ...]

    @property
    def length(self) -> int:
        """Residues of all chains."""
        return sum(map(len, self.chains))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """``sequence``, ``chain_index``, ``residue_index`` and ``entity``, as in the module's docstring.

        Raises:
            ValueError: a letter that is none of the twenty and not X.
        """
        codes = [_LETTERS.find(letter) for chain in self.chains for letter in chain]
        if min(codes, default=-1) < 0:
            raise ValueError("no residues, or a letter that is none of the twenty and not X")
        known: dict[str, int] = {}
        entities = [known.setdefault(chain, len(known)) for chain in self.chains]
        lengths = [len(chain) for chain in self.chains]
        return {
            "sequence": np.array(codes, dtype=np.uint8),
            "chain_index": np.repeat(np.arange(len(lengths)), lengths).astype(np.int16),
            "residue_index": np.concatenate([np.arange(1, n + 1) for n in lengths]).astype(np.int32),
            "entity": np.repeat(entities, lengths).astype(np.int16),
        }


class FoldSet:
    """A folds tree opened for reading.

    Attributes:
        entries: every structure, in the order they were written.
        attributes: all root attributes.
    """

    def __init__(self, path: Path) -> None:
        """Open a tree.

        Raises:
            BadInput: not a folds tree, or one without structures.
            Damaged: see :class:`TreeReader`.
        """
        self._tree = TreeReader(path, KIND)
        self.attributes = self._tree.attributes
        listed: list[Any] = self._tree.attribute("structures", list)
        if not listed:
            raise BadInput("the tree holds no structures", code="empty", location=Location(file=path.name))
        try:
            self.entries = [FoldEntry(**row) for row in listed]
        except TypeError as error:
            raise BadInput(
                f"a structure is not listed as it should be: {error}",
                code="bad_attribute",
                location=Location(file=path.name, record="structures"),
            ) from error

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[PredictedStructure]:
        return (self.read(entry) for entry in self.entries)

    def chains(self, record: str) -> tuple[str, ...]:
        """The sequences of a record.

        Raises:
            Damaged: the record is missing or was changed.
        """
        return tuple(map(str, self._tree.group_attributes(f"inputs/{record}")["chains"]))

    def alignment(self, record: str) -> StoredAlignment | None:
        """What the model saw beside the sequence, where there was an alignment."""
        group = f"features/{record}"
        if not self._tree.has_array(f"{group}/msa"):
            return None
        msa = self._tree.array(f"{group}/msa", np.uint8, (None, None))
        depth, length = msa.shape
        deletion = self._tree.array(f"{group}/deletion", np.uint8, msa.shape)
        packed = self._tree.array(f"{group}/msa_mask", np.uint8, (depth, -(-length // 8)))
        return StoredAlignment(msa, deletion, np.unpackbits(packed, axis=1, count=length).astype(bool))

    def read(self, entry: FoldEntry, *, maps: bool = True) -> PredictedStructure:
        """Read and check one structure, all but its distogram.

        Args:
            entry: which.
            maps: whether errors and contacts of pairs are wanted.

        Raises:
            BadInput: arrays of another shape or type than promised.
            Damaged: a part is missing or was changed.
        """
        attributes = self._tree.group_attributes(entry.path)
        chains, path = self.chains(entry.record), entry.path
        length = sum(map(len, chains))

        def optional(
            name: str, dtype: type[np.generic], shape: tuple[int | None, ...]
        ) -> NDArray[Any] | None:
            there = self._tree.has_array(f"{path}/{name}")
            return self._tree.array(f"{path}/{name}", dtype, shape) if there else None

        pae = optional("pae", np.uint8, (length, length)) if maps else None
        contacts = optional("contact_prob", np.uint8, (length, length)) if maps else None
        metrics = {str(name): float(value) for name, value in attributes["metrics"].items()}
        return PredictedStructure(
            name=entry.title,
            chains=chains,
            positions=self._tree.array(f"{path}/coords", np.float32, (length, 37, 3)),
            atom_mask=self._tree.array(f"{path}/atom_mask", np.bool_, (length, 37)),
            plddt=self._tree.array(f"{path}/plddt", np.float32, (length,)),
            provenance=Provenance.from_json(attributes["provenance"]),
            pae=None if pae is None else pae_of_bytes(pae),
            ptm=metrics.get("ptm"),
            iptm=metrics.get("iptm"),
            contact_probability=None if contacts is None else contacts.astype(np.float32) / np.float32(255),
            recycle_alpha=optional("recycles", np.float32, (None, length, 3)),
            frames=optional("frames", np.float32, (length, 4, 4)),
            numbers={name: value for name, value in metrics.items() if name not in _SCORES},
        )

    def pae_tile(self, entry: FoldEntry, rows: slice, columns: slice, *, lod: int = 0) -> NDArray[np.float32]:
        """A part of the aligned errors, A; ``lod`` 1 and 2 are means of 4 by 4 and 16 by 16.

        Raises:
            IndexError: a bound below zero or a step.
            Damaged: a part is missing or was changed.
        """
        name = "pae" if lod == 0 else f"pae_lod{lod}"
        return pae_of_bytes(self._tree.tile(f"{entry.path}/{name}", rows, columns))

    def distogram(
        self, entry: FoldEntry, rows: slice = slice(None), columns: slice = slice(None)
    ) -> NDArray[np.float16] | None:
        """A part of the probabilities of distances (rows, columns, 64); None where they were not asked for.

        Raises:
            IndexError: a bound below zero or a step.
            Damaged: a part is missing or was changed.
        """
        name = f"{entry.path}/distogram"
        return self._tree.tile(name, rows, columns) if self._tree.has_array(name) else None

    def summary(self) -> dict[str, NDArray[np.float32]]:
        """Scores of all structures by name, in the order of :attr:`entries`."""
        shape: Sequence[int] = (len(self.entries),)
        return {
            name: self._tree.array(f"tables/summary/{name}", np.float32, tuple(shape)) for name in _SCORES
        }
