"""The functions of the expression language. All are total: bounded work, and a fault instead of a crash."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from foldase_workflows.contracts.types import PortType, list_of
from foldase_workflows.spec.expressions.types import (
    ANY,
    BOOL,
    FLOAT,
    INT,
    JSON,
    NULL,
    TEXT,
    is_list,
    is_number,
    is_scalar,
    item_of,
    join,
)
from foldase_workflows.spec.faults import show
from foldase_workflows.spec.limits import INT_MAX, INT_MIN, MAX_ITEMS, MAX_TEXT


class ValueFault(Exception):
    """A value that cannot be worked with; the evaluator adds the place."""

    def __init__(self, code: str, message: str, hint: str) -> None:
        super().__init__(message)
        self.code, self.message, self.hint = code, message, hint


class TypeMismatch(Exception):
    """A type that a function does not take; says which argument, counted from 0, and what is wanted."""

    def __init__(self, argument: int, wanted: str) -> None:
        super().__init__(wanted)
        self.argument, self.wanted = argument, wanted


Infer = Callable[[Sequence[PortType]], PortType]
Apply = Callable[[Sequence[Any]], Any]


@dataclass(frozen=True, slots=True)
class Function:
    """``low`` to ``high`` arguments; ``infer`` gives the type of the result, ``apply`` the result."""

    usage: str
    low: int
    high: int
    infer: Infer
    apply: Apply


def bounded(value: Any) -> Any:
    """A number, a text or a list that a computation made, if it is not too large.

    Raises:
        ValueFault: ``number_range`` or ``too_large``.
    """
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        if not INT_MIN <= value <= INT_MAX:
            raise ValueFault(
                "number_range", "a whole number left the range of 64 bits", "use smaller numbers"
            )
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueFault("number_range", "a number became infinite or undefined", "use smaller numbers")
    elif isinstance(value, str):
        if len(value) > MAX_TEXT:
            raise ValueFault("too_large", f"a text grew over {MAX_TEXT} characters", "use a file")
    elif isinstance(value, list) and len(value) > MAX_ITEMS:
        raise ValueFault("too_large", f"a list grew over {MAX_ITEMS} items", "use fewer items")
    return value


def number(value: Any) -> int | float:
    """The value, if it is a number.

    Raises:
        ValueFault: ``type``.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    raise ValueFault("type", f"a number is wanted, got {show(value)}", "check where the value comes from")


