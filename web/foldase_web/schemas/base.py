"""What all bodies share: strictness on the way in, completeness on the way out."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

MAX_DEPTH = 50
"""Nesting of plain values in a request."""


class Answer(BaseModel):
    """Base of answers: every field is always present, null where there is nothing to say."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)


class Body(BaseModel):
    """Base of requests: unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


def _checked_text(value: str) -> str:
    """Refuse text that a database or a terminal cannot hold: lone surrogates and control characters."""
    for position, character in enumerate(value):
        code = ord(character)
        if 0xD800 <= code <= 0xDFFF or code == 0:
            raise PydanticCustomError(
                "bad_characters", "character {position} is no text", {"position": position + 1}
            )
    return value


_BIDIRECTIONAL = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def _checked_name(value: str) -> str:
    """Refuse names that could pass for others: line breaks, controls, changes of writing direction."""
    for position, character in enumerate(value):
        if ord(character) < 0x20 or ord(character) == 0x7F or character in _BIDIRECTIONAL:
            raise PydanticCustomError(
                "bad_characters", "character {position} is not allowed in a name", {"position": position + 1}
            )
    return _checked_text(value)


def _checked_value(value: Any, depth: int = 0) -> Any:
    if depth > MAX_DEPTH:
        raise PydanticCustomError(
            "too_deep", "values are nested more than {limit} deep", {"limit": MAX_DEPTH}
        )
    if isinstance(value, str):
        _checked_text(value)
    elif isinstance(value, float) and not math.isfinite(value):
        raise PydanticCustomError("number_range", "a number must be finite", {})
    elif isinstance(value, dict):
        for key, item in value.items():
            _checked_text(key)
            _checked_value(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _checked_value(item, depth + 1)
    return value


Text = Annotated[str, AfterValidator(_checked_text)]
Name = Annotated[str, Field(max_length=200), AfterValidator(_checked_name)]
Value = Annotated[Any, AfterValidator(_checked_value)]
"""A plain JSON value of the workflow language; artifacts are ``{"$artifact": {...}}``."""
Values = dict[Name, Value]
