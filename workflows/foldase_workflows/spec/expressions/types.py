"""The types of expressions: those of the language, and ``null``."""

from __future__ import annotations

from foldase_workflows.contracts.types import PortType, list_of, parse_type

ANY = parse_type("any")
INT = parse_type("int")
FLOAT = parse_type("float")
BOOL = parse_type("bool")
TEXT = parse_type("text")
JSON = parse_type("json")
NULL = PortType("null")
"""Of the value ``null`` only; it fits wherever something may be left out."""

_NUMBERS = (INT, FLOAT, ANY)
_ROOTS = tuple(parse_type(name) for name in ("file", "tree"))


def is_number(kind: PortType) -> bool:
    """Whether arithmetic may be tried."""
    return kind in _NUMBERS


def is_list(kind: PortType) -> bool:
    """Whether it is, or may be, a list."""
    return kind.item is not None or kind == ANY


def is_scalar(kind: PortType) -> bool:
    """Whether it can be compared and written into a text."""
    return kind in (INT, FLOAT, BOOL, TEXT, ANY, NULL)


def item_of(kind: PortType) -> PortType:
    """The type of the items of a list."""
    return kind.item or ANY


def fits(wanted: PortType, given: PortType) -> bool:
    """Whether a value of type ``given`` can stand where ``wanted`` is asked for."""
    if NULL in (wanted, given):
        return True
    if wanted.item and given.item:
        return fits(wanted.item, given.item)
    return wanted.accepts(given)


def join(first: PortType, second: PortType) -> PortType | None:
    """The narrowest type that holds both, or None where there is none."""
    if first == NULL:
        return second
    if second == NULL:
        return first
    if ANY in (first, second):
        return ANY
    if first.item and second.item:
        inner = join(first.item, second.item)
        return list_of(inner) if inner else None
    for wide, narrow in ((first, second), (second, first)):
        if wide.accepts(narrow):
            return wide
    if not (first.item or second.item):
        for root in _ROOTS:
            if root.accepts(first) and root.accepts(second):
                return root
    return None


def type_of(value: object) -> PortType:
    """The type of a plain value; a list's items are joined, mixed ones are ``any``."""
    if value is None:
        return NULL
    if isinstance(value, bool):
        return BOOL
    if isinstance(value, int):
        return INT
    if isinstance(value, float):
        return FLOAT
    if isinstance(value, str):
        return TEXT
    if isinstance(value, list):
        inner: PortType | None = None
        for item in value:
            found = type_of(item)
            inner = found if inner is None else join(inner, found)
            if inner is None:
                return list_of(ANY)
        return list_of(inner or ANY)
    return JSON