def text_of(value: Any) -> str:
    """A scalar as it is written into a text.

    Raises:
        ValueFault: ``type`` for lists, mappings, files and null.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    message = f"{show(value)} cannot be written into a text"
    raise ValueFault("type", message, "only numbers, texts, true and false can")


def _a_list(value: Any) -> list[Any]:
    if isinstance(value, list):
        return value
    raise ValueFault("type", f"a list is wanted, got {show(value)}", "check where the value comes from")


def _a_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    raise ValueFault("type", f"a text is wanted, got {show(value)}", "check where the value comes from")


def _numbers_of(values: Sequence[Any]) -> list[int | float]:
    """The numbers of ``f(list)`` or of ``f(a, b, c)``."""
    found = _a_list(values[0]) if len(values) == 1 else values
    return [number(value) for value in found]


def _not_empty(values: list[Any], name: str) -> list[Any]:
    if values:
        return values
    raise ValueFault("empty_list", f"{name} of an empty list is undefined", "test len(...) > 0 first")


def _sum(values: Sequence[Any]) -> int | float:
    found = _numbers_of(values)
    return sum(found) if all(isinstance(value, int) for value in found) else math.fsum(found)


def _mean(values: Sequence[Any]) -> float:
    found = _not_empty(_numbers_of(values), "the mean")
    return math.fsum(found) / len(found)


def _range(values: Sequence[Any]) -> list[int]:
    if not all(isinstance(value, int) and not isinstance(value, bool) for value in values):
        raise ValueFault("type", "range wants whole numbers", "use round(...)")
    if len(values) == 3 and values[2] == 0:
        raise ValueFault("number_range", "a range cannot step by 0", "leave the step out for 1")
    found = range(*values)
    # len() of a huge range overflows; its ends tell as much.
    size = max(0, (found.stop - found.start + found.step - (1 if found.step > 0 else -1)) // found.step)
    if size > MAX_ITEMS:
        message = f"a range of {size} numbers is over the limit of {MAX_ITEMS}"
        raise ValueFault("too_large", message, "use a larger step")
    return list(found)


def _round(values: Sequence[Any]) -> int | float:
    value = number(values[0])
    if len(values) == 1:
        return round(value)
    digits = values[1]
    if not isinstance(digits, int) or isinstance(digits, bool) or not -15 <= digits <= 15:
        raise ValueFault("number_range", "round takes -15 to 15 digits", "leave the digits out for none")
    return round(value, digits)


def _length(values: Sequence[Any]) -> int:
    if isinstance(values[0], (list, str, dict)):
        return len(values[0])
    raise ValueFault("type", f"{show(values[0])} has no length", "len takes a list, a text or a mapping")


def joined(parts: Sequence[str], separator: str = "") -> str:
    """Texts put together, measured before they are.

    Raises:
        ValueFault: ``too_large``.
    """
    size = sum(map(len, parts)) + len(separator) * max(0, len(parts) - 1)
    if size > MAX_TEXT:
        raise ValueFault("too_large", f"a text grew over {MAX_TEXT} characters", "use a file")
    return separator.join(parts)


def _join(values: Sequence[Any]) -> str:
    return joined([text_of(value) for value in _a_list(values[0])], _a_text(values[1]))


def _sorted(values: Sequence[Any]) -> list[Any]:
    found = _a_list(values[0])
    if all(isinstance(value, str) for value in found):
        return sorted(found)
    return sorted(number(value) for value in found)


def _unique(values: Sequence[Any]) -> list[Any]:
    found: dict[tuple[type, Any], Any] = {}
    for value in _a_list(values[0]):
        if not isinstance(value, (int, float, str, bool)) and value is not None:
            raise ValueFault("type", f"unique cannot compare {show(value)}", "it takes numbers and texts")
        found.setdefault((bool if isinstance(value, bool) else type(None), value), value)
    return list(found.values())


def _coalesce(values: Sequence[Any]) -> Any:
    return next((value for value in values if value is not None), None)


def _check(kinds: Sequence[PortType], tests: Sequence[Callable[[PortType], bool]], wanted: str) -> None:
    for position, kind in enumerate(kinds):
        if kind != NULL and not tests[min(position, len(tests) - 1)](kind):
            raise TypeMismatch(position, wanted)


def _is_text(kind: PortType) -> bool:
    return kind in (TEXT, ANY)


def _numbers(kinds: Sequence[PortType]) -> PortType:
    """The joined type of the numbers of ``f(list)`` or ``f(a, b)``."""
    if len(kinds) == 1:
        if not is_list(kinds[0]) or not is_number(item_of(kinds[0])):
            raise TypeMismatch(0, "a list of numbers, or several numbers")
        return item_of(kinds[0])
    _check(kinds, [is_number], "numbers")
    return FLOAT if FLOAT in kinds else ANY if ANY in kinds else INT


def _fixed(result: PortType, tests: Sequence[Callable[[PortType], bool]], wanted: str) -> Infer:
    def infer(kinds: Sequence[PortType]) -> PortType:
        _check(kinds, tests, wanted)
        return result

    return infer


def _same_number(kinds: Sequence[PortType]) -> PortType:
    _check(kinds, [is_number], "a number")
    return kinds[0]


def _rounded(kinds: Sequence[PortType]) -> PortType:
    _check(kinds, [is_number], "a number, and the number of digits")
    return INT if len(kinds) == 1 else kinds[0]


def _same_list(kinds: Sequence[PortType]) -> PortType:
    if not is_list(kinds[0]) or not is_scalar(item_of(kinds[0])):
        raise TypeMismatch(0, "a list of numbers or texts")
    return list_of(item_of(kinds[0]))


def _joined(kinds: Sequence[PortType]) -> PortType:
    found = NULL
    for position, kind in enumerate(kinds):
        both = join(found, kind)
        if both is None:
            raise TypeMismatch(position, f"a value like the first, {kinds[0]}")
        found = both
    return found


def _measurable(kind: PortType) -> bool:
    return is_list(kind) or kind in (TEXT, JSON)


_NUMBER, _WORDS = [is_number], [_is_text]
_MANY = 50

FUNCTIONS: dict[str, Function] = {
    "abs": Function("abs(number)", 1, 1, _same_number, lambda v: abs(number(v[0]))),
    "ceil": Function(
        "ceil(number)", 1, 1, _fixed(INT, _NUMBER, "a number"), lambda v: math.ceil(number(v[0]))
    ),
    "coalesce": Function("coalesce(value, otherwise)", 2, _MANY, _joined, _coalesce),
    "ends_with": Function(
        "ends_with(text, end)",
        2,
        2,
        _fixed(BOOL, _WORDS, "two texts"),
        lambda v: _a_text(v[0]).endswith(_a_text(v[1])),
    ),
    "floor": Function(
        "floor(number)", 1, 1, _fixed(INT, _NUMBER, "a number"), lambda v: math.floor(number(v[0]))
    ),
    "join": Function(
        "join(list, separator)", 2, 2, _fixed(TEXT, [is_list, _is_text], "a list and a text"), _join
    ),
    "len": Function("len(list)", 1, 1, _fixed(INT, [_measurable], "a list, a text or a mapping"), _length),
    "lower": Function("lower(text)", 1, 1, _fixed(TEXT, _WORDS, "a text"), lambda v: _a_text(v[0]).lower()),
    "max": Function(
        "max(list) or max(a, b)", 1, _MANY, _numbers, lambda v: max(_not_empty(_numbers_of(v), "max"))
    ),
    "mean": Function("mean(list)", 1, _MANY, lambda kinds: (_numbers(kinds), FLOAT)[1], _mean),
    "min": Function(
        "min(list) or min(a, b)", 1, _MANY, _numbers, lambda v: min(_not_empty(_numbers_of(v), "min"))
    ),
    "range": Function(
        "range(stop) or range(start, stop, step)",
        1,
        3,
        _fixed(list_of(INT), [lambda kind: kind in (INT, ANY)], "whole numbers"),
        _range,
    ),
    "round": Function("round(number, digits)", 1, 2, _rounded, _round),
    "sorted": Function("sorted(list)", 1, 1, _same_list, _sorted),
    "starts_with": Function(
        "starts_with(text, start)",
        2,
        2,
        _fixed(BOOL, _WORDS, "two texts"),
        lambda v: _a_text(v[0]).startswith(_a_text(v[1])),
    ),
    "sum": Function("sum(list)", 1, _MANY, _numbers, _sum),
    "text": Function(
        "text(value)",
        1,
        1,
        _fixed(TEXT, [is_scalar], "a number, a text, true or false"),
        lambda v: text_of(v[0]),
    ),
    "unique": Function("unique(list)", 1, 1, _same_list, _unique),
    "upper": Function("upper(text)", 1, 1, _fixed(TEXT, _WORDS, "a text"), lambda v: _a_text(v[0]).upper()),
}
