"""What is alive when: a replay of the tensors that a forward pass makes and drops, in bytes.

The functions of this package that take a :class:`Ledger` follow a layer or a kernel line by line, a frame for
each function, with ``make`` where it allocates. Loops over groups or tiles are replayed once: every turn
holds the same, the last one less. No torch here; nothing is computed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager


class Ledger:
    """Bytes alive, the most there were, and in which part.

    Attributes:
        alive: bytes now.
        peak: the most so far.
        place: names of the frames that were open at the peak, the outermost first.
        peaks: the most within each outermost named frame.
    """

    def __init__(self) -> None:
        self.alive = 0
        self.peak = 0
        self.place: tuple[str, ...] = ()
        self.peaks: dict[str, int] = {}
        self._names: list[str] = []

    def make(self, size: float) -> int:
        """A tensor of ``size`` bytes that lives until its frame ends or it is dropped; returns the size."""
        size = math.ceil(size)
        self.alive += size
        if self._names:
            first = self._names[0]
            self.peaks[first] = max(self.peaks.get(first, 0), self.alive)
        if self.alive > self.peak:
            self.peak, self.place = self.alive, tuple(self._names)
        return size

    def drop(self, *sizes: int) -> None:
        """Tensors that die before their frame ends."""
        self.alive -= sum(sizes)

    def flash(self, *sizes: float) -> None:
        """Tensors that live together for one expression."""
        self.drop(*[self.make(size) for size in sizes])

    @contextmanager
    def frame(self, name: str = "") -> Iterator[None]:
        """A function: all that it makes and does not drop dies when it returns."""
        before = self.alive
        if name:
            self._names.append(name)
        yield
        if name:
            self._names.pop()
        self.alive = before
