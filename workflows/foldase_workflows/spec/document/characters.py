"""Characters that have no place in a document, because they hide what it says or break what reads it."""

from __future__ import annotations

import re
import unicodedata

_CONTROL = r"\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"
_SURROGATES = r"\ud800-\udfff"
_DIRECTION = r"\u202a-\u202e\u2066-\u2069"
_SEPARATORS = r"\u2028\u2029"
_OTHER = r"\ufeff\ufffe\uffff"

MASK_FIRST, MASK_LAST = 0xE000, 0xE07F
"""Private characters that stand for the ASCII ones of an expression while YAML is parsed."""

_IN_TEXT = re.compile(f"[{_CONTROL}{_SURROGATES}{_DIRECTION}{_SEPARATORS}{_OTHER}\\ue000-\\ue07f]")
_IN_VALUE = re.compile(f"[\\x00{_SURROGATES}{_DIRECTION}]")
_UNSTORABLE = re.compile(f"[\\x00{_SURROGATES}]")


def first_bad(text: str, start: int = 0) -> int | None:
    """The index of the first character that a document may not hold, from ``start`` on."""
    found = _IN_TEXT.search(text, start)
    return found.start() if found else None


def first_bad_in_value(value: str) -> int | None:
    """The same for a value after its escapes are resolved, where control characters are allowed."""
    found = _IN_VALUE.search(value)
    return found.start() if found else None


def first_unstorable(value: str) -> int | None:
    """The same for text given as an input of a run: only what no database column can hold."""
    found = _UNSTORABLE.search(value)
    return found.start() if found else None


def name_of(character: str) -> str:
    """``U+202E (RIGHT-TO-LEFT OVERRIDE)``, for a message that can itself be read."""
    named = unicodedata.name(character, "")
    if not named and character < " ":
        named = "control character"
    elif not named and 0xD800 <= ord(character) <= 0xDFFF:
        named = "lone surrogate"
    return f"U+{ord(character):04X}" + (f" ({named})" if named else "")
