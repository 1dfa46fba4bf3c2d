"""Whether the fields of a configuration hold what they should: they come from files. No torch."""

from __future__ import annotations

import math
from dataclasses import MISSING, fields
from numbers import Integral, Real
from typing import Any

from foldase_models.errors import ModelError

_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def check_fields(config: Any, *, positive: tuple[str, ...] = ()) -> None:
    """Check every field that has a number, a truth value or text for a default.

    Args:
        config: a dataclass; whole numbers are good where numbers are wanted.
        positive: fields whose numbers are above 0; all others are at least 0.

    Raises:
        ModelError: ``bad_config``, naming the field.
    """
    for field in fields(config):
        wanted, value = type(field.default), getattr(config, field.name)
        if field.default is MISSING or wanted not in _NAMES:
            continue
        if not _is(value, wanted):
            raise ModelError(
                f"{field.name} must be {_NAMES[wanted]}, got {str(value)[:40]!r}", code="bad_config"
            )
        if wanted in (int, float) and (value < 0 or (value == 0 and field.name in positive)):
            above = "above 0" if field.name in positive else "at least 0"
            raise ModelError(f"{field.name} must be {above}, got {value}", code="bad_config")


def _is(value: object, wanted: type) -> bool:
    if isinstance(value, bool) or wanted in (bool, str):
        return type(value) is wanted
    if wanted is int:
        return isinstance(value, Integral)
    return isinstance(value, Real) and math.isfinite(value)
