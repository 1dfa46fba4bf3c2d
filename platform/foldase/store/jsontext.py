"""JSON as the store writes it: compact, UTF-8, no NaN."""

from __future__ import annotations

import json
from typing import Any

_plain = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)
_canonical = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False, sort_keys=True)

loads = json.loads


def dumps(value: Any) -> str:
    """Compact JSON.

    Raises:
        ValueError: a number is not finite.
        TypeError: a value is no JSON.
    """
    return storable(_plain.encode(value))


def storable(text: str) -> str:
    """The text with what no database takes replaced: NUL, and halves of characters."""
    if text.isascii() and "\x00" not in text:
        return text
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()


def canonical(value: Any) -> str:
    """Compact JSON with sorted keys: equal values give equal text. Raises like :func:`dumps`."""
    return storable(_canonical.encode(value))


def dumps_or_none(value: Any) -> str | None:
    """Compact JSON, or None for None: what a nullable column holds."""
    return None if value is None else dumps(value)


def loads_or_none(text: str | None) -> Any:
    """The inverse of :func:`dumps_or_none`."""
    return None if text is None else json.loads(text)
