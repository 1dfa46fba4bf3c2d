"""What an operator may say of its plan, checked where it says it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foldase.store.jsontext import dumps, loads
from foldase_workflows.contracts.errors import UserError

MAX_PLAN_BYTES = 16 * 1024
MAX_KEY = 64

HELD = "process_bytes"
"""Set by us: what the process held when the plan was first told."""


def checked_plan(values: Mapping[str, Any]) -> dict[str, Any]:
    """A plain copy of the values, as JSON will bring them back.

    Raises:
        UserError: with code ``bad_plan``.
    """
    try:
        text = dumps(dict(values))
    except (TypeError, ValueError) as error:
        raise _bad(f"it is no JSON: {error}") from error
    if len(text.encode()) > MAX_PLAN_BYTES:
        raise _bad(f"it has {len(text.encode()):,} bytes, {MAX_PLAN_BYTES:,} are allowed")
    plan: dict[str, Any] = loads(text)
    for name in ("predicted_peak_bytes", "measured_peak_bytes"):
        value = plan.get(name, 0)
        if type(value) is not int or value < 0:
            raise _bad(f"{name} is a number of bytes, not {value!r}")
    correction = plan.get("correction", 1.0)
    if type(correction) not in (int, float) or correction <= 0:
        raise _bad(f"correction is a factor above 0, not {correction!r}")
    key = plan.get("key", "")
    if not isinstance(key, str) or len(key) > MAX_KEY:
        raise _bad(f"key is a text of at most {MAX_KEY} characters")
    return plan


def _bad(why: str) -> UserError:
    return UserError(f"the plan of the step is of no use: {why}", code="bad_plan")
