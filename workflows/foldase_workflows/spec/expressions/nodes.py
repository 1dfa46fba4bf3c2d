"""The parts an expression is made of. ``offset`` counts characters from the start of the document value."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field


class ExpressionFault(Exception):
    """A fault at a character of an expression; becomes a ``DocumentError`` or ``BadInput`` with a place."""

    def __init__(self, code: str, message: str, offset: int, hint: str) -> None:
        super().__init__(message)
        self.code, self.message, self.offset, self.hint = code, message, offset, hint


@dataclass(frozen=True, slots=True)
class Node:
    """Base of all parts."""

    offset: int = field(compare=False, kw_only=True, default=0)

    def children(self) -> tuple[Node, ...]:
        """The parts directly below this one."""
        return ()


@dataclass(frozen=True, slots=True)
class Literal(Node):
    """A number, a text, true, false or null."""

    value: int | float | str | bool | None


@dataclass(frozen=True, slots=True)
class InputRef(Node):
    """``inputs.NAME``."""

    name: str


@dataclass(frozen=True, slots=True)
class StepRef(Node):
    """``steps.STEP.OUTPUT``, or ``steps.STEP.each.OUTPUT``: the list over the items of a scattered step."""

    step: str
    output: str
    gathered: bool = False


@dataclass(frozen=True, slots=True)
class EachRef(Node):
    """``each.NAME``: the present item of a scattered step."""

    name: str


@dataclass(frozen=True, slots=True)
class ListOf(Node):
    """``[a, b]``."""

    items: tuple[Node, ...]

    def children(self) -> tuple[Node, ...]:
        """The items."""
        return self.items


@dataclass(frozen=True, slots=True)
class Field(Node):
    """``base.name`` of a mapping."""

    base: Node
    name: str

    def children(self) -> tuple[Node, ...]:
        """The mapping."""
        return (self.base,)


@dataclass(frozen=True, slots=True)
class Index(Node):
    """``base[index]`` of a list or a mapping; a negative index counts from the end."""

    base: Node
    index: Node

    def children(self) -> tuple[Node, ...]:
        """Base and index."""
        return (self.base, self.index)


@dataclass(frozen=True, slots=True)
class Unary(Node):
    """``-a`` or ``not a``."""

    operator: str
    operand: Node

    def children(self) -> tuple[Node, ...]:
        """The operand."""
        return (self.operand,)


@dataclass(frozen=True, slots=True)
class Binary(Node):
    """``a + b``, ``a < b``, ``a and b`` and so on."""

    operator: str
    left: Node
    right: Node

    def children(self) -> tuple[Node, ...]:
        """Left, then right."""
        return (self.left, self.right)


@dataclass(frozen=True, slots=True)
class Choice(Node):
    """``condition ? then : otherwise``."""

    condition: Node
    then: Node
    otherwise: Node

    def children(self) -> tuple[Node, ...]:
        """Condition, then the two branches."""
        return (self.condition, self.then, self.otherwise)


@dataclass(frozen=True, slots=True)
class Call(Node):
    """``name(a, b)``."""

    name: str
    arguments: tuple[Node, ...]

    def children(self) -> tuple[Node, ...]:
        """The arguments."""
        return self.arguments


def walk(node: Node) -> Iterator[Node]:
    """The node and everything below it, in reading order."""
    waiting = [node]
    while waiting:
        found = waiting.pop()
        yield found
        waiting.extend(reversed(found.children()))
