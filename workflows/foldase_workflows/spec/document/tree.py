"""A YAML document as a tree of values, each with its place in the text."""

from __future__ import annotations

import bisect
import re
from dataclasses import dataclass, field
from typing import Any

from foldase_workflows.contracts.errors import Location
from foldase_workflows.spec.faults import Path, dotted

_BREAK = re.compile(r"\r\n|\r|\n")


@dataclass(slots=True)
class Scalar:
    """A single value. ``start`` and ``end`` are indices into the source text, ``raw`` what is written there.

    ``line`` and ``column`` count from 0, as YAML's marks do.
    """

    line: int
    column: int
    start: int
    end: int
    value: str | int | float | bool | None
    raw: str
    style: str


@dataclass(slots=True)
class Sequence:
    """A list."""

    line: int
    column: int
    items: list[Node] = field(default_factory=list)


@dataclass(slots=True)
class Mapping:
    """A mapping with text keys; each entry is (key, value)."""

    line: int
    column: int
    entries: dict[str, tuple[Scalar, Node]] = field(default_factory=dict)


Node = Scalar | Sequence | Mapping


def plain(node: Node) -> Any:
    """The tree as plain Python values."""
    if isinstance(node, Mapping):
        return {key: plain(value) for key, (_, value) in node.entries.items()}
    if isinstance(node, Sequence):
        return [plain(item) for item in node.items]
    return node.value


class Source:
    """A text and the tree read from it: answers where the value at a path stands."""

    def __init__(self, file: str, text: str, root: Node | None) -> None:
        self.file = file
        self.text = text
        self.root = root
        self._starts: list[int] | None = None

    def at(self, line: int, column: int, path: Path = ()) -> Location:
        """A place, from zero-based line and column."""
        return Location(file=self.file, line=line + 1, column=column + 1, path=dotted(path) or None)

    def at_index(self, index: int, path: Path = ()) -> Location:
        """The place of a character of the text."""
        if self._starts is None:
            self._starts = [0, *(line_break.end() for line_break in _BREAK.finditer(self.text))]
        line = bisect.bisect_right(self._starts, index) - 1
        return self.at(line, index - self._starts[line], path)

    def find(self, path: Path) -> tuple[Scalar | None, Node | None]:
        """The key and the value at ``path``; of a path that does not exist, those of its nearest ancestor."""
        key: Scalar | None = None
        node = self.root
        for part in path:
            if isinstance(node, Mapping) and part in node.entries:
                key, node = node.entries[str(part)]
            elif isinstance(node, Sequence) and isinstance(part, int) and part < len(node.items):
                key, node = None, node.items[part]
            else:
                break
        return key, node

    def locate(self, path: Path, *, key: bool = False, offset: int | None = None) -> Location:
        """See ``faults.Places``. A value that is a mapping or a list in block style is shown by its key."""
        found_key, node = self.find(path)
        if node is None:
            return Location(file=self.file, path=dotted(path) or None)
        if offset is not None and isinstance(node, Scalar):
            return self.at_index(_index_in_source(self.text, node, offset), path)
        shown = found_key if found_key and (key or not isinstance(node, Scalar)) else node
        return self.at(shown.line, shown.column, path)

    def raw(self, path: Path) -> str | None:
        """How the scalar at ``path`` is written, or None where there is no scalar."""
        node = self.find(path)[1]
        return node.raw if isinstance(node, Scalar) else None


def _index_in_source(text: str, node: Scalar, offset: int) -> int:
    """The index in the text of character ``offset`` of a scalar's value.

    Folding only changes white space, so the printing characters are counted; an escape in a quoted text
    counts as the one character it stands for.
    """
    value = node.value if isinstance(node.value, str) else node.raw
    wanted = sum(1 for character in value[:offset] if not character.isspace())
    at = node.start
    if node.style in ("'", '"'):
        at += 1
    elif node.style in ("|", ">"):
        at = text.find("\n", at, node.end) + 1
    while at < node.end:
        width, blank = _unit(text, at, node.style)
        if not blank:
            if wanted == 0:
                return at
            wanted -= 1
        at += width
    return max(node.start, node.end - 1)


def _unit(text: str, at: int, style: str) -> tuple[int, bool]:
    """How many characters of the source make one of the value, and whether that is white space."""
    if style == "'" and text.startswith("''", at):
        return 2, False
    if style == '"' and text[at] == "\\":
        kind = text[at + 1 : at + 2]
        width = 2 + {"x": 2, "u": 4, "U": 8}.get(kind, 0)
        return width, kind in "nrtvf \t\n\r_LPN"
    return 1, text[at].isspace()
