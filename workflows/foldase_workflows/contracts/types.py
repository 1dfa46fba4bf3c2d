"""The types of the workflow language: what an input, a port or an expression may hold.

A type is a name, or ``list[...]`` of a type. Scalars and ``json`` are *values* and lie in the database;
the others are *artifacts* and lie in the content-addressed store, either as one *file* or as a *tree* of
files (zarr groups, checkpoints).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum


class Storage(StrEnum):
    """Where values of a type lie."""

    VALUE = "value"
    FILE = "file"
    TREE = "tree"


@dataclass(frozen=True, slots=True)
class _Kind:
    storage: Storage
    parent: str | None
    media_type: str
    help: str


_KINDS: dict[str, _Kind] = {
    "any": _Kind(Storage.VALUE, None, "application/json", "any value"),
    "int": _Kind(Storage.VALUE, "float", "application/json", "a whole number"),
    "float": _Kind(Storage.VALUE, None, "application/json", "a finite number"),
    "bool": _Kind(Storage.VALUE, None, "application/json", "true or false"),
    "text": _Kind(Storage.VALUE, None, "application/json", "a short text"),
    "json": _Kind(Storage.VALUE, None, "application/json", "a mapping of named values"),
    "file": _Kind(Storage.FILE, None, "application/octet-stream", "any file"),
    "fasta": _Kind(Storage.FILE, "file", "text/x-fasta", "sequences in FASTA"),
    "alignment": _Kind(
        Storage.FILE, "file", "text/plain", "an alignment in FASTA, A3M, Stockholm or Clustal"
    ),
    "structure": _Kind(Storage.FILE, "file", "chemical/x-mmcif", "a structure in mmCIF or PDB"),
    "report": _Kind(Storage.FILE, "file", "text/html", "a self-contained HTML report"),
    "table": _Kind(Storage.FILE, "file", "application/json", "numbers as a JSON document"),
    "tree": _Kind(Storage.TREE, None, "application/vnd.foldase.tree+json", "a folder of files"),
    "msa": _Kind(Storage.TREE, "tree", "application/vnd.foldase.tree+json", "an alignment as zarr arrays"),
    "families": _Kind(
        Storage.TREE, "tree", "application/vnd.foldase.tree+json", "families with known structure, as zarr"
    ),
    "model": _Kind(Storage.TREE, "tree", "application/vnd.foldase.tree+json", "trained weights"),
    "weights": _Kind(
        Storage.TREE,
        "tree",
        "application/vnd.foldase.tree+json",
        "weights, by their name here",
    ),
    "predictions": _Kind(
        Storage.TREE, "tree", "application/vnd.foldase.tree+json", "contact maps and traces, as zarr"
    ),
    "structures": _Kind(Storage.TREE, "tree", "application/vnd.foldase.tree+json", "a folder of mmCIF files"),
}

_LIST = re.compile(r"list\[(.*)\]\Z")


@dataclass(frozen=True, slots=True)
class PortType:
    """A type; ``item`` is set for lists only."""

    name: str
    item: PortType | None = None

    def __str__(self) -> str:
        return f"list[{self.item}]" if self.item else self.name

    @property
    def storage(self) -> Storage:
        """Where values of this type lie; a list lies where its items do."""
        return self.item.storage if self.item else _KINDS[self.name].storage

    @property
    def is_artifact(self) -> bool:
        """Whether values (or, for a list, its items) are references into the store."""
        return self.storage is not Storage.VALUE

    @property
    def media_type(self) -> str:
        """The media type of one artifact of this type."""
        return self.item.media_type if self.item else _KINDS[self.name].media_type

    @property
    def help(self) -> str:
        """A few words for people."""
        return f"a list: {self.item.help}" if self.item else _KINDS[self.name].help

    def accepts(self, other: PortType) -> bool:
        """Whether a value of type ``other`` can be given where this type is asked for."""
        if "any" in (self.name, other.name):
            return True
        if self.item and other.item:
            return self.item.accepts(other.item)
        if self.item or other.item:
            return False
        name: str | None = other.name
        while name is not None:
            if name == self.name:
                return True
            name = _KINDS[name].parent
        return False


def list_of(item: PortType) -> PortType:
    """The type of lists of ``item``."""
    return PortType("list", item)


def parse_type(text: str) -> PortType:
    """Read ``int`` or ``list[fasta]``.

    Raises:
        ValueError: there is no such type; the message lists those that exist.
    """
    stripped = text.strip()
    inner = _LIST.match(stripped)
    if inner:
        return list_of(parse_type(inner.group(1)))
    if stripped not in _KINDS:
        raise ValueError(f"unknown type {text!r}; known are {', '.join(type_names())} and list[...]")
    return PortType(stripped)


def type_names() -> tuple[str, ...]:
    """All names that :func:`parse_type` knows, besides ``list[...]``."""
    return tuple(_KINDS)
