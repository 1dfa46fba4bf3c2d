"""Time, behind an interface so that tests can turn it."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Wall time for people, monotonic time for leases and deadlines; both in seconds."""

    def now(self) -> float:
        """Seconds since 1970-01-01 UTC."""

    def monotonic(self) -> float:
        """Seconds that never jump."""


class SystemClock:
    """The machine's clocks."""

    def now(self) -> float:
        """Seconds since 1970-01-01 UTC."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds that never jump."""
        return time.monotonic()


def milliseconds(clock: Clock) -> int:
    """Wall time as the database keeps it: whole milliseconds since 1970-01-01 UTC."""
    return int(clock.now() * 1000)


def rfc3339(moment: int | None) -> str | None:
    """Milliseconds since 1970 as ``2026-11-21T18:03:04.123Z``; None stays None."""
    if moment is None:
        return None
    seconds, rest = divmod(moment, 1000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:03d}Z"
