"""The ``families`` tree: alignments with known structures and contacts.

Groups ``/<family>`` hold ``msa`` uint8 (S, N) letter indices, ``coords`` float32 (N, 3) C-alpha trace in A
and ``contacts`` uint8 (N, N). Root attributes: ``alphabet`` (number of letters), ``letters``,
``contact_cutoff`` in A, ``min_separation``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foldase_workflows.contracts import BadInput, Location
from foldase_workflows.formats.zarr_tree import TreeReader, TreeWriter

KIND = "families"


@dataclass(frozen=True, slots=True)
class StoredFamily:
    """One family as stored; shapes and types as in the module's docstring."""

    name: str
    msa: NDArray[np.uint8]
    coords: NDArray[np.float32]
    contacts: NDArray[np.uint8]
    attributes: Mapping[str, Any]


class FamiliesWriter:
    """Writes families one by one; :meth:`complete` ends the tree."""

    def __init__(self, path: Path) -> None:
        self._tree = TreeWriter(path, KIND)
        self._count = 0

    def add(
        self,
        name: str,
        *,
        msa: NDArray[np.uint8],
        coords: NDArray[np.float32],
        contacts: NDArray[np.uint8],
        attributes: Mapping[str, Any],
    ) -> None:
        """Write one family; ``attributes`` say where it comes from (its seed)."""
        self._tree.group(name, attributes)
        self._tree.array(f"{name}/msa", np.asarray(msa, dtype=np.uint8))
        self._tree.array(f"{name}/coords", np.asarray(coords, dtype=np.float32))
        self._tree.array(f"{name}/contacts", np.asarray(contacts, dtype=np.uint8))
        self._count += 1

    def complete(
        self,
        *,
        letters: str,
        contact_cutoff: float,
        min_separation: int,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        """Write the root attributes; ``letters[k]`` is the letter of index k."""
        self._tree.complete(
            {
                **(attributes or {}),
                "alphabet": len(letters),
                "letters": letters,
                "contact_cutoff": contact_cutoff,
                "min_separation": min_separation,
                "count": self._count,
            }
        )


class FamilySet:
    """A families tree opened for reading.

    Attributes:
        names: the families, sorted.
        letters: the alphabet, in the order of the indices.
        contact_cutoff: A.
        min_separation: |i - j| of the nearest pairs that can be contacts.
        attributes: all root attributes.
    """

    def __init__(self, path: Path) -> None:
        """Open a tree.

        Raises:
            BadInput: not a families tree, or one without families.
            Damaged: see :class:`TreeReader`.
        """
        self._tree = TreeReader(path, KIND)
        self.attributes = self._tree.attributes
        self.names = self._tree.groups
        self.letters = self._tree.attribute("letters", str)
        self.contact_cutoff = self._tree.attribute("contact_cutoff", float)
        self.min_separation = self._tree.attribute("min_separation", int)
        if not self.names:
            raise BadInput("the tree holds no families", code="empty", location=Location(file=path.name))

    @property
    def alphabet(self) -> int:
        """Number of letters."""
        return len(self.letters)

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[StoredFamily]:
        return (self.read(name) for name in self.names)

    def shapes(self) -> list[tuple[int, ...]]:
        """Rows and residues of every alignment, without reading them.

        Raises:
            Damaged: see :class:`TreeReader`.
        """
        return [self._tree.shape(f"{name}/msa") for name in self.names]

    def read(self, name: str) -> StoredFamily:
        """Read and check one family.

        Raises:
            BadInput: shapes that do not fit together, unknown letters, values that make no sense.
            Damaged: a part is missing or was changed.
        """
        attributes = self._tree.group_attributes(name)
        msa = self._tree.array(f"{name}/msa", np.uint8, (None, None))
        length = msa.shape[1]
        coords = self._tree.array(f"{name}/coords", np.float32, (length, 3))
        contacts = self._tree.array(f"{name}/contacts", np.uint8, (length, length))
        if msa.max() >= self.alphabet:
            raise _bad(f"{name}/msa", f"letter {msa.max()} is outside the alphabet of {self.alphabet}")
        if not np.isfinite(coords).all():
            raise _bad(f"{name}/coords", "some coordinates are not finite")
        if contacts.max() > 1 or not np.array_equal(contacts, contacts.T):
            raise _bad(f"{name}/contacts", "a contact map is symmetric and holds 0 and 1")
        return StoredFamily(name, msa, coords, contacts, attributes)


def _bad(part: str, message: str) -> BadInput:
    return BadInput(message, code="bad_array", location=Location(record=part))
