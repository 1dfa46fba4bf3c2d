"""Guessing which unit comes next from the order in which units came the last time. Pure logic."""

from __future__ import annotations


class Trace:
    """The order of one pass through a model, and a guess from the pass before.

    A guess may be wrong, as when a model recycles another number of times; it finds its way back at the next
    unit that comes as it did before. It depends on the order alone: ranks that go the same way guess alike.
    """

    def __init__(self) -> None:
        self._known: list[int] = []
        self._now: list[int] = []
        self._at = 0

    def begin(self) -> None:
        """A new pass begins."""
        if self._now:
            self._known, self._now = self._now, []
        self._at = 0

    def visit(self, unit: int) -> None:
        """A unit came."""
        self._now.append(unit)
        try:
            self._at = self._known.index(unit, self._at) + 1
        except ValueError:
            # One that did not come after here the last time: go on waiting for the one that did.
            return

    def ahead(self, count: int) -> list[int]:
        """The next so many units, if all goes as before; fewer where the pass ends."""
        return self._known[self._at : self._at + count]
