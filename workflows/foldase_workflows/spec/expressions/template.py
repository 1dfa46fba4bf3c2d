"""Values of a document that hold expressions: ``${{ a }}``, ``text with ${{ a }}``, lists and mappings.

A value that is only one expression keeps its type; text around expressions makes text. ``$${{`` stands for
a plain ``${{``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from foldase_workflows.contracts.types import PortType, list_of
from foldase_workflows.spec.document.masking import CLOSING, OPENING, find_closing
from foldase_workflows.spec.expressions.evaluator import Scope, compute
from foldase_workflows.spec.expressions.functions import ValueFault, joined, text_of
from foldase_workflows.spec.expressions.inference import Names, infer
from foldase_workflows.spec.expressions.nodes import ExpressionFault, Node, walk
from foldase_workflows.spec.expressions.parser import parse
from foldase_workflows.spec.expressions.types import ANY, JSON, TEXT, is_scalar, join, type_of
from foldase_workflows.spec.faults import Path
from foldase_workflows.spec.limits import MAX_TEXT

_SHORT = 400


@dataclass(frozen=True, slots=True)
class Constant:
    """A value without expressions."""

    value: Any


@dataclass(frozen=True, slots=True)
class Expression:
    """A text that is one expression."""

    node: Node


@dataclass(frozen=True, slots=True)
class Text:
    """Text with expressions in it."""

    parts: tuple[str | Node, ...]


@dataclass(frozen=True, slots=True)
class Items:
    """A list with expressions somewhere in it."""

    items: tuple[Template, ...]


@dataclass(frozen=True, slots=True)
class Entries:
    """A mapping with expressions somewhere in it."""

    entries: tuple[tuple[str, Template], ...]


Template = Constant | Expression | Text | Items | Entries
ReportAt = Callable[[Path, ExpressionFault], None]


def has_expression(text: str) -> bool:
    """Whether a text holds the beginning of an expression."""
    return OPENING in text


def read_text(text: str) -> Constant | Expression | Text:
    """A text of the document as a template.

    Raises:
        ExpressionFault: an expression in it is wrong; offsets count from the start of the text.
    """
    if OPENING not in text:
        return Constant(text)
    # The same few expressions are read again for each run of a workflow; long ones are not worth keeping.
    return _read_short(text) if len(text) <= _SHORT else _read(text)


def _read(text: str) -> Constant | Expression | Text:
    parts: list[str | Node] = []
    at = 0
    while (start := text.find(OPENING, at)) >= 0:
        if start > 0 and text[start - 1] == "$" and start > at:
            parts.append(text[at : start - 1] + OPENING)
            at = start + len(OPENING)
            continue
        end = find_closing(text, start + len(OPENING))
        if end < 0:
            raise ExpressionFault(
                "expression_syntax", "the expression is never closed", start, "close it with }}"
            )
        if start > at:
            parts.append(text[at:start])
        parts.append(parse(text[start + len(OPENING) : end], start + len(OPENING)))
        at = end + len(CLOSING)
    parts.append(text[at:])
    nodes = [part for part in parts if isinstance(part, Node)]
    if not nodes:
        return Constant("".join(part for part in parts if isinstance(part, str)))
    if len(nodes) == 1 and all(isinstance(part, Node) or not part.strip() for part in parts):
        return Expression(nodes[0])
    return Text(tuple(part for part in parts if part != ""))


_read_short = lru_cache(maxsize=2048)(_read)


def read_value(value: Any, report: ReportAt, path: Path = ()) -> Template:
    """Any value of the document as a template; faults are reported with the path of their text."""
    if isinstance(value, str):
        try:
            return read_text(value)
        except ExpressionFault as fault:
            report(path, fault)
            return Constant(None)
    if isinstance(value, list):
        items = tuple(read_value(item, report, (*path, place)) for place, item in enumerate(value))
        if all(isinstance(item, Constant) for item in items):
            return Constant([item.value for item in items if isinstance(item, Constant)])
        return Items(items)
    if isinstance(value, dict):
        entries = tuple((name, read_value(item, report, (*path, name))) for name, item in value.items())
        if all(isinstance(item, Constant) for _, item in entries):
            return Constant({name: item.value for name, item in entries if isinstance(item, Constant)})
        return Entries(entries)
    return Constant(value)


def resolve(template: Template, scope: Scope) -> Any:
    """The plain value of a template.

    Raises:
        ExpressionFault: an expression has no value in this scope.
    """
    if isinstance(template, Constant):
        return template.value
    if isinstance(template, Expression):
        return compute(template.node, scope)
    if isinstance(template, Items):
        return [resolve(item, scope) for item in template.items]
    if isinstance(template, Entries):
        return {name: resolve(item, scope) for name, item in template.entries}
    try:
        return joined(_written(template.parts, scope))
    except ValueFault as fault:
        first = next(part.offset for part in template.parts if isinstance(part, Node))
        raise ExpressionFault(fault.code, fault.message, first, fault.hint) from None


def _written(parts: tuple[str | Node, ...], scope: Scope) -> list[str]:
    """The parts as text, stopping where they grow too large to be joined."""
    found: list[str] = []
    size = 0
    for part in parts:
        found.append(part if isinstance(part, str) else text_of(compute(part, scope)))
        size += len(found[-1])
        if size > MAX_TEXT:
            break
    return found


def infer_template(template: Template, names: Names, report: ReportAt, path: Path = ()) -> PortType:
    """The type of a template's value; faults are reported with the path of their text."""
    if isinstance(template, Constant):
        return type_of(template.value)
    if isinstance(template, Expression):
        return infer(template.node, names, lambda fault: report(path, fault))
    if isinstance(template, Text):
        for part in template.parts:
            if isinstance(part, Node):
                kind = infer(part, names, lambda fault: report(path, fault))
                if not is_scalar(kind):
                    message = f"a value of type {kind} cannot be written into a text"
                    report(
                        path,
                        ExpressionFault("type", message, part.offset, "give it on its own, without text"),
                    )
        return TEXT
    if isinstance(template, Items):
        found: PortType | None = None
        for place, item in enumerate(template.items):
            kind = infer_template(item, names, report, (*path, place))
            found = kind if found is None else join(found, kind) or ANY
        return list_of(found or ANY)
    for name, item in template.entries:
        infer_template(item, names, report, (*path, name))
    return JSON


def nodes_in(template: Template) -> Iterator[Node]:
    """Every part of every expression in a template."""
    if isinstance(template, Expression):
        yield from walk(template.node)
    elif isinstance(template, Text):
        for part in template.parts:
            if isinstance(part, Node):
                yield from walk(part)
    elif isinstance(template, Items):
        for item in template.items:
            yield from nodes_in(item)
    elif isinstance(template, Entries):
        for _, item in template.entries:
            yield from nodes_in(item)
