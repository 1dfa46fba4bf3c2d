"""The ways between the device and main memory: gradients come in, weights go out, piece by piece.

Both go through the buffers of a pool. On a GPU the copies run on streams of their own, beside the
computation; on a CPU they are plain copies, and what they overlap with is the disk.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from functools import partial

import torch

from foldase_models.training.clock import Clock, Kind
from foldase_models.training.collectives import Waitable
from foldase_models.training.offload.crew import Crew
from foldase_models.training.offload.pinned import PinnedPool

Land = Callable[[torch.Tensor, torch.Tensor], None]
"""Takes a buffer and the piece that arrived at its beginning; the buffer is used again when it returns."""
Fill = Callable[[torch.Tensor], torch.Tensor]
"""Puts a piece into a buffer, uint8 [size of the pool's], and gives the part of it with the piece."""


class Intake:
    """Brings vectors from the device; what arrived is dealt with in order, in a thread of its own."""

    def __init__(self, device: torch.device, pool: PinnedPool, clock: Clock, kind: Kind) -> None:
        """``kind`` of work is what the thread that trains waits for when it waits here."""
        self._pool, self._clock, self._kind = pool, clock, kind
        self._crew = Crew("intake")
        self._landing: deque[Future[None]] = deque()
        self._stream = stream_on(device)

    def bring(
        self, pieces: Iterable[tuple[torch.Tensor, Land]], dtype: torch.dtype | None = None
    ) -> Waitable:
        """Begin to copy; the result says when the pieces may be used again.

        Args:
            pieces: each no larger than a buffer, and what is to be done with it.
            dtype: in which they arrive; as they are without it.

        Raises:
            ModelError: of an earlier piece that could not be dealt with.
        """
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream())
        event = None
        for piece, land in pieces:
            while self._landing and self._landing[0].done():
                self._landing.popleft().result()
            with self._clock.waiting(self._kind):
                buffer = self._pool.take()
            arriving = dtype or piece.dtype
            staged = buffer[: piece.numel() * arriving.itemsize].view(arriving)
            event = self._copy(staged, piece)
            self._landing.append(self._crew.submit(partial(self._land, buffer, staged, event, land)))
        return _Copied(event)

    def bring_to(self, into: torch.Tensor, vector: torch.Tensor, landed: Callable[[], None]) -> Waitable:
        """Begin to copy a vector to where it stays, which is pinned memory; no buffer is needed.

        ``landed`` is called when it is there, in the thread that deals with what arrives.
        """
        if self._stream is None:
            with self._clock.busy("transfer"), self._clock.waiting("transfer"):
                into.copy_(vector)
            landed()
            return _Copied(None)
        self._stream.wait_stream(torch.cuda.current_stream())
        event = self._copy(into, vector)
        self._landing.append(self._crew.submit(partial(self._stay, event, landed)))
        return _Copied(event)

    def settle(self) -> None:
        """Wait until everything was dealt with.

        Raises:
            ModelError: a piece could not be.
        """
        with self._clock.waiting(self._kind):
            while self._landing:
                self._landing.popleft().result()

    def close(self) -> None:
        """End the thread."""
        self._crew.close()

    def _copy(self, staged: torch.Tensor, piece: torch.Tensor) -> torch.cuda.Event | None:
        if self._stream is None:
            with self._clock.busy("transfer"):
                staged.copy_(piece)
            return None
        with torch.cuda.stream(self._stream):
            staged.copy_(piece, non_blocking=True)
            return recorded(self._stream)

    def _arrived(self, event: torch.cuda.Event | None) -> None:
        if event is not None:
            with self._clock.busy("transfer"):
                event.synchronize()

    def _stay(self, event: torch.cuda.Event | None, landed: Callable[[], None]) -> None:
        self._arrived(event)
        landed()

    def _land(
        self, buffer: torch.Tensor, staged: torch.Tensor, event: torch.cuda.Event | None, land: Land
    ) -> None:
        try:
            self._arrived(event)
            with torch.no_grad():
                land(buffer, staged)
        finally:
            self._pool.give(buffer)


class Outlet:
    """Takes pieces to the device, two at a time: one is filled while the other one is copied."""

    def __init__(self, device: torch.device, pool: PinnedPool, clock: Clock, kind: Kind) -> None:
        """``kind`` of work is what the thread that trains waits for when it waits here."""
        self._pool, self._clock, self._kind = pool, clock, kind
        self._crew = Crew("outlet", 2)
        self._stream = stream_on(device)

    def send(self, pieces: Iterable[tuple[torch.Tensor, Fill]]) -> Waitable:
        """Begin to fill vectors on the device, which are good once the result was waited for."""
        after = None
        if self._stream is not None:
            after = recorded(torch.cuda.current_stream())
        sent = [self._crew.submit(partial(self._send, into, fill, after)) for into, fill in pieces]
        return _Sent(sent, self._clock, self._kind)

    def close(self) -> None:
        """End the threads."""
        self._crew.close()

    @torch.no_grad()
    def _send(self, into: torch.Tensor, fill: Fill, after: torch.cuda.Event | None) -> None:
        with self._pool.lent() as buffer:
            filled = fill(buffer)
            with self._clock.busy("transfer"):
                if self._stream is None:
                    into.copy_(filled)
                    return
                with torch.cuda.stream(self._stream):
                    assert after is not None
                    self._stream.wait_event(after)
                    into.copy_(filled, non_blocking=True)
                    copied = recorded(self._stream)
                copied.synchronize()


class _Copied:
    def __init__(self, event: torch.cuda.Event | None) -> None:
        self._event = event

    def wait(self) -> None:
        """On a GPU the computation waits, not this thread."""
        if self._event is not None:
            torch.cuda.current_stream().wait_event(self._event)


class _Sent:
    def __init__(self, sent: list[Future[None]], clock: Clock, kind: Kind) -> None:
        self._sent, self._clock, self._kind = sent, clock, kind

    def wait(self) -> None:
        """Stand still until all pieces are there."""
        with self._clock.waiting(self._kind):
            for future in self._sent:
                future.result()
        self._sent = []


def stream_on(device: torch.device) -> torch.cuda.Stream | None:
    """A stream beside the one that computes, where there is a GPU."""
    if device.type != "cuda":
        return None
    stream: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    return stream


def recorded(stream: torch.cuda.Stream) -> torch.cuda.Event:
    """An event behind what a stream has to do by now."""
    event: torch.cuda.Event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record(stream)
    return event
