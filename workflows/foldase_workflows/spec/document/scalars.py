"""What a plain scalar means: the core schema of YAML 1.2, without ``yes``, dates and sexagesimals."""

from __future__ import annotations

import math
import re

from foldase_workflows.spec.limits import INT_MAX, INT_MIN

_WORDS: dict[str, bool | None] = {
    "": None,
    "~": None,
    "null": None,
    "Null": None,
    "NULL": None,
    "true": True,
    "True": True,
    "TRUE": True,
    "false": False,
    "False": False,
    "FALSE": False,
}
_INT = re.compile(r"[-+]?[0-9]+", re.ASCII)
_BASED = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+", re.ASCII)
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", re.ASCII)
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_NUMBER_START = frozenset("+-.0123456789")
_LONGEST_NUMBER = 400
"""No 64-bit or double precision number needs more digits than this."""


class ScalarFault(ValueError):
    """A plain scalar that has no safe meaning; ``code`` and ``hint`` as in the tree of errors."""

    def __init__(self, code: str, message: str, hint: str) -> None:
        super().__init__(message)
        self.code, self.message, self.hint = code, message, hint


def resolve(text: str) -> str | int | float | bool | None:
    """The value of a plain (unquoted) scalar.

    Raises:
        ScalarFault: ``number_range`` for a number that does not fit in 64 bits or is not finite.
    """
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in _NUMBER_START:
        return text
    if _NOT_FINITE.fullmatch(text):
        raise ScalarFault("number_range", f"{text} is not a finite number", "give a finite number")
    if len(text) > _LONGEST_NUMBER:
        if _FLOAT.fullmatch(text):
            message = f"a number of {len(text)} characters is out of range"
            raise ScalarFault("number_range", message, "quote it if it is text")
        return text
    if _INT.fullmatch(text):
        return _in_range(int(text), text)
    if _BASED.fullmatch(text):
        return _in_range(int(text, 0), text)
    if _FLOAT.fullmatch(text):
        value = float(text)
        if not math.isfinite(value):
            raise ScalarFault(
                "number_range", f"{text} is out of range", "the largest number is about 1.8e308"
            )
        return value
    return text


def _in_range(value: int, text: str) -> int:
    if INT_MIN <= value <= INT_MAX:
        return value
    hint = "whole numbers have 64 bits; quote it if it is text"
    raise ScalarFault("number_range", f"{text[:40]} is out of range", hint)
