"""Log lines and metric points as the API shows them."""

from __future__ import annotations

import math
import re
from typing import Any

from foldase.store import Store

_METRICS_PAGE_BYTES = 4 << 20
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
"""ANSI sequences: colours and cursor movements, titles, single shifts."""


def read_log(
    store: Store, run: str, step: str, *, attempt: int | None, offset: int, limit: int
) -> dict[str, Any]:
    """Some whole lines of an attempt's log; raises like ``store.logs.read``."""
    number, page = store.logs.read(run, step, "log", attempt=attempt, offset=offset, limit=limit)
    return {
        "attempt": number,
        "offset": offset,
        "next": page.next,
        "end": page.end,
        "lines": [_line(entry) for entry in page.lines],
    }


def read_metrics(store: Store, run: str, step: str, *, attempt: int | None, offset: int) -> dict[str, Any]:
    """Some points of an attempt's curves; raises like ``store.logs.read``."""
    number, page = store.logs.read(
        run, step, "metrics", attempt=attempt, offset=offset, limit=_METRICS_PAGE_BYTES
    )
    points = [point for entry in page.lines if (point := _point(entry)) is not None]
    return {"attempt": number, "next": page.next, "end": page.end, "points": points}


def _line(entry: dict[str, Any]) -> dict[str, Any]:
    """A line without terminal escapes, so that no log can repaint a reader's terminal."""
    time, message = entry.get("time"), str(entry.get("message", ""))
    return {
        "time": time if isinstance(time, str) else None,
        "level": str(entry.get("level", "info")),
        "message": _ESCAPES.sub("", message),
    }


def _point(entry: dict[str, Any]) -> dict[str, Any] | None:
    """A point; a number that is not finite becomes null, which a curve shows as a gap."""
    values = entry.get("values")
    if not isinstance(values, dict):
        return None
    time = entry.get("time")
    return {
        "at": _finite(entry.get("at")),
        "time": time if isinstance(time, str) else None,
        "values": {str(name): _finite(value) for name, value in values.items()},
    }


def _finite(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
