"""Where the time of a step goes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

Kind = Literal["communication", "transfer", "disk", "optimizer"]


class Clock:
    """Seconds by kind of work, safe to use from any thread.

    ``busy`` is how long work of a kind went on, beside other work or not; ``exposed`` how long the thread
    that trains stood waiting for it. What it did not wait is ``compute``.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._busy: dict[str, float] = {}
        self._exposed: dict[str, float] = {}
        self._began = time.monotonic()

    def add_busy(self, kind: Kind, seconds: float) -> None:
        """Work of a kind went on for so long, in whatever thread."""
        with self._lock:
            self._busy[kind] = self._busy.get(kind, 0.0) + seconds

    @contextmanager
    def busy(self, kind: Kind) -> Iterator[None]:
        """Work of a kind goes on inside."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.add_busy(kind, time.monotonic() - began)

    @contextmanager
    def waiting(self, kind: Kind) -> Iterator[None]:
        """The thread that trains can do nothing inside but wait for work of a kind."""
        began = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                self._exposed[kind] = self._exposed.get(kind, 0.0) + time.monotonic() - began

    def take(self) -> dict[str, float]:
        """Seconds since the last call, by name: ``seconds``, ``compute``, ``exposed`` and each kind's own."""
        now = time.monotonic()
        with self._lock:
            busy, exposed, whole = self._busy, self._exposed, now - self._began
            self._busy, self._exposed, self._began = {}, {}, now
        waited = sum(exposed.values())
        return {
            "seconds": whole,
            "compute_seconds": max(0.0, whole - waited),
            "exposed_seconds": waited,
            **{f"{kind}_seconds": seconds for kind, seconds in sorted(busy.items())},
            **{f"exposed_{kind}_seconds": seconds for kind, seconds in sorted(exposed.items())},
        }
